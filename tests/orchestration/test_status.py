from __future__ import annotations

import json
from pathlib import Path

import pytest

from vlmablate.errors import UserError
from vlmablate.files import write_json
from vlmablate.orchestration.lease import claim
from vlmablate.orchestration.status import read_status, render, to_json


def test_nothing_yet(results: Path):
    assert read_status(results) == []
    assert "no studies" in render([], results)


def test_a_finished_study(sweeps, results: Path):
    sweeps.run()
    status = read_status(results)[0]
    assert (status.name, status.state, status.runs_done, status.runs) == ("study", "done", 2, 2)
    assert (status.steps_done, status.steps) == (8, 8)
    assert "study  done   2/2   8/8" in render([status], results)
    assert json.loads(to_json([status]))[0]["state"] == "done"


def test_a_failure_is_shown_with_cause_log_and_the_way_on(sweeps, results: Path, control: Path):
    (control / "fail-align").touch()
    sweeps.run()
    status = read_status(results, "study")[0]
    assert status.state == "failed"
    assert status.failed[0].cause == "RuntimeError: the align step was told to fail"
    text = render([status], results)
    assert "FAILED align" in text
    assert "to go on: the same command" in text


def test_a_step_at_work_is_shown_with_its_progress(sweeps, results: Path):
    sweeps.run()
    study = json.loads((results / "studies" / "study" / "study.json").read_text())
    directory = results / study["steps"][study["runs"][0]["run_id"]]["dir"]
    (directory / "result.json").unlink()
    lease = claim(directory / "attempts", heartbeat_s=60.0)
    write_json(directory / "progress.json", {"done": 3, "total": 9, "metrics": {"loss": 0.25, "bad": None}})
    status = read_status(results)[0]
    assert status.state == "running"
    assert "3/9 loss 0.25, process" in render([status], results)
    lease.finish("stopped")
    assert read_status(results)[0].state == "incomplete"


def test_unknown_study_lists_those_there_are(sweeps, results: Path):
    sweeps.run()
    with pytest.raises(UserError, match=r"unknown study 'studi'(.|\n)*  study"):
        read_status(results, "studi")
