from __future__ import annotations

import errno
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.orchestration import fakes
from vlmablate import files
from vlmablate.files import read_json
from vlmablate.orchestration import store as store_module
from vlmablate.orchestration.context import StepContext
from vlmablate.orchestration.estimates import Estimator
from vlmablate.orchestration.jobs import Job, manifest
from vlmablate.orchestration.kinds import KINDS, resolve
from vlmablate.orchestration.lease import claim, latest
from vlmablate.orchestration.plan import make_plan
from vlmablate.orchestration.stop import StopFlag, StopNow
from vlmablate.orchestration.store import ATTEMPTS, State, Store
from vlmablate.orchestration.worker import Exit, Worker


@pytest.fixture
def jobs(store: Store, make_runs, control: Path, tmp_path: Path):
    """The jobs of one run, in order, each as the manifest a worker would get at that moment."""
    runs = make_runs("stages")[:1]

    def at(index: int) -> tuple[Job, dict[str, Any]]:
        job = make_plan(runs, Store(tmp_path / "nowhere"), Estimator(None, {}), 1).jobs[index]
        made = manifest(
            job, store=store, assets=tmp_path, kinds=fakes.KINDS, execution={"threads": 1}, parent=None
        )
        return job, json.loads(json.dumps(made))

    return at


def work(made: dict[str, Any], **more: Any) -> Exit:
    return Worker(made, redirect=False, **more).run()


def prepared(jobs) -> tuple[Job, dict[str, Any]]:
    """Everything before the run's own job is finished."""
    for index in range(3):
        assert work(jobs(index)[1]) is Exit.DONE
    return jobs(3)


def test_a_job_runs_its_steps_in_order_and_records_them(jobs, store: Store):
    job, made = prepared(jobs)
    assert work(made) is Exit.DONE
    assert [call.split()[0] for call in fakes.calls()][-3:] == ["align", "finetune", "evaluate"]
    result = store.inspect(job.steps[-1]).result
    assert result is not None
    assert result.keys() == {
        "id", "kind", "payload", "files", "attempt", "started", "finished", "wall_s", "cpu_s", "peak_rss_mb",
        "ranks", "host", "versions", "code", "lock", "gpus", "execution",
    }  # fmt: skip
    assert result["files"].keys() == {"value.json"}
    assert (result["attempt"], result["execution"]) == (1, {"threads": 1})
    directory = store.directory(job.steps[-1])
    assert read_json(directory / "spec.json") == job.steps[-1].to_dict()
    assert read_json(directory / "attempts" / "001.json")["state"] == "done"
    assert work(made) is Exit.DONE
    assert len(fakes.calls()) == 6


def test_a_failure_is_recorded_with_its_traceback_and_tried_again(jobs, store: Store, control: Path):
    job, made = prepared(jobs)
    (control / "fail-finetune").touch()
    assert work(made) is Exit.FAILED
    align, finetune, evaluate = job.steps
    assert store.inspect(align).state is State.DONE
    attempt = store.attempt(finetune)
    assert attempt is not None
    assert (attempt.state, attempt.record["error"]["type"]) == ("failed", "RuntimeError")
    assert "was told to fail" in attempt.record["error"]["traceback"]
    assert attempt.record["error"]["fingerprint"].startswith("RuntimeError@")
    assert store.find(evaluate.kind, evaluate.id) is None
    (control / "fail-finetune").unlink()
    assert work(made) is Exit.DONE
    assert store.attempt(finetune).number == 2
    assert len([call for call in fakes.calls() if call.startswith("align")]) == 1


def test_a_payload_that_is_no_json_is_a_failure_not_a_result(jobs, store: Store, control: Path):
    (control / "nan-scenes").touch()
    job, made = jobs(0)
    assert work(made) is Exit.FAILED
    assert store.inspect(job.steps[0]).state is State.ABSENT


def test_a_held_step_is_left_alone(jobs, store: Store):
    job, made = jobs(0)
    lease = claim(store.directory(job.steps[0]) / ATTEMPTS, heartbeat_s=60.0)
    assert work(made) is Exit.BUSY
    assert fakes.calls() == []
    lease.finish("failed")
    assert work(made) is Exit.DONE


