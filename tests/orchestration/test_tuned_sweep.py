"""Whole sweeps whose arms are tuned before they are compared, with fake steps and planted rates."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.orchestration import conftest, fakes, tuned_steps
from vlmablate.errors import UserError
from vlmablate.files import read_json
from vlmablate.orchestration import controller, tuned
from vlmablate.orchestration.cancel import cancel
from vlmablate.orchestration.gc import find
from vlmablate.orchestration.marks import forgive
from vlmablate.orchestration.names import Index
from vlmablate.orchestration.reproduce import reproduce
from vlmablate.orchestration.retry import retry
from vlmablate.orchestration.scheduler import Scheduler
from vlmablate.orchestration.status import read_status, render
from vlmablate.orchestration.store import CHECKPOINT_PREFIX
from vlmablate.orchestration.study import compose_cells
from vlmablate.orchestration.why import why
from vlmablate.search.space import Categorical, Float, Int, Space

RATE = "stages.finetune.learning_rate"
ARMS = tuned_steps.ARMS
SPACE = Space({RATE: Float(0.1, 10.0, log=True, relative=True)}, startup=4)
"""As in conf/search/lr.yaml, whatever that says today."""


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results folder of a sweep of 8 trials and 2 seeds that nothing disturbed, and beside it what it said."""
    home = tmp_path_factory.mktemp("tuned")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLMABLATE_FAKES", str(home))
        patch.setattr(controller, "compose_cells", conftest.REMEMBERED)
        patch.setattr(tuned, "load_space", lambda name: SPACE)
        sweeps = conftest.Sweeps(home / "results", home / "cells.json")
        assert run(sweeps) == 0
        (home / "said").write_text(sweeps.text)
    return home


@pytest.fixture
def space(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuned, "load_space", lambda name: SPACE)


@pytest.fixture
def kept(done: Path, results: Path, space: None) -> Path:
    """A copy of that results folder, to go on with."""
    shutil.copytree(done / "results", results)
    return results


def run(sweeps: Any, trials: int = 8, seeds: int = 2, **more: Any) -> int:
    given = {"axis": "image_resize", "tune": "lr", "trials": trials, "seeds": seeds, **more}
    return int(sweeps.run({"kinds": tuned_steps.KINDS}, **given))


def declared(results: Path) -> dict[str, Any]:
    study: dict[str, Any] = read_json(results / "studies" / "study" / "study.json")
    return study


def tuning(results: Path) -> dict[str, Any]:
    record: dict[str, Any] = declared(results)["tuning"]
    return record


def trials_of(results: Path, state: str = "") -> list[dict[str, Any]]:
    """The trials of all arms, or those that ended in one way."""
    trials = [trial for cell in tuning(results)["cells"] for trial in cell["trials"]]
    return [trial for trial in trials if not state or trial["state"] == state]


def calls(kind: str) -> list[str]:
    return [call for call in fakes.calls() if call.startswith(f"{kind} ")]


def called_ids() -> list[str]:
    return sorted(call.rpartition("-")[2] for call in fakes.calls())


def folder(results: Path, kind: str, step_id: str) -> Path:
    (found,) = (results / "steps" / kind).glob(f"*-{step_id}")
    return found


def spec(results: Path, kind: str, step_id: str) -> dict[str, Any]:
    found: dict[str, Any] = read_json(folder(results, kind, step_id) / "spec.json")
    return found


def lose(results: Path, *runs: dict[str, Any]) -> list[str]:
    """Delete what was trained and evaluated for runs or trials; returns the ids, sorted."""
    for one in runs:
        for kind in ("finetune", "evaluate"):
            shutil.rmtree(folder(results, kind, one["steps"][kind]))
    return sorted(one["steps"][kind] for one in runs for kind in ("finetune", "evaluate"))


# What is tried, and what is compared


