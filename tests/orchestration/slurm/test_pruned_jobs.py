"""Trials of a tuning on the fake Slurm: what is stopped early is over, and the rest goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.orchestration import tuned_steps
from tests.orchestration.slurm import fake_slurm
from vlmablate.design.spec import RunSpec
from vlmablate.orchestration.estimates import Estimator
from vlmablate.orchestration.failures import Outcome
from vlmablate.orchestration.milestones import Milestone
from vlmablate.orchestration.plan import make_plan
from vlmablate.orchestration.policy import read_policy
from vlmablate.orchestration.progress import PlainDisplay
from vlmablate.orchestration.slurm import journal
from vlmablate.orchestration.slurm.commands import Limits
from vlmablate.orchestration.slurm.round import SlurmRound, Surroundings
from vlmablate.orchestration.snapshot import PACKAGE
from vlmablate.orchestration.store import Store


@pytest.fixture
def control(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "control"
    folder.mkdir()
    monkeypatch.setenv("VLMABLATE_FAKES", str(folder))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[3]))
    return folder


def run_all() -> None:
    for job in fake_slurm.read_jobs():
        if job["state"] in ("PENDING", "RUNNING"):
            fake_slurm.run_element(f"{job['id']}_{job['index']}")


def test_a_trial_above_its_limit_ends_and_is_not_submitted_again(
    slurm: Path, home: Path, control: Path, make_runs: Callable[..., list[RunSpec]]
):
    runs, store, said = make_runs()[:2], Store(home), []
    trainings = [run.steps["finetune"].id for run in runs]
    # The first one is above its limit at a third, the second one has none.
    watched = {trainings[0]: (Milestone(1 / 3, 1.0),), trainings[1]: (Milestone(1 / 3, None),)}

    def work() -> Outcome:
        around = Surroundings(
            study="study", home=home, assets=home, kinds=tuned_steps.KINDS, execution={"slurm": {}},
            code=PACKAGE.parent, limits=Limits(1001, 30.0), milestones=watched, ttl_s=60, heartbeat_s=0.5,
        )  # fmt: skip
        policy = read_policy({"code": {"action": "retry", "retries": 3}})
        return SlurmRound(
            lambda: make_plan(runs, store, Estimator(store, {}), 2),
            store, around, policy, PlainDisplay(said.append), lambda _: run_all(),
        ).run()  # fmt: skip

    outcome = work()
    assert outcome.ended == trainings[:1]
    assert (outcome.failures, outcome.dep_failed, outcome.not_started) == ([], [], [])
    assert [store.has_result("evaluate", run.run_id) for run in runs] == [False, True]
    text = "\n".join(said)
    assert "stopped early, at 33 % of its training" in text
    assert "FAILED" not in text
    assert journal.open_submissions(home) == []
    attempts = list((store.directory(runs[0].steps["finetune"]) / "attempts").glob("[0-9][0-9][0-9].json"))
    assert len(attempts) == 1
    # Another command that has the same trial, and read the store before it ended there.
    jobs = len(fake_slurm.read_jobs())
    assert work().ended == trainings[:1]
    assert len(fake_slurm.read_jobs()) == jobs
