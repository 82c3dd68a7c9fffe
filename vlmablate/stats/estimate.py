"""An estimate with its uncertainty: the one shape that every test of this package returns."""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy import stats

SMALLEST_P = 1e-300
"""A p-value is never reported as zero: a tail that underflows is reported as this bound."""


@dataclass(frozen=True)
class Estimate:
    """A difference in points with its standard error and the t law that goes with it.

    df is 0 and p, ci_low, ci_high are nan where the data hold no replication to judge the difference by.
    """

    delta: float
    se: float
    df: float
    p: float
    ci_low: float
    ci_high: float
    method: str


def t_estimate(delta: float, se: float, df: float, alpha: float, method: str) -> Estimate:
    """Two-sided t test and 1 - alpha interval of `delta` (points) with standard error `se` on `df` degrees.

    Identical systems (delta = 0, se = 0) give p = 1 and the interval [0, 0]. A difference without any spread
    has no standard error to be judged by, so it gets no p-value rather than p = 0.
    """
    nan = math.nan
    spreadless = math.isfinite(se) and se <= 1e-12 * max(1.0, abs(delta))
    if spreadless and abs(delta) <= 1e-12:
        return Estimate(0.0, 0.0, df, 1.0, 0.0, 0.0, method)
    if df < 1 or not math.isfinite(se) or spreadless:
        return Estimate(delta, nan, 0.0, nan, nan, nan, method)
    half_width = float(stats.t.ppf(1 - alpha / 2, df)) * se
    p = max(2 * float(stats.t.sf(abs(delta) / se, df)), SMALLEST_P)
    return Estimate(delta, se, df, p, delta - half_width, delta + half_width, method)