def test_every_arm_gets_the_same_trials_and_the_best_of_them(done: Path):
    record = tuning(done / "results")
    assert (record["final"], record["trials"], record["seed"], record["split"]) == (
        True,
        8,
        2000,
        "validation",
    )
    assert [cell["arm"] for cell in record["cells"]] == list(ARMS)
    for cell in record["cells"]:
        assert [trial["number"] for trial in cell["trials"]] == list(range(8))
        assert cell["trials"][0]["values"] == cell["configured"] == {RATE: 2e-3}
        assert all(2e-4 <= trial["values"][RATE] <= 2e-2 for trial in cell["trials"])
        finished = [trial for trial in cell["trials"] if trial["state"] == "finished"]
        for trial in finished:  # the benchmark that is not of the suite does not count
            assert trial["score"] == pytest.approx(tuned_steps.points(trial["values"][RATE], cell["arm"]))
            assert trial["share"] == 1.0
        best = max(finished, key=lambda trial: trial["score"])
        assert (cell["chosen"], cell["score"]) == (best["values"], best["score"])
    # All arms start from the same multiples of what they are configured with: luck is shared.
    starts = [[trial["values"] for trial in cell["trials"][:4]] for cell in record["cells"]]
    assert starts[0] == starts[1] == starts[2]


def test_trials_and_comparison_share_neither_seeds_nor_scenes(done: Path):
    results = done / "results"
    study, trials = declared(results), trials_of(results)
    assert {(r["arm"], r["seed"]) for r in study["runs"]} == {(arm, s) for arm in ARMS for s in (0, 1)}
    assert not {trial["run_id"] for trial in trials} & {r["run_id"] for r in study["runs"]}
    chosen = {cell["arm"]: cell["chosen"][RATE] for cell in study["tuning"]["cells"]}
    assert len(set(chosen.values())) > 1
    for one in study["runs"]:
        trained = spec(results, "finetune", one["steps"]["finetune"])["config"]
        assert trained["stages"]["finetune"]["learning_rate"] == chosen[one["arm"]]
        assert trained["seed"] == {"init": one["seed"], "order": one["seed"]}
        assert spec(results, "evaluate", one["run_id"])["deps"]["scenes"] == one["steps"]["scenes"]
        assert not any(role.startswith("validation") for role in one["steps"])
    for trial in trials:
        assert all(step_id in study["steps"] for step_id in trial["steps"].values())
        learnt = spec(results, "finetune", trial["steps"]["finetune"])
        assert learnt["config"]["seed"] == {"init": 2000, "order": 2000}
        assert learnt["deps"]["scenes"] == trial["steps"]["scenes"]
        held_out = trial["steps"]["validation_scenes"]
        assert held_out != trial["steps"]["scenes"]
        assert spec(results, "scenes", held_out)["config"]["validation"] == 48
        if trial["state"] == "finished":
            asked = spec(results, "evaluate", trial["run_id"])
            assert asked["deps"]["scenes"] == held_out
            assert asked["deps"]["features0"] == trial["steps"]["validation_features0"]
            assert spec(results, "features", asked["deps"]["features0"])["deps"] == {"scenes": held_out}


def test_what_the_rate_does_not_touch_is_computed_once_and_one_report_is_written(done: Path):
    computed = [call.split()[0] for call in (done / "calls").read_text().splitlines()]
    assert computed.count("pretrain") == 1
    assert computed.count("scenes") == 2
    assert computed.count("features") == 2 * len(ARMS)
    assert computed.count("align") == 3 * len(ARMS)  # the seed of the trials, and two
    said = (done / "said").read_text()
    assert said.count("runs compared") == 1
    assert "6 runs compared" in said
    assert f"letterbox: {RATE}=" in said
    assert "(configured 0.002), the best of 8 trials" in said
    assert "points on the validation scenes" in said


def test_the_same_command_and_a_plan_find_nothing_to_do(sweeps, kept: Path):
    before = declared(kept)
    assert run(sweeps) == 0
    assert "nothing to submit" in sweeps.text
    assert "(configured 0.002), the best of 8 trials" in sweeps.text
    assert "nothing to submit: every run is done" in sweeps.plan(
        axis="image_resize", tune="lr", trials=8, seeds=2
    )
    assert "all of it together" not in sweeps.text
    assert declared(kept) == before
    assert fakes.calls() == []


# Nothing is remembered but results


@pytest.mark.parametrize("damage", ["deleted", "torn"])
def test_a_lost_record_and_lost_results_come_out_the_same(sweeps, kept: Path, damage: str):
    before, path = tuning(kept), kept / "studies" / "study" / "study.json"
    if damage == "deleted":
        path.unlink()
    else:
        path.write_text(path.read_text()[:1000])
    (kept / "optuna.db").write_text("the torn storage of a search that keeps one")
    # Early trials, on which all that follow rest.
    missing = lose(kept, before["cells"][0]["trials"][1], before["cells"][1]["trials"][0])
    assert run(sweeps) == 0
    assert called_ids() == missing
    assert tuning(kept) == before


