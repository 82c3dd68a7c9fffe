"""Whole sweeps of design spaces with fake steps: every combination explored, the best compared with fresh seeds."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.orchestration import fakes, space_steps
from vlmablate.design.compose import composer
from vlmablate.errors import UserError
from vlmablate.files import read_json
from vlmablate.orchestration import controller
from vlmablate.orchestration.names import Index
from vlmablate.orchestration.reproduce import reproduce, sweep_words
from vlmablate.orchestration.space_explored import level_choices
from vlmablate.orchestration.status import read_status
from vlmablate.orchestration.study import Cell
from vlmablate.orchestration.trial_batches import next_batch
from vlmablate.orchestration.why import why
from vlmablate.sweep import asked, parse

AXES = ("image_resize", "stages")
WIDE = tuple(space_steps.LEVELS)
BASELINE = "letterbox+two_stage"
BEST = "resize_naive+single"
POINTS = {BASELINE: 60.0, BEST: 63.0, "resize_crop+single": 62.5, "resize_naive+two_stage": 55.0}


@pytest.fixture
def points(control: Path) -> Path:
    """Planted points; see :mod:`tests.orchestration.space_steps`."""
    path = control / "points.json"
    path.write_text(json.dumps(POINTS))
    return path


def run(sweeps: Any, seeds: int = 1, **more: Any) -> int:
    given = {"axis": "-".join(AXES), "axes": AXES, "confirm": 2, **more}
    return int(sweeps.run({"kinds": space_steps.KINDS}, seeds=seeds, **given))


def declared(results: Path) -> dict[str, Any]:
    study: dict[str, Any] = read_json(results / "studies" / "study" / "study.json")
    return study


def arms_of(study: dict[str, Any], ids: list[str]) -> list[tuple[str, int]]:
    runs = {run["run_id"]: (run["arm"], run["seed"]) for run in study["runs"]}
    return [runs[run_id] for run_id in ids]


def evaluations() -> list[str]:
    return [call for call in fakes.calls() if call.startswith("evaluate")]


def test_the_best_combination_is_run_again_beside_the_baseline(sweeps, results: Path, points: Path):
    assert run(sweeps) == 0
    study = declared(results)
    found = study["exploration"]
    combinations = {arm for arm, _ in arms_of(study, found["explored"])}
    assert len(combinations) == len(found["explored"]) == 6
    assert found["order"][:3] == [BEST, "resize_crop+single", BASELINE]
    assert set(found["order"]) == set(found["levels"]) == combinations
    assert (found["best"], found["baseline"], found["baseline_leads"]) == (BEST, BASELINE, False)
    assert (found["search"], found["trials"], found["final"]) == ("", 6, True)
    assert found["confirm_seeds"] == [1000, 1001]
    fresh = [(arm, seed) for seed in (1000, 1001) for arm in (BASELINE, BEST)]
    assert arms_of(study, found["confirmed"]) == fresh
    assert found["levels"][BEST] == {"image_resize": "resize_naive", "stages": "single"}
    assert [(axis["name"], axis["baseline"], len(axis["levels"])) for axis in found["axes"]] == [
        ("image_resize", "letterbox", 3),
        ("stages", "two_stage", 2),
    ]
    assert study["space"] == {"axes": list(AXES), "confirm": 2}
    assert len(evaluations()) == len(set(evaluations())) == len(study["runs"]) == 6 + 2 * 2
    assert (
        f"of 6 configurations {BEST} leads with 63.0 points (the baseline: 60.0). That is how they were chosen, not "
        f"how good they are: {BEST} and the baseline are compared on 2 fresh seeds" in sweeps.text
    )
    assert "10 runs compared" in sweeps.text
    (status,) = read_status(results)
    assert (status.runs, status.runs_done, status.state) == (10, 10, "done")

    # The same command finds nothing to do, and makes a record that was lost again.
    path = results / "studies" / "study" / "study.json"
    before = path.read_bytes()
    assert run(sweeps) == 0
    assert "nothing to submit" in sweeps.text
    assert path.read_bytes() == before
    path.write_bytes(before[:700])
    assert run(sweeps) == 0
    assert declared(results)["exploration"] == found
    assert len(evaluations()) == 10


def test_a_combination_that_diverges_ends_an_exploration_of_all(
    sweeps, results: Path, points: Path, control: Path
):
    (control / "diverge").write_text("resize_crop+single")
    assert run(sweeps) == 1
    assert "the loss is not finite" in sweeps.text
    found = declared(results)["exploration"]
    assert (found["final"], found["best"], found["order"], found["confirmed"]) == (False, None, [], [])
    (control / "diverge").unlink()
    assert run(sweeps) == 0


def test_the_plan_says_what_follows_and_what_can_be_found(sweeps, results: Path, points: Path):
    given = {"axis": "-".join(AXES), "axes": AXES, "confirm": 5}
    text = sweeps.plan(seeds=2, **given)
    assert (
        "design space: all 6 combinations (3 image_resize x 2 stages), 2 seeds each; then the best one and the "
        "baseline again with 5 fresh seeds, 10 more runs" in text
    )
    assert (
        "2 seeds find an effect of an axis, averaged over the others, with 80 % power from so many points"
        in text
    )
    assert "12 runs, 0 done" in text
    assert "all of it together: about" in text
    assert "one seed per combination" in sweeps.plan(seeds=1, **given)
    more = sweeps.plan(seeds=1, search="tpe", trials=24, **given)
    assert "1 seed each (trials=24 leave none out, so nothing is searched for)" in more
    assert not results.exists()


def test_seeds_of_the_comparison_are_kept_for_it(sweeps, results: Path):
    (request,) = asked(parse(["axis=[image_resize,stages]", "seeds=[0,1000]", "scale=smoke"])).requests
    with pytest.raises(UserError, match="seed 1000: seeds from 1000 on are kept for the comparison"):
        run(sweeps, seeds=1001)
    assert (request.axis, request.axes, request.confirm) == ("image_resize-stages", AXES, 5)


@pytest.mark.slow
def test_a_run_of_a_space_is_explained_and_reproduced(sweeps, results: Path, points: Path):
    run(sweeps)
    word = f"study/{BEST}/s1000"
    assert "today's configuration gives the same run" in "\n".join(why(results, word, sweeps.parts()))
    text = "\n".join(reproduce(results, word, sweeps.parts()))
    assert "checked: today's code and configuration here give the same run" in text
    assert "trains the 2 arms of the axis with seed 1000; this run is single" in text
    run_of = Index(results).one(word).runs[0]
    words = sweep_words(run_of, declared(results))
    assert words == ["axis=stages", "seeds=[1000]", "scale=smoke", "image=resize_naive"]
    alone = {"axis": "stages", "overrides": ("image=resize_naive",), "study": "alone"}
    count = len(evaluations())
    assert sweeps.run({"kinds": space_steps.KINDS}, **alone) == 0
    ids = {run["run_id"] for run in read_json(results / "studies" / "alone" / "study.json")["runs"]}
    assert ids <= {run["run_id"] for run in declared(results)["runs"]}  # seed 0: explored before
    assert len(evaluations()) == count


# Searching: 30 combinations that are not composed


@pytest.fixture(scope="module")
def cells() -> list[Cell]:
    with composer() as compose:
        base = compose.compose(["scale=smoke", "launcher=debug", "execution.workers=2"])
    return space_steps.cells({**base, "precision": "fp32"})


@pytest.fixture
def wide(cells: list[Cell], monkeypatch: pytest.MonkeyPatch, points: Path) -> None:
    """The sweeps are about :func:`tests.orchestration.space_steps.space`."""
    monkeypatch.setattr(controller, "compose_cells", lambda *_: (space_steps.space(), copy.deepcopy(cells)))


def search(sweeps: Any, **more: Any) -> int:
    return run(sweeps, axis="-".join(WIDE), axes=WIDE, search="random", **{"trials": 10, **more})


def second_trial() -> str:
    """The first combination that is drawn."""
    space = space_steps.space()
    baseline = {axis.name: axis.baseline for axis in space.axes}
    return space.named(next_batch(level_choices(space, "random"), baseline, [], 10, 4, 0)[1]["values"])


def test_a_search_goes_on_without_what_diverges(sweeps, results: Path, wide: None, control: Path):
    (control / "diverge").write_text(second_trial())
    assert search(sweeps) == 0
    study = declared(results)
    found = study["exploration"]
    assert len(found["explored"]) == len(found["levels"]) == 9
    assert found["failed"] == {second_trial(): "the loss is not finite"}
    assert (found["search"], found["trials"], found["final"]) == ("random", 10, True)
    assert len(study["runs"]) == 9 + 2 * 2
    assert second_trial() not in {run["arm"] for run in study["runs"]}
    assert f"not trained to the end, and left out: {second_trial()}" in sweeps.text
    assert "13 runs compared" in sweeps.text
    assert study["space"] == {"axes": list(WIDE), "search": "random", "trials": 10, "confirm": 2}
    calls = len(fakes.calls())
    assert search(sweeps) == 0
    assert "nothing to submit" in sweeps.text
    assert len(fakes.calls()) == calls


def test_a_search_whose_baseline_diverges_is_refused(sweeps, wide: None, control: Path):
    (control / "diverge").write_text(f"{BASELINE}+e2")
    message = f"the baseline {BASELINE}+e2 cannot be trained, so there is nothing to compare with: the loss"
    with pytest.raises(UserError, match=re.escape(message)):
        search(sweeps)


def test_a_search_that_is_left_with_the_baseline_says_so(sweeps, wide: None, control: Path):
    (control / "diverge").write_text(second_trial())
    with pytest.raises(
        UserError, match="none of the combinations that were tried can be trained; the first one: the"
    ):
        search(sweeps, trials=2)
