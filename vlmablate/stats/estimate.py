"""An estimate with its uncertainty: the one shape that every test of this package returns."""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy import optimize, stats

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


def detectable_effect(se: float, df: float, alpha: float, power: float) -> float:
    """Smallest true difference (points) that a two-sided t test detects with the given power.

    Solves P(|T| > t_crit) = power for T noncentral t with `df` degrees and noncentrality effect / se,
    neglecting the rejections on the wrong side (below 1e-4 for power >= 0.8). nan without replication.
    """
    if df < 1 or not math.isfinite(se):
        return math.nan
    if se == 0:
        return 0.0
    critical = float(stats.t.ppf(1 - alpha / 2, df))

    def gap(noncentrality: float) -> float:
        return float(stats.nct.sf(critical, df, noncentrality)) - power

    upper = critical + float(stats.norm.ppf(power)) + 1
    while gap(upper) < 0:
        upper *= 2
    return float(optimize.brentq(gap, 0.0, upper)) * se
