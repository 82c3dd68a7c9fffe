"""cancel and retry, on real workers."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.orchestration import fakes
from tests.orchestration.conftest import until
from vlmablate.errors import UserError
from vlmablate.files import read_json, write_json
from vlmablate.orchestration import marks
from vlmablate.orchestration.cancel import cancel
from vlmablate.orchestration.lease import claim, latest
from vlmablate.orchestration.processes import Owner, start_time
from vlmablate.orchestration.retry import go_on, retry
from vlmablate.orchestration.status import read_status


def states(results: Path, study: str = "study") -> dict[str, int]:
    return dict(read_status(results, study)[0].counts)


def run_of(results: Path, arm: str, study: str = "study") -> dict:
    declared = read_json(results / "studies" / study / "study.json")
    return next(run for run in declared["runs"] if run["arm"] == arm)


def folder(results: Path, step_id: str) -> Path:
    declared = read_json(results / "studies" / "study" / "study.json")
    return results / declared["steps"][step_id]["dir"]


def test_cancelling_a_study_stops_its_workers_and_the_same_command_leaves_it_alone(
    sweeps, results: Path, control: Path
):
    (control / "hold-finetune").touch()
    controller = sweeps.start()
    path = control / "held-finetune"
    worker = int(until(lambda: path.exists() and path.read_text(), "a finetune step at work"))
    said: list[str] = []
    assert cancel(results, ["study"], "wrong data", False, said.append) >= 4
    assert any(line.startswith("told process") for line in said)
    until(lambda: start_time(worker) is None, "the end of the worker")
    output, _ = controller.communicate(timeout=60)
    assert controller.returncode == 1
    assert "(wrong data); to have it computed: vlmablate retry" in output
    # The other arm's alignment may or may not have been quicker.
    assert states(results) in ({"done": 4, "cancelled": 4}, {"done": 3, "cancelled": 5})
    (control / "hold-finetune").unlink()
    before = len(fakes.calls())
    assert sweeps.run() == 1
    assert len(fakes.calls()) == before
    assert "cancelled by" in sweeps.text
    said.clear()
    assert retry(results, ["study"], said.append) == ["the same command"]
    assert said[0].endswith(" cancelled steps")
    assert sweeps.run() == 0
    assert states(results) == {"done": 8}


def test_what_another_run_needs_is_left_alone(sweeps, results: Path, control: Path):
    (control / "fail-pretrain").touch()
    sweeps.run()
    said: list[str] = []
    cancel(results, ["study/single/s0"], "", False, said.append)
    single, both = run_of(results, "single")["steps"], run_of(results, "two_stage")["steps"]
    assert marks.is_cancelled(folder(results, single["evaluate"]))
    assert marks.is_cancelled(folder(results, single["finetune"]))
    assert not marks.is_cancelled(folder(results, both["pretrain"]))
    assert any(line.startswith("left alone: pretrain") and "study/two_stage/s0" in line for line in said)
    (control / "fail-pretrain").unlink()
    assert sweeps.run() == 1
    assert "1 of 2 runs are missing" in sweeps.text
    assert not any(call.startswith("finetune") and single["finetune"] in call for call in fakes.calls())


def test_a_run_that_was_given_up_needs_nothing_any_more(sweeps, results: Path, control: Path):
    (control / "fail-pretrain").touch()
    sweeps.run()
    cancel(results, ["study/two_stage/s0"], "", False, lambda text: None)
    shared = run_of(results, "single")["steps"]["pretrain"]
    assert not marks.is_cancelled(folder(results, shared))
    cancel(results, ["study/single/s0"], "", False, lambda text: None)
    assert marks.is_cancelled(folder(results, shared))


def test_force_takes_shared_steps_as_well(sweeps, results: Path, control: Path):
    (control / "fail-pretrain").touch()
    sweeps.run()
    cancel(results, ["study/single/s0"], "", True, lambda text: None)
    assert marks.is_cancelled(folder(results, run_of(results, "single")["steps"]["pretrain"]))


def test_another_study_that_still_wants_the_run_keeps_it(sweeps, results: Path, control: Path):
    (control / "fail-evaluate").touch()
    sweeps.run()
    sweeps.run(study="other")
    said: list[str] = []
    assert cancel(results, ["study"], "", False, said.append) == 0
    assert any("needed by other/" in line for line in said)
    assert states(results) == {"done": 6, "failed": 2}


def test_a_single_step_by_the_name_of_its_folder(sweeps, results: Path, control: Path):
    (control / "fail-align").touch()
    sweeps.run()
    step = folder(results, run_of(results, "two_stage")["steps"]["align"])
    said: list[str] = []
    assert cancel(results, [step.name], "", False, said.append) == 0
    assert "needed by study/two_stage/s0" in said[0]
    assert cancel(results, [step.name], "", True, said.append) == 1
    assert retry(results, [step.name], said.append) == ["the same command"]
    assert not marks.is_cancelled(step)
    assert marks.forgiven(step) == 1


def test_retrying_one_step_of_a_cancelled_run_says_that_the_others_stay_cancelled(
    sweeps, results: Path, control: Path
):
    (control / "fail-align").touch()
    sweeps.run()
    cancel(results, ["study/two_stage/s0"], "", False, lambda text: None)
    said: list[str] = []
    retry(results, [folder(results, run_of(results, "two_stage")["steps"]["align"]).name], said.append)
    assert said == [
        "to be computed again: 1 cancelled steps",
        "other steps of study/two_stage/s0 are still cancelled: vlmablate retry study/two_stage/s0",
    ]


def test_nothing_is_cancelled_when_a_name_means_nothing(sweeps, results: Path, control: Path):
    (control / "fail-align").touch()
    sweeps.run()
    with pytest.raises(UserError, match="nothing is called 'studdy'"):
        cancel(results, ["study", "studdy"], "", False, print)
    assert states(results) == {"done": 5, "failed": 1, "waiting": 2}


def test_what_is_done_is_never_cancelled(sweeps, results: Path):
    sweeps.run()
    said: list[str] = []
    assert cancel(results, ["study"], "", False, said.append) == 0
    assert said == ["nothing to cancel: no unfinished step is left"]


def test_a_worker_of_another_machine_is_named_and_not_killed_by_number(sweeps, results: Path, control: Path):
    sweeps.run()
    step = folder(results, run_of(results, "single")["run_id"])
    shutil.rmtree(step)
    # Its process id is that of this very process: a kill by number alone would end the test.
    owner = replace(Owner.current(), host="node7", boot="another")
    lease = claim(step / "attempts", owner=owner, heartbeat_s=60.0)
    said: list[str] = []
    assert cancel(results, ["study"], "", False, said.append) == 1
    lease.abandon()
    assert any(f"kill {os.getpid()}" in line and "on node7" in line for line in said)


def test_a_process_id_that_was_given_to_somebody_else_is_not_signalled(sweeps, results: Path):
    sweeps.run()
    step = folder(results, run_of(results, "single")["run_id"])
    shutil.rmtree(step)
    lease = claim(step / "attempts", owner=replace(Owner.current(), started="long ago"), heartbeat_s=60.0)
    said: list[str] = []
    assert cancel(results, ["study"], "", False, said.append) == 1
    lease.abandon()
    assert not any("told process" in line for line in said)


def test_jobs_in_slurms_queue_are_cancelled_by_their_steps(sweeps, results: Path, control: Path, monkeypatch):
    (control / "fail-align").touch()
    sweeps.run()
    (results / "submissions").mkdir()
    from vlmablate.orchestration.slurm import cancel as slurm

    asked: list[set[str]] = []
    monkeypatch.setattr(slurm, "cancel", lambda home, ids, report: asked.append(set(ids)))
    cancel(results, ["study"], "", False, lambda text: None)
    steps = run_of(results, "two_stage")["steps"]
    assert asked == [{steps["align"], steps["finetune"], steps["evaluate"]}]


def test_a_worker_does_not_begin_a_step_that_was_cancelled_meanwhile(sweeps, results: Path, control: Path):
    sweeps.run()
    declared = read_json(results / "studies" / "study" / "study.json")
    run = run_of(results, "two_stage")
    job = next((results / "studies" / "study" / "jobs").glob(f"*{run['run_id']}.json"))
    for role in ("finetune", "evaluate"):
        shutil.rmtree(results / declared["steps"][run["steps"][role]]["dir"])
    marks.cancel(folder(results, run["run_id"]))
    from vlmablate.orchestration.worker import Exit, Worker

    manifest = read_json(job)
    before = len(fakes.calls())
    assert Worker(manifest, redirect=False).run() is Exit.FAILED
    assert [call.split()[0] for call in fakes.calls()[before:]] == ["finetune"]
    assert latest(folder(results, run["run_id"]) / "attempts") is None


def test_retry_runs_the_command_of_each_study(monkeypatch):
    given: list[list[str]] = []
    import vlmablate.sweep

    monkeypatch.setattr(vlmablate.sweep, "run", lambda words: given.append(words) or len(given) - 1)
    commands = ["python -m vlmablate.sweep axis=a 'data.nouns=a b'", "python -m vlmablate.sweep axis=b"]
    assert go_on(commands) == 1
    assert given == [["axis=a", "data.nouns=a b"], ["axis=b"]]


def test_retry_leaves_a_step_at_work_alone(sweeps, results: Path, control: Path):
    (control / "fail-align").touch()
    sweeps.run()
    step = folder(results, run_of(results, "two_stage")["steps"]["align"])
    lease = claim(step / "attempts", heartbeat_s=60.0)
    said: list[str] = []
    retry(results, ["study"], said.append)
    assert said == ["nothing was failed or cancelled"]
    lease.finish("failed")
    retry(results, ["study"], said.append)
    assert said[1] == "to be computed again: 1 failed steps"
    assert read_json(step / "retry.json")["attempts"] == 2


def test_what_was_submitted_before_a_retry_is_forgiven_also_without_any_attempt(tmp_path: Path):
    assert not marks.retried(tmp_path, "2026-01-01T00:00:00+00:00")
    marks.cancel(tmp_path)
    marks.forgive(tmp_path, 0)
    assert not marks.is_cancelled(tmp_path)
    assert marks.retried(tmp_path, "2026-01-01T00:00:00+00:00")
    assert not marks.retried(tmp_path, "2999-01-01T00:00:00+00:00")


def test_marks_survive_damage(tmp_path: Path):
    marks.cancel(tmp_path, "no reason")
    (tmp_path / "cancelled.json").write_text("{")
    assert marks.is_cancelled(tmp_path)
    assert marks.cancellation(tmp_path) == "cancelled by somebody"
    write_json(tmp_path / "retry.json", ["odd"])
    assert marks.forgiven(tmp_path) == 0
