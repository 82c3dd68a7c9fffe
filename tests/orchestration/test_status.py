from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from vlmablate.errors import UserError
from vlmablate.files import read_json, write_json
from vlmablate.orchestration import marks
from vlmablate.orchestration.lease import TTL_S, claim
from vlmablate.orchestration.processes import Owner
from vlmablate.orchestration.status import Look, StepState, read_status, render, to_json
from vlmablate.orchestration.watch import watch


def test_nothing_yet(results: Path):
    assert read_status(results) == []
    assert "no studies" in render([], results)


def test_a_finished_study(sweeps, results: Path):
    sweeps.run()
    status = read_status(results)[0]
    assert (status.name, status.state, status.runs_done, status.runs) == ("study", "done", 2, 2)
    assert (status.steps_done, status.steps) == (8, 8)
    assert "study  done   2/2   8/8" in render([status], results)
    assert (status.current, status.unfinished) == ((), ())


def test_the_json_is_of_the_documented_form(sweeps, results: Path, control: Path):
    (control / "fail-align").touch()
    sweeps.run()
    said = json.loads(to_json(read_status(results), results))
    assert (said["schema"], said["home"]) == (1, str(results))
    study = said["studies"][0]
    assert study.keys() == {
        "name", "state", "axis", "scale", "runs", "runs_done", "steps", "steps_done", "counts", "controller",
        "report", "command", "current", "unfinished", "comparisons",
    }  # fmt: skip
    assert study["counts"] == {"done": 5, "failed": 1, "waiting": 2}
    failed = study["current"][0]
    assert failed.keys() == {
        "id", "kind", "what", "state", "attempts", "done", "total", "eta_s", "metrics", "heartbeat_s", "node",
        "job", "owner", "cause", "log",
    }  # fmt: skip
    assert (failed["kind"], failed["state"], failed["attempts"]) == ("align", "failed", 1)
    assert study["unfinished"] == [
        {
            "label": "two_stage/s0",
            "run_id": study["unfinished"][0]["run_id"],
            "state": "failed",
            "left": ["align failed", "finetune waiting", "evaluate waiting"],
        }
    ]


def test_a_failure_is_shown_with_cause_log_and_the_way_on(sweeps, results: Path, control: Path):
    (control / "fail-align").touch()
    sweeps.run(launcher="local")
    status = read_status(results, "study")[0]
    assert status.state == "failed"
    assert status.failed[0].cause == "RuntimeError: the align step was told to fail"
    text = render([status], results)
    assert "FAILED align" in text
    assert f"log: {status.failed[0].log}" in text
    assert Path(status.failed[0].log).is_file()
    assert "to go on: the same command" in text


def undone(results: Path, role: str = "evaluate", run: int = 0) -> tuple[str, Path]:
    """Take the result of a finished step away; (its id, its folder)."""
    study = read_json(results / "studies" / "study" / "study.json")
    step_id = study["runs"][run]["steps"][role]
    directory = results / study["steps"][step_id]["dir"]
    shutil.rmtree(directory)
    return step_id, directory


def test_a_step_at_work_is_shown_with_its_progress(sweeps, results: Path):
    sweeps.run()
    _, directory = undone(results)
    lease = claim(directory / "attempts", heartbeat_s=60.0)
    said = {"done": 3, "total": 9, "elapsed_s": 6.0, "metrics": {"loss": 0.25, "bad": None}}
    write_json(directory / "progress.json", said)
    status = read_status(results)[0]
    assert status.state == "running"
    step = status.active[0]
    assert (step.done, step.total, step.eta_s, step.metrics["loss"]) == (3, 9, 12.0, 0.25)
    assert "3/9 33 %  loss 0.25  ETA 12 s  process" in render([status], results)
    lease.finish("stopped")
    assert read_status(results)[0].state == "incomplete"


def test_the_speed_of_a_resumed_step_does_not_count_what_was_done_before(sweeps, results: Path):
    sweeps.run()
    _, directory = undone(results)
    first = claim(directory / "attempts", heartbeat_s=60.0)
    first.note(checkpoint=80)
    first.finish("stopped")
    second = claim(directory / "attempts", heartbeat_s=60.0)
    write_json(directory / "progress.json", {"done": 90, "total": 100, "elapsed_s": 20.0, "metrics": {}})
    assert read_status(results)[0].active[0].eta_s == 20.0
    second.abandon()


def elsewhere(directory: Path, age_s: float, **fields: object) -> None:
    """A step that another machine works on and whose last sign of life is ``age_s`` old."""
    owner = replace(Owner.current(), host="node7", boot="another")
    lease = claim(directory / "attempts", owner=owner, heartbeat_s=60.0, node="node7", **fields)
    lease.abandon()
    then = os.stat(lease.path).st_mtime - age_s
    os.utime(lease.path, (then, then))


def queue_says(monkeypatch: pytest.MonkeyPatch, results: Path, **states: object) -> None:
    (results / "submissions").mkdir(exist_ok=True)
    from vlmablate.orchestration.slurm import status

    monkeypatch.setattr(status, "queue_states", lambda home: states)


