"""The local executor with real processes: its queue, its ranks, its GPUs, and nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.orchestration import local_steps
from tests.orchestration.conftest import ROOT, until
from vlmablate.design.spec import StepSpec
from vlmablate.errors import UserError
from vlmablate.files import read_json, write_json
from vlmablate.orchestration import local
from vlmablate.orchestration.devices import (
    Devices,
    devices_for,
    gpus_per_job,
    installed,
    runtime_folder,
    visible,
)
from vlmablate.orchestration.jobs import Job, manifest
from vlmablate.orchestration.local import LocalExecutor, Need, count_slots, read_need, worker_environment
from vlmablate.orchestration.processes import start_time
from vlmablate.orchestration.store import Store
from vlmablate.orchestration.worker import Exit


class Jobs:
    """Makes jobs of one step and runs them on an executor."""

    def __init__(self, folder: Path, **executor: Any) -> None:
        self.folder = folder
        self.store = Store(folder / "home")
        self.executor = LocalExecutor(folder / "jobs", **{"slots": 2, "threads": 1, **executor})
        self.codes: dict[str, int] = {}

    def job(self, name: str, kind: str = "finetune", **do: str) -> Job:
        """``do``: rank0="die" and so on."""
        shown = self.folder / name
        shown.mkdir(exist_ok=True)
        orders = {rank.removeprefix("rank"): what for rank, what in do.items()}
        step = StepSpec(kind, 1, f"{name:>016}", name, {"shown": str(shown), "do": orders}, {})
        return Job(name, name, (step,))

    def start(self, job: Job) -> None:
        assert self.executor.room(job)
        made = manifest(
            job,
            store=self.store,
            assets=self.folder,
            kinds=local_steps.KINDS,
            execution={},
            parent=self.executor.parent,
            heartbeat_s=0.1,
        )
        path = self.folder / f"{job.name}.json"
        write_json(path, made)
        self.executor.start(job, path)

    def end(self, *names: str) -> list[int]:
        """Wait for the ends of jobs; their exit codes."""

        def ended() -> bool:
            self.executor.wait(0.05)
            self.codes |= dict(self.executor.poll())
            return set(names) <= self.codes.keys()

        until(ended, f"the end of {names}")
        return [self.codes[name] for name in names]

    def shown(self, name: str, rank: int = 0) -> dict[str, Any]:
        """What a rank noted; waits for it."""
        path = self.folder / name / f"rank{rank}"
        until(path.exists, f"rank {rank} of {name} at work")
        found: dict[str, Any] = read_json(path)
        return found

    def free(self, name: str) -> None:
        (self.folder / name / "free").touch()

    def record(self, job: Job, number: int = 1) -> dict[str, Any]:
        found: dict[str, Any] = read_json(
            self.store.directory(job.steps[0]) / "attempts" / f"{number:03d}.json"
        )
        return found


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Makes :class:`Jobs`; nothing that they started survives the test."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    made: list[Jobs] = []

    def make_jobs(**executor: Any) -> Jobs:
        made.append(Jobs(tmp_path, **executor))
        return made[-1]

    yield make_jobs
    monkeypatch.setattr(local, "STOP_GRACE_S", 0.0)
    for jobs in made:
        jobs.executor.stop()


# The queue


def test_slots_never_exceed_the_cores():
    assert count_slots(1, None, cores=2) == 2
    assert count_slots(1, 9, cores=2) == 2
    assert count_slots(1, 1, cores=8) == 1
    assert count_slots(3, None, cores=8) == 2
    assert count_slots(4, None, cores=2) == 1
    for threads, asked in ((0, None), (1, 0), ("2", None)):
        with pytest.raises(UserError):
            count_slots(threads, asked, cores=2)  # type: ignore[arg-type]


def test_there_are_never_more_processes_than_slots_and_two(make):
    jobs = make()
    first, second, third = (jobs.job(name, rank0="hang") for name in "abc")
    jobs.start(first)
    assert not jobs.executor.full
    jobs.start(second)
    assert jobs.executor.full
    assert not jobs.executor.room(third)
    pids = {jobs.shown(name)["pid"] for name in "ab"}
    assert {_parent(pid) for pid in pids} == {jobs.executor.parent}
    assert _parent(jobs.executor.parent) == os.getpid()
    assert _children(jobs.executor.parent) == pids
    jobs.free("a")
    assert jobs.end("a") == [Exit.DONE]
    assert jobs.executor.room(third)
    jobs.free("b")
    assert jobs.end("b") == [Exit.DONE]


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def _children(pid: int) -> set[int]:
    everyone = (int(name) for name in os.listdir("/proc") if name.isdigit())
    found = set()
    for one in everyone:
        try:
            if _parent(one) == pid:
                found.add(one)
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def test_every_worker_has_an_environment_and_a_log_of_its_own(make, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    jobs = make(threads=3)
    for name in "ab":
        jobs.start(jobs.job(name))
    assert jobs.end("a", "b") == [Exit.DONE, Exit.DONE]
    one, other = jobs.shown("a"), jobs.shown("b")
    assert one["OMP_NUM_THREADS"] == other["OMP_NUM_THREADS"] == "3"
    assert one["SUBMITIT_LOCAL_JOB_ID"] != other["SUBMITIT_LOCAL_JOB_ID"]
    assert one["pid"] != other["pid"]
    assert {"a.log", "b.log"} <= {path.name for path in (jobs.folder / "jobs").iterdir()}


def test_the_environment_is_the_one_submitit_reads(monkeypatch, tmp_path: Path):
    import submitit

    for key, value in worker_environment(
        2, "77-1", tmp_path, ["3", "GPU-x"], rank=1, ranks=2, port=9
    ).items():
        monkeypatch.setenv(key, value)
    job = submitit.JobEnvironment()
    assert (job.cluster, job.job_id, job.num_tasks, job.num_nodes) == ("local", "77-1", 2, 1)
    assert (job.global_rank, job.local_rank, job.node) == (1, 1, 0)
    assert os.environ["OMP_NUM_THREADS"] == os.environ["MKL_NUM_THREADS"] == "2"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3,GPU-x"
    assert (os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]) == ("127.0.0.1", "9")


def test_ends_are_told_as_they_were(make):
    jobs = make(slots=3)
    for name, what in (("a", "die"), ("b", "fail"), ("c", "")):
        jobs.start(jobs.job(name, rank0=what))
    assert jobs.end("a", "b", "c") == [-signal.SIGKILL, Exit.FAILED, Exit.DONE]


def test_stopping_asks_first(make):
    jobs = make()
    job = jobs.job("a", rank0="wait")
    jobs.start(job)
    pid, helper = jobs.shown("a")["pid"], jobs.executor.parent
    jobs.executor.stop()
    assert [start_time(pid), start_time(helper)] == [None, None]
    assert jobs.record(job)["state"] == "stopped"


def test_who_does_not_stop_is_ended(make, monkeypatch):
    monkeypatch.setattr(local, "STOP_GRACE_S", 0.1)
    jobs = make()
    job = jobs.job("a", rank0="hang")
    jobs.start(job)
    pid = jobs.shown("a")["pid"]
    jobs.executor.stop()
    assert start_time(pid) is None
    assert jobs.record(job)["state"] == "running"


def test_what_a_worker_leaves_behind_ends_with_it(make):
    jobs = make()
    jobs.start(jobs.job("a", rank0="orphan"))
    assert jobs.end("a") == [-signal.SIGKILL]
    child = read_json(jobs.folder / "a" / "child")
    until(lambda: start_time(child) is None, "the end of the child")


def test_the_end_of_the_workers_parent_is_the_end_of_the_workers_and_work_goes_on(make):
    jobs = make()
    jobs.start(jobs.job("a", rank0="hang"))
    pid = jobs.shown("a")["pid"]
    helper = jobs.executor.parent
    os.kill(helper, signal.SIGKILL)
    assert jobs.end("a") == [-signal.SIGKILL]
    until(lambda: start_time(pid) is None, "the end of the worker")
    jobs.start(jobs.job("b"))
    assert jobs.end("b") == [Exit.DONE]
    assert jobs.executor.parent != helper


def test_no_end_is_lost_when_the_next_job_finds_the_workers_parent_gone(make):
    jobs = make()
    jobs.start(jobs.job("a", rank0="hang"))
    jobs.shown("a")
    helper = jobs.executor.parent
    os.kill(helper, signal.SIGKILL)
    until(lambda: start_time(helper) is None, "the end of the workers' parent")
    jobs.start(jobs.job("b"))
    assert jobs.end("a", "b") == [-signal.SIGKILL, Exit.DONE]


def test_a_workers_parent_that_cannot_start_is_an_error_that_names_its_log(make, monkeypatch):
    jobs = make()
    interpreter = jobs.folder / "python"
    interpreter.write_text("#!/bin/sh\necho 'Error: broken'\nexit 1\n")
    interpreter.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(interpreter))

    def work() -> None:
        jobs.start(jobs.job("a"))
        jobs.end("a")

    with pytest.raises(RuntimeError, match=r"no worker can be started, see .*workers\.log"):
        work()
    assert "Error: broken" in (jobs.folder / "jobs" / "workers.log").read_text()


_CONTROLLER = """
import sys
from pathlib import Path
from tests.orchestration.test_local import Jobs
jobs = Jobs(Path(sys.argv[1]), slots=2)
jobs.start(jobs.job("a", rank0="hang"))
print(jobs.executor.parent, flush=True)
jobs.executor.wait(60)
"""


def test_a_controller_that_is_killed_leaves_nothing_behind(tmp_path: Path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    controller = subprocess.Popen(
        [sys.executable, "-c", _CONTROLLER, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert controller.stdout is not None
    helper = int(controller.stdout.readline())
    shown = tmp_path / "a" / "rank0"
    until(shown.exists, "the worker at work")
    controller.kill()
    controller.communicate()
    for pid in (helper, read_json(shown)["pid"]):
        until(lambda pid=pid: start_time(pid) is None, "the end of everything")  # type: ignore[misc]


# Ranks


def test_the_ranks_of_a_job_know_their_place_and_count_as_slots(make):
    jobs = make(slots=3, need=Need(ranks=2))
    wide, narrow = jobs.job("a", rank0="hang"), jobs.job("b", "features")
    jobs.start(wide)
    zero, one = jobs.shown("a", 0), jobs.shown("a", 1)
    assert [seen["SUBMITIT_LOCAL_GLOBALID"] for seen in (zero, one)] == ["0", "1"]
    assert [seen["SUBMITIT_LOCAL_LOCALID"] for seen in (zero, one)] == ["0", "1"]
    assert zero["SUBMITIT_LOCAL_NTASKS"] == one["SUBMITIT_LOCAL_NTASKS"] == "2"
    assert zero["SUBMITIT_LOCAL_JOB_ID"] == one["SUBMITIT_LOCAL_JOB_ID"]
    assert zero["MASTER_ADDR"] == "127.0.0.1"
    assert zero["MASTER_PORT"] == one["MASTER_PORT"]
    assert not jobs.executor.room(jobs.job("c"))
    jobs.start(narrow)  # it does not train: one process
    jobs.free("a")
    assert jobs.end("a", "b") == [Exit.DONE, Exit.DONE]
    assert jobs.shown("b")["world_size"] == 1


def test_a_job_of_more_ranks_than_slots_runs_alone(make):
    jobs = make(slots=1, need=Need(ranks=2))
    jobs.start(jobs.job("a"))
    assert jobs.executor.full
    assert jobs.end("a") == [Exit.DONE]


def test_the_job_ends_as_its_first_bad_rank_did(make):
    jobs = make(need=Need(ranks=2))
    job = jobs.job("a", rank0="hang", rank1="die")
    jobs.start(job)
    pids = [jobs.shown("a", rank)["pid"] for rank in (0, 1)]
    assert jobs.end("a") == [-signal.SIGKILL]
    assert [start_time(pid) for pid in pids] == [None, None]
    record = jobs.record(job)
    assert (record["state"], record["error"]["message"]) == ("failed", "rank 1 is gone")


def test_an_error_of_another_rank_is_the_error_of_the_job(make):
    jobs = make(need=Need(ranks=2))
    job = jobs.job("a", rank0="hang", rank1="fail")
    jobs.start(job)
    assert jobs.end("a") == [Exit.FAILED]
    assert jobs.record(job)["error"]["message"] == "told to fail"


def test_a_rank_that_hangs_after_rank_0_died_is_ended(make, monkeypatch):
    monkeypatch.setattr(local, "RANK_GRACE_S", 0.1)
    jobs = make(need=Need(ranks=2))
    jobs.start(jobs.job("a", rank0="die", rank1="hang"))
    pid = jobs.shown("a", 1)["pid"]
    assert jobs.end("a") == [-signal.SIGKILL]
    assert start_time(pid) is None


@pytest.mark.parametrize(
    ("execution", "message"),
    [
        ({"ranks": 0}, "execution.ranks must be a positive whole number"),
        ({"ranks": "2"}, "execution.ranks must be a positive whole number"),
        ({"gpus_per_job": -1}, "execution.gpus_per_job must be a whole number"),
        ({"gpus_per_job": True}, "execution.gpus_per_job must be a whole number"),
    ],
)
def test_needs_that_are_no_numbers_are_refused(execution: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message):
        read_need(execution)


# GPUs

GPUS = {"0": "GPU-aa", "1": "GPU-ab", "2": "GPU-c", "3": "GPU-d"}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, GPUS),
        ("2,0", {"2": "GPU-c", "0": "GPU-aa"}),
        ("GPU-c,GPU-d", {"GPU-c": "GPU-c", "GPU-d": "GPU-d"}),
        ("GPU-ab,1", {"GPU-ab": "GPU-ab", "1": "GPU-ab"}),
        ("MIG-77", {"MIG-77": "MIG-77"}),
        ("1,-1,2", {"1": "GPU-ab"}),
        ("1,9,2", {"1": "GPU-ab"}),
        ("GPU-a", {}),
        ("", {}),
        ("-1", {}),
    ],
)
def test_inherited_devices_are_respected(given: str | None, expected: dict[str, str]):
    environment = {} if given is None else {"CUDA_VISIBLE_DEVICES": given}
    assert visible(environment, GPUS) == expected


def test_without_the_driver_s_tool_an_inherited_choice_is_taken_at_its_word():
    assert visible({"CUDA_VISIBLE_DEVICES": "4,GPU-x"}, {}) == {"4": "4", "GPU-x": "GPU-x"}
    assert visible({}, {}) == {}


@pytest.fixture
def two_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver's tool that shows two GPUs."""
    tool = tmp_path / "bin" / "nvidia-smi"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\necho '0, GPU-a'\necho '1, GPU-b'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.usefixtures("two_gpus")
