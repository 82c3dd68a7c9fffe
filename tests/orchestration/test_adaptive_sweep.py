"""Whole sweeps that give out seeds by need, with fake steps and planted differences."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.orchestration import adaptive_steps, fakes
from vlmablate.errors import UserError
from vlmablate.files import read_json
from vlmablate.orchestration.controller import Controller
from vlmablate.orchestration.study import Sweep, analysis_history
from vlmablate.sweep import asked, parse

BASELINE, NAIVE, CROP = adaptive_steps.ARMS


@pytest.fixture
def spread(control: Path) -> Path:
    """How far runs of one arm lie apart, in points."""
    path = control / "sd"
    path.write_text("0.9")
    return path


def run(sweeps: Any, max_seeds: int | None = 6, **more: Any) -> int:
    parts = {"kinds": adaptive_steps.KINDS}
    return int(sweeps.run(parts, axis="image_resize", max_seeds=max_seeds, **more))


def declared(results: Path) -> dict[str, Any]:
    study: dict[str, Any] = read_json(results / "studies" / "study" / "study.json")
    return study


def seeds(results: Path) -> dict[str, int]:
    """Runs of every arm that the study declares."""
    return dict(Counter(run["arm"] for run in declared(results)["runs"]))


def evaluations() -> list[str]:
    return [call for call in fakes.calls() if call.startswith("evaluate")]


def test_seeds_go_to_the_contrast_that_is_open(sweeps, results: Path, spread: Path):
    assert run(sweeps) == 0
    study, found = declared(results), seeds(results)
    assert found[CROP] == 2
    assert found[CROP] < found[NAIVE] <= 6
    assert found[BASELINE] == -(-5 * found[NAIVE] // 4)
    assert study["seeds"] == list(range(found[BASELINE]))
    assert study["replicate"] == {"max_seeds": 6, "budget": None}
    # Nothing is trained that the rule did not ask for, and nothing twice.
    assert len(evaluations()) == len(set(evaluations())) == len(study["runs"])
    assert (
        f"{CROP}: stopped after 2 seeds against 3 of the baseline, as it was decided: worse." in sweeps.text
    )
    assert f"{NAIVE}: stopped after {found[NAIVE]} seeds" in sweeps.text
    assert f"spent {len(study['runs'])} runs in {found[NAIVE] - 1} rounds" in sweeps.text
    assert sweeps.text.count("the scores call for more") == found[NAIVE] - 2
    # One report, of everything.
    assert sweeps.text.count("runs compared") == 1
    assert f"{len(study['runs'])} runs compared" in sweeps.text

    # The same command, and a plan, find nothing to do and repeat the reasons.
    lines = [text for text in sweeps.said if text.startswith((CROP, NAIVE, "Adaptive"))]
    assert len(lines) == 3
    declaration, calls = (results / "studies" / "study" / "study.json").read_bytes(), len(fakes.calls())
    assert run(sweeps) == 0
    assert "nothing to submit" in sweeps.text
    assert [text for text in sweeps.said if text.startswith((CROP, NAIVE, "Adaptive"))] == lines
    assert "nothing to submit: every run is done" in sweeps.plan(axis="image_resize", max_seeds=6)
    assert [text for text in sweeps.said if text.startswith((CROP, NAIVE, "Adaptive"))] == lines
    assert (results / "studies" / "study" / "study.json").read_bytes() == declaration
    assert len(fakes.calls()) == calls


def test_seeds_that_decide_nothing_end_at_max_seeds(sweeps, results: Path, spread: Path):
    spread.write_text("2.5")
    assert run(sweeps, max_seeds=4) == 0
    assert seeds(results)[NAIVE] == 4
    assert (
        f"{NAIVE}: unresolved after 4 seeds against 5 of the baseline, all that max_seeds allows"
        in sweeps.text
    )


@pytest.mark.parametrize("done", [4, 8])
def test_a_controller_that_was_stopped_goes_on_with_the_same_rounds(
    sweeps, results: Path, spread: Path, monkeypatch: pytest.MonkeyPatch, done: int
):
    """Within the first round, and within the second."""
    real = adaptive_steps.evaluate

    def stopped(*given: Any) -> dict[str, Any]:
        if len(evaluations()) >= done:
            raise KeyboardInterrupt
        return real(*given)

    with monkeypatch.context() as patch:
        patch.setattr(adaptive_steps, "evaluate", stopped)
        assert run(sweeps) == 130
    assert len(evaluations()) == done
    assert run(sweeps) == 0
    assert len(evaluations()) == len(set(evaluations())) == len(declared(results)["runs"])
    found = seeds(results)
    assert found[CROP] == 2
    assert found[BASELINE] == -(-5 * found[NAIVE] // 4)
    assert f"spent {len(declared(results)['runs'])} runs in {found[NAIVE] - 1} rounds" in sweeps.text


def test_a_step_that_fails_in_a_later_round_leaves_no_report(
    sweeps, results: Path, control: Path, spread: Path, monkeypatch: pytest.MonkeyPatch
):
    real = adaptive_steps.evaluate

    def failing(config: Any, deps: Any, out: Path, context: Any) -> dict[str, Any]:
        if f"{NAIVE}-s2" in out.name:
            raise RuntimeError("the third seed was told to fail")
        return real(config, deps, out, context)

    with monkeypatch.context() as patch:
        patch.setattr(adaptive_steps, "evaluate", failing)
        assert run(sweeps) == 1
    assert "the third seed was told to fail" in sweeps.text
    assert "To go on: the same command" in sweeps.text
    assert "report:" not in sweeps.text
    assert run(sweeps) == 0
    assert "report:" in sweeps.text


def test_a_budget_ends_the_study(sweeps, results: Path, spread: Path):
    spread.write_text("2.0")
    assert run(sweeps, max_seeds=12, budget=10) == 0
    assert len(declared(results)["runs"]) <= 10
    assert "as the budget of 10 runs was spent" in sweeps.text
    assert declared(results)["replicate"] == {"max_seeds": 12, "budget": 10}


def test_several_questions_share_the_rounds_and_their_baseline(sweeps, results: Path, spread: Path):
    requests = [
        sweeps.request(axis=axis, study=f"both-{axis}", max_seeds=3) for axis in ("image_resize", "stages")
    ]
    sweep = Sweep("both", tuple(requests), "the command of both")
    assert Controller(sweep, sweeps.parts(kinds=adaptive_steps.KINDS)).run() == 0
    # Both arms of stages are letterbox to the fake scores.
    assert (
        "stages: single: stopped after 2 seeds against 3 of the baseline, as it was decided: equ"
        in sweeps.text
    )
    assert "stages: Adaptive replication spent 5 runs in 1 round;" in sweeps.text
    assert f"image_resize: {NAIVE}: stopped after 3 seeds" in sweeps.text
    runs = {
        name: {
            run["run_id"] for run in read_json(results / "studies" / f"both-{name}" / "study.json")["runs"]
        }
        for name in ("image_resize", "stages")
    }
    assert {name: len(ids) for name, ids in runs.items()} == {"image_resize": 4 + 3 + 2, "stages": 3 + 2}
    assert len(evaluations()) == len(runs["image_resize"] | runs["stages"]) == 9 + 2


def test_a_budget_that_does_not_pay_for_the_first_round_is_refused(sweeps, results: Path, spread: Path):
    with pytest.raises(UserError, match="budget=5: the first round of replicate=adaptive alone takes 7 runs"):
        run(sweeps, budget=5)
    assert not results.exists()


def test_the_plan_says_what_is_expected(sweeps, results: Path, spread: Path):
    asked_for = {"axis": "image_resize", "max_seeds": 6}
    text = sweeps.plan(**asked_for)
    assert "7 runs, 0 done" in text
    assert (
        "adaptive replication: 2 to 6 seeds of an arm, 3 to 8 of the baseline, at most 5 looks and 20 runs"
        in text
    )
    assert "expected (SD between seeds 3.00 points, assumed), if every arm truly differs by" in text
    assert "detect" not in text
    unknown = sweeps.plan(**asked_for, overrides=("execution.workers=2", "estimates.seed_sd=null"))
    assert "what it will take is unknown" in unknown
    assert not results.exists()


def test_paired_runs_are_expected_to_differ_by_more_than_one_run(sweeps, spread: Path):
    text = sweeps.plan(
        axis="image_resize", max_seeds=6, overrides=("estimates.seed_sd=1", "analysis.paired_seeds=true")
    )
    assert "SD between seeds 1.41 points, assumed" in text


def test_limits_that_change_once_there_are_scores_are_recorded(sweeps, results: Path, spread: Path):
    run(sweeps)
    runs = len(declared(results)["runs"])
    assert [entry["runs_with_scores"] for entry in declared(results)["analysis_history"]] == [0]
    run(sweeps, max_seeds=7, command="another command")
    history = declared(results)["analysis_history"]
    assert [entry["replicate"]["max_seeds"] for entry in history] == [6, 7]
    assert 0 < history[-1]["runs_with_scores"] <= runs
    assert declared(results)["command"] == "another command"
    run(sweeps, max_seeds=None, seeds=2)
    assert "replicate" not in declared(results)
    assert "replicate" not in declared(results)["analysis_history"][-1]
    assert len(declared(results)["analysis_history"]) == 3


def test_limits_that_no_score_was_seen_under_are_replaced():
    first = analysis_history([], {"margin": 2.0}, 0, {"replicate": {"max_seeds": 6, "budget": None}})
    second = analysis_history(first, {"margin": 2.0}, 0, {"replicate": {"max_seeds": 8, "budget": None}})
    assert second == [
        {"settings": {"margin": 2.0}, "replicate": {"max_seeds": 8, "budget": None}, "runs_with_scores": 0}
    ]
    assert (
        analysis_history(second, {"margin": 2.0}, 5, {"replicate": {"max_seeds": 8, "budget": None}})
        == second
    )
    assert len(analysis_history(second, {"margin": 2.0}, 5)) == 2


def test_the_command_line_asks_for_adaptive_replication():
    words = ["axis=image_resize", "replicate=adaptive", "max_seeds=8", "budget=30"]
    arguments = parse(words)
    assert (arguments.seeds, arguments.max_seeds, arguments.budget) == (None, 8, 30)
    assert arguments.command() == (
        "python -m vlmablate.sweep axis=image_resize replicate=adaptive max_seeds=8 budget=30 scale=tiny"
    )
    (request,) = asked(arguments).requests
    assert request.replicate == {"max_seeds": 8, "budget": 30}
    assert parse(arguments.command().split()[3:]) == arguments
    assert parse(["axis=image_resize", "replicate=adaptive"]).max_seeds == 12


def test_a_fixed_grid_stays_the_default():
    plain = parse(["axis=image_resize"])
    assert plain == parse(["axis=image_resize", "replicate=fixed"])
    assert (plain.seeds, plain.max_seeds) == ((0, 1, 2), None)
    assert "replicate" not in plain.command()


def test_every_question_of_a_declared_study_gets_the_limits():
    requests = asked(parse(["study=quickstart", "replicate=adaptive", "max_seeds=5", "budget=40"])).requests
    assert len(requests) > 1
    assert {request.max_seeds for request in requests} == {5}
    assert {request.budget for request in requests} == {40}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["replicate=adaptive", "seeds=3"], "seeds=3 asks for a fixed grid"),
        (["max_seeds=4"], "max_seeds=4 is a limit of replicate=adaptive"),
        (["budget=4", "replicate=fixed"], "budget=4 is a limit of replicate=adaptive"),
        (["replicate=adaptiv"], "unknown replicate 'adaptiv'"),
        (["replicate=adaptive", "max_seeds=1"], "max_seeds must be a whole number of at least 2"),
        (["replicate=adaptive", "budget=many"], "budget must be a whole number"),
    ],
)
def test_words_that_do_not_go_together_are_refused(words: list[str], message: str):
    with pytest.raises(UserError, match=message):
        parse(["axis=image_resize", *words])
