"""Looking while the evaluation runs: intervals and evidence that hold at every moment at once."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vlmablate.errors import DataError
from vlmablate.stats.groups import finite
from vlmablate.stats.power import check_alpha

LARGEST_BET = 0.5
"""Cap of the predictable weights (c in the paper), below 1."""


@dataclass(frozen=True)
class Sequence:
    """Confidence sequence of a mean difference: after t differences it lies in [low[t-1], high[t-1]].

    low, high [n] in the unit of the differences: with probability 1 - alpha the true mean is inside at all t at
    once, so one may stop whenever one likes. log_e_value [n]: natural log of the evidence against a mean of 0 (an
    e-process: at any stopping time its exponential has expectation at most 1 if the mean is 0). decided_at: number
    of differences after which 0 was outside for the first time, None if it never was.
    """

    low: NDArray[np.float64]
    high: NDArray[np.float64]
    log_e_value: NDArray[np.float64]
    decided_at: int | None


def sequence(
    differences: ArrayLike, *, alpha: float = 0.05, bounds: tuple[float, float] = (-1.0, 1.0)
) -> Sequence:
    """Anytime-valid intervals of the mean of `differences` [n], taken in the given order.

    The order must be random: shuffle the examples first, and where several share a picture, shuffle the pictures
    and enter one mean difference per picture. bounds: limits that no difference can exceed, known beforehand.

    Predictable plug-in empirical-Bernstein sequence (Waudby-Smith & Ramdas, J. R. Statist. Soc. B 86, 2024, 1-27,
    theorem 2), for x in [0, 1]:

    * m_t = (1/2 + sum_{i<=t} x_i) / (t + 1), s_t^2 = (1/4 + sum_{i<=t} (x_i - m_i)^2) / (t + 1)
    * l_t = min(sqrt(2 log(2 / alpha) / (s_{t-1}^2 t log(1 + t))), LARGEST_BET)
    * v_t = 4 (x_t - m_{t-1})^2, psi(l) = (-log(1 - l) - l) / 4
    * interval: (sum l_i x_i +- (log(2 / alpha) + sum v_i psi(l_i))) / sum l_i, intersected over time

    The e-value against the mean m is the average of exp(sum +-l_i (x_i - m) - v_i psi(l_i)) over both signs; it is
    at least 1 / alpha whenever m is outside the interval. Raises DataError for no difference, one that is not
    finite or outside the bounds, bounds that are not finite and increasing, alpha outside (0, 0.5).
    """
    check_alpha(alpha)
    values = finite(differences, "differences")
    lowest, highest = float(bounds[0]), float(bounds[1])
    if not (lowest < highest and math.isfinite(lowest) and math.isfinite(highest)):
        raise DataError(f"bounds must be finite and increasing, got {bounds}")
    width = highest - lowest
    x = (values - lowest) / width
    outside = np.flatnonzero((x < -1e-12) | (x > 1 + 1e-12))
    if len(outside):
        raise DataError(
            f"{len(outside)} of {len(x)} differences lie outside the bounds {bounds}, the first at position "
            f"{outside[0]}: {values[outside[0]]}"
        )
    x = np.clip(x, 0.0, 1.0)
    t = np.arange(1, len(x) + 1)
    mean = (0.5 + np.cumsum(x)) / (t + 1)
    variance = (0.25 + np.cumsum((x - mean) ** 2)) / (t + 1)
    previous_mean = np.concatenate([[0.5], mean[:-1]])
    previous_variance = np.concatenate([[0.25], variance[:-1]])
    cost = math.log(2 / alpha)
    bet = np.minimum(np.sqrt(2 * cost / (previous_variance * t * np.log1p(t))), LARGEST_BET)
    penalty = np.cumsum((x - previous_mean) ** 2 * (-np.log1p(-bet) - bet))
    total = np.cumsum(bet)
    centre, reach = np.cumsum(bet * x) / total, (cost + penalty) / total
    low = np.maximum.accumulate(np.maximum(centre - reach, 0.0))
    high = np.minimum.accumulate(np.minimum(centre + reach, 1.0))
    zero = -lowest / width
    gain = np.cumsum(bet * (x - zero))
    log_e_value = np.logaddexp(gain, -gain) - penalty - math.log(2)
    decided = (low > zero) | (high < zero)
    return Sequence(
        low=lowest + width * low,
        high=lowest + width * high,
        log_e_value=log_e_value,
        decided_at=int(np.argmax(decided)) + 1 if decided.any() else None,
    )


def e_bh(e_values: ArrayLike, alpha: float = 0.05) -> NDArray[np.bool_]:
    """Which of the hypotheses with `e_values` [m] are rejected at false discovery rate alpha.

    The k largest are, for the largest k with e_(k) >= m / (k alpha) (Wang & Ramdas, J. R. Statist. Soc. B 84, 2022,
    822-852). Holds under any dependence between the e-values, so also for arms with a shared baseline. inf is
    allowed. Raises DataError for an empty or not one-dimensional array, a negative or missing e-value, alpha
    outside (0, 0.5).
    """
    check_alpha(alpha)
    e = np.asarray(e_values, dtype=np.float64)
    if e.ndim != 1 or not len(e):
        raise DataError(f"e-values must be a non-empty vector, got shape {e.shape}")
    bad = np.flatnonzero(~(e >= 0))
    if len(bad):
        raise DataError(
            f"{len(bad)} of {len(e)} e-values are negative or missing, the first at position {bad[0]}"
        )
    order = np.argsort(-e, kind="stable")
    rank = np.arange(1, len(e) + 1)
    enough = np.flatnonzero(e[order] * rank * alpha >= len(e))
    rejected = np.zeros(len(e), dtype=bool)
    rejected[order[: enough[-1] + 1 if len(enough) else 0]] = True
    return rejected