def test_a_worker_that_was_overtaken_commits_nothing(jobs, store: Store, monkeypatch):
    job, made = jobs(0)
    directory = store.directory(job.steps[0])

    def overtaken(config: dict, deps: dict, out: Path, context: StepContext) -> dict:
        (out / ATTEMPTS / "002.json").write_text(json.dumps({"state": "running", "owner": None}))
        return {}

    monkeypatch.setattr(fakes, "scenes", overtaken)
    assert work(made) is Exit.BUSY
    assert not (directory / "result.json").exists()
    assert latest(directory / ATTEMPTS).number == 2


def test_a_damaged_dependency_is_moved_aside_and_asked_for_again(jobs, store: Store, capsys):
    job, made = prepared(jobs)
    features = Path(made["steps"][0]["deps"]["features0"]["dir"])
    value = (features / "value.json").read_bytes()
    (features / "value.json").write_bytes(value.replace(b"a", b"b", 1))
    assert len((features / "value.json").read_bytes()) == len(value)
    assert work(made) is Exit.REPLAN
    assert not features.exists()
    assert "CORRUPT" in capsys.readouterr().out
    assert store.attempt(job.steps[0]).state == "dep-corrupt"


def test_a_damaged_result_in_the_way_is_moved_aside(jobs, store: Store):
    job, made = jobs(0)
    assert work(made) is Exit.DONE
    directory = store.directory(job.steps[0])
    os.truncate(directory / "value.json", 3)
    assert work(made) is Exit.DONE
    assert store.inspect(job.steps[0]).state is State.DONE
    assert len(list((directory.parent / ".quarantine").iterdir())) == 1


def test_a_full_disk_in_a_step_is_told_by_the_exit_code(jobs, store: Store, control: Path):
    job, made = jobs(0)
    (control / "full-scenes").touch()
    assert work(made) is Exit.DISK_FULL
    assert store.inspect(job.steps[0]).state is State.ABSENT
    (control / "full-scenes").unlink()
    assert work(made) is Exit.DONE


@pytest.mark.parametrize("call", range(1, 12))
def test_a_disk_that_fills_up_at_any_write_loses_nothing(jobs, store: Store, monkeypatch, call: int):
    """Whichever flush meets the full disk: nothing half-written, and the job goes on when there is space."""
    job, made = jobs(0)
    real, count = os.fsync, 0

    def fsync(descriptor: int) -> None:
        nonlocal count
        count += 1
        if count >= call:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(files.os, "fsync", fsync)
    outcome = work(made)
    monkeypatch.setattr(files.os, "fsync", real)
    directory = store.directory(job.steps[0])
    leftovers = [path for path in directory.rglob("*") if path.is_file()] if directory.exists() else []
    assert not [path for path in leftovers if path.name.startswith(".tmp-")]
    for path in leftovers:
        if path.suffix == ".json":
            read_json(path)
    assert (store.inspect(job.steps[0]).state is State.DONE) or outcome is Exit.DISK_FULL
    assert work(made) is Exit.DONE
    assert store.inspect(job.steps[0]).state is State.DONE


def test_a_step_that_returns_after_a_stop_request_is_not_done(jobs, store: Store, monkeypatch):
    job, made = jobs(0)
    stop = StopFlag()

    def obedient(config: dict, deps: dict, out: Path, context: StepContext) -> dict:
        stop.request()
        assert context.stop_requested()
        return {"half": True}

    monkeypatch.setattr(fakes, "scenes", obedient)
    assert work(made, stop=stop) is Exit.STOPPED
    assert store.inspect(job.steps[0]).state is State.ABSENT
    assert store.attempt(job.steps[0]).state == "stopped"
    assert work(made, stop=stop) is Exit.STOPPED
    assert store.attempt(job.steps[0]).number == 1


def test_an_unknown_kind_lists_the_known_ones(jobs, store: Store):
    job, made = jobs(0)
    made["kinds"] = {"other": "a:b"}
    assert work(made) is Exit.FAILED
    error = store.attempt(job.steps[0]).record["error"]
    assert error["user"]
    assert "unknown step kind 'scenes'" in error["message"]


def test_the_registry_names_the_kinds_of_the_step_table():
    from vlmablate.design.step_table import TABLE

    assert KINDS.keys() == TABLE.keys()
    assert resolve("scenes", fakes.KINDS) is fakes.scenes


