"""What each effect of a replicated grid is tested against: its own interaction with the seeds.

Every seed runs every configuration, so seeds are blocks. Let y_s [K] be the scores of seed s on the K configurations
and P_u the projection onto the part of a term u (an axis, a pair, all of higher order): P_u is the product over the
axes of I - J/a for those in u and J/a for the others. With seeds that are independent of each other,

    E |P_u mean(y)|^2 = |P_u mu|^2 + tr(P_u S) / n,     E sum_s |P_u (y_s - mean(y))|^2 = (n - 1) tr(P_u S)

for *any* covariance S of a seed's scores, equal or unequal variances, shared steps and all. The mean square of seed x u
on d_u (n - 1) degrees of freedom is therefore the error of u: the rule of the analysis of variance within subjects and
of split plots (Cochran & Cox, Experimental Designs, 1957, ch. 7; Winer, Statistical Principles in Experimental Design,
1971, ch. 7). Pooling the spread within all cells instead would be wrong where configurations share a trained step: two
levels of an axis that acts before a shared step differ by that step's luck once per seed, however many configurations
are averaged.

The price is few degrees of freedom. They are won back where it is known which runs share which steps: terms that every
step enters alike have equal errors, and pool them. A step of role r, trained once per seed and group of configurations
g, enters u with sum_g |P_u 1_g|^2 / d_u; terms with the same numbers for every role form a stratum. If no two
configurations share a step, all terms do, on (K - 1)(n - 1) degrees of freedom.

Within a stratum runs are taken to have the same spread. Between axes of two levels that is not needed; for three and
more, see the figures in :mod:`.effect_table`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlmablate.stats.factorial.space import Space, Term

Array = NDArray[np.float64]

HIGHER: Term = ()
"""Stands for all interactions of three axes or more together."""

Steps = Mapping[str, Mapping[str, str]]
"""run_id -> role -> id of the step, as in study.json."""

_RELATIVE_ZERO = 1e-12  # a spread this small beside the scores is rounding


def degrees(space: Space) -> dict[Term, int]:
    """Degrees of freedom of every term, HIGHER last if there is any."""
    sizes = space.sizes
    found = {term: math.prod(sizes[i] - 1 for i in term) for term in space.terms}
    rest = space.size - 1 - sum(found.values())
    return {**found, HIGHER: rest} if rest else found


def parts(values: Array, space: Space) -> dict[Term, Array]:
    """Term -> P_u values: values [..., K] in the order of `Space.grid` are the sum of their mean and these [..., K]."""
    lead, sizes = values.shape[:-1], space.sizes
    first, cells = len(lead), values.reshape(*lead, *sizes)
    found: dict[Term, Array] = {}
    for term in space.terms:
        part = cells.mean(axis=tuple(first + i for i in range(len(sizes)) if i not in term), keepdims=True)
        for i in term:
            part = part - part.mean(axis=first + i, keepdims=True)
        found[term] = np.broadcast_to(part, cells.shape).reshape(values.shape)
    if HIGHER in degrees(space):
        found[HIGHER] = values - values.mean(axis=-1, keepdims=True) - sum(found.values())
    return found


def squares(values: Array, space: Space) -> dict[Term, Array]:
    """Term -> |P_u values|^2 over the configurations: values [..., K] give [...]."""
    return {term: np.sum(part**2, axis=-1) for term, part in parts(values, space).items()}


@dataclass(frozen=True)
class Stratum:
    """The error of a term: variance of one run as the term sees it (0 for what is rounding beside the scores), its
    degrees of freedom, and the terms whose interactions with the seeds were pooled for it."""

    variance: float
    df: int
    pooled: tuple[Term, ...]


def strata(values: Array, space: Space, alike: Sequence[Sequence[Term]]) -> dict[Term, Stratum]:
    """The error of every term from values [seeds, K]; alike: the terms by stratum (`alike_terms`)."""
    d, seeds = degrees(space), len(values)
    around = {term: float(s.sum()) for term, s in squares(values - values.mean(axis=0), space).items()}
    nothing = (_RELATIVE_ZERO * float(np.abs(values).max())) ** 2
    found: dict[Term, Stratum] = {}
    for terms in alike:
        df = (seeds - 1) * sum(d[term] for term in terms)
        variance = sum(around[term] for term in terms) / df
        stratum = Stratum(variance if variance > nothing else 0.0, df, tuple(terms))
        found |= dict.fromkeys(terms, stratum)
    return found


def alike_terms(space: Space, run_ids: Sequence[Sequence[str]], steps: Steps | None) -> list[list[Term]]:
    """The terms of every stratum. run_ids [seeds][K] in the order of `Space.grid`; without `steps`, or with a run that
    they do not know, every term is on its own.

    A step that several seeds share does not vary with the seed, and is no part of the error.
    """
    terms = list(degrees(space))
    if steps is None or any(run not in steps for row in run_ids for run in row):
        return [[term] for term in terms]
    by_signature: dict[tuple[float, ...], list[Term]] = {}
    entering = _entering(space, run_ids, steps)
    for term in terms:
        by_signature.setdefault(tuple(shares[term] for shares in entering), []).append(term)
    return list(by_signature.values())


def _entering(space: Space, run_ids: Sequence[Sequence[str]], steps: Steps) -> list[dict[Term, float]]:
    """For every role: term -> sum_g |P_u 1_g|^2 / d_u, averaged over the seeds."""
    seeds_of: dict[str, set[int]] = {}
    for seed, row in enumerate(run_ids):
        for run in row:
            for step in steps[run].values():
                seeds_of.setdefault(step, set()).add(seed)
    d = degrees(space)
    roles = sorted({role for row in run_ids for run in row for role in steps[run]})
    found = []
    for role in roles:
        groups = []
        for row in run_ids:
            members = [steps[run].get(role, "") for run in row]
            own = sorted({step for step in members if step and len(seeds_of[step]) == 1})
            groups += [[float(step == one) for step in members] for one in own]
        if groups:
            sums = {term: float(s.sum()) for term, s in squares(np.array(groups), space).items()}
            found.append({term: round(sums[term] / (d[term] * len(run_ids)), 9) for term in d})
    return found
