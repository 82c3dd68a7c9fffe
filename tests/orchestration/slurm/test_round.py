"""The round on a fake Slurm: lies, forgotten jobs, full queues, and jobs that go back to the queue."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.orchestration import fakes
from tests.orchestration.slurm import fake_slurm
from vlmablate.design.identity import step_id
from vlmablate.design.spec import RunSpec, StepSpec
from vlmablate.errors import UserError
from vlmablate.files import read_json
from vlmablate.orchestration.estimates import Estimator
from vlmablate.orchestration.failures import Outcome
from vlmablate.orchestration.plan import make_plan
from vlmablate.orchestration.policy import read_policy
from vlmablate.orchestration.progress import PlainDisplay
from vlmablate.orchestration.slurm import journal
from vlmablate.orchestration.slurm.commands import Limits
from vlmablate.orchestration.slurm.round import SlurmRound, Surroundings
from vlmablate.orchestration.snapshot import PACKAGE
from vlmablate.orchestration.store import Store

Moment = Callable[[], None]


@pytest.fixture
def control(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "control"
    folder.mkdir()
    monkeypatch.setenv("VLMABLATE_FAKES", str(folder))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[3]))
    return folder


class Sweep:
    """A round over runs of one step; time only passes where the test says what happens meanwhile."""

    def __init__(self, home: Path, runs: int = 2, policy: dict | None = None, **slurm: object) -> None:
        self.home = home
        self.store = Store(home)
        self.said: list[str] = []
        self._policy = read_policy(policy or {"unknown": {"action": "retry", "retries": 1}})
        self._slurm = slurm
        self._runs = []
        for number in range(runs):
            identity = step_id("evaluate", 1, {"number": number}, {}, {})
            step = StepSpec("evaluate", 1, identity, f"run{number}", {"number": number}, {}, {})
            self._runs.append(RunSpec(f"run{number}", "default", 0, {"evaluate": step}))

    def run(self, *moments: Moment, detach: bool = False) -> Outcome:
        """Run the round; every pause is one moment, and after the last one all jobs are run to their end."""
        coming: Iterator[Moment] = iter(moments)

        def pause(_: float) -> None:
            next(coming, run_all)()

        around = Surroundings(
            study="study", home=self.home, assets=self.home, kinds=fakes.KINDS,
            execution={"slurm": dict(self._slurm)}, code=PACKAGE.parent,
            limits=Limits(1001, 30.0), ttl_s=60, heartbeat_s=0.5,
        )  # fmt: skip
        work = SlurmRound(
            lambda: make_plan(self._runs, self.store, Estimator(self.store, {}), 2),
            self.store, around, self._policy, PlainDisplay(self.said.append), pause,
        )  # fmt: skip
        return work.run(detach)

    @property
    def text(self) -> str:
        return "\n".join(self.said)


def run_all() -> None:
    for job in fake_slurm.read_jobs():
        if job["state"] in ("PENDING", "RUNNING"):
            fake_slurm.run_element(f"{job['id']}_{job['index']}")


def nothing() -> None:
    pass


def sbatch_calls(slurm: Path) -> int:
    return sum(line.startswith("sbatch") for line in (slurm / "calls").read_text().splitlines())


def test_everything_is_computed_with_one_call(slurm: Path, home: Path, control: Path):
    sweep = Sweep(home, 5)
    outcome = sweep.run()
    assert (outcome.computed, outcome.failures) == (5, [])
    assert sbatch_calls(slurm) == 1
    assert journal.open_submissions(home) == []


@pytest.mark.parametrize("lie", ["empty", "error", "strange", "reused"])
def test_lies_of_squeue_end_no_run(slurm: Path, home: Path, control: Path, lie: str):
    """Jobs run; squeue then shows nothing, fails, shows a state nobody knows, or an older job with the same id."""

    def start() -> None:
        for job in fake_slurm.read_jobs():
            fake_slurm.set_state(f"{job['id']}_{job['index']}", "RUNNING")

    def begin_lying() -> None:
        (slurm / "mode-squeue").write_text(lie)

    def stop_lying() -> None:
        (slurm / "mode-squeue").unlink()

    sweep = Sweep(home)
    outcome = sweep.run(start, begin_lying, nothing, nothing, stop_lying)
    assert (outcome.computed, outcome.failures) == (2, [])
    assert sbatch_calls(slurm) == 1
    assert len(fakes.calls()) == 2


def test_lies_of_all_commands_end_no_run(slurm: Path, home: Path, control: Path):
    def begin_lying() -> None:
        (slurm / "mode-squeue").write_text("empty")
        (slurm / "mode-scontrol").write_text("error")

    def stop_lying() -> None:
        (slurm / "mode-squeue").unlink()

    outcome = Sweep(home).run(begin_lying, nothing, nothing, stop_lying)
    assert (outcome.computed, outcome.failures) == (2, [])
    assert sbatch_calls(slurm) == 1


def test_jobs_that_ended_and_were_forgotten_are_judged_by_what_they_left(
    slurm: Path, home: Path, control: Path
):
    def end_and_forget() -> None:
        run_all()
        fake_slurm.forget("101")

    outcome = Sweep(home).run(end_and_forget)
    assert (outcome.computed, outcome.failures) == (2, [])
    assert sbatch_calls(slurm) == 1


def test_a_full_queue_takes_the_rest_later(slurm: Path, home: Path, control: Path):
    """The cluster takes two arrays of two, then is full until they have ended."""

    sweep = Sweep(home, 6, max_array=2)
    (slurm / "mode-sbatch-after").write_text("2 full")
    outcome = sweep.run(nothing, run_all)
    assert (outcome.computed, outcome.failures) == (6, [])
    assert "Slurm does not take 2 jobs at once" in sweep.text
    assert len({job["id"] for job in fake_slurm.read_jobs()}) == 3


def test_a_job_that_goes_back_to_the_queue_need_not_wait_there(slurm: Path, home: Path, control: Path):
    def requeue() -> None:
        fake_slurm.set_state("101_0", "PENDING", "BeginTime")

    Sweep(home).run(requeue, nothing)
    updates = [
        line for line in (slurm / "calls").read_text().splitlines() if line.startswith("scontrol update")
    ]
    assert updates == ["scontrol update JobId=101_0 StartTime=now"]


def test_what_failed_before_the_command_is_tried_again_by_it(slurm: Path, home: Path, control: Path):
    sweep = Sweep(home)
    sweep.run(detach=True)
    (control / "fail-evaluate").touch()
    run_all()
    (control / "fail-evaluate").unlink()
    outcome = sweep.run()
    assert (outcome.computed, outcome.failures) == (2, [])
    assert "the evaluate step was told to fail; trying again" in sweep.text


def test_a_failure_is_told_with_its_cause_and_log(slurm: Path, home: Path, control: Path):
    (control / "fail-evaluate").touch()
    outcome = Sweep(home, 1).run()
    assert [failure.cause for failure in outcome.failures] == [
        "RuntimeError: the evaluate step was told to fail"
    ]
    assert "told to fail" in outcome.failures[0].log.read_text()
    assert sbatch_calls(slurm) == 1


def test_nothing_is_submitted_for_a_step_that_was_cancelled(slurm: Path, home: Path, control: Path):
    sweep = Sweep(home, 1)
    from vlmablate.orchestration import marks

    marks.cancel(home / "steps" / "evaluate" / next(iter(sweep._runs)).steps["evaluate"].name)
    outcome = sweep.run()
    assert len(outcome.failures) == 1
    assert not (slurm / "calls").exists() or sbatch_calls(slurm) == 0


def test_a_node_that_failed_twice_gets_no_more_work(slurm: Path, home: Path, control: Path):
    """Slurm loses the node of the job twice; the third submission asks for another one."""

    def lose_the_node() -> None:
        for job in fake_slurm.read_jobs():
            if job["state"] == "PENDING":
                fake_slurm.set_state(f"{job['id']}_{job['index']}", "NODE_FAIL")

    policy = {"node_fail": {"action": "retry", "retries": 5, "exclude_node_after": 2}}
    sweep = Sweep(home, 1, policy)
    outcome = sweep.run(lose_the_node, lose_the_node)
    assert (outcome.computed, outcome.failures) == (1, [])
    scripts = [Path(job["script"]).read_text() for job in fake_slurm.read_jobs()]
    assert ["--exclude=node1" in script for script in scripts] == [False, False, True]


def test_memory_that_was_not_enough_is_asked_for_again_with_more(slurm: Path, home: Path, control: Path):
    def kill_for_memory() -> None:
        fake_slurm.set_state("101_0", "OUT_OF_MEMORY")

    policy = {"host_oom": {"action": "retry", "retries": 1, "multiply": {"slurm.mem_gb": 1.5}}}
    outcome = Sweep(home, 1, policy, mem_gb=8).run(kill_for_memory)
    assert (outcome.computed, outcome.failures) == (1, [])
    memory = [line for job in fake_slurm.read_jobs() for line in Path(job["script"]).read_text().splitlines()]
    assert [line for line in memory if "--mem=" in line] == ["#SBATCH --mem=8192M", "#SBATCH --mem=12288M"]


def test_one_job_that_never_fits_ends_with_slurms_words(slurm: Path, home: Path, control: Path):
    """The same words stand for a full queue and for a job that asks for too much; only the first one passes."""
    (slurm / "mode-sbatch").write_text("full")
    with pytest.raises(UserError, match=r"not even one job.*job submit limit"):
        Sweep(home, 4).run(nothing, nothing, nothing, nothing)
    assert sbatch_calls(slurm) == 3  # 4, 2, 1


def test_leaving_with_a_full_queue_tells_what_did_not_fit(slurm: Path, home: Path, control: Path):
    (slurm / "mode-sbatch-after").write_text("1 full")
    outcome = Sweep(home, 4, max_array=2).run(detach=True)
    assert len(fake_slurm.read_jobs()) == 2
    assert [len(job.steps) for job in outcome.not_started] == [1, 1]


def test_a_failed_element_is_submitted_again_although_its_array_still_runs(
    slurm: Path, home: Path, control: Path
):
    """Nobody watched, Slurm has forgotten the element that failed, and its sibling still runs."""
    sweep = Sweep(home)
    sweep.run(detach=True)
    (control / "fail-evaluate").touch()
    fake_slurm.run_element("101_0")
    (control / "fail-evaluate").unlink()
    fake_slurm.write_jobs([job for job in fake_slurm.read_jobs() if job["index"] != 0])
    fake_slurm.set_state("101_1", "RUNNING")
    outcome = sweep.run(nothing)
    assert (outcome.computed, outcome.failures) == (2, [])
    assert {job["id"] for job in fake_slurm.read_jobs()} == {"101", "102"}


def test_children_of_a_parent_that_is_tried_again_do_not_wait_for_the_whole_sweep(
    slurm: Path, home: Path, control: Path
):
    """Slurm ends them for their parent's sake while another branch works on for long."""
    sweep = Sweep(home, 1, {"killed": {"action": "retry", "retries": 1}})
    parent = StepSpec("features", 1, step_id("features", 1, {}, {}, {}), "parent", {}, {}, {})
    deps = {"features": parent.id}
    child = StepSpec("evaluate", 1, step_id("evaluate", 1, {}, deps, {}), "child", {}, deps, {})
    sweep._runs.append(RunSpec("child", "default", 0, {"features": parent, "evaluate": child}))

    def elements(slug: str) -> list[str]:
        found = []
        for job in fake_slurm.read_jobs():
            steps = read_json(Path(job["script"]).parent / "intent.json")["jobs"][str(job["index"])]["steps"]
            found += [f"{job['id']}_{job['index']}" for step in steps if step["slug"] == slug]
        return found

    def parent_is_killed() -> None:
        fake_slurm.set_state(elements("run0")[0], "RUNNING")
        fake_slurm.set_state(elements("parent")[0], "FAILED")

    def child_is_ended() -> None:
        fake_slurm.set_state(elements("child")[0], "CANCELLED", "DependencyNeverSatisfied")

    def parent_is_done() -> None:
        fake_slurm.run_element(elements("parent")[-1])

    def child_is_back() -> None:
        assert len(elements("child")) == 2
        run_all()

    outcome = sweep.run(parent_is_killed, child_is_ended, parent_is_done, child_is_back)
    assert outcome.failures == []
    assert outcome.computed == 3


def test_a_final_failure_is_final_although_another_studys_controller_judged_it_first(
    slurm: Path, home: Path, control: Path
):
    (control / "fail-evaluate").touch()

    def end_and_be_closed_by_another() -> None:
        run_all()
        for submission in journal.open_submissions(home):
            journal.close(submission, dict.fromkeys(submission.indices, "FAILED"))

    outcome = Sweep(home, 1).run(end_and_be_closed_by_another)
    assert len(outcome.failures) == 1
    assert sbatch_calls(slurm) == 1
