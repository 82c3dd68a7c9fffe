"""The exact paired test against enumeration, integer counting, the binomial and statsmodels."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats

from vlmablate.errors import DataError
from vlmablate.stats.lattice import common_step, log_tail
from vlmablate.stats.maxt import max_t
from vlmablate.stats.paired import mcnemar, paired_test


def _enumerated(sums: np.ndarray) -> float:
    signs = np.array(list(itertools.product([1, -1], repeat=len(sums))))
    totals = signs @ sums
    return float(np.mean(np.abs(totals) >= abs(sums.sum()) - 1e-9))


@pytest.mark.parametrize("seed", range(20))
def test_p_equals_full_enumeration(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(4, 15))
    values = np.array([0.0, 0.3, 0.6, 0.9, 1.0])
    a, b = rng.choice(values, n), rng.choice(values, n)
    clusters = rng.integers(0, 12, n)
    labels = np.unique(clusters)
    sums = np.array([(a - b)[clusters == label].sum() for label in labels])
    assert paired_test(a, b, clusters).p == pytest.approx(_enumerated(sums), rel=1e-9)
    assert paired_test(a, b, clusters, method="flips").p == pytest.approx(_enumerated(sums), rel=1e-9)


@pytest.mark.parametrize("share", [0.05, 0.3, 0.8, 0.99])
def test_tail_of_400_terms_equals_integer_counting(share: float) -> None:
    sums = np.random.default_rng(1).integers(1, 11, 400)
    total = int(sums.sum())
    threshold = int(total * share)
    counts = [1] + [0] * total
    for value in sums.tolist():
        counts = [c + (counts[i - value] if i >= value else 0) for i, c in enumerate(counts)]
    tail = sum(counts[-(-(threshold + total) // 2) :])
    expected = math.log(tail) - 400 * math.log(2)
    found = log_tail(sums, threshold)
    assert found is not None
    assert math.expm1(found - expected) == pytest.approx(0, abs=1e-9)


def test_far_tail_equals_the_binomial() -> None:
    a = np.concatenate([np.ones(180), np.zeros(20), np.ones(300)])
    b = np.concatenate([np.zeros(180), np.ones(20), np.ones(300)])
    expected = 2 * stats.binom.sf(179, 200, 0.5)
    assert expected < 1e-30
    assert paired_test(a, b).p == pytest.approx(expected, rel=1e-9)
    assert mcnemar(180, 20) == pytest.approx(expected, rel=1e-9)
    assert mcnemar(3, 3, mid_p=True) == pytest.approx(1 - stats.binom.pmf(3, 6, 0.5))


def test_standard_error_equals_statsmodels() -> None:
    rng = np.random.default_rng(2)
    clusters = rng.integers(0, 40, 300)
    a, b = rng.random(300) + clusters / 50, rng.random(300)
    result = paired_test(a, b, clusters)
    fit = sm.OLS(a - b, np.ones(300)).fit(cov_type="cluster", cov_kwds={"groups": clusters}, use_t=True)
    assert result.se == pytest.approx(float(fit.bse[0]), rel=1e-9)
    assert result.ci == pytest.approx(tuple(fit.conf_int()[0]), rel=1e-9)


def test_degenerate_data_get_the_right_answer() -> None:
    same = paired_test([1, 0, 1], [1, 0, 1])
    assert (same.p, same.ci, same.identical) == (1.0, (0.0, 0.0), True)
    shifted = paired_test(np.ones(10), np.zeros(10))
    assert shifted.p == pytest.approx(2 / 2**10)
    assert shifted.ci == (1.0, 1.0)
    assert paired_test([1, 1], [0, 0], [5, 5]).p == 1.0
    with pytest.raises(DataError, match="1 of 2 values are not finite"):
        paired_test([1, math.nan], [0, 0])
    with pytest.raises(DataError, match="pair them by example id"):
        paired_test([1, 0], [0])


def test_common_step() -> None:
    rng = np.random.default_rng(3)
    assert common_step(rng.normal(size=1000)) is None
    assert common_step(rng.integers(-3, 4, 1000) / 3) == pytest.approx(1 / 3)
    assert common_step(
        rng.choice([0, 0.3, 0.6, 0.9, 1], 1000).astype(np.float32).astype(float)
    ) == pytest.approx(0.1, rel=1e-4)


def test_a_further_system_changes_no_raw_p_and_adjustment_only_raises() -> None:
    rng = np.random.default_rng(4)
    scores = (rng.random((5, 400)) < np.array([0.5, 0.55, 0.6, 0.6, 0.7])[:, None]).astype(float)
    clusters = np.arange(400) // 4
    few, many = max_t(scores[:4], clusters), max_t(scores, clusters)
    known = {tuple(pair): p for pair, p in zip(many.pairs.tolist(), many.p, strict=True)}
    assert [known[tuple(pair)] for pair in few.pairs.tolist()] == few.p.tolist()
    assert (many.p_adjusted >= many.p).all()
    exact = [paired_test(scores[i], scores[j], clusters).p for i, j in many.pairs]
    assert np.allclose(many.p, exact, atol=0.004)
    with pytest.raises(DataError, match="at least two systems"):
        max_t(scores[:1])
