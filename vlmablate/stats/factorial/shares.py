"""How much of the differences between configurations each axis, each pair, and the rest account for.

The functional analysis of variance (Hoeffding 1948; Sobol', Math. Comput. Simul. 55, 2001, 271-280; for the choices of
a learning algorithm Hutter, Hoos & Leyton-Brown, ICML 2014): over all K configurations of the space, each counted once,
the variance of the true means mu is the sum over terms u of V_u = |P_u mu|^2 / K, and the importance of u is its share.

Scores of runs have the noise of their seeds in them, which would make every axis look important. With the mean scores m
over n seeds and the error variance s_u^2 of a term with d_u degrees of freedom (:mod:`.strata`),

    V_u = (|P_u m|^2 - d_u s_u^2 / n) / K

is unbiased; what falls below zero is set to zero, and the shares are of the sum of what is left.

Intervals come from draws. Given the error variance, x = |P_u m|^2 n / s^2 is noncentral chi-square on d_u degrees with
l = K n V_u / s^2, and sqrt(x) is about normal with the mean sqrt(l + d_u - 1) and variance 1 (Fisher's approximation;
Patnaik, Biometrika 36, 1949, 202-232). So l is drawn as max(0, sqrt(x) + z)^2 - (d_u - 1), at least 0, with s^2 drawn
as df s^2 / chi-square_df: a confidence distribution of V_u, and of the shares when all terms are drawn.

In a fitted space V_u follows from the coefficients b of the term, whose noise covariance C s^2 need not be spherical:
|b|^2 is matched to g chi-square_h(l) with g = tr(C^2) / tr(C) and h = tr(C)^2 / tr(C^2) (Satterthwaite 1946; Box 1954).
There noise and all that is not in the model cannot be told apart; both are the term "unexplained".

Simulated coverage of 95 % intervals (3 x 2 and 3 x 3 x 2 configurations, 3 and 5 seeds, run SD 1 point, effects of SD
0 to 3 points, with and without a shared step, 400 studies each): of sd .93-.998, of share .90-.998, lowest for the
largest share where the whole variance hardly exceeds the noise. Fitted spaces (20 of 36 configurations, by TPE or at
random): of sd .94-.97, and V is off by 0.06 points^2 on average at most.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vlmablate.stats.factorial.fitted import fit
from vlmablate.stats.factorial.runs import adjusted_means, read_runs, replication, suite_of
from vlmablate.stats.factorial.space import Space, Term
from vlmablate.stats.factorial.strata import HIGHER, Steps, alike_terms, degrees, squares, strata
from vlmablate.stats.settings import Settings

Array = NDArray[np.float64]

IMPORTANCE_COLUMNS = [
    *("term", "kind", "share", "ci_low", "ci_high", "sd", "sd_low", "sd_high", "df", "method", "reason")
]
"""Columns of importance.csv. share and its interval lie in [0, 1]; sd (points) is the standard deviation of the term
over the configurations, each counted once; df: degrees of freedom of the term's error."""

DRAWS = 4000

HIGHER_ORDER = "higher order"
UNEXPLAINED = "unexplained"


@dataclass(frozen=True)
class Component:
    """One part of the variance. length: |part|^2 as observed, in units in which noise adds `size` times the error
    variance; scale: V is length without noise times this; error: which error variance belongs to it."""

    name: str
    kind: str
    length: float
    size: float
    scale: float
    error: int


@dataclass(frozen=True)
class Error:
    """An error variance (points^2) and its degrees of freedom."""

    variance: float
    df: int


def importance(
    scores: pd.DataFrame,
    space: Space,
    settings: Settings,
    with_signal: Collection[str] | None = None,
    steps: Steps | None = None,
) -> pd.DataFrame:
    """The shares of the suite score's variance over the space (IMPORTANCE_COLUMNS), in the order of the terms.

    The arguments and errors are those of the package. settings.alpha is the level of the intervals and settings.seed
    draws them, so the same scores give the same table. Empty without a benchmark with signal. Shares are nan where the
    configurations differ by no more than noise, or are too few to tell effects and noise apart.
    """
    runs = read_runs(scores, space)
    suite = suite_of(runs, with_signal)
    if not suite:
        return pd.DataFrame(columns=IMPORTANCE_COLUMNS)
    kept = replication(runs, space)
    points = runs.mean(suite)
    if kept:
        values = points[np.ix_(kept.rows, kept.columns)]
        parts, errors = _of_grid(values, space, alike_terms(space, runs.ids(kept), steps))
        method = f"analysis of variance of {space.size} configurations and {len(values)} seeds"
    else:
        parts, errors = _of_fit(adjusted_means(points)[0], space, runs.arms)
        method = f"least squares over {len({arm for arm, _ in runs.run_ids})} configurations"
    return _table(parts, errors, settings, method, kept.reason)