def test_the_driver_is_asked_what_there_is():
    assert installed() == {"0": "GPU-a", "1": "GPU-b"}


def test_training_takes_a_gpu_when_the_device_is_one():
    assert gpus_per_job({"device": "cpu"}) == 0
    assert gpus_per_job({"device": "cuda"}) == 1
    assert gpus_per_job({"device": "cuda", "gpus_per_job": 4}) == 4
    assert gpus_per_job({"device": "cuda", "gpus_per_job": 0}) == 0


@pytest.mark.usefixtures("two_gpus")
def test_more_gpus_than_there_are_cannot_be_asked_for(monkeypatch):
    with pytest.raises(UserError, match="asks for 3 GPUs and 2 can be used"):
        devices_for({"gpus_per_job": 3})
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    with pytest.raises(
        UserError, match=r"asks for 2 GPUs and 1 can be used on this machine \(CUDA_VISIBLE_DEVICES=1"
    ):
        devices_for({"gpus_per_job": 2})
    with pytest.raises(UserError, match=r"execution\.gpus must be a positive whole number"):
        devices_for({"gpus_per_job": 1, "gpus": 0})


def test_two_controllers_never_hand_out_the_same_gpu(tmp_path: Path):
    one, other = Devices(GPUS, folder=tmp_path), Devices(GPUS, folder=tmp_path)
    first = one.take(3)
    assert first == ["0", "1", "2"]
    assert other.take(2) is None
    assert other.take(1) == ["3"]
    assert one.take(1) is None
    one.give_back(["1"])
    assert other.take(1) == ["1"]
    for _ in range(5):
        one.give_back(["0"])
        assert one.take(1) == ["0"]
    assert len(list((tmp_path / "GPU-aa").glob("*.json"))) <= 2  # its history does not pile up


