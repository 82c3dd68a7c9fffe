"""Main effects and pairs fitted by least squares, where the configurations are no replicated grid.

The score of a configuration is a constant, an effect of each of its levels, and, where there are runs enough, an effect
of each pair of levels. Effects sum to zero over the levels that were tried, so a main effect is an average over the
whole space and not over the configurations that a search happened to prefer. What the model leaves out (higher orders,
pairs if there are none) counts as noise, together with the noise between runs: intervals are as wide as both are.

That a search looks where scores were good hardly matters. Simulated with Optuna's TPE (half of the trials, at most ten,
at random first; 8 of 12, 20 of 36, 40 of 72 and 30 of 288 configurations; one seed, run SD 1 point, main effects of SD
1.5, pairs of SD 0, 0.5 and 1): main effects are off by 0.06 points on average at most (0.08 away from zero), and 95 %
intervals cover .94-.97 of the true ones, as they do for configurations at random (.95-.98).

A single seed matters. Where configurations share a trained step, all those on one level of an axis before it have the
luck of that seed's step in common, and no number of configurations tells it from the axis' effect: with a step of SD 1,
20 configurations cover .59 for that axis (.95 for the others). This is why nothing is claimed here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlmablate.stats.factorial.space import Space, Term

Array = NDArray[np.float64]

LEAST_DF = 4
"""Pairs are fitted if all of them can be told apart and this many degrees of freedom are left for the error."""

_ALIASED = 1e-8  # a contrast whose distance from the rows of the design is beyond this cannot be told


@dataclass(frozen=True)
class Fit:
    """A fitted model of `configurations` scores y = X b + noise.

    tried: per axis, level -> row of its basis. bases: per axis, a sum-to-zero basis [tried, tried - 1] with orthonormal
    columns. terms: what is in the model; places: term -> its coefficients. inverse: (X'X)^+; rows: the projection onto
    the rows of X. variance: of the residuals, 0 for what is rounding, nan without degrees of freedom (df).
    """

    terms: tuple[Term, ...]
    bases: tuple[Array, ...]
    tried: tuple[dict[str, int], ...]
    places: dict[Term, slice]
    coefficients: Array
    inverse: Array
    rows: Array
    variance: float
    df: int
    configurations: int

    @property
    def pairs(self) -> bool:
        """Whether pairs of axes are in the model."""
        return any(len(term) > 1 for term in self.terms)

    @property
    def told_apart(self) -> bool:
        """Whether the configurations tell all effects of the model from each other."""
        return round(float(np.trace(self.rows))) == len(self.coefficients)

    def contrast(self, term: Term, *of_axes: Array) -> tuple[float, float]:
        """(difference, standard error) of the sum over the term's levels with the product of the weights `of_axes`
        [tried] of its axes. nan, nan where the configurations cannot tell it; se nan without degrees of freedom."""
        vector = np.zeros(len(self.coefficients))
        vector[self.places[term]] = _product(
            [given @ self.bases[i] for i, given in zip(term, of_axes, strict=True)]
        )
        if float(np.abs(vector - self.rows @ vector).max()) > _ALIASED * float(np.abs(vector).max()):
            return math.nan, math.nan
        spread = self.variance * float(vector @ self.inverse @ vector)
        return float(vector @ self.coefficients), math.sqrt(spread) if self.df else math.nan

    def part(self, term: Term, rows: Sequence[int]) -> float:
        """What a term adds to the score of the configuration with these `rows` of its axes' bases."""
        weights = _product([self.bases[i][row] for i, row in zip(term, rows, strict=True)])
        return float(weights @ self.coefficients[self.places[term]])

    def block(self, term: Term) -> tuple[Array, Array, int]:
        """(coefficients, their part of `inverse`, number of level combinations) of a term."""
        place = self.places[term]
        combinations = math.prod(len(self.tried[i]) for i in term)
        return self.coefficients[place], self.inverse[place, place], combinations


def fit(means: Array, space: Space, arms: Sequence[str]) -> Fit:
    """Fit the mean scores [arms] of the configurations `arms`; those without a score (nan) are left out.

    Which terms are in the model follows from the configurations alone: main effects, and all pairs of axes if that
    leaves LEAST_DF degrees of freedom and no two effects that the configurations cannot tell apart.
    """
    ran = [i for i, mean in enumerate(means) if not math.isnan(mean)]
    chosen = [space.levels[arms[i]] for i in ran]
    tried = []
    for i, axis in enumerate(space.axes):
        seen = {levels[i] for levels in chosen}
        tried.append({level: row for row, level in enumerate(le for le in axis.levels if le in seen)})
    bases = tuple(_sum_to_zero(len(levels)) for levels in tried)
    coded = [np.array([bases[i][tried[i][levels[i]]] for levels in chosen]) for i in range(len(space.axes))]
    vary = [term for term in space.terms if all(len(tried[i]) > 1 for i in term)]
    full, places = _design(coded, vary)
    if full.shape[1] > len(ran) - LEAST_DF or np.linalg.matrix_rank(full) < full.shape[1]:
        vary = [term for term in vary if len(term) == 1]
        full, places = _design(coded, vary)
    inverse: Array = np.asarray(np.linalg.pinv(full.T @ full, rcond=1e-10), dtype=np.float64)
    values = means[ran]
    coefficients = inverse @ full.T @ values
    df = len(ran) - int(np.linalg.matrix_rank(full))
    left = float(np.sum((values - full @ coefficients) ** 2))
    nothing = (1e-12 * float(np.abs(values).max())) ** 2
    variance = (left / df if left / df > nothing else 0.0) if df else math.nan
    rows = inverse @ (full.T @ full)
    return Fit(tuple(vary), bases, tuple(tried), places, coefficients, inverse, rows, variance, df, len(ran))


def _design(coded: list[Array], terms: list[Term]) -> tuple[Array, dict[Term, slice]]:
    """The design matrix [configurations, 1 + coefficients] and where every term's columns stand."""
    count = len(coded[0])
    columns, places, start = [np.ones((count, 1))], {}, 1
    for term in terms:
        block = np.ones((count, 1))
        for i in term:
            block = np.einsum("ra,rb->rab", block, coded[i]).reshape(count, -1)
        columns.append(block)
        places[term] = slice(start, start + block.shape[1])
        start += block.shape[1]
    return np.concatenate(columns, axis=1), places


def _product(factors: Sequence[Array]) -> Array:
    """The products of one element of each of the vectors `factors`, the last one fastest."""
    made: Array = np.ones(1)
    for factor in factors:
        made = np.multiply.outer(made, factor).ravel()
    return made


def _sum_to_zero(levels: int) -> Array:
    """Orthonormal columns [levels, levels - 1] that each sum to zero (Helmert)."""
    basis = np.zeros((levels, max(levels - 1, 0)))
    for column in range(1, levels):
        basis[:column, column - 1] = 1.0
        basis[column, column - 1] = -column
        basis[:, column - 1] /= math.sqrt(column * (column + 1))
    return basis