def test_more_trials_go_on_from_those_that_are_there(sweeps, kept: Path):
    before = tuning(kept)
    for budget in (9, 11):  # the first one cuts a batch in two
        assert run(sweeps, trials=budget) == 0
        for cell, then in zip(tuning(kept)["cells"], before["cells"], strict=True):
            assert cell["trials"][:8] == then["trials"]
            assert len(cell["trials"]) == budget
    trained = {trial["steps"]["finetune"] for trial in trials_of(kept)}
    again = [step_id for step_id in called_ids() if step_id in trained]
    assert len(again) == len(set(again)) == 3 * 3


def test_gc_leaves_what_was_compared_while_more_trials_are_asked_for(sweeps, kept: Path, control: Path):
    before = declared(kept)
    (control / "fail-finetune").touch()
    assert run(sweeps, trials=9) == 1
    assert (tuning(kept)["final"], declared(kept)["runs"]) == (False, [])
    assert find(kept, ["steps"], 0.0, print) == []
    (control / "fail-finetune").unlink()
    assert run(sweeps, trials=9) == 0
    trials = {step_id for trial in trials_of(kept) for step_id in trial["steps"].values()}
    runs = {step_id for one in declared(kept)["runs"] for step_id in one["steps"].values()}
    assert declared(kept)["steps"].keys() == trials | runs
    assert len(before["runs"]) == len(declared(kept)["runs"])


