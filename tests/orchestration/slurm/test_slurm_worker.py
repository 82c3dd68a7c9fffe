"""The worker as an element of an array: what it makes of former lives of its job, of files not yet seen, of signals."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.orchestration import fakes
from vlmablate.design.identity import step_id
from vlmablate.design.spec import StepSpec
from vlmablate.files import read_json, write_json
from vlmablate.orchestration import worker as worker_module
from vlmablate.orchestration.jobs import Job, manifest
from vlmablate.orchestration.lease import claim, latest
from vlmablate.orchestration.processes import Owner
from vlmablate.orchestration.stop import StopFlag
from vlmablate.orchestration.store import ATTEMPTS, QUARANTINE, RESULT, State, Store
from vlmablate.orchestration.worker import Exit, Worker

ELSEWHERE = Owner("another-node", "boot", "namespace", 4711, "1")


@pytest.fixture
def control(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "control"
    folder.mkdir()
    monkeypatch.setenv("VLMABLATE_FAKES", str(folder))
    return folder


def spec(kind: str, **deps: str) -> StepSpec:
    return StepSpec(kind, 1, step_id(kind, 1, {}, deps, {}), kind, {}, deps, {})


SCENES = spec("scenes")
FEATURES = spec("features", scenes=SCENES.id)


def job(home: Path, step: StepSpec, no_progress_after: int = 2) -> dict[str, Any]:
    store = Store(home)
    return manifest(
        Job(step.name, step.slug, (step,)), store=store, assets=home, kinds=fakes.KINDS, execution={}, parent=None,
        directories={s.id: store.directory(s) for s in (SCENES, FEATURES)}, no_progress_after=no_progress_after,
        ttl_s=1000, heartbeat_s=1000,
    )  # fmt: skip


def life(restart: int, job_id: str = "70") -> dict[str, Any]:
    return {"job_id": job_id, "index": 3, "restart": restart, "token": "t", "nodes": ["n"]}


def run(home: Path, step: StepSpec, slurm: dict[str, Any], stop: StopFlag | None = None) -> Exit:
    return Worker(job(home, step), redirect=False, slurm=slurm, stop=stop).run()


def folder(home: Path, step: StepSpec) -> Path:
    return Store(home).directory(step)


def held(home: Path, step: StepSpec, slurm: dict[str, Any], **fields: Any) -> None:
    """A lease of another node, whose heartbeat is fresh and whose process cannot be looked for."""
    lease = claim(folder(home, step) / ATTEMPTS, heartbeat_s=1000, owner=ELSEWHERE, slurm=slurm, **fields)
    lease._ended.set()  # its node is gone: nobody beats, nobody writes


def test_the_next_life_of_a_job_takes_over_at_once(home: Path, control: Path):
    held(home, SCENES, life(0))
    assert run(home, SCENES, life(1)) is Exit.DONE
    attempt = latest(folder(home, SCENES) / ATTEMPTS)
    assert attempt is not None
    assert (attempt.number, attempt.state) == (2, "done")


def test_another_job_waits_and_then_leaves_the_step_alone(
    home: Path, control: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(worker_module.time, "sleep", lambda seconds: None)
    held(home, SCENES, life(0, "69"))
    assert run(home, SCENES, life(1)) is Exit.BUSY
    assert fakes.calls() == []


def test_a_job_that_gets_no_further_is_ended(home: Path, control: Path):
    held(home, SCENES, life(0))
    attempts = folder(home, SCENES) / ATTEMPTS
    write_json(attempts / "002.json", {**read_json(attempts / "001.json"), "attempt": 2, "slurm": life(1)})
    assert run(home, SCENES, life(2)) is Exit.FAILED
    attempt = latest(folder(home, SCENES) / ATTEMPTS)
    assert attempt is not None
    assert attempt.record["error"]["type"] == "NoProgress"
    assert "time_min" in attempt.record["error"]["message"]
    assert fakes.calls() == []


def test_progress_and_nothing_else_bounds_the_lives_of_a_job(home: Path, control: Path):
    """Twenty preemptions, each of which got a little further, are no reason to give up."""
    held(home, SCENES, life(0), checkpoint=1)
    attempts = folder(home, SCENES) / ATTEMPTS
    first = read_json(attempts / "001.json")
    for number in range(2, 21):
        record = {**first, "attempt": number, "checkpoint": number, "slurm": life(number - 1)}
        write_json(attempts / f"{number:03d}.json", record)
    assert run(home, SCENES, life(20)) is Exit.DONE


def test_a_dependency_that_is_seen_late_is_waited_for(
    home: Path, control: Path, monkeypatch: pytest.MonkeyPatch
):
    assert run(home, SCENES, life(0)) is Exit.DONE
    directory = folder(home, SCENES)
    (directory / RESULT).rename(directory / "unseen")
    waits = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 5:
            (directory / "unseen").rename(directory / RESULT)

    monkeypatch.setattr(worker_module.time, "sleep", sleep)
    assert run(home, FEATURES, life(0)) is Exit.DONE
    assert len(waits) == 5


def test_a_dependency_that_is_not_there_is_not_moved_aside(
    home: Path, control: Path, monkeypatch: pytest.MonkeyPatch
):
    """It may only be invisible from this node; moving its folder would destroy good work."""
    assert run(home, SCENES, life(0)) is Exit.DONE
    directory = folder(home, SCENES)
    (directory / RESULT).rename(directory / "unseen")
    monkeypatch.setattr(worker_module.time, "sleep", lambda seconds: None)
    assert run(home, FEATURES, life(0)) is Exit.REPLAN
    assert (directory / "unseen").exists()
    assert not (directory.parent / QUARANTINE).exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGUSR2, Exit.REQUEUE), (signal.SIGTERM, Exit.STOPPED)])
def test_a_signal_says_whether_the_work_goes_on_later(home: Path, control: Path, number: int, code: Exit):
    stop = StopFlag()
    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2, signal.SIGALRM)}
    stop.install()
    try:
        os.kill(os.getpid(), number)
        assert run(home, SCENES, life(0), stop) is code
    finally:
        for signal_number, handler in before.items():
            signal.signal(signal_number, handler)
    assert Store(home).inspect(SCENES).state is State.ABSENT
