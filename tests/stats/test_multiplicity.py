"""Adjusted p-values against statsmodels, and what they do with missing and impossible values."""

from __future__ import annotations

import math

import numpy as np
import pytest
from statsmodels.stats.multitest import multipletests

from vlmablate.errors import DataError, UserError
from vlmablate.stats.estimate import SMALLEST_P
from vlmablate.stats.multiplicity import METHODS, adjust
from vlmablate.stats.settings import CORRECTIONS

ORACLE = {"holm": "holm", "hochberg": "simes-hochberg", "bh": "fdr_bh", "by": "fdr_by"}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("m", [1, 2, 7, 200])
def test_adjusted_as_by_statsmodels(method: str, m: int) -> None:
    rng = np.random.default_rng(m)
    for _ in range(20):
        p = rng.random(m) ** 3
        p[rng.random(m) < 0.2] = 0.04  # ties
        assert adjust(p, method) == pytest.approx(multipletests(p, method=ORACLE[method])[1])


@pytest.mark.parametrize("method", METHODS)
def test_nan_stays_nan_and_is_no_member_of_the_family(method: str) -> None:
    p = [0.04, 0.001, math.nan, 0.03, 0.9, 0.03]
    adjusted = adjust(p, method)
    assert math.isnan(adjusted[2])
    without = [value for value in p if not math.isnan(value)]
    assert adjusted[~np.isnan(adjusted)] == pytest.approx(adjust(without, method))
    assert np.isnan(adjust([math.nan, math.nan], method)).all()
    assert len(adjust([], method)) == 0


def test_known_values() -> None:
    p = [0.01, 0.02, 0.03, 0.04]
    assert adjust(p, "holm") == pytest.approx([0.04, 0.06, 0.06, 0.06])
    assert adjust(p, "hochberg") == pytest.approx([0.04, 0.04, 0.04, 0.04])
    assert adjust(p, "bh") == pytest.approx([0.04, 0.04, 0.04, 0.04])
    assert adjust(p, "by") == pytest.approx([0.04 * 25 / 12] * 4)


@pytest.mark.parametrize("method", METHODS)
def test_tiny_p_values_do_not_become_zero_and_none_shrinks(method: str) -> None:
    p = np.array([SMALLEST_P, 1e-290, 0.0, 0.5, 1.0])
    adjusted = adjust(p, method)
    assert (adjusted >= np.maximum(p, SMALLEST_P)).all()
    assert adjusted.max() <= 1


def test_declared_corrections_are_the_known_methods() -> None:
    assert set(CORRECTIONS) == set(METHODS)


def test_refusals() -> None:
    with pytest.raises(UserError, match=r"unknown correction 'holmm' \(did you mean 'holm'"):
        adjust([0.1], "holmm")
    with pytest.raises(DataError, match=r"1 of 3 p-values lie outside \[0, 1\], first at position 1: 1.2"):
        adjust([0.1, 1.2, 0.3], "bh")
    with pytest.raises(DataError, match=r"one-dimensional, got shape \(1, 2\)"):
        adjust([[0.1, 0.2]], "bh")