def test_names_for_one_gpu_lead_to_one_lease(tmp_path: Path):
    by_index = Devices(visible({"CUDA_VISIBLE_DEVICES": "2"}, GPUS), folder=tmp_path)
    by_uuid = Devices(visible({"CUDA_VISIBLE_DEVICES": "GPU-c"}, GPUS), folder=tmp_path)
    assert by_index.take(1) == ["2"]
    assert by_uuid.take(1) is None


def test_no_more_gpus_are_held_than_allowed(tmp_path: Path):
    devices = Devices(GPUS, limit=2, folder=tmp_path)
    assert devices.take(3) is None
    assert devices.take(2) == ["0", "1"]
    assert devices.take(1) is None
    assert Devices(GPUS, folder=tmp_path).take(2) == ["2", "3"]


def test_the_gpus_of_a_controller_that_died_are_free_again(tmp_path: Path):
    code = (
        "import os, sys; from pathlib import Path; from vlmablate.orchestration.devices import Devices\n"
        "assert Devices({'0': 'GPU-a'}, folder=Path(sys.argv[1])).take(1) == ['0']\n"
        "os._exit(9)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, check=False)
    assert done.returncode == 9
    assert read_json(tmp_path / "GPU-a" / "001.json")["state"] == "running"
    assert Devices({"0": "GPU-a"}, folder=tmp_path).take(1) == ["0"]


def test_the_shared_folder_must_be_one_s_own(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "vlmablate").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="belongs to somebody else"):
        runtime_folder()


