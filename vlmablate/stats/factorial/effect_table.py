"""Main effects and two-way interactions of a design space, one row per contrast and benchmark.

A main effect is a level minus the axis' baseline level, averaged over the levels of all other axes. An interaction is
the difference of differences of two levels of each of two axes: (ab - a0 b) - (a b0 - a0 b0), averaged likewise.

Replicated grids: with K configurations, n complete seeds, and a term's error variance s^2 on df degrees of freedom
(:mod:`.strata`), se^2 = s^2 2 a / (K n) for a main effect of an axis with a levels and s^2 4 a b / (K n) for an
interaction of axes with a and b levels, with t on df. As seeds are blocks here, `paired_seeds` of the settings makes no
difference.

Simulated type-I error at .05 (2 x 3 and 2 x 3 x 2 configurations, 2, 3 and 5 seeds, 10,000 studies each), with the
error of the term's own stratum / pooled over all strata / within all cells:

* runs independent: .046-.057 / .047-.054 / .047-.055
* seeds share luck of SD 1 beside a run's 1: .046-.057 / .047-.054 / .010-.026
* an axis acts before a step of SD 1 that the others share, effect of that axis: .046-.056 / .12-.35 / .10-.29; effects
  of the others: .046-.057 / .013-.031 / .007-.021. This is why strata are pooled only where `steps` allows it
* run SDs differ twofold between the levels of an axis of two levels: .046-.055 / .049-.062 / .049-.061; of an axis of
  three levels, if the contrast is noisier than the average: .065-.092 / .077-.093 / .078-.094, and below .05 if it is
  not. The design level of a single axis pools over its arms in the same way

Own strata cost degrees of freedom: with 3 seeds a two-level axis has 2 instead of 10 (2 x 3) or 22 (2 x 3 x 2), and the
effect that is detectable at the level .05 is 1.8 or 1.9 times as large (at .05 / 3 it is 2.6 times that with 10). Known
`steps`, or more seeds, take that back.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vlmablate.stats.estimate import SMALLEST_P
from vlmablate.stats.factorial.fitted import Fit, fit
from vlmablate.stats.factorial.runs import Replication, Runs, adjusted_means, read_runs, replication, suite_of
from vlmablate.stats.factorial.space import Space, Term
from vlmablate.stats.factorial.strata import Steps, Stratum, alike_terms, strata
from vlmablate.stats.families import is_silent, silent
from vlmablate.stats.margins import equivalence, verdict
from vlmablate.stats.multiplicity import adjust
from vlmablate.stats.power import mde
from vlmablate.stats.settings import Alternative, Settings
from vlmablate.stats.student import t_critical, t_tail
from vlmablate.stats.units import SUITE

Array = NDArray[np.float64]

EFFECT_COLUMNS = [
    *("term", "kind", "axis", "level", "baseline", "axis_b", "level_b", "baseline_b", "benchmark"),
    *("delta", "ci_low", "ci_high", "p", "p_adjusted", "family", "method", "verdict", "margin"),
    *("n_runs", "n_seeds", "se", "df", "p_equivalence", "mde", "reason"),
]
"""Columns of effects.csv. delta, ci_*, margin, se and mde are points; p_equivalence is adjusted like p. baseline and
baseline_b are the levels that level and level_b are compared with. reason: why there is no test, or which seeds were
left out; empty where nothing stands in the way."""

KINDS = {1: "main", 2: "interaction"}


@dataclass(frozen=True)
class Contrast:
    """One level of one axis against its baseline level, or of each of two axes."""

    term: Term
    levels: tuple[str, ...]

    def key(self, space: Space) -> str:
        """axis=level, joined with a colon."""
        return ":".join(
            f"{space.axes[i].name}={level}" for i, level in zip(self.term, self.levels, strict=True)
        )


@dataclass(frozen=True)
class Estimated:
    """An estimated contrast: delta, se (nan where there is none) and df, in points; the words that go with it.
    tested: whether a claim may be made of it."""

    delta: float
    se: float
    df: int
    method: str
    reason: str
    tested: bool


def effects(
    scores: pd.DataFrame,
    space: Space,
    settings: Settings,
    with_signal: Collection[str] | None = None,
    steps: Steps | None = None,
) -> pd.DataFrame:
    """The table of effects (EFFECT_COLUMNS): main effects, then interactions, the suite first.

    The arguments and errors are those of the package. Tests of main effects have the declared alternative; an
    interaction has no direction that would be the better one, and is tested on both sides.
    """
    runs = read_runs(scores, space)
    suite = suite_of(runs, with_signal)
    kept = replication(runs, space)
    alike = alike_terms(space, runs.ids(kept), steps) if kept else []
    planned: list[tuple[str, list[str]]] = [(SUITE, list(suite))] if suite else []
    planned += [(name, [name]) for name in runs.benchmarks]
    rows = []
    for benchmark, names in planned:
        points = runs.mean(names)
        for contrast, found in _estimates(points, space, runs, kept, alike):
            family = _family(contrast, space, benchmark, suite)
            rows.append(_row(contrast, found, space, settings, benchmark, family, runs, kept))
    table = pd.DataFrame(rows, columns=EFFECT_COLUMNS)
    return _decided(table, settings)


def contrasts(space: Space) -> list[Contrast]:
    """Every contrast of the space, main effects first."""
    found = []
    for term in space.terms:
        first = space.axes[term[0]].others
        if len(term) == 1:
            found += [Contrast(term, (level,)) for level in first]
        else:
            found += [Contrast(term, (a, b)) for a in first for b in space.axes[term[1]].others]
    return found


def _estimates(
    points: Array, space: Space, runs: Runs, kept: Replication, alike: Sequence[Sequence[Term]]
) -> Iterator[tuple[Contrast, Estimated]]:
    """Every contrast of points [seeds, arms]."""
    if kept:
        values = points[np.ix_(kept.rows, kept.columns)]
        errors = strata(values, space, alike)
        for contrast in contrasts(space):
            yield contrast, _of_grid(values, space, contrast, errors[contrast.term], kept.reason)
        return
    model = fit(adjusted_means(points)[0], space, runs.arms)
    for contrast in contrasts(space):
        yield contrast, _of_fit(model, space, contrast, kept.reason)


def _of_grid(values: Array, space: Space, contrast: Contrast, error: Stratum, reason: str) -> Estimated:
    """A contrast of a replicated grid: values [seeds, K]."""
    mean = values.mean(axis=0).reshape(space.sizes)
    others = tuple(i for i in range(len(space.sizes)) if i not in contrast.term)
    margin = mean.mean(axis=others)
    for i, level in zip(contrast.term, contrast.levels, strict=True):  # every turn takes one axis off
        axis = space.axes[i]
        margin = margin[axis.levels.index(level)] - margin[axis.levels.index(axis.baseline)]
    delta = float(margin)
    largest = float(np.abs(values).max())
    delta = 0.0 if abs(delta) <= 1e-12 * largest else delta
    squared_weights = math.prod(2 * space.sizes[i] for i in contrast.term) / space.size
    se = math.sqrt(error.variance * squared_weights / len(values))
    if error.variance == 0 and delta != 0:
        text = "no test: the seeds changed nothing, so they are no replication"
        return Estimated(delta, math.nan, 0, text, text.removeprefix("no test: "), False)
    pooled = " and ".join(_named(space, term) for term in error.pooled)
    if len(error.pooled) > 3:
        pooled = f"{len(error.pooled)} terms"
    text = f"t within {len(values)} seeds, error seeds × ({pooled}), df = {error.df}"
    return Estimated(delta, se, error.df, text, reason, True)


def _named(space: Space, term: Term) -> str:
    return space.name(term) or "higher order"


def _of_fit(model: Fit, space: Space, contrast: Contrast, reason: str) -> Estimated:
    """A contrast of a fitted space."""
    weights = []
    for i, level in zip(contrast.term, contrast.levels, strict=True):
        axis, tried = space.axes[i], model.tried[i]
        for needed in (level, axis.baseline):
            if needed not in tried:
                return _unknown(f"{axis.name}={needed} was never run")
        vector = np.zeros(len(tried))
        vector[tried[level]], vector[tried[axis.baseline]] = 1.0, -1.0
        weights.append(vector)
    if contrast.term not in model.terms:
        return _unknown(f"{model.configurations} configurations are too few to fit pairs of axes")
    delta, se = model.contrast(contrast.term, *weights)
    if math.isnan(delta):
        return _unknown("the configurations that were run cannot tell this effect from others")
    text = (
        f"least squares over {model.configurations} configurations, "
        f"{'main effects and pairs' if model.pairs else 'main effects only'}, df = {model.df}"
    )
    return Estimated(delta, se, model.df, text, reason, False)


def _unknown(reason: str) -> Estimated:
    return Estimated(math.nan, math.nan, 0, "none", reason, False)


def _family(contrast: Contrast, space: Space, benchmark: str, suite: Collection[str]) -> str:
    kind = KINDS[len(contrast.term)]
    if benchmark == SUITE:
        return kind
    family = f"{kind}:{contrast.key(space)}"
    return family if benchmark in suite else silent(family)


def _row(
    contrast: Contrast,
    found: Estimated,
    space: Space,
    settings: Settings,
    benchmark: str,
    family: str,
    runs: Runs,
    kept: Replication,
) -> dict[str, object]:
    alternative: Alternative = settings.alternative if len(contrast.term) == 1 else "two-sided"
    p, ci = _t_test(found, alternative, settings.alpha)
    same = equivalence(found.delta, found.se, found.df, settings.margin, settings.alpha).p
    axes = [space.axes[i] for i in contrast.term]
    second = axes[1] if len(axes) > 1 else None
    return {
        "term": space.name(contrast.term),
        "kind": KINDS[len(axes)],
        "axis": axes[0].name,
        "level": contrast.levels[0],
        "baseline": axes[0].baseline,
        "axis_b": second.name if second else "",
        "level_b": contrast.levels[1] if second else "",
        "baseline_b": second.baseline if second else "",
        "benchmark": benchmark,
        "delta": found.delta,
        "ci_low": ci[0],
        "ci_high": ci[1],
        "p": p if found.tested else math.nan,
        "family": family,
        "method": found.method,
        "margin": settings.margin,
        "n_runs": len(kept.rows) * len(kept.columns) if kept else len(runs.run_ids),
        "n_seeds": len(kept.rows) if kept else len(runs.seeds),
        "se": found.se,
        "df": found.df,
        "p_equivalence": same if found.tested else math.nan,
        "mde": mde(
            found.se if found.tested else math.nan,
            found.df,
            alpha=settings.alpha,
            power=settings.power,
            alternative=alternative,
        ),
        "reason": found.reason,
    }


def _t_test(found: Estimated, alternative: Alternative, alpha: float) -> tuple[float, tuple[float, float]]:
    """(p, two-sided interval) of an estimate; nan without a standard error."""
    if not (found.df > 0 and math.isfinite(found.se)):
        return math.nan, (math.nan, math.nan)
    half_width = t_critical(alpha / 2, found.df) * found.se
    ci = (found.delta - half_width, found.delta + half_width)
    if found.se == 0:
        return 1.0, ci
    t = {"two-sided": abs(found.delta), "greater": found.delta, "less": -found.delta}[alternative] / found.se
    p = t_tail(t, found.df) * (2 if alternative == "two-sided" else 1)
    return min(max(p, SMALLEST_P), 1.0), ci


def _decided(table: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """Adjust p and p_equivalence within their families and decide the verdicts; silent families decide nothing."""
    different, alike = table["p"].to_numpy(np.float64), table["p_equivalence"].to_numpy(np.float64)
    adjusted, equivalent = np.full(len(table), math.nan), np.full(len(table), math.nan)
    for family, members in table.groupby("family", sort=False).indices.items():
        if not is_silent(str(family)):
            adjusted[members] = adjust(different[members], settings.correction)
            equivalent[members] = adjust(alike[members], settings.correction)
    decided = [
        verdict(delta, p, q, settings.alpha)
        for delta, p, q in zip(table["delta"], adjusted, equivalent, strict=True)
    ]
    return table.assign(p_adjusted=adjusted, p_equivalence=equivalent, verdict=decided)[EFFECT_COLUMNS]
