"""What a comparison could have found, and how many seeds or examples would find it.

Standard errors and effects share one unit, whichever it is. `sd` is the spread between training runs that
differ in their seed only. A contrast of an arm and its baseline, averaged over C contexts with n seeds per cell,
has the standard error sd sqrt(2 / (n C)); its error variance is pooled over `cells` cells of n runs, so it has
cells (n - 1) degrees of freedom.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, stats

from vlmablate.errors import DataError, unknown_name
from vlmablate.stats.settings import ALTERNATIVES, Alternative

LARGEST_SEED_COUNT = 200
"""Beyond this many seeds per arm the advice is a larger margin, not more seeds."""

_QUADRATURE = np.polynomial.legendre.leggauss(200)


class MdePoint(NamedTuple):
    """With `seeds` per cell: the minimal detectable effect and the half-width of the 1 - alpha interval."""

    seeds: int
    mde: float
    half_width: float


def check_alpha(alpha: float, power: float | None = None) -> None:
    """Raise DataError unless 0 < alpha < 0.5 and, if `power` is given, alpha < power < 1."""
    if not 0 < alpha < 0.5:
        raise DataError(f"alpha must lie in (0, 0.5), got {alpha}")
    if power is not None and not alpha < power < 1:
        raise DataError(f"power must lie between alpha ({alpha}) and 1, got {power}")


def _check_positive(**values: float) -> None:
    for name, value in values.items():
        if not (value > 0 and math.isfinite(value)):
            raise DataError(f"{name.replace('_', ' ')} must be positive and finite, got {value}")


def _power_of_t(
    noncentrality: ArrayLike, df: ArrayLike, alpha: float, alternative: Alternative = "two-sided"
) -> NDArray[np.float64]:
    """Chance that the level-alpha t test on `df` rejects when effect / standard error is `noncentrality` >= 0.

    For the one-sided tests the effect lies in the direction that is tested.
    """
    shift, degrees = np.broadcast_arrays(np.asarray(noncentrality, float), np.asarray(df, float))
    normal = np.isinf(degrees)
    finite = np.where(normal, 1.0, degrees)
    tail = alpha / 2 if alternative == "two-sided" else alpha
    critical = np.where(normal, stats.norm.isf(tail), stats.t.isf(tail, finite))
    power = np.where(normal, stats.norm.sf(critical - shift), stats.nct.sf(critical, finite, shift))
    if (
        alternative == "two-sided"
    ):  # rejections on the wrong side: P(T < -c) under shift is P(T > c) under -shift
        wrong = np.where(normal, stats.norm.sf(critical + shift), stats.nct.sf(critical, finite, -shift))
        power = power + np.nan_to_num(wrong)  # far out in this tail scipy may give nan for what is 0
    return np.asarray(power, dtype=np.float64)


def mde(
    se: float,
    df: float = math.inf,
    *,
    alpha: float = 0.05,
    power: float = 0.8,
    alternative: Alternative = "two-sided",
) -> float:
    """Minimal detectable effect: the smallest true difference that a t test detects with the given power.

    Solves P(reject | T noncentral t on `df`, noncentrality effect / se) = power (Cohen 1988, sec. 2.5);
    normal for df = inf. For a one-sided test it is the size of a difference in the tested direction. nan
    without replication (nan or infinite se, df <= 0); 0 for se = 0. Raises DataError for a negative se, alpha
    outside (0, 0.5) or power outside (alpha, 1), UserError for an unknown alternative.
    """
    check_alpha(alpha, power)
    if alternative not in ALTERNATIVES:
        raise unknown_name("alternative", str(alternative), ALTERNATIVES)
    if se < 0:
        raise DataError(f"a standard error cannot be negative, got {se}")
    if not (df > 0 and math.isfinite(se)):
        return math.nan
    if se == 0:
        return 0.0

    return _detectable_noncentrality(float(df), alpha, power, alternative) * se


@lru_cache(maxsize=4096)  # a table asks for the same few degrees of freedom over and over
def _detectable_noncentrality(df: float, alpha: float, power: float, alternative: Alternative) -> float:
    """Effect / standard error at which the t test on `df` has the given power."""

    def gap(noncentrality: float) -> float:
        return float(_power_of_t(noncentrality, df, alpha, alternative)) - power

    upper = 1.0
    while gap(upper) < 0:
        upper *= 2
    return float(optimize.brentq(gap, 0.0, upper, xtol=1e-10))


def _designs(
    sd: float, cells: int, paired: bool, contexts: int
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Seed counts 2..LARGEST_SEED_COUNT with the standard error and degrees of freedom of the contrast."""
    if contexts < 1 or cells < 2:
        raise DataError(f"a contrast needs a context and two cells, got contexts={contexts}, cells={cells}")
    n = np.arange(2, LARGEST_SEED_COUNT + 1)
    if paired:
        return n, sd / np.sqrt(n * contexts), (contexts * (n - 1)).astype(float)
    return n, sd * np.sqrt(2 / (n * contexts)), (max(cells, 2 * contexts) * (n - 1)).astype(float)


