"""Adaptive replication: its parts against oracles, and the rule on scores whose answer is known."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from vlmablate.errors import DataError, UserError
from vlmablate.stats.adaptive.conclusions import columns, conclude, plan_lines, report_lines
from vlmablate.stats.adaptive.families import adjust_rows
from vlmablate.stats.adaptive.looks import look_at
from vlmablate.stats.adaptive.replay import REASONS, VERDICTS, State, intervals, replay
from vlmablate.stats.adaptive.rule import Rule
from vlmablate.stats.adaptive.simulation import (
    draw,
    expect,
    grid,
    settling_seeds,
    spent,
    stopping_bias,
    suites,
)
from vlmablate.stats.adaptive.spending import (
    ALLOWANCE,
    EXPONENT,
    SMALLEST_LEVEL,
    critical_level,
    nominal_levels,
    sequential_p,
)
from vlmablate.stats.calibration import BenchmarkShape, Shape
from vlmablate.stats.families import COLUMNS
from vlmablate.stats.margins import equivalence, verdict
from vlmablate.stats.multiplicity import METHODS, adjust
from vlmablate.stats.runs import design_test, paired_error, pooled_error
from vlmablate.stats.settings import Settings


def rule(
    contrasts: int = 2, contexts: int = 1, max_seeds: int = 10, budget: int | None = None, **settings: object
) -> Rule:
    return Rule(contrasts, contexts, max_seeds, budget, Settings.from_mapping(settings))


def studies(of: Rule, effects: list[float], repetitions: int, seed: int = 0, sd: float = 1.0) -> tuple:
    truth = np.broadcast_to(np.array(effects), (repetitions, len(effects)))
    return draw(of, sd, truth, np.random.default_rng(seed))


def one(state: State, field: str) -> list:
    return getattr(state, field)[0].tolist()


# Spending ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [0.025, 0.2])
def test_a_look_rejects_first_with_the_probability_that_it_may_spend(level: float) -> None:
    """Against the multivariate normal law of all looks."""
    fractions = (0.2, 0.55, 1.0)
    bounds = stats.norm.isf(nominal_levels(level, fractions))
    order = np.minimum.outer(fractions, fractions) / np.maximum.outer(fractions, fractions)
    for looks in (2, 3):
        together = np.sqrt(order[:looks, :looks])
        stays = stats.multivariate_normal.cdf(
            bounds[:looks], np.zeros(looks), together, abseps=1e-7, releps=1e-7
        )
        assert 1 - stays == pytest.approx(level * fractions[looks - 1] ** EXPONENT, abs=3e-5)


def test_one_look_is_the_usual_test() -> None:
    assert nominal_levels(0.025, (1.0,)) == pytest.approx((0.025,))
    assert critical_level(0.025, (1.0,), 0, 1.0) == pytest.approx(0.025)


def test_a_sequential_p_is_the_level_at_which_the_look_just_rejects() -> None:
    fractions = rule(max_seeds=12).fractions
    for level in (1e-6, 0.003, 0.05, 0.3):
        for look in (0, 4, len(fractions) - 1):
            tail = critical_level(level, fractions, look, ALLOWANCE)
            assert sequential_p(np.array([tail]), fractions, look, ALLOWANCE)[0] == pytest.approx(
                level, rel=0.01
            )


def test_sequential_p_values_keep_the_order_of_the_tails_and_stay_in_range() -> None:
    """A larger level must never reject less: without that, adjusting sequential p-values would be no procedure."""
    fractions = rule(max_seeds=30).fractions
    tails = np.concatenate([[0.0], np.geomspace(1e-12, 1.0, 400)])
    for look in range(len(fractions)):
        p = sequential_p(tails, fractions, look, ALLOWANCE)
        assert (np.diff(p) >= 0).all()
        assert p[0] == pytest.approx(ALLOWANCE * SMALLEST_LEVEL)
        assert p[-1] == 1.0
        assert (p >= np.minimum(tails, 1.0) - 1e-12).all()  # looking often is never free


@pytest.mark.parametrize("fractions", [(), (0.5, 0.5), (0.0, 1.0), (0.5, 1.1)])
def test_impossible_looks_are_refused(fractions: tuple[float, ...]) -> None:
    with pytest.raises(DataError, match="increase"):
        nominal_levels(0.05, fractions)
    with pytest.raises(DataError, match="level"):
        nominal_levels(0.6, (1.0,))


# The rule ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_seeds", [2, 3, 11, 40, 100])
def test_looks_grow_to_max_seeds_and_are_not_too_many(max_seeds: int) -> None:
    ours = rule(max_seeds=max_seeds)
    assert ours.arm_looks[0] == 2
    assert ours.arm_looks[-1] == max_seeds
    assert len(ours.arm_looks) <= 12
    assert list(ours.fractions) == sorted(set(ours.fractions))
    assert ours.fractions[-1] == 1.0
    assert all(base >= arm for arm, base in zip(ours.arm_looks, ours.baseline_looks, strict=True))


def test_paired_seeds_have_as_many_of_the_baseline() -> None:
    ours = rule(max_seeds=8, paired_seeds=True)
    assert ours.baseline_looks == ours.arm_looks == (3, 4, 5, 6, 7, 8)
    assert ours.fractions == pytest.approx([n / 8 for n in ours.arm_looks])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"max_seeds": 1}, "max_seeds=1"),
        ({"budget": 6}, "takes 7 runs"),
        ({"contrasts": 0}, "an arm beside the baseline"),
        ({"max_seeds": 2, "paired_seeds": True}, "begins with 3"),
    ],
)
def test_a_rule_that_cannot_be_followed_is_refused(changes: dict, says: str) -> None:
    with pytest.raises(UserError, match=says):
        rule(**changes)


# Looks: the project's own design test --------------------------------------------------------------------------


@pytest.mark.parametrize("contexts", [1, 2])
@pytest.mark.parametrize("paired", [False, True])
def test_a_look_is_the_design_test_with_the_pooled_error(paired: bool, contexts: int) -> None:
    ours = rule(3, contexts, 7, paired_seeds=paired)
    baseline, arms = studies(ours, [0.0, 1.5, -3.0], 3)
    seeds = np.array([[3, 5, 4], [3, 3, 3], [7, 4, 7]])
    base = np.array([5, 4, 7])
    look = look_at(ours, baseline, arms, base, seeds)
    for study in range(3):
        cells = [[arms[study, a, c, : seeds[study, a]] for c in range(contexts)] for a in range(3)]
        of_base = [baseline[study, c, : base[study]] for c in range(contexts)]
        if paired:
            tables = np.full((contexts, 4, 7), np.nan)
            for c in range(contexts):
                for line, row in enumerate([of_base[c], *(cell[c] for cell in cells)]):
                    tables[c, line, : len(row)] = row
            error = paired_error(list(tables))
        else:
            error = pooled_error([*of_base, *(x for cell in cells for x in cell)])
        for arm in range(3):
            other = [x[: seeds[study, arm]] if paired else x for x in of_base]
            test = design_test(cells[arm], other, method="t", error=error, paired=paired)
            at = study, arm
            assert look.delta[at] == pytest.approx(test.delta)
            assert look.se[at] == pytest.approx(test.se)
            assert look.df[study, 0] == test.df
            assert 2 * min(look.tail(0, 1)[at], look.tail(0, -1)[at]) == pytest.approx(test.p)
            both = max(look.tail(2.0, 1)[at], look.tail(-2.0, -1)[at])
            assert both == pytest.approx(equivalence(test.delta, test.se, test.df, 2.0).p)


def test_seeds_that_change_nothing_decide_nothing_but_sameness() -> None:
    ours = rule(2, max_seeds=4)
    baseline, arms = np.full((1, 1, 5), 50.0), np.full((1, 2, 1, 4), 50.0)
    arms[0, 1] = 53.3
    state = replay(ours, baseline, arms)
    assert [VERDICTS[code] for code in one(state, "verdict")] == ["equivalent", "unresolved"]
    assert [REASONS[code] for code in one(state, "reason")] == ["verdict", "max_seeds"]
    assert np.isnan(intervals(ours, state)).all()
    found = conclude(ours, state, ["same", "other"])
    assert math.isnan(found[1].bias)
    assert "the seeds changed nothing" in report_lines(ours, state, found)[2]


@pytest.mark.parametrize("method", METHODS)
def test_families_are_adjusted_as_one_by_one(method: str) -> None:
    p = np.random.default_rng(3).random((20, 5)) ** 3
    p[0] = 0.2
    assert adjust_rows(p, method) == pytest.approx(np.array([adjust(row, method) for row in p]))


# Following the rule --------------------------------------------------------------------------------------------


def test_the_runs_that_are_missing_are_wanted_and_nothing_else_is_looked_at() -> None:
    ours = rule(2, max_seeds=6)
    baseline, arms = studies(ours, [0.0, 9.0], 1)
    empty = replay(ours, np.full_like(baseline, np.nan), np.full_like(arms, np.nan))
    assert not empty.ready
    assert empty.baseline_seeds.tolist() == [3]
    assert empty.arm_seeds.tolist() == [[2, 2]]
    assert one(empty, "look") == [-1, -1]
    assert conclude(ours, empty, ["a", "b"]) == []


def test_round_by_round_is_the_same_as_all_at_once() -> None:
    """Only the scores that were asked for are ever revealed; the end is that of a study that has them all."""
    ours = rule(3, 2, 8)
    for seed in range(5):
        baseline, arms = studies(ours, [0.0, 2.0, 6.0], 1, seed)
        at_once = replay(ours, baseline, arms)
        known_base, known_arms = np.full_like(baseline, np.nan), np.full_like(arms, np.nan)
        state = replay(ours, known_base, known_arms)
        rounds = 0
        while not state.ready:
            base = int(state.baseline_seeds[0])
            known_base[0, :, :base] = baseline[0, :, :base]
            for arm, count in enumerate(state.arm_seeds[0]):
                known_arms[0, arm, :, :count] = arms[0, arm, :, :count]
            before, state = state, replay(ours, known_base, known_arms)
            assert (state.arm_seeds >= before.arm_seeds).all()
            rounds += 1
        assert rounds == int(at_once.look.max()) + 1
        assert one(state, "verdict") == one(at_once, "verdict")
        assert state.arm_seeds.tolist() == at_once.arm_seeds.tolist()
        assert np.isfinite(known_base).sum() + np.isfinite(known_arms).sum() == spent(ours, state)[0]


def test_seeds_go_to_the_contrasts_that_are_open() -> None:
    ours = rule(2, max_seeds=10)
    state = replay(ours, *studies(ours, [0.0, 12.0], 50))
    assert (state.arm_seeds[:, 1] < state.arm_seeds[:, 0]).mean() > 0.9
    decided = state.verdict != 0
    assert (state.reason[decided] == REASONS.index("verdict")).all()
    assert (state.arm_seeds[~decided] == 10).all()
    # A contrast that stopped keeps its look although the baseline goes on.
    assert (state.look[:, 1] < state.look[:, 0]).mean() > 0.9


def test_a_verdict_is_backed_by_its_adjusted_p_and_its_estimate() -> None:
    ours = rule(3, max_seeds=8)
    state = replay(ours, *studies(ours, [0.0, 1.0, 2.5], 200))
    better, worse, same = (state.verdict == code for code in (1, 2, 3))
    assert (state.different[better | worse] <= 0.05).all()
    assert (state.delta[better] > 0).all()
    assert (state.delta[worse] < 0).all()
    assert (state.equivalent[same] <= 0.05).all()
    assert (np.abs(state.delta[same]) < 2).all()


def in_a_loop(ours: Rule, baseline: np.ndarray, arms: np.ndarray) -> list[tuple[str, int, float, float]]:
    """The rule for one study with the tests of the project: (verdict, last look, both adjusted p) of every arm."""
    alpha, margin, contexts = ours.settings.alpha, ours.settings.margin, range(ours.contexts)
    count = ours.contrasts
    smallest, verdicts, last = np.ones((4, count)), ["unresolved"] * count, [-1] * count
    delta, p, q = np.zeros(count), np.ones(count), np.ones(count)
    seeds, base = [0] * count, 0
    for look, (arm_seeds, base_seeds) in enumerate(zip(ours.arm_looks, ours.baseline_looks, strict=True)):
        followed = [arm for arm in range(count) if verdicts[arm] == "unresolved"]
        if not followed:
            break
        base = base_seeds
        for arm in followed:
            seeds[arm] = arm_seeds
        of_base = [baseline[c, :base] for c in contexts]
        cells = [[arms[arm, c, : seeds[arm]] for c in contexts] for arm in range(count)]
        error = pooled_error([*of_base, *(scores for cell in cells for scores in cell)])
        for arm in followed:
            test = design_test(cells[arm], of_base, method="t", error=error)
            delta[arm], last[arm] = test.delta, look
            shifts = [test.delta, -test.delta, test.delta + margin, margin - test.delta]
            tails = stats.t.sf(np.array(shifts) / test.se, test.df)
            levels = sequential_p(tails, ours.fractions, look, ours.allowance)
            smallest[:, arm] = np.minimum(smallest[:, arm], levels)
        p = adjust(np.minimum(2 * smallest[:2].min(axis=0), 1.0), ours.settings.correction)
        q = adjust(smallest[2:].max(axis=0), ours.settings.correction)
        for arm in range(count):
            if verdicts[arm] == "unresolved":
                verdicts[arm] = verdict(delta[arm], p[arm], q[arm], alpha)
    return list(zip(verdicts, last, p.tolist(), q.tolist(), strict=True))


@pytest.mark.parametrize("contexts", [1, 2])
def test_the_rule_is_the_one_that_a_loop_over_the_tests_of_the_project_follows(contexts: int) -> None:
    ours = rule(3, contexts, 7, margin=2.0)
    baseline, arms = studies(ours, [0.0, 1.0, 2.2], 40, sd=1.2)
    state = replay(ours, baseline, arms)
    for study in range(40):
        expected = in_a_loop(ours, baseline[study], arms[study])
        assert [VERDICTS[code] for code in state.verdict[study]] == [row[0] for row in expected]
        assert state.look[study].tolist() == [row[1] for row in expected]
        assert state.different[study] == pytest.approx([row[2] for row in expected], rel=1e-6)
        assert state.equivalent[study] == pytest.approx([row[3] for row in expected], rel=1e-6)


def test_nothing_is_said_that_the_latest_estimate_contradicts() -> None:
    """Early seeds rule out "much worse", later ones "much better", and the mean ends at 3 points below the baseline."""
    ours = rule(1, max_seeds=100, alternative="less")
    jitter = 0.05 * np.resize([1.0, -1.0], 125)
    arms = np.concatenate([[5.0, 5.1], np.full(98, -4.0)]) + jitter[:100]
    state = replay(ours, jitter[None, None], arms[None, None, None])
    assert state.above[0, 0] < 0.05
    assert state.below[0, 0] < 0.05
    assert state.delta[0, 0] < -2
    assert VERDICTS[state.verdict[0, 0]] == "worse"


def test_a_verdict_is_final() -> None:
    """An arm that was called better stays so, although the correction would later allow to call it equivalent too."""
    ours = rule(2, max_seeds=40)
    state = replay(ours, *studies(ours, [1.2, 0.8], 3000, sd=1.2))
    both = (state.verdict == 1) & (state.equivalent <= 0.05) & (np.abs(state.delta) < 2)
    assert both.any()
    assert (state.reason[both] == REASONS.index("verdict")).all()


def test_one_direction_finds_no_other() -> None:
    for alternative, code in (("greater", 1), ("less", 2)):
        ours = rule(2, max_seeds=8, alternative=alternative)
        state = replay(ours, *studies(ours, [-4.0, 4.0], 60))
        right = 1 if alternative == "greater" else 0
        assert (state.verdict[:, right] == code).all()
        assert (state.verdict[:, 1 - right] == 0).all()


@pytest.mark.parametrize("budget", [7, 9, 12, 18])
def test_a_budget_is_never_exceeded(budget: int) -> None:
    ours = rule(2, max_seeds=10, budget=budget)
    state = replay(ours, *studies(ours, [1.0, 2.0], 300))
    assert (spent(ours, state) <= budget).all()
    stopped = state.reason == REASONS.index("budget")
    assert stopped.any()
    assert (state.verdict[stopped] == 0).all()
    unlimited = replay(rule(2, max_seeds=10), *studies(ours, [1.0, 2.0], 300))
    assert spent(ours, unlimited).max() > budget


def test_a_short_budget_follows_the_contrast_that_is_closest_to_a_verdict() -> None:
    """After the first look 7 runs are spent, and 9 pay for one more seed of the baseline and of one arm."""
    scores = studies(rule(2), [1.0, 2.0], 300)
    first, second = replay(rule(2, budget=7), *scores), replay(rule(2, budget=9), *scores)
    open_ = (first.verdict == 0).all(axis=1)
    distance = np.minimum(first.different, first.equivalent)[open_]
    assert open_.sum() > 100
    assert (second.look[open_].sum(axis=1) == 1).all()
    closest = np.where(
        distance[:, 0] <= distance[:, 1], 0, 1
    )  # equally close: the one that was declared first
    assert (second.look[open_].argmax(axis=1) == closest).all()


def test_scores_of_other_sizes_are_refused() -> None:
    ours = rule(2, max_seeds=5)
    with pytest.raises(DataError, match="shapes"):
        replay(ours, np.zeros((1, 1, 5)), np.zeros((1, 2, 1, 5)))


def test_an_interval_leaves_out_zero_where_a_single_contrast_is_decided() -> None:
    ours = rule(1, max_seeds=10)
    state = replay(ours, *studies(ours, [2.0], 300))
    low, high = np.moveaxis(intervals(ours, state), -1, 0)
    decided = (state.verdict == 1) | (state.verdict == 2)
    assert ((low > 0) | (high < 0))[decided].mean() > 0.99
    assert ((low <= 0) & (high >= 0))[state.verdict == 0].all()


# Simulated studies ---------------------------------------------------------------------------------------------


def test_the_grid_is_the_design_test_of_the_table() -> None:
    ours = rule(2, 2, 6, margin=1.5)
    baseline, arms = studies(ours, [0.5, 2.0], 40)
    found = grid(ours, 5, baseline, arms)
    for study in range(40):
        cells = [[arms[study, a, c, :5] for c in range(2)] for a in range(2)]
        base = [baseline[study, c, :5] for c in range(2)]
        error = pooled_error([*base, *cells[0], *cells[1]])
        tests = [design_test(cell, base, method="t", error=error) for cell in cells]
        p = adjust([test.p for test in tests])
        q = adjust([equivalence(test.delta, test.se, test.df, 1.5).p for test in tests])
        for arm, test in enumerate(tests):
            wanted = "equivalent" if q[arm] <= 0.05 else "unresolved"
            if wanted == "unresolved" and p[arm] <= 0.05:
                wanted = "better" if test.delta > 0 else "worse"
            assert VERDICTS[found[study, arm]] == wanted


@pytest.mark.parametrize("paired", [False, True])
def test_measured_components_are_those_of_the_shape(paired: bool) -> None:
    sizes = (400, 400)
    benchmarks = tuple(BenchmarkShape(f"b{i}", (0.0, 1.0), (0.4, 0.6), sizes, 1.0 + i) for i in range(3))
    shape = Shape(
        ((2,), (2,)), benchmarks, correlation=0.4, paired_seeds=paired, seed_pairing=0.6 if paired else 0.0
    )
    ours = rule(2, 2, 6, paired_seeds=paired)
    effects = np.tile([0.0, 5.0], (3000, 1))
    baseline, arms = suites(ours, shape, effects, np.random.default_rng(1))
    assert arms.shape == (3000, 2, 2, 6)
    assert baseline.std() == pytest.approx(shape.suite_sd, rel=0.03)
    assert (arms[:, 1] - arms[:, 0]).mean() == pytest.approx(5.0, abs=0.05)
    together = np.corrcoef(baseline[:, 0, 0], arms[:, 0, 0, 0])[0, 1]
    assert together == pytest.approx(0.6 if paired else 0.0, abs=0.06)


def test_expectations_follow_the_effect_and_repeat() -> None:
    ours = rule(2, max_seeds=10)
    found = expect(ours, 1.0, repetitions=150)
    assert [e.effect for e in found] == [0.0, 1.0, 2.0, 3.0, 4.0, 6.0]
    assert all(e.different + e.equivalent + e.unresolved == pytest.approx(1) for e in found)
    assert found[0].equivalent > 0.9
    assert found[2].different > 0.9
    assert found[-1].runs < 9 < found[1].runs <= ours.most_runs
    assert found == expect(ours, 1.0, repetitions=150)
    with pytest.raises(DataError, match="SD"):
        expect(ours, 0.0)


def test_the_bias_of_stopping_points_away_from_zero() -> None:
    ours = rule(2, max_seeds=10)
    bias = stopping_bias(ours, 1.0, [2.0, -2.0])
    assert bias[0] > 0.05
    assert bias[1] == pytest.approx(-bias[0], abs=0.08)
    assert stopping_bias(ours, 1.0, [0.0, 0.0]) == pytest.approx([0, 0], abs=0.06)
    with pytest.raises(DataError, match="finite"):
        stopping_bias(ours, 1.0, [math.nan, 0.0])


def test_a_settling_grid_has_room_for_both_answers() -> None:
    ours = rule(2)
    seeds = settling_seeds(ours, 1.0)
    assert seeds == 10
    baseline, arms = studies(rule(2, max_seeds=seeds), [0.0, 2.0], 300)
    assert (grid(ours, seeds, baseline, arms) == 0).mean() < 0.02
    assert settling_seeds(ours, math.nan) is None


def test_two_hundred_studies_end_early_and_answer_like_the_grid() -> None:
    """The slow test asserts the figures; this one is to notice at once when they are far off."""
    ours = rule(2, max_seeds=10)
    rng = np.random.default_rng(4)
    effects = 2.0 * rng.choice([0.0, 0.0, 1.0, 2.0], (200, 2)) * rng.choice([-1, 1], (200, 2))
    baseline, arms = draw(ours, 1.0, effects, rng)
    state, fixed = replay(ours, baseline, arms), grid(ours, 10, baseline, arms)
    assert spent(ours, state).mean() < 0.65 * ours.runs(10, 20)
    assert (state.verdict == fixed).mean() > 0.93
    wrong = ((state.verdict == 1) | (state.verdict == 2)) & (effects == 0)
    assert wrong.any(axis=1).mean() <= 0.08


# Words ---------------------------------------------------------------------------------------------------------


def test_a_conclusion_fills_its_row_of_the_table() -> None:
    ours = rule(2, max_seeds=10)
    state = replay(ours, *studies(ours, [0.0, 4.0], 1, seed=2))
    same, better = conclude(ours, state, ["same", "better"])
    assert (same.verdict, better.verdict) == ("equivalent", "better")
    row = columns(ours, better)
    assert set(row) <= set(COLUMNS)
    assert row["verdict"] == "better"
    assert row["ci_low"] > 0
    assert row["floor"] <= row["p"] <= row["p_adjusted"] <= 0.05
    assert f"look {better.looks[0]} of 9" in row["method"]


def test_the_report_says_what_was_spent_and_why_each_contrast_stopped() -> None:
    ours = rule(2, max_seeds=10)
    state = replay(ours, *studies(ours, [0.0, 4.0], 1, seed=2))
    lines = report_lines(ours, state, conclude(ours, state, ["same", "better"]))
    assert lines[0].startswith(f"Adaptive replication spent {spent(ours, state)[0]} runs in")
    assert "would have taken 30." in lines[0]
    assert lines[1].startswith("same: stopped after")
    assert "decided: equivalent" in lines[1]
    assert "decided: better" in lines[2]
    short = replace(ours, budget=9)
    state = replay(short, *studies(ours, [1.0, 1.0], 1, seed=2))
    text = " ".join(report_lines(short, state, conclude(short, state, ["a", "b"])))
    assert "budget of 9 runs was spent" in text
    assert "a budget of 9 runs." in text


def test_the_plan_says_what_to_expect() -> None:
    ours = rule(2, max_seeds=10)
    lines = plan_lines(ours, 1.0, "assumed")
    assert "2 to 10 seeds of an arm, 3 to 13 of the baseline" in lines[0]
    assert "at most 5 %" in lines[0]
    assert "SD between seeds 1.00 points, assumed" in lines[1]
    assert len(lines) == 2 + 6 + 1
    assert lines[-1].endswith("seeds=10, 30 runs")
    assert "unknown" in plan_lines(ours, None, "")[-1]
