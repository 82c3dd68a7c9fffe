"""What rounding leaves open: printed digits of a p-value, and the range of a t-test's p over rounded data."""

from __future__ import annotations

import itertools
import math
from decimal import ROUND_DOWN, ROUND_HALF_EVEN, ROUND_HALF_UP, Decimal

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

from vlmablate.errors import DataError
from vlmablate.stats.estimate import SMALLEST_P

Array = NDArray[np.float64]

MOST_OPEN = 14
"""Values whose end is not settled beforehand are tried in all 2**k ways up to this k."""


def two_sided_p(t: float, df: int) -> float:
    """P(|T| >= |t|), T ~ t(df); between SMALLEST_P and 1."""
    return min(1.0, max(2 * float(stats.t.sf(abs(t), df)), SMALLEST_P))


def half_unit(printed: str) -> Decimal:
    """Half a unit of the last printed digit: '54.10' -> 0.005, '7.11e-8' -> 5e-11."""
    exponent = Decimal(printed).as_tuple().exponent
    if not isinstance(exponent, int):
        raise DataError(f"{printed!r} is not a finite number")
    return Decimal((0, (5,), exponent - 1))


def digits(p: float, printed: str) -> tuple[bool, bool]:
    """(p rounds to what is printed, p rounds or truncates to what is printed), at the printed precision."""
    if not math.isfinite(p):
        return False, False
    target = Decimal(printed)
    unit = Decimal((0, (1,), int(target.as_tuple().exponent)))
    shown = {how: Decimal(p).quantize(unit, how) for how in (ROUND_HALF_EVEN, ROUND_HALF_UP, ROUND_DOWN)}
    rounded = target in (shown[ROUND_HALF_EVEN], shown[ROUND_HALF_UP])
    return rounded, rounded or target == shown[ROUND_DOWN]


def like_printed(p: float, printed: str) -> str:
    """p with one digit more than the printed value, in its notation: (0.0055806, '0.00558') -> '0.005581'."""
    if not math.isfinite(p):
        return "-"
    mantissa, exponent, _ = printed.lower().partition("e")
    decimals = len(mantissa.partition(".")[2]) + 1
    if exponent:
        head, _, tail = f"{p:.{decimals}e}".partition("e")
        return f"{head}e{int(tail)}" if int(tail) else head
    return f"{p:.{decimals}f}" if p >= 10.0 ** (2 - decimals) else short(p, decimals)


def short(p: float, significant: int = 3) -> str:
    """p with so many significant digits, zeros kept and no padded exponent: '0.0300', '7.11e-8'; '-' for nan."""
    if not math.isfinite(p):
        return "-"
    if p == 1:
        return "1"
    head, exponent, tail = f"{p:#.{significant}g}".partition("e")
    return f"{head}e{int(tail)}" if exponent else head


def band(low: float, high: float) -> str:
    """'0.0157 to 0.0196'; '-' without one."""
    return f"{short(low)} to {short(high)}" if math.isfinite(low) and math.isfinite(high) else "-"


def meets(printed: str, low: float, high: float) -> bool:
    """Whether the printed value, itself off by up to half a unit of its last digit, lies in [low, high]."""
    value, half = float(printed), float(half_unit(printed))
    return value - half <= high and value + half >= low


def rounding_band(low: Array, high: Array) -> tuple[float, float]:
    """The range of the two-sided p when each pooled value d_i may lie anywhere in [low_i, high_i].

    t = sqrt(n) mean / sd is quasi-concave where the mean is positive. Its largest value over the box therefore
    satisfies d_i = clip(c, low_i, high_i) with c = sum d^2 / sum d, one equation in one unknown; its smallest value
    is at a corner, where every d_i below the same c is at its lower and every d_i above it at its upper end. Both
    are solved exactly, so the band is attained if no table entry occurs in two d. An entry that does is allowed
    to differ from one d to the other, which makes the band a little too wide and never too narrow. If the mean
    may be 0 the band reaches p = 1; if all d may be equal it reaches the smallest p that is reported.

    Returns:
        (lowest p, highest p); nan, nan with fewer than two values.
    """
    kept = np.isfinite(low) & np.isfinite(high)
    low, high = low[kept], high[kept]
    n = len(low)
    if n < 2:
        return math.nan, math.nan
    if low.mean() > 0:
        strongest, weakest = _largest_t(low, high), _smallest_t(low, high)
    elif high.mean() < 0:
        strongest, weakest = _largest_t(-high, -low), _smallest_t(-high, -low)
    else:
        strongest, weakest = max(_largest_t(low, high), _largest_t(-high, -low)), 0.0
    return two_sided_p(strongest, n - 1), two_sided_p(weakest, n - 1)


def _t(values: Array) -> float:
    error = float(values.std(ddof=1)) / math.sqrt(len(values))
    mean = float(values.mean())
    return mean / error if error > 1e-15 else math.inf * np.sign(mean) if mean else 0.0


def _largest_t(low: Array, high: Array) -> float:
    if high.mean() <= 0:
        return 0.0
    if low.max() <= high.min() and high.min() > 0:
        return math.inf  # one positive value lies in every interval: no spread at all

    def gap(c: float) -> float:
        d = np.clip(c, low, high)
        return float(np.sum(d * (c - d)))

    upper = float(np.sum(high**2) / np.sum(high) + np.abs(high).max())
    return _t(np.clip(optimize.brentq(gap, 0.0, upper, xtol=1e-15), low, high))


def _smallest_t(low: Array, high: Array) -> float:
    widest = np.maximum(low**2, high**2)
    nearest = np.where((low < 0) & (high > 0), 0.0, np.minimum(low**2, high**2))
    c_low, c_high = float(nearest.sum() / high.sum()), float(widest.sum() / low.sum())
    corner = np.where(high <= c_low, low, high)
    open_ = np.flatnonzero((high > c_low) & (low < c_high))
    if len(open_) > MOST_OPEN:
        # Too many to try: a bound instead, since moving by r changes the sd by at most |r| / sqrt(n - 1).
        middle, reach = (low + high) / 2, float(np.linalg.norm(high - low)) / 2
        sd = float(middle.std(ddof=1)) + reach / math.sqrt(len(low) - 1)
        return float(low.mean()) / sd * math.sqrt(len(low))
    smallest = math.inf
    for ends in itertools.product((0, 1), repeat=len(open_)):
        corner[open_] = np.where(ends, high[open_], low[open_])
        smallest = min(smallest, _t(corner))
    return smallest