def test_a_worker_that_gives_no_sign_of_life_is_unknown_and_never_dead(sweeps, results: Path, monkeypatch):
    sweeps.run()
    step_id, directory = undone(results)
    elsewhere(directory, 10 * TTL_S)
    step = read_status(results)[0].current[0]
    assert (step.state, step.node) == (StepState.UNKNOWN, "node7")
    assert "no sign of life from process" in step.cause
    assert "unknown evaluate" in render(read_status(results), results)
    # What Slurm knows outweighs a heartbeat that is late.
    running = SimpleNamespace(job="12_3", state="RUNNING", reason="None", node="node7")
    queue_says(monkeypatch, results, **{step_id: running})
    assert read_status(results)[0].current[0].state is StepState.RUNNING


def test_a_fresh_heartbeat_of_another_machine_is_a_sign_of_life(sweeps, results: Path):
    sweeps.run()
    _, directory = undone(results)
    elsewhere(directory, 30.0, slurm={"job_id": "12", "index": 3, "restart": 1, "token": "t"})
    step = read_status(results)[0].active[0]
    assert (step.node, step.job) == ("node7", "12_3")
    assert step.heartbeat_s == pytest.approx(30.0, abs=20.0)
    assert "job 12_3 on node7" in render(read_status(results), results)


def test_the_queue_is_shown_with_slurms_own_reason(sweeps, results: Path, monkeypatch):
    sweeps.run()
    step_id, _ = undone(results)
    pending = SimpleNamespace(job="12_3", state="PENDING", reason="Resources", node="")
    queue_says(monkeypatch, results, **{step_id: pending})
    status = read_status(results)[0]
    assert (status.state, status.counts["queued"]) == ("queued", 1)
    assert "PENDING (Resources)  job 12" in render([status], results)


def test_a_queue_that_cannot_be_asked_hides_nothing(sweeps, results: Path, monkeypatch):
    sweeps.run()
    undone(results)
    (results / "submissions").mkdir()
    from vlmablate.orchestration.slurm import status

    def refuse(home: Path) -> None:
        raise OSError("no such command")

    monkeypatch.setattr(status, "queue_states", refuse)
    look = Look(results)
    assert read_status(results, look=look)[0].counts == {"done": 7, "waiting": 1}
    assert "Slurm could not be asked (no such command)" in look.trouble


def test_cancelled_and_forgiven_steps(sweeps, results: Path, control: Path):
    (control / "fail-align").touch()
    sweeps.run()
    failed = read_status(results)[0].failed[0]
    directory = results / "steps" / failed.kind / f"{failed.what}-{failed.id}"
    marks.cancel(directory, "too slow")
    status = read_status(results)[0]
    assert (status.state, status.counts["cancelled"]) == ("cancelled", 1)
    assert "(too slow)" in render([status], results)
    assert "vlmablate retry study" in render([status], results)
    marks.forgive(directory, 1)
    status = read_status(results)[0]
    assert (status.state, status.current[0].cause) == ("incomplete", "will be tried again")


def test_losses_are_compared_at_the_step_that_all_arms_have_reached(sweeps, results: Path):
    sweeps.run()
    _, directory = undone(results, "finetune", run=1)
    study = read_json(results / "studies" / "study" / "study.json")
    other = results / study["steps"][study["runs"][0]["steps"]["finetune"]]["dir"]
    curve = [{"step": n, "loss": 1 / n, "smoothed_loss": 2 / n} for n in (10, 20, 30, 40)]
    (other / "metrics.jsonl").write_text("".join(json.dumps(point) + "\n" for point in curve))
    slower = [{"step": n, "loss": 3.0, "smoothed_loss": 0.5} for n in (10, 20)]
    torn = '{"step": 30, "lo'
    (directory).mkdir()
    (directory / "metrics.jsonl").write_text("".join(json.dumps(point) + "\n" for point in slower) + torn)
    lease = claim(directory / "attempts", heartbeat_s=60.0)
    write_json(directory / "progress.json", {"done": 25, "total": 40, "elapsed_s": 1.0, "metrics": {}})
    status = read_status(results)[0]
    compared = status.comparisons[0]
    assert (compared.kind, compared.seed, compared.step) == ("finetune", 0, 20)
    assert compared.losses == {"two_stage": 0.1, "single": 0.5}
    assert "loss of finetune at step 20, seed 0: two_stage 0.1, single 0.5 (+0.4)" in render(
        [status], results
    )
    lease.abandon()


def test_the_name_that_started_several_studies_shows_them(sweeps, results: Path):
    sweeps.run(study="paper-stages", command="python -m vlmablate.sweep study=paper")
    sweeps.run(study="other")
    assert [status.name for status in read_status(results, "paper")] == ["paper-stages"]
    assert len(read_status(results)) == 2


def test_unknown_study_lists_those_there_are(sweeps, results: Path):
    sweeps.run()
    with pytest.raises(UserError, match=r"unknown study 'studi'(.|\n)*  study"):
        read_status(results, "studi")


@pytest.mark.parametrize("live", [True, False])
def test_watching_ends_when_nothing_is_at_work(sweeps, results: Path, live: bool, capsys):
    sweeps.run()
    _, directory = undone(results)
    lease = claim(directory / "attempts", heartbeat_s=60.0)
    said: list[str] = []
    looks: list[float] = []

    def pause(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 3:
            lease.finish("stopped")

    assert watch(results, pause=pause, write=said.append, live=live) == 1
    assert len(looks) == 3
    if live:
        assert "incomplete" in capsys.readouterr().out
    else:
        assert "running" in said[0]
        assert "incomplete" in said[-1]
