"""What changed since a study last ran: configuration and code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.orchestration import fakes
from vlmablate.design.spec import RunSpec
from vlmablate.errors import UserError
from vlmablate.files import read_json, write_json
from vlmablate.orchestration import controller
from vlmablate.orchestration.controller import EXIT_OK, EXIT_WORK, Controller
from vlmablate.orchestration.drift import config_drift, drift_lines
from vlmablate.orchestration.store import Store
from vlmablate.orchestration.study import compose_cells

Runs = Callable[..., list[RunSpec]]


def declared(runs: list[RunSpec], store: Store) -> dict:
    steps = {step.id: step for run in runs for step in run.steps.values()}
    for step in steps.values():
        write_json(store.directory(step) / "spec.json", step.to_dict())
    return {
        "runs": [run.to_dict() for run in runs],
        "steps": {i: {"dir": f"steps/{step.kind}/{step.name}"} for i, step in steps.items()},
    }


def changed(runs: list[RunSpec], monkeypatch: pytest.MonkeyPatch, path: str, value: object) -> None:
    """From now on the study's cells are composed with another value."""

    def cells(*arguments):
        axis, made = compose_cells(*arguments)
        for cell in made:
            *parents, leaf = path.split(".")
            node = cell.config
            for key in parents:
                node = node[key]
            node[leaf] = value
        return axis, made

    monkeypatch.setattr(controller, "compose_cells", cells)


def test_unchanged_runs_and_new_seeds_do_not_drift(store: Store, make_runs: Runs):
    before = declared(make_runs(seeds=1), store)
    assert config_drift(before, make_runs(seeds=2), store) == []


def test_changed_fields_are_named_once_for_all_runs(store: Store, make_runs: Runs):
    before = declared(make_runs("epochs"), store)
    for step in before["steps"].values():
        path = store.home / step["dir"] / "spec.json"
        spec = read_json(path)
        if spec["kind"] == "finetune":
            spec["config"]["stages"]["finetune"]["warmup"] = 0.5
            write_json(path, spec)
    for run in before["runs"]:  # the ids of then
        run["run_id"] = f"{run['run_id']}-then"
        finetune = run["steps"].pop("finetune")
        before["steps"][f"{finetune}-then"] = before["steps"][finetune]
        run["steps"]["finetune"] = f"{finetune}-then"
    drifts = config_drift(before, make_runs("epochs"), store)
    assert [drift.run.arm for drift in drifts] == ["once", "x1_25", "x1_5", "twice", "thrice"]
    assert [str(difference) for difference in drifts[0].differences] == ["stages.finetune.warmup: 0.5 → 0.05"]
    assert drift_lines(drifts) == [
        "5 runs changed since this study last ran: stages.finetune.warmup: 0.5 → 0.05"
    ]


def test_a_run_of_which_nothing_was_started_does_not_drift(store: Store, make_runs: Runs):
    before = declared(make_runs("epochs"), store)
    now = make_runs("stages")
    before["runs"][0].update(arm="two_stage")
    assert config_drift({**before, "steps": {}}, now, store) == []


def test_a_stage_that_came_is_told(store: Store, make_runs: Runs):
    two, single = make_runs("stages")
    before = declared([single], store)
    before["runs"][0]["arm"] = two.arm
    (drift,) = config_drift(before, [two], store)
    assert "align: (absent) → a step of its own" in map(str, drift.differences)


def test_a_changed_configuration_is_said_and_computed_anew(sweeps, monkeypatch: pytest.MonkeyPatch):
    sweeps.run()
    before = len(fakes.calls())
    changed([], monkeypatch, "stages.finetune.warmup", 0.25)
    sweeps.said.clear()
    assert Controller(sweeps.request(), sweeps.parts()).plan() == EXIT_WORK
    assert "2 runs changed since this study last ran: stages.finetune.warmup: 0.05 → 0.25" in sweeps.text
    assert len(fakes.calls()) == before
    assert sweeps.run() == EXIT_OK
    assert "stages.finetune.warmup: 0.05 → 0.25" in sweeps.text
    again = sorted(call.split()[0] for call in fakes.calls()[before:])
    assert again == ["evaluate", "evaluate", "finetune", "finetune"]
    sweeps.run()
    assert "changed since" not in sweeps.text


def test_a_changed_configuration_can_be_refused(sweeps, results: Path, monkeypatch: pytest.MonkeyPatch):
    overrides = ("execution.workers=2",)
    sweeps.run(overrides=overrides)
    study = (results / "studies" / "study" / "study.json").read_bytes()
    before = len(fakes.calls())
    changed([], monkeypatch, "stages.finetune.warmup", 0.25)
    monkeypatch.setattr("vlmablate.orchestration.preparation.read_policy", refusing)
    with pytest.raises(UserError, match=r"stages\.finetune\.warmup: 0\.05 → 0\.25"):
        sweeps.run(overrides=overrides)
    assert len(fakes.calls()) == before
    assert (results / "studies" / "study" / "study.json").read_bytes() == study


def refusing(raw):
    from vlmablate.orchestration.policy import read_policy

    return read_policy({**raw, "on_drift": "refuse"})


def rerunning(raw):
    from vlmablate.orchestration.policy import read_policy

    return read_policy({**raw, "on_drift": "rerun"})


def made_by_other_code(results: Path, kind: str) -> None:
    for path in (results / "steps" / kind).glob("*/result.json"):
        write_json(path, {**read_json(path), "code": "f" * 16})


def test_results_of_other_code_are_kept_and_told(sweeps, results: Path):
    sweeps.run()
    made_by_other_code(results, "finetune")
    before = len(fakes.calls())
    assert sweeps.run() == EXIT_OK
    assert "2 results were made by other code (ffffffff) than today's; kept" in sweeps.text
    assert len(fakes.calls()) == before


def test_results_of_other_code_can_be_computed_again(sweeps, results: Path, monkeypatch: pytest.MonkeyPatch):
    sweeps.run()
    values = sweeps.values()
    made_by_other_code(results, "finetune")
    before = len(fakes.calls())
    monkeypatch.setattr("vlmablate.orchestration.preparation.read_policy", rerunning)
    sweeps.said.clear()
    assert Controller(sweeps.request(), sweeps.parts()).plan() == EXIT_WORK
    assert "a run would compute them again" in sweeps.text
    assert sweeps.run() == EXIT_OK
    assert "4 moved into .superseded, to be computed again" in sweeps.text
    # What was made from them is as old as they are.
    again = sorted(call.split()[0] for call in fakes.calls()[before:])
    assert again == ["evaluate", "evaluate", "finetune", "finetune"]
    assert len(list((results / "steps" / "finetune" / ".superseded").iterdir())) == 2
    assert sweeps.values() == values
    sweeps.run()
    assert "other code" not in sweeps.text


def test_results_of_other_code_can_be_refused(sweeps, results: Path, monkeypatch: pytest.MonkeyPatch):
    sweeps.run()
    made_by_other_code(results, "scenes")
    monkeypatch.setattr("vlmablate.orchestration.preparation.read_policy", refusing)
    with pytest.raises(UserError, match="1 result was made by other code"):
        sweeps.run()
