"""How the error rate of a test that looks several times is shared out over its looks.

A one-sided test of level g that has collected the share s of its information may have spent g s^EXPONENT by then (error
spending: Lan & DeMets, Biometrika 70, 1983, 659-663; this family: Kim & DeMets, Biometrika 74, 1987, 149-154). The
nominal level of a look is what makes the chance to reject for the first time there equal to what may be spent there. It
is found by the recursion of Armitage, McPherson & Rowe (J. R. Statist. Soc. A 132, 1969, 235-244) for normal estimates,
whose correlation between looks i < j is sqrt(s_i / s_j).

The statistics here are t values whose error is pooled over a few runs. Their tail at every look is that of t, but with
few degrees of freedom they are less correlated between looks than normal estimates, so that taking the normal levels
for t tails (the significance level approach of Jennison & Turnbull, Group Sequential Methods, 2000, sec. 4.4) is a
little liberal. An allowance pays for that.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

from vlmablate.errors import DataError

Floats = NDArray[np.float64]

EXPONENT = 1.25
"""1 lets every share of the information count alike, 3 leaves nearly everything to the last look. Simulated from .8 to
3, also with other exponents for the two questions: below 1.25 power is lost, above it studies end later."""

ALLOWANCE, SINGLE_PAIR_ALLOWANCE = 1.15, 1.24
"""Factors on sequential p-values: what covers the ratios of true to nominal error of t values, simulated over 1 to 4
contrasts, 3 to 37 seeds, and the levels that Holm's correction of that many contrasts asks for at alpha = .05. The
second is for a single contrast of paired seeds in one context, which begins with two degrees of freedom."""

SMALLEST_LEVEL = 1e-8
"""Sequential p-values below it are reported as this bound."""

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(128)
_FAR = 8.5  # standard deviations beyond which the normal law is cut off
_LEVELS = np.geomspace(SMALLEST_LEVEL, 0.5, 41)


@lru_cache(maxsize=256)
def nominal_levels(level: float, fractions: tuple[float, ...]) -> tuple[float, ...]:
    """One-sided nominal levels of the looks at information `fractions`, of a normal test whose level is `level`.

    A test that rejects at the first look whose p-value is at most the look's nominal level rejects a true hypothesis
    with probability level * fraction^EXPONENT up to that look, so with `level` in all if the last fraction is 1.
    Raises DataError for fractions that do not increase within (0, 1] and a level outside (0, 0.5].
    """
    if (
        not fractions
        or list(fractions) != sorted(set(fractions))
        or not 0 < fractions[0] <= fractions[-1] <= 1
    ):
        raise DataError(f"fractions of information must increase within (0, 1], got {fractions}")
    if not 0 < level <= 0.5:
        raise DataError(f"the level of a one-sided test must lie in (0, 0.5], got {level}")
    # The score process S = Z sqrt(fraction) has independent increments; (points, mass) hold its law while the test
    # goes on: P(not rejected yet, S in ds).
    nominal, points, mass, before = [], np.zeros(1), np.ones(1), 0.0
    for fraction in fractions:
        step, scale = math.sqrt(fraction - before), math.sqrt(fraction)
        spend = level * (fraction**EXPONENT - before**EXPONENT)
        bound = _bound(points, mass, step, spend, _FAR * scale)
        nominal.append(float(special.ndtr(-bound / scale)))
        width = bound + _FAR * scale
        new = (_NODES + 1) / 2 * width - _FAR * scale
        distance = (new[:, None] - points[None, :]) / step
        density = np.exp(-(distance**2) / 2) @ mass / (math.sqrt(2 * math.pi) * step)
        points, mass, before = new, density * _WEIGHTS * (width / 2), fraction
    return tuple(nominal)


def _bound(points: Floats, mass: Floats, step: float, spend: float, far: float) -> float:
    """The score above which a normal step from `points` ends with probability `spend`."""
    return float(
        optimize.brentq(
            lambda bound: float(mass @ special.ndtr((points - bound) / step)) - spend, -far, far, xtol=1e-10
        )
    )


@lru_cache(maxsize=64)
def _inverse(fractions: tuple[float, ...]) -> Floats:
    """Logarithms of the nominal levels [looks, levels] that belong to the levels _LEVELS."""
    return np.log(np.array([nominal_levels(float(level), fractions) for level in _LEVELS]).T)


def sequential_p(p: Floats, fractions: tuple[float, ...], look: int, allowance: float) -> Floats:
    """The smallest levels at which the sequential test rejects at look number `look` (from 0), for one-sided tails `p`.

    The smallest of them over the looks so far is a p-value that holds whenever one stops: under the hypothesis it is at
    most g with probability at most g (levels above allowance / 2 are returned as 1). Inverting spending
    functions this way, sequential tests of several hypotheses can be adjusted like any p-values (Maurer & Bretz,
    Statist. Biopharm. Res. 5, 2013, 311-320; for Holm: Ye, Li, Liu & Yao, Statist. Med. 32, 2013, 1112-1124).
    """
    with np.errstate(divide="ignore"):
        tail = np.log(p)
    level = np.exp(np.interp(tail, _inverse(fractions)[look], np.log(_LEVELS), right=0.0))
    return np.asarray(np.minimum(allowance * level, 1.0))


def critical_level(level: float, fractions: tuple[float, ...], look: int, allowance: float) -> float:
    """The t tail that makes sequential_p equal to `level` at look number `look` (from 0)."""
    return nominal_levels(level / allowance, fractions)[look]
