"""Estimates, power, equivalence, multiplicity and verdicts against statsmodels."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import ttost_ind

from vlmablate.errors import UserError
from vlmablate.stats.benchmarks import benchmark_mean
from vlmablate.stats.estimate import t_estimate
from vlmablate.stats.margins import equivalence
from vlmablate.stats.multiplicity import adjust
from vlmablate.stats.settings import Settings


def test_p_is_never_zero_and_identical_systems_have_p_one() -> None:
    assert t_estimate(1e6, 1e-3, 5000, 0.05, "").p > 0
    assert t_estimate(0.0, 0.0, 4, 0.05, "").p == 1.0
    assert math.isnan(t_estimate(1.0, 0.0, 4, 0.05, "").p)


def test_equivalence_p_is_tost() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(0.3, 1, 12), rng.normal(0, 1, 9)
    oracle = ttost_ind(a, b, -1.5, 1.5, usevar="pooled")[0]
    pooled = math.sqrt((11 * a.var(ddof=1) + 8 * b.var(ddof=1)) / 19)
    estimate = t_estimate(float(a.mean() - b.mean()), pooled * math.sqrt(1 / 12 + 1 / 9), 19, 0.05, "")
    assert equivalence(estimate.delta, estimate.se, estimate.df, 1.5).p == pytest.approx(oracle)


def test_equivalence_agrees_with_the_wider_interval() -> None:
    for delta in np.linspace(-3, 3, 25):
        ninety = t_estimate(float(delta), 0.7, 6, 0.10, "")
        inside = ninety.ci_low > -2 and ninety.ci_high < 2
        assert (equivalence(ninety.delta, ninety.se, ninety.df, 2.0).p < 0.05) == inside


def test_holm_is_statsmodels_holm_and_leaves_nan_out() -> None:
    p = [0.04, 0.001, math.nan, 0.03, 0.9, 0.03]
    tested = [value for value in p if not math.isnan(value)]
    adjusted = adjust(p)
    assert math.isnan(adjusted[2])
    assert adjusted[~np.isnan(adjusted)] == pytest.approx(multipletests(tested, method="holm")[1])
    assert len(adjust([])) == 0


def test_benchmark_mean_is_a_one_sample_t() -> None:
    deltas = [1.0, 2.5, -0.5, 3.0]
    assert benchmark_mean(deltas, 0.05).p == pytest.approx(stats.ttest_1samp(deltas, 0).pvalue)
    assert math.isnan(benchmark_mean([1.0], 0.05).p)


def test_settings_are_read_from_the_study_and_checked() -> None:
    assert Settings.from_study({}) == Settings(0.05, 2.0, 10.0, 0.8)
    assert Settings.from_study({"analysis": {"margin": 1}}).margin == 1.0
    with pytest.raises(UserError, match=r"unknown analysis setting\(s\) magin; known: alpha, margin"):
        Settings.from_study({"analysis": {"magin": 1}})
    with pytest.raises(UserError, match="alpha"):
        Settings(alpha=0.7)
    with pytest.raises(UserError, match="margin"):
        Settings(margin=0.0)
