"""The rounds of an adaptive sweep: which runs are wanted follows from the results there are, and from nothing else."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from vlmablate.design.catalogue import Axis, parse_axis
from vlmablate.design.spec import RunSpec, StepSpec
from vlmablate.errors import UserError
from vlmablate.orchestration.adaptive import Round, finished, most_seeds, next_round
from vlmablate.orchestration.store import Store
from vlmablate.stats.adaptive.replay import replay
from vlmablate.stats.adaptive.rule import Rule
from vlmablate.stats.settings import Settings

ARMS = ("square", "naive", "crop")
CONTEXTS = ("one", "two")
EFFECTS = {"square": 0.0, "naive": 0.0, "crop": 6.0}
MAJORITY = {"counting": 0.3, "reading": 0.55}


def axis(contexts: Sequence[str] = CONTEXTS) -> Axis:
    raw = {
        "name": "resize",
        "question": "Does it matter?",
        "baseline": "square",
        "arms": {arm: {"overrides": [f"image={arm}"], "label": arm} for arm in ARMS},
        "contexts": {context: {"overrides": []} for context in contexts},
        "affects": ["evaluate"],
        "paper": {},
        "limits": ["none"],
    }
    return parse_axis(raw, "", "test", "resize")


def candidates(seeds: int, contexts: Sequence[str] = CONTEXTS) -> list[RunSpec]:
    """In the order of build_runs: seed, context, arm."""
    return [
        RunSpec(
            arm, context, seed, {"evaluate": StepSpec("evaluate", 1, f"{arm}{context}{seed}", "slug", {}, {})}
        )
        for seed in range(seeds)
        for context in contexts
        for arm in ARMS
    ]


def scores_of(run: RunSpec, sd: float = 1.0) -> dict[str, dict[str, object]]:
    """What an evaluation records: counting carries the arms' differences, reading is at the majority answer."""
    noise = np.random.default_rng([ARMS.index(run.arm), len(run.context), ord(run.context[0]), run.seed])
    counting = 60 + EFFECTS[run.arm] + sd * noise.standard_normal()
    return {
        "counting": {"metric": "exact", "mean": counting / 100, "majority": MAJORITY["counting"]},
        "reading": {"metric": "exact", "mean": 0.55 + 0.1 * noise.random(), "majority": MAJORITY["reading"]},
    }


def ask(known: dict, budget: int | None = None, max_seeds: int = 6, **analysis: object) -> Round:
    runs = candidates(most_seeds(axis(), max_seeds, budget, analysis))
    return next_round(axis(), runs, known, max_seeds=max_seeds, budget=budget, analysis=analysis)


def follow(budget: int | None = None) -> tuple[list[Round], dict]:
    """All rounds of a study, and the scores of the runs that it asked for."""
    known: dict = {}
    rounds = [ask(known, budget)]
    while rounds[-1].wanted:
        known |= {run.run_id: scores_of(run) for run in rounds[-1].wanted}
        rounds.append(ask(known, budget))
    return rounds, known


def test_the_first_round_replicates_the_baseline_most() -> None:
    first = ask({})
    count = {arm: sum(run.arm == arm for run in first.wanted) for arm in ARMS}
    assert count == {"square": 2 * 3, "naive": 2 * 2, "crop": 2 * 2}
    assert first.runs == first.wanted
    assert first.lines == ()
    assert [run.seed for run in first.runs] == sorted(run.seed for run in first.runs)


