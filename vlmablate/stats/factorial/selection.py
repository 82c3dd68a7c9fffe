"""The winner's curse: by how much the best of many configurations is expected to look better than it is.

Of many configurations whose mean scores m [K] over n seeds carry noise, the best looking one is partly the luckiest.
What is expected of each of them is shrunken towards the average: main effects, pairs of axes, and the rest each by a
factor of their own. With P_o the projection onto the effects of order o, d_o their degrees of freedom and s_o^2 their
error variance (:mod:`.strata`),

    mean(m) + sum_o B_o P_o m,   B_o = max(0, 1 - d_o s_o^2 / (n |P_o m|^2))

the share of the observed spread that is not noise (empirical Bayes for normal effects whose variance differs from order
to order: Efron & Morris, J. Am. Statist. Assoc. 68, 1973, 117-130). A posterior mean does not depend on why a
configuration was looked at, so the expected optimism of the best is what is taken off it. Luck that all configurations
of a seed share cannot make one of them the best, and is left alone.

Simulated with 3 seeds, run SD 1 point and 4 to 72 configurations: where axes matter (effects of SD 0.3 to 2 points) the
expected optimism is .7 to 1.05 times the true one of 0.2 to 1.2 points, with a shared step .7 to 1.25 times. Where no
configuration differs from another it is .56 (4 configurations) to .87 (72) times 0.6 to 1.4 points, since an estimated
spread is not let below 0: one more reason to run the best again with fresh seeds. One common factor for all effects
would be closer there, but expect .43 of the true optimism among 72 configurations of which two axes matter.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vlmablate.errors import DataError
from vlmablate.stats.factorial.fitted import fit
from vlmablate.stats.factorial.runs import Runs, adjusted_means, counts, read_runs, replication, suite_of
from vlmablate.stats.factorial.space import Space, Term
from vlmablate.stats.factorial.strata import degrees, parts, strata

Array = NDArray[np.float64]

_DIGITS = 9
"""Of a mean in points: configurations that differ by less are equally good."""


@dataclass(frozen=True)
class Selection:
    """The best of the explored configurations, in points of the suite score.

    best: its arm. explored_mean: its mean over seeds, as it looks; shrunken: what is expected of it; expected_optimism:
    the difference. lead, shrunken_lead: the same minus the baseline arm (nan if that was not run; 0 if it is the best).
    noise_sd: between runs of one configuration; spread_sd: between the true means of the configurations.
    configurations: how many were run; n_seeds: runs of the best. reason: why there is no shrunken value, or what
    noise_sd was taken from.
    """

    best: str
    explored_mean: float
    shrunken: float
    expected_optimism: float
    lead: float
    shrunken_lead: float
    noise_sd: float
    spread_sd: float
    configurations: int
    n_seeds: int
    reason: str


@dataclass(frozen=True)
class Shrinkage:
    """Means [arms] as observed and shrunken (nan for arms without runs), the variances of runs of one configuration and
    between the true means (points^2), and the reason in the words of `Selection`."""

    means: Array
    shrunken: Array
    noise: float
    spread: float
    reason: str


def curse(scores: pd.DataFrame, space: Space, with_signal: Collection[str] | None = None) -> Selection:
    """What the explored runs say about their best configuration, and how much of it is luck.

    The arguments and errors are those of the package; DataError also without a benchmark with signal, as nothing is
    best then. Equal means: the first in the order of the space.
    """
    runs, found = _shrunk(scores, space, with_signal)
    best = _ranked(found.means, space, runs.arms)[0]
    baseline = space.arm_of.get(space.baseline)
    base = runs.arms.index(baseline) if baseline is not None else -1
    lead, shrunken_lead = (
        (float(values[best] - values[base]) if base >= 0 else math.nan)
        for values in (found.means, found.shrunken)
    )
    return Selection(
        best=runs.arms[best],
        explored_mean=float(found.means[best]),
        shrunken=float(found.shrunken[best]),
        expected_optimism=float(found.means[best] - found.shrunken[best]),
        lead=lead,
        shrunken_lead=shrunken_lead,
        noise_sd=math.sqrt(found.noise),
        spread_sd=math.sqrt(found.spread),
        configurations=int(np.sum(~np.isnan(found.means))),
        n_seeds=counts(runs)[runs.arms[best]],
        reason=found.reason,
    )


def configurations(
    scores: pd.DataFrame, space: Space, with_signal: Collection[str] | None = None
) -> pd.DataFrame:
    """The configurations that were run, best first: arm, rank, n_seeds, mean, shrunken (points). Errors: as `curse`."""
    runs, found = _shrunk(scores, space, with_signal)
    ran = _ranked(found.means, space, runs.arms)
    number = counts(runs)
    records = [
        (runs.arms[i], rank, number[runs.arms[i]], float(found.means[i]), float(found.shrunken[i]))
        for rank, i in enumerate(ran, 1)
    ]
    return pd.DataFrame(records, columns=["arm", "rank", "n_seeds", "mean", "shrunken"])


def _ranked(means: Array, space: Space, arms: Sequence[str]) -> list[int]:
    """The places of the arms that have runs, best first; equal means in the order of `Space.grid`."""
    order = {levels: place for place, levels in enumerate(space.grid)}
    ran = [place for place in range(len(arms)) if not math.isnan(means[place])]
    return sorted(ran, key=lambda i: (-round(float(means[i]), _DIGITS), order[tuple(space.levels[arms[i]])]))


def _shrunk(
    scores: pd.DataFrame, space: Space, with_signal: Collection[str] | None
) -> tuple[Runs, Shrinkage]:
    runs = read_runs(scores, space)
    suite = suite_of(runs, with_signal)
    if not suite:
        raise DataError("no benchmark carries signal, so no configuration is the best")
    points, kept = runs.mean(suite), replication(runs, space)
    means, noise, _ = adjusted_means(points)
    if not kept:
        return runs, _of_fit(means, noise, space, runs.arms)
    shrunken = np.full(len(means), math.nan)
    values = points[np.ix_(kept.rows, kept.columns)]
    shrunken[list(kept.columns)], spread = shrink(values, space)
    return runs, Shrinkage(means, shrunken, noise, spread, kept.reason)


def shrink(values: Array, space: Space) -> tuple[Array, float]:
    """(shrunken means [K], variance between true means) of a replicated grid, from values [seeds, K]."""
    mean, d = values.mean(axis=0), degrees(space)
    by_term = parts(mean, space)
    shrunken, spread = np.full(space.size, mean.mean()), 0.0
    for terms in _by_order(d):
        part = np.sum([by_term[term] for term in terms], axis=0)
        error = strata(values, space, [terms])[terms[0]].variance * sum(d[term] for term in terms)
        length = float(part @ part)
        left = max(0.0, length - error / len(values))
        if left:
            shrunken = shrunken + left / length * part
        spread += left / space.size
    return shrunken, spread


def _by_order(terms: Iterable[Term]) -> list[list[Term]]:
    """Main effects, pairs, and HIGHER: whichever of them there are."""
    orders = [[term for term in terms if len(term) == order] for order in (1, 2, 0)]
    return [found for found in orders if found]


def _of_fit(means: Array, noise: float, space: Space, arms: Sequence[str]) -> Shrinkage:
    """The same from a fitted model: what it does not account for is taken for noise."""
    model = fit(means, space, arms)
    if not model.df:
        reason = "too few configurations to tell noise from differences between them"
        return Shrinkage(means, np.full(len(means), math.nan), noise, math.nan, reason)
    kept: dict[Term, float] = {}
    spread = 0.0
    for terms in _by_order(model.terms):
        length = error = 0.0
        for term in terms:
            coefficients, inverse, combinations = model.block(term)
            length += float(coefficients @ coefficients) / combinations
            error += model.variance * float(np.trace(inverse)) / combinations
        left = max(0.0, length - error)
        kept |= dict.fromkeys(terms, left / length if left else 0.0)
        spread += left
    shrunken = np.full(len(means), math.nan)
    for place, arm in enumerate(arms):
        if math.isnan(means[place]):
            continue
        rows = [model.tried[i][level] for i, level in enumerate(space.levels[arm])]
        added = [factor * model.part(term, [rows[i] for i in term]) for term, factor in kept.items()]
        shrunken[place] = model.coefficients[0] + sum(added)
    reason = "what the fitted effects do not account for is taken for noise"
    return Shrinkage(means, shrunken, model.variance if math.isnan(noise) else noise, spread, reason)