def _of_grid(
    values: Array, space: Space, alike: Sequence[Sequence[Term]]
) -> tuple[list[Component], list[Error]]:
    """Components of a replicated grid from values [seeds, K]."""
    n, found = len(values), strata(values, space, alike)
    lengths, sizes = squares(values.mean(axis=0), space), degrees(space)
    errors = [Error(found[terms[0]].variance / n, found[terms[0]].df) for terms in alike]
    which = {term: place for place, terms in enumerate(alike) for term in terms}
    parts = [
        Component(
            space.name(term) if term != HIGHER else HIGHER_ORDER,
            {0: HIGHER_ORDER, 1: "main", 2: "interaction"}[len(term)],
            float(lengths[term]),
            size,
            1 / space.size,
            which[term],
        )
        for term, size in sizes.items()
    ]
    return parts, errors


def _of_fit(means: Array, space: Space, arms: Sequence[str]) -> tuple[list[Component], list[Error]]:
    """Components of a fitted space; the last one, "unexplained", is the error itself. Effects that cannot be told from
    each other have no error to be judged by."""
    model = fit(means, space, arms)
    parts = []
    for term in model.terms:
        coefficients, inverse, combinations = model.block(term)
        trace, trace_of_square = float(np.trace(inverse)), float(np.sum(inverse**2))
        unit = trace_of_square / trace
        parts.append(
            Component(
                space.name(term),
                "main" if len(term) == 1 else "interaction",
                float(coefficients @ coefficients) / unit,
                trace / unit,
                unit / combinations,
                0,
            )
        )
    parts.append(Component(UNEXPLAINED, UNEXPLAINED, math.nan, 0.0, 1.0, 0))
    return parts, [Error(model.variance, model.df if model.told_apart else 0)]


def _table(
    parts: Sequence[Component], errors: Sequence[Error], settings: Settings, method: str, reason: str
) -> pd.DataFrame:
    nan = np.full((3, len(parts)), math.nan)
    if all(error.df > 0 for error in errors):
        variances = _variances(parts, errors)
        draws = _draws(parts, errors, settings.seed)
        sds, shares = np.sqrt(_with_ends(variances, draws, settings.alpha)), nan
        total, totals = variances.sum(), draws.sum(axis=0)
        if total > 0:
            some = totals > 0
            shares = _with_ends(variances / total, draws[:, some] / totals[some], settings.alpha)
        else:
            reason = "the configurations differ by no more than noise"
    else:
        sds = shares = nan
        reason = f"{reason}; too few configurations to tell effects and noise apart"
    records = [
        (part.name, part.kind, *shares[:, i], *sds[:, i], errors[part.error].df, method, reason)
        for i, part in enumerate(parts)
    ]
    return pd.DataFrame(records, columns=IMPORTANCE_COLUMNS)


def _with_ends(estimates: Array, draws: Array, alpha: float) -> Array:
    """[3, parts]: the estimates [parts] and the ends of their intervals from draws [parts, draws]."""
    return np.stack([estimates, *np.quantile(draws, [alpha / 2, 1 - alpha / 2], axis=1)])


def _variances(parts: Sequence[Component], errors: Sequence[Error]) -> Array:
    """V of every part (points^2), noise taken out and not below 0."""
    found = []
    for part in parts:
        noise = errors[part.error].variance
        found.append(noise if part.kind == UNEXPLAINED else part.scale * (part.length - part.size * noise))
    return np.maximum(np.array(found), 0.0)


def _draws(parts: Sequence[Component], errors: Sequence[Error], seed: int) -> Array:
    """[parts, DRAWS] draws from the confidence distributions of V; parts with one error share its draws."""
    rng = np.random.default_rng(seed)
    noises = [error.variance * error.df / rng.chisquare(error.df, DRAWS) for error in errors]
    drawn = np.empty((len(parts), DRAWS))
    for row, part in zip(drawn, parts, strict=True):
        noise = noises[part.error]
        if part.kind == UNEXPLAINED:
            row[:] = noise
            continue
        root = np.sqrt(part.length) + np.sqrt(noise) * rng.standard_normal(DRAWS)
        row[:] = part.scale * np.maximum(np.maximum(root, 0.0) ** 2 - (part.size - 1) * noise, 0.0)
    return drawn