def _first(seeds: NDArray[np.int64], enough: NDArray[np.bool_]) -> int | None:
    return int(seeds[np.argmax(enough)]) if enough.any() else None


def seeds_needed(
    effect: float,
    sd: float,
    *,
    alpha: float = 0.05,
    power: float = 0.8,
    cells: int = 2,
    paired: bool = False,
    contexts: int = 1,
) -> int | None:
    """Fewest seeds per arm (and context) with which a two-sided test detects `effect` with the given power.

    cells: cells whose spread is pooled for the error, at least the contrast's own 2 * contexts. paired: sd is
    the spread of the differences between runs of the same seed, whose error is pooled over the contexts only
    (contexts (n - 1) degrees of freedom). At least 2, as one seed has no spread; None if more than
    LARGEST_SEED_COUNT are needed or sd is nan. Raises DataError for an effect that is not positive, a negative
    sd, alpha outside (0, 0.5), power outside (alpha, 1), or counts below those that a contrast needs.
    """
    check_alpha(alpha, power)
    _check_positive(effect=effect)
    if sd < 0:
        raise DataError(f"a standard deviation cannot be negative, got {sd}")
    n, se, df = _designs(sd, cells, paired, contexts)
    if not math.isfinite(sd):
        return None
    if sd == 0:
        return 2
    return _first(n, _power_of_t(effect / se, df, alpha) >= power)


def _power_of_equivalence(margin: float, effect: float, se: float, df: float, alpha: float) -> float:
    """Chance that TOST at level alpha declares equivalence within +-margin when the true difference is `effect`.

    Exact for a normal estimate with an independent chi-square variance (Phillips, J. Pharmacokin. Biopharm. 18,
    1990, 137-144): given s = estimated / true standard error, equivalence needs |estimate| <= margin -
    t_crit s se; the chance of that is integrated over the law of s by Gauss-Legendre in its quantile.
    """
    critical = float(stats.t.isf(alpha, df))
    largest = float(
        stats.chi2.cdf(df * (margin / (critical * se)) ** 2, df)
    )  # above it no estimate qualifies
    nodes, weights = _QUADRATURE
    s = np.sqrt(stats.chi2.ppf(largest * (nodes + 1) / 2, df) / df)
    reach = margin / se - critical * s
    chance = stats.norm.cdf(reach - effect / se) - stats.norm.cdf(-reach - effect / se)
    return float(largest / 2 * np.sum(weights * np.maximum(chance, 0.0)))


def seeds_for_equivalence(
    margin: float,
    sd: float,
    *,
    alpha: float = 0.05,
    power: float = 0.8,
    cells: int = 2,
    paired: bool = False,
    contexts: int = 1,
    effect: float = 0.0,
) -> int | None:
    """Fewest seeds per arm (and context) with which TOST declares equivalence with the given power.

    effect: the true difference, 0 by default; |effect| must be below the margin. alpha is the level of each
    one-sided test (the interval is 1 - 2 alpha). The other arguments, the result and the errors are those of
    seeds_needed.
    """
    check_alpha(alpha, power)
    _check_positive(margin=margin)
    if not abs(effect) < margin:
        raise DataError(
            f"a true difference of {effect} is not equivalent within +-{margin}; no seeds can show it"
        )
    if sd < 0:
        raise DataError(f"a standard deviation cannot be negative, got {sd}")
    n, se, df = _designs(sd, cells, paired, contexts)
    if not math.isfinite(sd):
        return None
    if sd == 0:
        return 2
    chances = [
        _power_of_equivalence(margin, abs(effect), error, freedom, alpha)
        for error, freedom in zip(se.tolist(), df.tolist(), strict=True)
    ]
    return _first(n, np.array(chances) >= power)


