"""The design level against ANOVA, scipy's t tests and scipy's exact permutations; the duality of its interval;
its size under correlated benchmarks; and its honest refusals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations, product
from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from scipy import stats

from vlmablate.errors import DataError, UserError
from vlmablate.stats.estimate import SMALLEST_P
from vlmablate.stats.runs import (
    DesignTest,
    PooledError,
    design_test,
    paired_error,
    permutation_floor,
    pooled_error,
    run_matrix,
    tipping_sd,
)

ALTERNATIVES = ("two-sided", "greater", "less")


def mean_difference(x: Any, y: Any, axis: int = -1) -> Any:
    return np.mean(x, axis=axis) - np.mean(y, axis=axis)


def assert_same_test(ours: DesignTest, p: float, low: float, high: float) -> None:
    assert ours.p == pytest.approx(p)
    assert ours.ci == pytest.approx((low, high))


# t over seeds


@pytest.mark.parametrize("alternative", ALTERNATIVES)
def test_two_cells_alone_are_student_s_t(alternative: Any) -> None:
    rng = np.random.default_rng(2)
    a, b = rng.normal(51, 1, 3), rng.normal(50, 1, 5)
    ours = design_test(a, b, method="t", alternative=alternative)
    two_sided = stats.ttest_ind(a, b).confidence_interval()
    assert_same_test(ours, stats.ttest_ind(a, b, alternative=alternative).pvalue, *two_sided)
    assert (ours.df, ours.n_alternate, ours.n_baseline) == (6, 3, 5)
    assert ours.method == "t over seeds, error pooled over 2 cells, df = 6"
    assert ours.alternative == alternative


@pytest.mark.parametrize("alternative", ALTERNATIVES)
def test_paired_seeds_are_the_paired_t(alternative: Any) -> None:
    rng = np.random.default_rng(3)
    a, b = rng.normal(51, 1, 6), rng.normal(50, 1, 6)
    ours = design_test(a, b, paired=True, method="t", alternative=alternative)
    two_sided = stats.ttest_rel(a, b).confidence_interval()
    assert_same_test(ours, stats.ttest_rel(a, b, alternative=alternative).pvalue, *two_sided)
    assert ours.df == 5
    assert ours.method == "t over 6 paired seeds, df = 5"


def test_the_error_of_a_whole_study_is_the_anova_contrast() -> None:
    rng = np.random.default_rng(1)
    cells = {name: rng.normal(50, 1, n) for name, n in {"a1": 3, "b1": 4, "a2": 2, "b2": 3, "c": 4}.items()}
    rows = [(name, score) for name, runs in cells.items() for score in runs]
    model = smf.ols("score ~ C(cell) - 1", pd.DataFrame(rows, columns=["cell", "score"])).fit()
    oracle = model.t_test(np.array([[0.5, 0.5, -0.5, -0.5, 0.0]]))
    error = pooled_error(cells.values())
    ours = design_test([cells["a1"], cells["a2"]], [cells["b1"], cells["b2"]], error=error, method="t")
    assert ours.delta == pytest.approx(oracle.effect[0])
    assert ours.se == pytest.approx(oracle.sd[0, 0])
    assert_same_test(ours, float(oracle.pvalue), *oracle.conf_int()[0])
    assert ours.df == 11
    assert ours.method == "t over seeds, error pooled over 5 cells, df = 11"
    assert (ours.n_alternate, ours.n_baseline) == (5, 7)


def test_paired_error_is_that_of_randomised_blocks() -> None:
    rng = np.random.default_rng(4)
    table = rng.normal(50, 1, (3, 4)) + rng.normal(0, 5, 4)
    rows = [(arm, seed, table[arm, seed]) for arm in range(3) for seed in range(4)]
    data = pd.DataFrame(rows, columns=["arm", "seed", "score"])
    model = smf.ols("score ~ C(arm) + C(seed)", data).fit()
    error = paired_error([table])
    assert (error.sd, error.df, error.cells) == (pytest.approx(math.sqrt(2 * model.mse_resid)), 6, 3)
    ours = design_test(table[0], table[1], paired=True, error=error, method="t")
    assert ours.p == pytest.approx(model.pvalues["C(arm)[T.1]"])
    assert ours.method == "t over 4 paired seeds, error pooled over 3 cells, df = 6"

    gappy = data[(data["arm"] != 1) | (data["seed"] > 1)]
    oracle = smf.ols("score ~ C(arm) + C(seed)", gappy).fit()
    table[1, :2] = np.nan
    error = paired_error([table])
    assert (error.sd, error.df) == (pytest.approx(math.sqrt(2 * oracle.mse_resid)), oracle.df_resid)


def test_two_arms_of_paired_seeds_vary_as_their_differences() -> None:
    a, b = np.random.default_rng(5).normal(50, 1, (2, 5))
    assert paired_error([np.stack([a, b])]).sd == pytest.approx((a - b).std(ddof=1))
    assert paired_error([[[1.0, 2.0]]]).df == 0
    with pytest.raises(DataError, match="context 0: expected finite scores"):
        paired_error([[[1.0, math.inf]]])


@pytest.mark.parametrize(("arms", "seeds"), [(6, 2), (10, 3)])
def test_paired_seeds_keep_their_size_with_many_arms(arms: int, seeds: int) -> None:
    rng, rejected = np.random.default_rng(arms), 0
    repetitions = 3000
    for _ in range(repetitions):
        table = rng.normal(0, 1, (arms, seeds)) + rng.normal(0, 3, seeds)
        test = design_test(table[1], table[0], paired=True, error=paired_error([table]), method="t")
        rejected += test.p <= 0.05
    assert abs(rejected / repetitions - 0.05) < 3 * math.sqrt(0.05 * 0.95 / repetitions)


def test_pooled_error() -> None:
    error = pooled_error([[1.0, 3.0], [5.0], [2.0, 4.0, 6.0]])
    assert error == PooledError(math.sqrt((2 + 8) / 3), 3, 3)
    assert pooled_error([[50.1 + 1e-14, 50.1]]).sd == 0.0
    alone = pooled_error([[1.0], [2.0]])
    assert math.isnan(alone.sd)
    assert (alone.df, alone.cells) == (0, 2)


# the exact test


def assert_exact(a: Sequence[Any], b: Sequence[Any]) -> None:
    for alternative in ALTERNATIVES:
        for paired in (False, True) if len(a) == len(b) else (False,):
            oracle = stats.permutation_test(
                (a, b),
                mean_difference,
                permutation_type="samples" if paired else "independent",
                vectorized=True,
                n_resamples=np.inf,
                alternative=alternative,
            )
            ours = design_test(a, b, paired=paired, alternative=alternative, method="exact")  # type: ignore[arg-type]
            assert ours.p == pytest.approx(oracle.pvalue, rel=1e-12)
            assert ours.p >= ours.floor


@pytest.mark.parametrize("sizes", [(2, 3), (3, 3), (5, 5), (2, 6), (7, 2), (4, 6)])
def test_exact_as_by_scipy(sizes: tuple[int, int]) -> None:
    rng = np.random.default_rng(sum(sizes))
    for shift in (0.0, 0.8, -3.0):
        assert_exact(rng.normal(shift, 1, sizes[0]), rng.normal(0, 1, sizes[1]))


def test_equal_statistics_count_as_equal_whatever_their_rounding() -> None:
    """Scores in steps of 0.1 points: whole numbers decide which arrangements tie, floats must agree."""
    rng = np.random.default_rng(6)
    for _ in range(50):
        a, b = rng.integers(700, 706, 4), rng.integers(700, 706, 5)
        pool, observed = np.concatenate([a, b]), 9 * int(a.sum())
        sums = [9 * int(pool[list(chosen)].sum()) for chosen in combinations(range(9), 4)]
        greater = np.mean([total >= observed for total in sums])
        less = np.mean([total <= observed for total in sums])
        ours = design_test(a / 10, b / 10, method="exact")
        assert ours.p == pytest.approx(min(1.0, 2 * min(greater, less)), rel=1e-12)


def test_strata_are_permuted_within() -> None:
    rng = np.random.default_rng(7)
    strata = [(rng.normal(1, 1, n), rng.normal(0, 1, m)) for n, m in ((2, 3), (1, 2), (3, 2))]

    def differences(x: Any, y: Any) -> list[float]:
        pool = np.concatenate([x, y])
        chosen = combinations(range(len(pool)), len(x))
        return [pool[list(c)].mean() - np.delete(pool, list(c)).mean() for c in chosen]

    every = np.array([np.mean(parts) for parts in product(*(differences(x, y) for x, y in strata))])
    alternates, baselines = zip(*strata, strict=True)
    observed = np.mean([x.mean() - y.mean() for x, y in strata])
    for alternative, share in (
        ("greater", np.mean(every >= observed - 1e-12)),
        ("less", np.mean(every <= observed + 1e-12)),
    ):
        ours = design_test(alternates, baselines, alternative=alternative, method="exact")  # type: ignore[arg-type]
        assert ours.delta == pytest.approx(observed)
        assert ours.p == pytest.approx(share)
    assert ours.method == "exact permutation of 6 and 7 seeds within 3 contexts, 300 arrangements"


def test_paired_strata_are_flipped_together() -> None:
    rng = np.random.default_rng(8)
    a, b = [rng.normal(1, 1, 3), rng.normal(0, 1, 2)], [rng.normal(0, 1, 3), rng.normal(0, 1, 2)]
    weighted = np.concatenate([(x - y) / len(x) / 2 for x, y in zip(a, b, strict=True)])
    every = np.array([np.dot(signs, weighted) for signs in product((1, -1), repeat=5)])
    ours = design_test(a, b, paired=True, alternative="greater", method="exact")
    assert ours.p == pytest.approx(np.mean(every >= weighted.sum() - 1e-12))
    assert ours.method == "exact sign flips of 5 paired seeds within 2 contexts, 32 arrangements"


def shifted(values: Any, theta: float) -> Any:
    return [np.asarray(x) - theta for x in values] if isinstance(values, list) else values - theta


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("stratified", [False, True])
@pytest.mark.parametrize("coarse", [False, True])
def test_the_exact_interval_is_dual_to_the_exact_p(paired: bool, stratified: bool, coarse: bool) -> None:
    """A shift lies outside the interval exactly when the test of the shifted arm rejects it."""
    rng = np.random.default_rng(9)
    outside_seen = 0
    for trial in range(120):
        alpha = (0.05, 0.1, 0.2)[trial % 3]

        def draw(n: int, centre: float) -> Any:
            x = rng.normal(centre, 1, n)
            return np.round(2 * x) / 2 if coarse else x

        n, m = int(rng.integers(4, 8)), int(rng.integers(4, 8))
        m = n if paired else m
        centre = float(rng.choice([0.0, 1.0, 2.0]))
        a, b = draw(n, centre), draw(m, 0.0)
        if stratified:
            k = int(rng.integers(1, 4))
            a, b = [a, draw(k, centre)], [b, draw(k, 0.0)]

        def p_of(theta: float, a: Any = a, b: Any = b) -> float:
            return design_test(shifted(a, theta), b, paired=paired, method="exact").p

        test = design_test(a, b, paired=paired, method="exact", alpha=alpha)
        low, high = test.ci
        outside = not low <= 0 <= high
        outside_seen += outside
        assert outside == (test.p <= alpha)
        for limit, outwards in ((low, -1e-6), (high, 1e-6)):
            if math.isfinite(limit):
                assert p_of(limit) > alpha
                assert p_of(limit + outwards) <= alpha
            else:
                assert (
                    permutation_floor(
                        [len(a)] if not stratified else [len(x) for x in a],
                        [len(b)] if not stratified else [len(y) for y in b],
                        paired=paired,
                    )
                    > alpha
                )
    assert outside_seen > 10


def test_too_few_runs_for_alpha_leave_the_exact_interval_open() -> None:
    ours = design_test([9.0, 8.0, 7.0], [1.0, 2.0, 3.0], method="exact")
    assert ours.p == pytest.approx(0.1)
    assert ours.floor == pytest.approx(0.1)
    assert ours.ci == (-math.inf, math.inf)


def test_ten_against_ten_is_enumerated_completely() -> None:
    rng = np.random.default_rng(10)
    a, b = rng.normal(0.7, 1, 10), rng.normal(0, 1, 10)
    ours = design_test(a, b)
    assert ours.method == "exact permutation of 10 and 10 seeds, 184,756 arrangements"
    pool, chosen = np.concatenate([a, b]), np.array(list(combinations(range(20), 10)))
    greater = np.mean(pool[chosen].sum(axis=1) >= a.sum() - 1e-12)
    assert ours.p == pytest.approx(2 * min(greater, 1 - greater + 1 / 184_756), rel=1e-9)
    assert ours.floor == pytest.approx(2 / 184_756)


def test_the_exact_interval_resembles_the_t_interval_of_normal_scores() -> None:
    rng = np.random.default_rng(11)
    a, b = rng.normal(3, 1, 11), rng.normal(0, 1, 11)
    assert design_test(a, b, method="exact").ci == pytest.approx(design_test(a, b, method="t").ci, abs=0.15)


# which method, and what there is to say without one


def test_auto_is_exact_where_discreteness_costs_little() -> None:
    rng = np.random.default_rng(12)
    five, four = rng.normal(0, 1, (2, 5)), rng.normal(0, 1, (2, 4))
    assert design_test(*five).method == "exact permutation of 5 and 5 seeds, 252 arrangements"
    assert design_test(*five, alpha=0.03).method.startswith("t over seeds")
    assert design_test(*four).method.startswith("t over seeds")
    assert design_test(*rng.normal(0, 1, (2, 40))).method.startswith("t over seeds")  # too many arrangements
    paired = rng.normal(0, 1, (2, 8))
    assert design_test(*paired, paired=True).method == "exact sign flips of 8 paired seeds, 256 arrangements"
    pooled = design_test(*five, error=PooledError(0.5, 40, 10))
    assert pooled.p == design_test(*five).p
    assert (pooled.se, pooled.df) == (pytest.approx(0.5 * math.sqrt(2 / 5)), 40)


def test_permutation_floor() -> None:
    floors = [permutation_floor(n) for n in (0, 1, 2, 3, 4, 5)]
    assert floors == pytest.approx([1.0, 1.0, 1 / 3, 0.1, 2 / 70, 2 / 252])
    assert permutation_floor(5, 1) == pytest.approx(2 / 6)
    assert permutation_floor(8, paired=True) == pytest.approx(2 / 256)
    assert permutation_floor([3, 3], [3, 2]) == pytest.approx(2 / 200)
    assert permutation_floor([3, 2], paired=True) == pytest.approx(2 / 32)
    assert permutation_floor([300] * 4) == SMALLEST_P


def test_one_seed_gives_the_tipping_sd_and_no_p() -> None:
    ours = design_test([53.0], [50.0])
    tipping = 3.0 / (1.959964 * math.sqrt(2))
    assert ours.delta == 3.0
    assert ours.df == 0
    assert all(math.isnan(value) for value in (ours.p, ours.se, *ours.ci, ours.floor))
    assert ours.tipping_sd == pytest.approx(tipping, rel=1e-6)
    assert tipping_sd(3.0, 2.0, 0.05) == pytest.approx(tipping, rel=1e-6)
    assert ours.method == f"no test: one seed per cell; tipping seed SD {tipping:.2f}"
    with_error = design_test([53.0], [50.0], error=PooledError(1.0, 8, 4))
    assert with_error.p == pytest.approx(2 * stats.t.sf(3 / math.sqrt(2), 8))


def test_the_tipping_sd_is_where_the_normal_test_tips() -> None:
    a, b = [[1.0, 2.0], [3.0]], [[0.0], [1.0, 0.5, 0.2]]
    tipping = design_test(a, b, method="t").tipping_sd
    at_tipping = design_test(a, b, method="t", error=PooledError(tipping, 10**9, 9))
    assert at_tipping.p == pytest.approx(0.05)


def test_seeds_that_change_nothing_are_no_replication() -> None:
    ours = design_test([53.0, 53.0], [50.0, 50.0])
    assert math.isnan(ours.p)
    assert math.isnan(ours.se)
    assert ours.df == 0
    assert ours.method == "no test: the seeds changed nothing, so they are no replication"
    assert design_test([53.0] * 5, [50.0] * 5).p == pytest.approx(2 / 252)


@pytest.mark.parametrize("method", ["t", "exact"])
@pytest.mark.parametrize("paired", [False, True])
def test_equal_scores_everywhere_do_not_differ(method: Any, paired: bool) -> None:
    for score in (0.0, 50.1, 1 / 3 * 1e6):
        ours = design_test([score] * 3, [score] * 3, method=method, paired=paired)
        assert (ours.delta, ours.p, ours.ci, ours.se) == (0.0, 1.0, (0.0, 0.0), 0.0)
        mean_of_suite = float(np.mean([score + k for k in range(-5, 6)]))  # the same number but for rounding
        assert design_test([mean_of_suite] * 3, [score] * 3, method=method, paired=paired).p == 1.0


def test_the_same_runs_in_both_arms_do_not_differ() -> None:
    runs = np.random.default_rng(13).normal(50, 1, 6)
    for method in ("t", "exact"):
        ours = design_test(runs, runs.copy(), method=method)  # type: ignore[arg-type]
        assert (ours.delta, ours.p) == (0.0, 1.0)
        assert ours.ci[0] < 0 < ours.ci[1]
    paired = design_test(runs, runs.copy(), method="t", paired=True)
    assert (paired.p, paired.ci) == (1.0, (0.0, 0.0))


def test_p_is_never_zero() -> None:
    rng = np.random.default_rng(14)
    assert design_test(rng.normal(1e6, 1e-3, 200), rng.normal(0, 1e-3, 200)).p == SMALLEST_P


def test_units_and_order_do_not_matter() -> None:
    rng = np.random.default_rng(15)
    a, b = rng.normal(0.62, 0.01, 6), rng.normal(0.6, 0.01, 6)
    fraction, points, mirrored = design_test(a, b), design_test(100 * a, 100 * b), design_test(b, a)
    assert points.p == pytest.approx(fraction.p)
    assert points.ci == pytest.approx(tuple(100 * limit for limit in fraction.ci))
    assert mirrored.p == pytest.approx(fraction.p)
    assert mirrored.ci == pytest.approx((-fraction.ci[1], -fraction.ci[0]))
    reordered = design_test(a[::-1], b[::-1])
    assert (reordered.p, reordered.ci) == (pytest.approx(fraction.p), pytest.approx(fraction.ci))


def test_refusals() -> None:
    with pytest.raises(DataError, match="alternate: 2 of 3 values are not finite, the first in run 1"):
        design_test([1.0, math.nan, math.inf], [1.0])
    with pytest.raises(DataError, match="baseline, stratum 1: 1 of 2 values are not finite"):
        design_test([[1.0], [2.0]], [[1.0], [math.nan, 1.0]])
    for empty in ([], np.array([]), 3.0):
        with pytest.raises(DataError, match="baseline: expected the scores of at least one run"):
            design_test([1.0], empty)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="stratum 1: expected a score per run"):
        design_test([[1.0], []], [[1.0], [1.0]])
    with pytest.raises(DataError, match="has 2 strata and the baseline 1"):
        design_test([[1.0], [1.0]], [[1.0]])
    with pytest.raises(DataError, match="stratum 0 has 2 and 3"):
        design_test([1.0, 2.0], [1.0, 2.0, 3.0], paired=True)
    with pytest.raises(DataError, match="not an array of numbers"):
        design_test(["high"], [1.0])
    with pytest.raises(DataError, match="more than 4,194,304"):
        design_test(np.arange(20.0), np.arange(20.0), method="exact")
    with pytest.raises(DataError, match="alpha must lie"):
        design_test([1.0], [1.0], alpha=0.0)
    with pytest.raises(DataError, match="5 degrees of freedom but the sd nan"):
        design_test([1.0], [1.0], error=PooledError(math.nan, 5, 2))
    with pytest.raises(UserError, match="unknown method 'permutation'"):
        design_test([1.0], [1.0], method="permutation")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="unknown alternative 'more'"):
        design_test([1.0], [1.0], alternative="more")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="no cell was given"):
        pooled_error([])
    with pytest.raises(DataError, match="scores of cell 1: expected a score per run"):
        pooled_error([[1.0], []])
    with pytest.raises(DataError, match="1 of 4 values are not finite, the first in run 1, column 0"):
        run_matrix([[1.0, 2.0], [math.nan, 1.0]], "scores")
    with pytest.raises(DataError, match=r"expected 3 columns, got shape \(2, 2\)"):
        run_matrix([[1.0, 2.0], [1.0, 1.0]], "scores", 3)


def test_size_holds_however_benchmarks_correlate_where_pooling_pairs_fails() -> None:
    """Nothing works; seeds move all benchmarks together. The test of suite scores keeps its level, the test
    of (pair x benchmark) differences taken as independent does not."""
    rng, trials, benchmarks, seeds, rho = np.random.default_rng(5), 2000, 6, 3, 0.5
    common = rng.normal(size=(trials, 3, seeds, 1)) * math.sqrt(rho)
    scores = 50 + common + rng.normal(size=(trials, 3, seeds, benchmarks)) * math.sqrt(1 - rho)
    rejected = sum(
        design_test(trial[1], trial[0], error=pooled_error(trial)).p <= 0.05 for trial in scores.mean(axis=3)
    )
    pooled = (scores[:, 1] - scores[:, 0]).reshape(trials, -1)
    naive = float(np.mean(stats.ttest_1samp(pooled, 0, axis=1).pvalue <= 0.05))
    error = 3 * math.sqrt(0.05 * 0.95 / trials)
    assert abs(rejected / trials - 0.05) < error
    assert naive > 0.15


def test_the_exact_test_keeps_its_size_under_heavy_tails() -> None:
    rng, trials = np.random.default_rng(16), 2000
    a, b = rng.standard_t(1.5, (2, trials, 5))
    rejected = np.mean([design_test(x, y).p <= 0.05 for x, y in zip(a, b, strict=True)])
    expected = 12 / 252  # the largest attainable two-sided level not above .05
    assert abs(rejected - expected) < 3 * math.sqrt(expected * (1 - expected) / trials)