def test_a_tuned_run_is_reproduced_with_what_was_chosen_for_its_arm(sweeps, kept: Path):
    (cell,) = (cell for cell in tuning(kept)["cells"] if cell["arm"] == "resize_crop")
    assert cell["chosen"] != cell["configured"]
    text = "\n".join(reproduce(kept, "study/resize_crop/s1", sweeps.parts()))
    assert "checked: today's code and configuration here give the same run" in text
    (line,) = (line for line in text.splitlines() if "vlmablate.sweep" in line)
    words = shlex.split(line)
    (chosen,) = (word for word in words if word.startswith(f"{RATE}="))
    assert words[3:6] == ["axis=image_resize", "seeds=[1]", "scale=smoke"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(controller, "compose_cells", compose_cells)
        alone = {"study": "alone", "tune": "", "overrides": ("execution.workers=2", chosen)}
        assert run(sweeps, trials=0, **alone) == 0
    made = {r.run_id for r in Index(kept).runs if r.study == "alone"}
    (wanted,) = (r for r in Index(kept).runs if r.label == "study/resize_crop/s1")
    assert wanted.run_id in made


@pytest.mark.slow
@pytest.mark.parametrize("after", [5, 15])
def test_a_controller_that_was_stopped_goes_on_with_the_same_trials(
    sweeps, done: Path, results: Path, space: None, monkeypatch: pytest.MonkeyPatch, after: int
):
    """Within the first batch, and within a later one."""
    real = tuned_steps.evaluate

    def stopped(*given: Any) -> dict[str, Any]:
        if len(calls("evaluate")) >= after:
            raise KeyboardInterrupt
        return real(*given)

    with monkeypatch.context() as patch:
        patch.setattr(tuned_steps, "evaluate", stopped)
        assert run(sweeps) == 130
    assert run(sweeps) == 0
    assert len(calls("evaluate")) == len(set(calls("evaluate")))
    assert tuning(results) == tuning(done / "results")


# Trials that end early


def test_trials_worse_than_the_median_before_them_are_stopped(done: Path):
    results = done / "results"
    assert trials_of(results, "censored")
    for cell in tuning(results)["cells"]:
        trials = cell["trials"]
        assert [trial["state"] for trial in trials[:4]] == ["finished"] * 4  # there is no limit yet
        for trial in trials[4:]:
            begun = 4 + (trial["number"] - 4) // 2 * 2
            before = trials[:begun]  # also those that were stopped there
            losses = sorted(tuned_steps.loss_at(10, t["values"][RATE], cell["arm"]) for t in before)
            middle = len(losses) // 2
            median = losses[middle] if len(losses) % 2 else (losses[middle - 1] + losses[middle]) / 2
            own = tuned_steps.loss_at(10, trial["values"][RATE], cell["arm"])
            # In this world a trial that is ahead at a third stays ahead.
            assert (trial["state"] == "censored") == (own > median + 1e-5)
            if trial["state"] == "censored":
                assert trial["share"] == pytest.approx(1 / 3, abs=1e-3)
                assert trial["score"] is None
                assert "stopped early, at 33 % of its training" in trial["why"]
    said = (done / "said").read_text()
    assert said.count("stopped early, at") == len(trials_of(results, "censored"))
    assert "FAILED" not in said


def test_a_stopped_trial_is_called_pruned_and_is_no_failure(done: Path):
    results = done / "results"
    trial = trials_of(results, "censored")[0]
    training = folder(results, "finetune", trial["steps"]["finetune"])
    assert len(list((training / "attempts").glob("[0-9][0-9][0-9].json"))) == 1
    (status,) = read_status(results)
    assert (status.state, status.counts["pruned"]) == ("done", len(trials_of(results, "censored")))
    text = render([status], results)
    assert f"pruned: {status.counts['pruned']} trials of the tuning stopped early, no failure" in text
    assert "FAILED" not in text
    assert any("pruned, attempt 1" in line for line in why(results, trial["steps"]["finetune"]))


def test_gc_finds_the_checkpoints_of_a_stopped_trial(kept: Path):
    trial = trials_of(kept, "censored")[0]
    saved = folder(kept, "finetune", trial["steps"]["finetune"]) / f"{CHECKPOINT_PREFIX}10"
    saved.mkdir()
    assert [item.path for item in find(kept, ["checkpoints"], 0.0, print)] == [saved]
    forgive(saved.parent, 1)
    assert find(kept, ["checkpoints"], 0.0, print) == []


def test_a_stopped_trial_whose_record_is_lost_is_tried_again_and_ends_the_same(sweeps, kept: Path):
    before, trial = tuning(kept), trials_of(kept, "censored")[0]
    shutil.rmtree(folder(kept, "finetune", trial["steps"]["finetune"]))
    assert run(sweeps) == 0
    assert tuning(kept) == before
    assert folder(kept, "finetune", trial["steps"]["finetune"]).exists()
    assert calls("evaluate") == []


def test_a_trial_that_ends_for_another_study_meanwhile_is_not_tried_again(
    sweeps, kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Two commands that have a trial in common would otherwise prune it in turn, for ever."""
    before, trial = tuning(kept), trials_of(kept, "censored")[0]
    place = folder(kept, "finetune", trial["steps"]["finetune"])
    aside = shutil.move(place, tmp_path / "aside")

    def late(*given: Any, **more: Any) -> Scheduler:
        if not place.exists():
            shutil.copytree(aside, place)
        return Scheduler(*given, **more)

    monkeypatch.setattr(controller, "Scheduler", late)
    assert run(sweeps) == 0
    assert called_ids() == []
    assert tuning(kept) == before


def test_a_trial_that_diverges_is_a_result(sweeps, results: Path, space: None, control: Path):
    (control / "diverges").write_text("0.006")
    assert run(sweeps, seeds=1) == 0
    failed = trials_of(results, "failed")
    assert failed
    assert all(trial["values"][RATE] > 0.006 for trial in failed)
    assert all("the loss of step 15 is inf" in trial["why"] for trial in failed)
    assert all(trial["share"] == pytest.approx(14 / 30, abs=1e-3) for trial in failed)
    assert all(cell["chosen"][RATE] <= 0.006 for cell in tuning(results)["cells"])
    assert "FAILED" not in sweeps.text
    count = len(fakes.calls())
    assert run(sweeps, seeds=1) == 0
    assert len(fakes.calls()) == count


def test_an_arm_of_which_every_trial_diverges_says_what_was_tried(
    sweeps, results: Path, space: None, control: Path
):
    (control / "diverges").write_text("0")
    with pytest.raises(UserError) as raised:
        run(sweeps, trials=2)
    text = str(raised.value)
    assert "none of the 2 trials of the arm letterbox came to an end" in text
    assert f"{RATE} from " in text
    assert "conf/search/lr.yaml" in text
    assert not (results / "studies" / "study" / "report.html").exists()


def test_a_comparison_that_diverges_is_a_failure(sweeps, kept: Path, control: Path):
    lose(kept, declared(kept)["runs"][0])
    (control / "diverges").write_text("0")
    assert run(sweeps) == 1
    assert "FAILED finetune" in sweeps.text


def test_a_trial_that_fails_for_another_reason_stops_the_sweep_until_it_works(
    sweeps, kept: Path, control: Path
):
    lose(kept, trials_of(kept)[0])
    (control / "fail-evaluate").touch()
    assert run(sweeps) == 1
    assert "the evaluate step was told to fail" in sweeps.text
    assert "report:" not in sweeps.text
    assert tuning(kept)["final"] is False
    assert declared(kept)["runs"] == []
    assert read_status(kept)[0].state == "failed"
    (control / "fail-evaluate").unlink()
    assert run(sweeps) == 0
    assert "6 runs compared" in sweeps.text


def test_cancelling_a_study_takes_its_trials_back_as_well(sweeps, kept: Path, control: Path):
    trial = trials_of(kept)[0]
    missing = lose(kept, trial)
    (control / "fail-finetune").touch()
    assert run(sweeps) == 1
    (control / "fail-finetune").unlink()
    assert cancel(kept, ["study"], "", False, sweeps.said.append) == len(missing)
    assert run(sweeps) == 1
    assert "cancelled by" in sweeps.text
    assert retry(kept, ["study"], sweeps.said.append) == ["the same command"]
    assert run(sweeps) == 0
    assert trials_of(kept)[0] == trial


@pytest.mark.slow
def test_worker_processes_get_the_limits_too(sweeps, done: Path, results: Path, space: None):
    assert run(sweeps, launcher="local") == 0
    assert tuning(results) == tuning(done / "results")
    assert trials_of(results, "censored")


# With other ways of asking


@pytest.mark.slow
def test_tuned_arms_are_compared_adaptively(sweeps, kept: Path):
    assert run(sweeps, max_seeds=3) == 0
    study = declared(kept)
    assert study["replicate"] == {"max_seeds": 3, "budget": None}
    chosen = {cell["arm"]: cell["chosen"][RATE] for cell in study["tuning"]["cells"]}
    for one in study["runs"]:
        trained = spec(kept, "finetune", one["steps"]["finetune"])["config"]
        assert trained["stages"]["finetune"]["learning_rate"] == chosen[one["arm"]]
    assert "Adaptive replication spent" in sweeps.text
    assert "the best of 8 trials" in sweeps.text
    assert len(calls("finetune")) == len(study["runs"]) - 6  # no trial again


def test_a_plan_says_what_tuning_and_comparison_take_together(sweeps, results: Path, space: None):
    text = sweeps.plan(axis="image_resize", tune="lr", trials=8, seeds=2)
    assert (
        "tuning (lr): 24 trials, 8 for each of 3 configurations, 0 ended, 12 asked for now; then the arms are compared "
        "with fresh seeds, 6 runs" in text
    )
    assert "12 runs, 0 done" in text
    assert "all of it together: about" in text
    assert "Trials that are stopped early make it less" in text
    assert not results.exists()


# What cannot be tuned


@pytest.mark.parametrize(
    ("parameters", "axis", "says"),
    [
        ({"stages.finetune.epochs": Float(0.5, 4.0)}, "epochs", "would undo the choice that is compared"),
        ({"stages.finetune.lerning_rate": Float(0.5, 4.0)}, "image_resize", "did you mean 'learning_rate'"),
        (
            {"stages.finetune.schedule": Float(0.5, 4.0, relative=True)},
            "image_resize",
            "needs a number above 0",
        ),
        ({"sizes.epochs": Int(1, 4)}, "image_resize", "no step reads the setting"),
        ({"stages.finetune.language": Categorical(("full", "fool"))}, "image_resize", "fool"),
    ],
)
def test_a_setting_that_cannot_be_tuned_is_refused(
    sweeps, results: Path, monkeypatch: pytest.MonkeyPatch, parameters: dict[str, Any], axis: str, says: str
):
    monkeypatch.setattr(tuned, "load_space", lambda name: Space(parameters, startup=2))
    with pytest.raises(UserError) as raised:
        run(sweeps, axis=axis)
    assert says in str(raised.value)
    assert next(iter(parameters)).rpartition(".")[0] in str(raised.value)
    assert not results.exists()


def test_seeds_that_are_kept_for_tuning_are_refused(sweeps, space: None):
    with pytest.raises(UserError, match="seeds from 1000 on are kept"):
        run(sweeps, seeds=1001)


def test_a_record_is_plain_json(done: Path):
    record = tuning(done / "results")
    assert json.loads(json.dumps(record)) == record
    assert record["space"] == {
        "name": "lr", "method": "tpe", "direction": "maximize", "startup": 4,
        "parameters": {
            RATE: {"kind": "float", "low": 0.1, "high": 10.0, "log": True, "points": None, "relative": True}
        },
    }  # fmt: skip