def examples_needed(
    effect: float,
    *,
    variance: float,
    noise_alternate: float = 0.0,
    noise_baseline: float = 0.0,
    samples_alternate: float = 1,
    samples_baseline: float = 1,
    design_effect: float = 1.0,
    alpha: float = 0.05,
    power: float = 0.8,
) -> int:
    """Independent examples with which a paired comparison of two checkpoints detects `effect`.

    n = deff (z_{1-alpha/2} + z_power)^2 (w^2 + s_A^2 / K_A + s_B^2 / K_B) / effect^2 (Miller 2024,
    arXiv 2411.00640, eq. 9). variance w^2: of the examples' expected differences; noise s^2: variance of one
    sampled answer to one example, averaged over the examples, with K samples of it (math.inf: the expected
    score); design_effect: variance inflation by clusters of examples. Raises DataError for an effect, a
    sample count or a design effect that is not positive, and for a variance that is negative or nan.
    """
    check_alpha(alpha, power)
    _check_positive(effect=effect, design_effect=design_effect)
    spread = {"variance": variance, "noise_alternate": noise_alternate, "noise_baseline": noise_baseline}
    for name, value in spread.items():
        if not (value >= 0 and math.isfinite(value)):
            raise DataError(f"{name.replace('_', ' ')} must be finite and not negative, got {value}")
    if not (samples_alternate > 0 and samples_baseline > 0):
        raise DataError(f"sample counts must be positive, got {samples_alternate} and {samples_baseline}")
    quantiles = float(stats.norm.isf(alpha / 2) + stats.norm.ppf(power))
    total = variance + noise_alternate / samples_alternate + noise_baseline / samples_baseline
    return max(1, math.ceil(design_effect * quantiles**2 * total / effect**2))


def mde_curve(
    sd: float,
    seeds: Sequence[int],
    *,
    cells: int = 2,
    contexts: int = 1,
    alpha: float = 0.05,
    power: float = 0.8,
) -> list[MdePoint]:
    """The minimal detectable effect and the interval's half-width for each number of seeds per cell.

    cells and contexts as in seeds_needed. nan for one seed (no replication) and for a nan sd. Raises DataError
    for a seed count below 1, no seed count at all, or a negative sd.
    """
    check_alpha(alpha, power)
    if len(seeds) == 0 or min(seeds) < 1:
        raise DataError(f"a curve over seeds needs seed counts of at least 1, got {list(seeds)}")
    if sd < 0 or contexts < 1 or cells < 2:
        raise DataError(
            f"a curve over seeds needs sd >= 0, a context and two cells, got sd={sd}, contexts={contexts}, "
            f"cells={cells}"
        )
    curve = []
    for n in seeds:
        se, df = sd * math.sqrt(2 / (n * contexts)), max(cells, 2 * contexts) * (n - 1)
        half_width = float(stats.t.isf(alpha / 2, df)) * se if df else math.nan
        curve.append(MdePoint(int(n), mde(se, df, alpha=alpha, power=power), half_width))
    return curve


def seeds_to_settle(sd: float, cells: int, squared_weights: float, margin: float, alpha: float) -> int | None:
    """Seeds per arm after which a contrast is decided whichever way it falls.

    With half-widths h_d of the 1 - alpha and h_e of the 1 - 2 alpha interval, any estimate is either beyond
    h_d (a difference) or within margin - h_e (equivalent) as soon as h_d + h_e <= margin. `alpha` is already
    divided by the size of the family; `squared_weights` is sum(w^2) over the contrast's cells. Assumes that
    the pooled sd stays what it is. None if more than LARGEST_SEED_COUNT would be needed or sd is unknown.
    """
    if not math.isfinite(sd):
        return None
    n = np.arange(2, LARGEST_SEED_COUNT + 1)
    df = cells * (n - 1)
    widths = (stats.t.isf(alpha / 2, df) + stats.t.isf(alpha, df)) * sd * np.sqrt(squared_weights / n)
    return _first(n, widths <= margin)