def test_rounds_follow_the_rule_and_end_with_the_reasons() -> None:
    rounds, known = follow()
    last = rounds[-1]
    assert len(rounds) > 2
    assert {run.run_id for run in last.runs} == set(known)
    assert f"spent {len(known)} runs" in last.lines[0]
    assert last.lines[1].startswith("naive: ")
    assert (
        "crop: stopped after 2 seeds against 3 of the baseline, as it was decided: better." in last.lines[2]
    )
    # The same as the rule on the suite scores, of which reading is no part: it is no better than the majority answer.
    rule = Rule(2, 2, 6, None, Settings())
    scores = np.full((3, 2, rule.baseline_looks[-1]), np.nan)
    for run in last.runs:
        points = 100 * float(known[run.run_id]["counting"]["mean"])
        scores[ARMS.index(run.arm), CONTEXTS.index(run.context), run.seed] = points
    state = replay(rule, scores[None, 0], scores[None, 1:, :, :6])
    assert state.ready
    assert state.arm_seeds[0].tolist() == [sum(run.arm == arm for run in last.runs) / 2 for arm in ARMS[1:]]


def test_a_round_that_was_cut_off_wants_the_rest_of_it() -> None:
    rounds, known = follow()
    second = rounds[1]
    lost = {run.run_id for run in second.wanted[::2]}
    before = {run.run_id for run in rounds[0].runs}
    partly = {name: facts for name, facts in known.items() if name in before or name not in lost}
    partly = {name: facts for name, facts in partly.items() if name in {run.run_id for run in second.runs}}
    again = ask(partly)
    assert again.runs == second.runs
    assert {run.run_id for run in again.wanted} == lost


def test_runs_that_nobody_asked_for_change_nothing() -> None:
    """Another study may have trained further seeds; looking at them would be a look that was not declared."""
    rounds, known = follow()
    everything = known | {run.run_id: scores_of(run) for run in candidates(8)}
    ended = ask(everything)
    assert ended.runs == rounds[-1].runs
    assert ended.lines == rounds[-1].lines


def test_a_budget_ends_the_study_and_is_told() -> None:
    rounds, known = follow(budget=16)
    assert len(known) <= 16
    assert any("budget of 16 runs was spent" in line for line in rounds[-1].lines)


def test_without_a_benchmark_with_signal_it_ends_after_the_first_round() -> None:
    known = {}
    for run in ask({}).wanted:
        facts = scores_of(run)
        known[run.run_id] = {"reading": facts["reading"]}
    ended = ask(known)
    assert ended.wanted == ()
    assert "no benchmark carries signal" in ended.lines[0]


def test_the_signal_is_that_of_the_first_look() -> None:
    """A benchmark that reaches its margin by later runs does not change what the score means between looks."""
    rounds, known = follow()
    later = {run.run_id for run in rounds[-1].runs} - {run.run_id for run in rounds[0].runs}
    for name in later:
        known[name] = known[name] | {"reading": {**known[name]["reading"], "mean": 0.99}}
    assert ask(known).lines == rounds[-1].lines


def test_arms_that_share_training_runs_are_refused() -> None:
    shared = [
        RunSpec(
            "crop",
            run.context,
            run.seed,
            {"evaluate": StepSpec("evaluate", 1, f"naive{run.context}{run.seed}", "", {}, {})},
        )
        if run.arm == "crop"
        else run
        for run in candidates(8)
    ]
    known = {run.run_id: scores_of(run) for run in shared}
    with pytest.raises(UserError, match="crop, naive are the same training runs in context one"):
        next_round(axis(), shared, known, max_seeds=6, budget=None, analysis={})


def test_results_are_read_from_the_store_and_a_broken_one_is_named(tmp_path: Path) -> None:
    runs = candidates(2, ("one",))
    store = Store(tmp_path)
    for run in runs[:4]:
        folder = store.directory(run.steps["evaluate"])
        folder.mkdir(parents=True)
        if run is not runs[3]:  # this one is still being computed
            (folder / "result.json").write_text(json.dumps({"payload": {"benchmarks": scores_of(run)}}))
    assert finished(runs, store) == {run.run_id: scores_of(run) for run in runs[:3]}
    broken = store.directory(runs[1].steps["evaluate"]) / "result.json"
    for text in ('{"payload": {}}', "{", '{"payload": {"benchmarks": {"counting": {"mean": "many"}}}}'):
        broken.write_text(text)
        with pytest.raises(UserError, match=r"result\.json does not say how its benchmarks went"):
            finished(runs, store)