def test_progress_is_throttled_but_the_end_is_always_written(tmp_path: Path, monkeypatch):
    now = 0.0
    context = StepContext(execution={}, attempt=1, assets=tmp_path, out=tmp_path, clock=lambda: now)
    written = []
    replace = os.replace
    monkeypatch.setattr(store_module.os, "replace", lambda a, b: (written.append(now), replace(a, b)))
    for step in range(1, 101):
        now = step / 100
        context.progress(step, 100, loss=1.0 / step, bad=float("nan"))
    assert len(written) == 3
    assert read_json(tmp_path / "progress.json") == {
        "done": 100, "total": 100, "elapsed_s": 1.0, "metrics": {"loss": 0.01, "bad": None},
    }  # fmt: skip


def test_progress_ignores_a_full_disk(tmp_path: Path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    context = StepContext(execution={}, attempt=1, assets=tmp_path, out=tmp_path)
    monkeypatch.setattr(store_module.os, "replace", full)
    context.progress(1, 2, loss=0.5)


@pytest.fixture
def answering() -> Iterator[Callable[..., StopFlag]]:
    """Makes stop flags that answer the signals of this process, until the test ends."""
    saved = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2, signal.SIGALRM)}

    def make(**grace: float) -> StopFlag:
        stop = StopFlag(**grace)
        stop.install()
        return stop

    yield make
    signal.setitimer(signal.ITIMER_REAL, 0)
    for number, handler in saved.items():
        signal.signal(number, handler)


def test_a_step_that_ignores_the_request_is_interrupted_after_the_grace_period(answering):
    stop = answering(grace_s=0.02)
    signal.raise_signal(signal.SIGTERM)
    assert stop.requested
    with pytest.raises(StopNow), stop.interruptible():
        signal.sigtimedwait([], 30.0)  # a step that waits for something else
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_a_step_is_not_interrupted_while_it_saves_but_after_it(answering):
    stop = answering(grace_s=0.02)

    def step() -> None:
        with stop.uninterrupted():
            signal.raise_signal(signal.SIGTERM)
            assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)  # no grace period is running
        signal.sigtimedwait([], 30.0)

    with pytest.raises(StopNow), stop.interruptible():
        step()


def test_the_signal_says_whether_to_go_on_later(answering):
    stop = answering(grace_s=10.0, requeue_grace_s=600.0)
    with stop.interruptible():
        signal.raise_signal(signal.SIGUSR2)
        assert stop.reason == "requeue"
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 10.0
        signal.raise_signal(signal.SIGTERM)
        assert stop.reason == "stop"
        assert 0.0 < signal.getitimer(signal.ITIMER_REAL)[0] <= 10.0
        signal.raise_signal(signal.SIGUSR2)
        assert stop.reason == "stop"


def test_only_the_first_rank_tells_of_progress_and_checkpoints(tmp_path: Path):
    told: list[tuple[int, int]] = []
    for rank in (1, 0):
        context = StepContext(
            execution={}, attempt=1, assets=tmp_path, out=tmp_path, rank=rank, world_size=2,
            on_saved=lambda step, rank=rank: told.append((rank, step)),
        )  # fmt: skip
        context.progress(1, 1, loss=0.5)
        context.saved(7)
        assert (tmp_path / "progress.json").exists() == (rank == 0)
    assert told == [(0, 7)]


def test_checkpoints_go_with_the_commit_and_not_before(jobs, store: Store, monkeypatch, tmp_path: Path):
    job, made = jobs(0)

    def saving(config: dict, deps: dict, out: Path, context: StepContext) -> dict:
        (out / "checkpoint-5").mkdir(exist_ok=True)
        context.saved(5)
        if not (tmp_path / "twice").exists():
            (tmp_path / "twice").touch()
            raise RuntimeError("after the checkpoint")
        return {}

    monkeypatch.setattr(fakes, "scenes", saving)
    assert work(made) is Exit.FAILED
    directory = store.directory(job.steps[0])
    assert (directory / "checkpoint-5").exists()
    assert read_json(directory / ATTEMPTS / "001.json")["checkpoint"] == 5
    assert work(made) is Exit.DONE
    assert not list(directory.glob("checkpoint*"))