@pytest.mark.usefixtures("two_gpus")
def test_jobs_at_work_hold_disjoint_gpus_and_all_ranks_see_those_of_their_job(make):
    execution = {"gpus_per_job": 1}
    jobs = make(slots=4, need=Need(ranks=2, gpus=1), devices=devices_for(execution))
    assert jobs.executor.slots == 4
    for name in "ab":
        jobs.start(jobs.job(name, rank0="hang"))
    seen = {name: [jobs.shown(name, rank)["CUDA_VISIBLE_DEVICES"] for rank in (0, 1)] for name in "ab"}
    assert seen == {"a": ["0", "0"], "b": ["1", "1"]}
    jobs.free("a")
    jobs.end("a")
    jobs.start(jobs.job("c", "features"))
    jobs.end("c")
    assert jobs.shown("c")["CUDA_VISIBLE_DEVICES"] == "0"
    jobs.free("b")
    jobs.end("b")


@pytest.mark.usefixtures("two_gpus")
def test_gpus_that_another_controller_holds_are_waited_for(make):
    other = devices_for({"gpus_per_job": 2})
    held = other.take(2)
    assert held is not None
    jobs = make(need=Need(gpus=2), devices=devices_for({"gpus_per_job": 2}))
    job = jobs.job("a")
    assert not jobs.executor.full
    assert not jobs.executor.room(job)
    other.give_back(held)
    jobs.start(job)
    assert jobs.end("a") == [Exit.DONE]
    assert jobs.shown("a")["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert other.take(2) == ["0", "1"]
