"""Probability of improvement against scipy's Brunner-Munzel test and the pairs counted one by one; coverage."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from scipy import special, stats

from vlmablate.errors import DataError
from vlmablate.stats.improvement import probability_of_improvement


@pytest.mark.parametrize("sizes", [(3, 4), (5, 5), (10, 7), (30, 40)])
@pytest.mark.parametrize("coarse", [False, True])
def test_one_benchmark_is_brunner_munzel(sizes: tuple[int, int], coarse: bool) -> None:
    rng = np.random.default_rng(sizes)
    checked = 0
    for _ in range(40):
        a, b = rng.normal(0.3, 1, sizes[0]), rng.normal(0, 1, sizes[1])
        if coarse:
            a, b = np.round(a), np.round(b)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # scipy's, where the arms do not overlap
            oracle = stats.brunnermunzel(b, a, distribution="t")
        ours = probability_of_improvement(a, b)
        assert ours.p_improvement == pytest.approx(stats.mannwhitneyu(a, b).statistic / (sizes[0] * sizes[1]))
        # At level 1 - p the oracle's t quantile is its statistic, |estimate - 1/2| / se. (Arms that do not overlap
        # have no such p.)
        if 1e-6 < oracle.pvalue < 0.49:
            low, high = special.logit(probability_of_improvement(a, b, alpha=float(oracle.pvalue)).ci)
            p = ours.p_improvement
            assert (high - low) / 2 == pytest.approx(abs(p - 0.5) / (p * (1 - p)))
            assert (high + low) / 2 == pytest.approx(special.logit(p))
            checked += 1
    assert checked > 0


def test_the_pairs_counted_one_by_one() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.integers(0, 4, (4, 3)), rng.integers(0, 4, (6, 3))
    shares = []
    for column in range(3):
        for x in a[:, column]:
            shares += [1.0 if x > y else 0.5 if x == y else 0.0 for y in b[:, column]]
    ours = probability_of_improvement(a, b)
    assert ours.p_improvement == pytest.approx(np.mean(shares))
    assert (ours.n_alternate, ours.n_baseline) == (4, 6)
    mirrored = probability_of_improvement(b, a)
    assert mirrored.p_improvement == pytest.approx(1 - ours.p_improvement)
    assert mirrored.ci == pytest.approx((1 - ours.ci[1], 1 - ours.ci[0]))
    assert "4 and 6 runs over 3 benchmark(s)" in ours.method


def test_a_benchmark_twice_is_no_more_evidence() -> None:
    """The run is the unit: copies of a benchmark, the extreme of correlation, leave the interval as it is."""
    rng = np.random.default_rng(3)
    a, b = rng.normal(0.4, 1, (6, 1)), rng.normal(0, 1, (5, 1))
    once, copied = (
        probability_of_improvement(a, b),
        probability_of_improvement(np.tile(a, 12), np.tile(b, 12)),
    )
    assert (copied.p_improvement, copied.ci) == (pytest.approx(once.p_improvement), pytest.approx(once.ci))


def test_arms_that_do_not_overlap_have_the_exact_bound() -> None:
    a, b = np.arange(5.0) + 10, np.arange(7.0) - 10
    ours = probability_of_improvement(a, b)
    assert ours.p_improvement == 1.0
    assert ours.ci == pytest.approx((0.025 ** (1 / 5), 1.0))
    assert stats.binomtest(5, 5).proportion_ci(method="exact").low == pytest.approx(ours.ci[0])
    below = probability_of_improvement(b, a)
    assert (below.p_improvement, below.ci) == (0.0, pytest.approx((0.0, 1 - 0.025 ** (1 / 5))))
    assert "exact bound from 5 disjoint pairs" in ours.method
    tied = probability_of_improvement(np.ones((3, 2)), np.ones((3, 2)))
    assert tied.p_improvement == 0.5
    assert tied.ci[0] < 0.5 < tied.ci[1]
    assert 0 <= tied.ci[0] <= tied.ci[1] <= 1


def test_placements_without_spread_have_hoeffding_s_bound() -> None:
    """Every run of either arm wins the same share of its pairs, yet on different benchmarks."""
    a = np.array([[3.0, 1.0, 2.0], [2.0, 3.0, 1.0], [1.0, 2.0, 3.0]])
    b = np.roll(a, 1, axis=1) + 0.5
    ours = probability_of_improvement(a, b)
    assert "Hoeffding" in ours.method
    assert ours.p_improvement == pytest.approx(1 / 3)
    reach = math.sqrt(math.log(40) / 6)
    assert ours.ci == pytest.approx((max(0.0, 1 / 3 - reach), min(1.0, 1 / 3 + reach)))


def test_the_exact_bound_holds_where_it_is_attained() -> None:
    """The baseline never varies and the alternate beats it with chance L: all m runs do with chance alpha / 2."""
    least = 0.025 ** (1 / 4)
    ours = probability_of_improvement(np.ones(4), np.zeros(4))
    assert ours.ci[0] == pytest.approx(least)
    assert least**4 == pytest.approx(0.025)


@pytest.mark.parametrize(("runs", "shift"), [(5, 0.0), (5, 0.7), (10, 0.0), (10, 1.0), (5, 2.2), (10, 2.2)])
def test_coverage_with_correlated_benchmarks(runs: int, shift: float) -> None:
    rng, trials, rho = np.random.default_rng(runs), 1500, 0.5
    truth = float(stats.norm.cdf(shift / math.sqrt(2)))

    def arm(mean: float) -> np.ndarray:
        common = rng.normal(0, math.sqrt(rho), (trials, runs, 1))
        return mean + common + rng.normal(0, math.sqrt(1 - rho), (trials, runs, 8))

    covered = 0
    for a, b in zip(arm(shift), arm(0.0), strict=True):
        low, high = probability_of_improvement(a, b).ci
        assert 0 <= low <= high <= 1
        covered += low <= truth <= high
    assert covered / trials > 0.92


def test_too_few_runs_and_refusals() -> None:
    one = probability_of_improvement([2.0], [1.0, 3.0])
    assert one.p_improvement == 0.5
    assert math.isnan(one.ci[0])
    assert "fewer than two in an arm" in one.method
    with pytest.raises(DataError, match="different benchmarks: 2 and 3"):
        probability_of_improvement(np.ones((2, 2)), np.ones((2, 3)))
    with pytest.raises(DataError, match="alternate: 1 of 2 values are not finite, the first in run 1"):
        probability_of_improvement([1.0, math.nan], [1.0, 2.0])
    with pytest.raises(DataError, match="baseline: expected a row per run"):
        probability_of_improvement([1.0], [])
    with pytest.raises(DataError, match="alpha"):
        probability_of_improvement([1.0], [1.0], alpha=0.0)


def test_the_interval_of_arms_that_do_not_overlap_holds_its_estimate() -> None:
    for runs in range(2, 12):
        a = np.linspace(60, 61, runs)[:, None]
        for found in (probability_of_improvement(a, a - 9), probability_of_improvement(a - 9, a)):
            assert found.ci[0] <= found.p_improvement <= found.ci[1]
