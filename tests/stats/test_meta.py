"""Random effects over benchmarks against statsmodels, their size, and leaving one benchmark out."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.meta_analysis import combine_effects

from vlmablate.errors import DataError
from vlmablate.stats.estimate import SMALLEST_P
from vlmablate.stats.meta import leave_one_out, random_effects
from vlmablate.stats.runs import design_test, pooled_error


@pytest.mark.parametrize("k", [2, 5, 12])
@pytest.mark.parametrize("tau", [0.0, 0.3, 3.0])
def test_hartung_knapp_as_by_statsmodels(k: int, tau: float) -> None:
    rng = np.random.default_rng(k)
    for _ in range(10):
        ses = rng.uniform(0.2, 2.0, k)
        deltas = rng.normal(0.5, tau, k) + rng.normal(0, ses)
        ours = random_effects(deltas, ses, alpha=0.1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # statsmodels lets tau2 be negative
            oracle = combine_effects(deltas, ses**2, method_re="chi2", use_t=True, alpha=0.1)
            intervals = oracle.conf_int(alpha=0.1)
        assert ours.tau2 == pytest.approx(max(oracle.tau2, 0))
        assert ours.q == pytest.approx(oracle.q)
        assert ours.i2 == pytest.approx(max(oracle.i2, 0), abs=1e-12)
        random = oracle.tau2 > 0  # with tau2 = 0 the weights are the fixed ones
        assert ours.delta == pytest.approx(oracle.mean_effect_re if random else oracle.mean_effect_fe)
        assert ours.se == pytest.approx(oracle.sd_eff_w_re_hksj if random else oracle.sd_eff_w_fe_hksj)
        assert ours.ci == pytest.approx(tuple(intervals[3 if random else 2]))
        assert ours.p == pytest.approx(2 * stats.t.sf(abs(ours.delta) / ours.se, k - 1))
        reach = stats.t.isf(0.05, k - 1) * math.sqrt(ours.tau2 + ours.se**2)
        assert ours.prediction == pytest.approx((ours.delta - reach, ours.delta + reach))
        assert (ours.df, ours.k, ours.floor) == (k - 1, k, SMALLEST_P)


def test_equal_errors_are_the_one_sample_t() -> None:
    deltas = np.random.default_rng(1).normal(1, 2, 9)
    ours = random_effects(deltas, np.full(9, 0.3))
    oracle = stats.ttest_1samp(deltas, 0)
    assert ours.p == pytest.approx(oracle.pvalue)
    assert ours.ci == pytest.approx(tuple(oracle.confidence_interval()))
    assert "random effects over 9 benchmarks" in ours.method
    assert "df = 8" in ours.method


def test_families_count_once() -> None:
    deltas, ses = [1.0, 1.2, 1.4, 0.2, -0.5], [0.3, 0.2, 0.1, 0.4, 0.5]
    ours = random_effects(deltas, ses, families=["boxes", "boxes", "boxes", "words", "count"])
    averaged = random_effects([1.2, 0.2, -0.5], [0.2, 0.4, 0.5])
    assert (ours.p, ours.ci, ours.k) == (pytest.approx(averaged.p), pytest.approx(averaged.ci), 3)
    assert "over 3 benchmark families" in ours.method
    alone = random_effects(deltas, ses, families=["all"] * 5)
    assert math.isnan(alone.p)
    assert alone.delta == pytest.approx(np.mean(deltas))
    assert alone.method == "no test: one benchmark family"


@pytest.mark.parametrize("ses", [[math.nan] * 4, [0.0] * 4, [0.1, math.nan, 0.2, 0.3], [0.1, 0.0, 0.2, 0.3]])
def test_unknown_errors_leave_the_plain_t(ses: list[float]) -> None:
    deltas = [1.0, 2.5, -0.5, 3.0]
    ours = random_effects(deltas, ses)
    assert ours.p == pytest.approx(stats.ttest_1samp(deltas, 0).pvalue)
    assert math.isnan(ours.tau2)
    reach = stats.t.isf(0.025, 3) * np.std(deltas, ddof=1) * math.sqrt(1 + 1 / 4)
    assert ours.prediction == pytest.approx((1.5 - reach, 1.5 + reach))
    assert "unweighted" in ours.method


def test_nothing_to_judge_by() -> None:
    single = random_effects([1.0], [0.1])
    assert (single.delta, single.k, single.df) == (1.0, 1, 0)
    assert all(math.isnan(value) for value in (single.p, single.se, *single.ci, *single.prediction))
    zero = random_effects([0.0, 0.0], [0.1, 0.2])
    assert (zero.p, zero.ci) == (1.0, (0.0, 0.0))
    same = random_effects([0.7, 0.7, 0.7], [0.1, 0.2, 0.1])
    assert math.isnan(same.p)
    assert same.delta == pytest.approx(0.7)
    assert "the same on all 3 benchmarks" in same.method


def test_tiny_errors_and_units() -> None:
    deltas, ses = np.array([1.0, 2.0, 1.5]), np.array([1e-150, 2e-150, 1e-140])
    assert random_effects(deltas, 1e-30 * ses).p == pytest.approx(stats.ttest_1samp(deltas, 0).pvalue)
    assert random_effects(deltas, ses).p == pytest.approx(stats.ttest_1samp(deltas, 0).pvalue)
    assert random_effects([5.0, 5.0 + 1e-9] * 60, [1.0] * 120).p == SMALLEST_P
    fraction, points = (
        random_effects(deltas, [0.1, 0.2, 0.9]),
        random_effects(100 * deltas, [10.0, 20.0, 90.0]),
    )
    assert points.p == pytest.approx(fraction.p)
    assert points.tau2 == pytest.approx(1e4 * fraction.tau2)


def test_size_when_benchmarks_differ() -> None:
    """True differences vary between benchmarks around 0: fixed weights would reject far too often."""
    rng, trials, k = np.random.default_rng(2), 3000, 12
    ses = rng.uniform(0.5, 1.5, k)
    deltas = rng.normal(0, 1, (trials, k)) + rng.normal(0, ses, (trials, k))
    size = float(np.mean([random_effects(row, ses).p <= 0.05 for row in deltas]))
    fixed = (deltas / ses**2).sum(axis=1) / np.sqrt(np.sum(1 / ses**2))
    assert 0.04 < size < 0.07
    assert np.mean(np.abs(fixed) > 1.96) > 0.15


def test_the_prediction_interval_covers_one_more_benchmark() -> None:
    rng, trials, k = np.random.default_rng(3), 3000, 12
    ses = np.full(k, 0.5)
    covered = 0
    for _ in range(trials):
        low, high = random_effects(rng.normal(1, 1, k) + rng.normal(0, ses), ses).prediction
        covered += low <= rng.normal(1, 1) <= high
    assert 0.93 < covered / trials < 0.97


def test_refusals() -> None:
    with pytest.raises(DataError, match=r"got shapes \(0,\) and \(0,\)"):
        random_effects([], [])
    with pytest.raises(DataError, match="1 of 2 deltas are not finite, the first at position 1"):
        random_effects([1.0, math.nan], [1.0, 1.0])
    with pytest.raises(DataError, match=r"negative, got -1\.0 at position 0"):
        random_effects([1.0, 2.0], [-1.0, 1.0])
    with pytest.raises(DataError, match="1 family labels were given for 2"):
        random_effects([1.0, 2.0], [1.0, 1.0], families=["a"])
    with pytest.raises(DataError, match="alpha"):
        random_effects([1.0, 2.0], [1.0, 1.0], alpha=0.9)
    with pytest.raises(DataError, match="at least two different benchmarks, got x"):
        leave_one_out([[1.0]], [[1.0]], ["x"])
    with pytest.raises(DataError, match="two different benchmarks, got x, x"):
        leave_one_out([[1.0, 2.0]], [[1.0, 2.0]], ["x", "x"])
    with pytest.raises(DataError, match="baseline: expected 2 columns"):
        leave_one_out([[1.0, 2.0]], [[1.0]], ["x", "y"])
    with pytest.raises(DataError, match="either cells or paired"):
        leave_one_out([[1.0, 2.0]], [[1.0, 2.0]], ["x", "y"], cells=[[[1.0, 2.0]]], paired=True)


def test_one_benchmark_can_carry_the_difference() -> None:
    rng = np.random.default_rng(4)
    a, b, c = rng.normal(50, 0.3, (3, 5, 4))
    a[:, 2] += 7
    tests = leave_one_out(a, b, ["w", "x", "y", "z"])
    assert list(tests) == ["w", "x", "y", "z"]
    assert tests["y"].p > 0.05
    assert max(tests[name].p for name in "wxz") < 0.05
    assert tests["x"] == design_test(a[:, [0, 2, 3]].mean(axis=1), b[:, [0, 2, 3]].mean(axis=1))
    pooled = leave_one_out(a, b, ["w", "x", "y", "z"], cells=[a, b, c], method="t", alternative="greater")
    error = pooled_error([cell[:, 1:].mean(axis=1) for cell in (a, b, c)])
    expected = design_test(
        a[:, 1:].mean(axis=1), b[:, 1:].mean(axis=1), error=error, method="t", alternative="greater"
    )
    assert pooled["w"] == expected
    assert pooled["w"].df == 12
