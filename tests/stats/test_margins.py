"""Equivalence against statsmodels' TOST, its interval, and the four verdicts."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.weightstats import ttost_ind, ttost_paired

from vlmablate.errors import DataError
from vlmablate.stats.estimate import SMALLEST_P
from vlmablate.stats.margins import equivalence, verdict


@pytest.mark.parametrize("margin", [0.3, 1.0, 1.5, 4.0])
def test_equivalence_is_tost_of_independent_samples(margin: float) -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(0.3, 1, 12), rng.normal(0, 1, 9)
    pooled = math.sqrt((11 * a.var(ddof=1) + 8 * b.var(ddof=1)) / 19)
    answer = equivalence(float(a.mean() - b.mean()), pooled * math.sqrt(1 / 12 + 1 / 9), 19, margin)
    assert answer.p == pytest.approx(ttost_ind(a, b, -margin, margin, usevar="pooled")[0])
    ninety = stats.ttest_ind(a, b).confidence_interval(0.90)
    assert answer.ci == pytest.approx((ninety.low, ninety.high))


def test_equivalence_is_tost_of_paired_samples() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.normal(0.1, 1, 30), rng.normal(0, 1, 30)
    d = a - b
    answer = equivalence(float(d.mean()), float(d.std(ddof=1)) / math.sqrt(30), 29, 0.8)
    assert answer.p == pytest.approx(ttost_paired(a, b, -0.8, 0.8)[0])


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.2])
@pytest.mark.parametrize("df", [1, 6, 40.5, math.inf])
def test_equivalent_exactly_when_the_wider_interval_is_inside_the_margin(alpha: float, df: float) -> None:
    for delta in np.linspace(-3, 3, 61):
        answer = equivalence(float(delta), 0.4, df, 2.0, alpha)
        low, high = answer.ci
        assert answer.equivalent == (low >= -2.0 and high <= 2.0) == (answer.p <= alpha)


def test_no_spread_and_no_replication() -> None:
    assert equivalence(0.5, 0.0, 4, 1.0) == equivalence(0.5, 0.0, math.inf, 1.0)
    assert equivalence(0.5, 0.0, 4, 1.0).p == SMALLEST_P
    assert equivalence(0.0, 0.0, 4, 1.0).equivalent
    for delta in (1.0, -1.0, 1.5):
        assert equivalence(delta, 0.0, 4, 1.0).p == 1.0
        assert not equivalence(delta, 0.0, 4, 1.0).equivalent
    for delta, se, df in [
        (0.1, math.nan, 4),
        (math.nan, 1.0, 4),
        (0.1, 1.0, 0),
        (0.1, math.inf, 4),
        (0, 0, 0),
    ]:
        answer = equivalence(delta, se, df, 1.0)
        assert math.isnan(answer.p)
        assert math.isnan(answer.ci[0])
        assert not answer.equivalent
    assert equivalence(0.0, 1e-9, 1000, 1.0).p == SMALLEST_P


@pytest.mark.parametrize("margin", [0.0, -1.0, math.nan, math.inf])
def test_a_margin_must_be_declared(margin: float) -> None:
    with pytest.raises(DataError, match="margin must be positive"):
        equivalence(0.1, 1.0, 4, margin)


def test_other_refusals() -> None:
    with pytest.raises(DataError, match="standard error cannot be negative, got -1"):
        equivalence(0.1, -1.0, 4, 1.0)
    with pytest.raises(DataError, match="alpha"):
        equivalence(0.1, 1.0, 4, 1.0, alpha=0.5)


@pytest.mark.parametrize(
    ("delta", "different", "equivalent", "expected"),
    [
        (3.0, 0.01, 0.9, "better"),
        (-3.0, 0.01, 0.9, "worse"),
        (0.1, 0.7, 0.01, "equivalent"),
        (0.8, 0.01, 0.01, "equivalent"),  # detectable, yet smaller than what matters
        (1.0, 0.3, 0.4, "unresolved"),
        (9.0, math.nan, math.nan, "unresolved"),
    ],
)
def test_verdicts(delta: float, different: float, equivalent: float, expected: str) -> None:
    assert verdict(delta, different, equivalent, 0.05) == expected
