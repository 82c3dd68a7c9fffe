"""Secondary metrics against the baseline: the tests of the primary ones, in families of their own.

A benchmark has one primary metric, which is declared, or none. Every other metric of its examples is secondary: it is
in no suite score and in no verdict of the axis. Its contrasts are tested at the levels design (retraining) and items
(new pictures), always two-sided, because for many of them neither direction is the better one, and without a judgement
of equivalence, because the declared margin is one of scores.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from vlmablate.stats.contrasts import compare
from vlmablate.stats.data import Data
from vlmablate.stats.declaration import Design
from vlmablate.stats.estimate import Tested
from vlmablate.stats.families import UNITS
from vlmablate.stats.levels import groups_of_contexts
from vlmablate.stats.multiplicity import adjust
from vlmablate.stats.paired import paired_test
from vlmablate.stats.panel import align
from vlmablate.stats.units import ALL_CONTEXTS

FAMILY = "secondary"
"""Retraining: one contrast per arm and secondary metric, averaged over contexts where there are several. Those of
single contexts, and those at the level items, are families beside it: secondary:contexts and secondary:items."""

COLUMNS = [
    *("arm", "baseline", "context", "level", "benchmark", "metric"),
    *("n_examples", "n_clusters", "n_seeds", "mean_baseline", "mean_arm", "delta", "ci_low", "ci_high"),
    *("p", "p_adjusted", "correction", "family", "method", "unit"),
]
"""Columns of secondary.csv. Means, delta and ci_* are in the metric's own unit: fractions, words, ratios."""


@dataclass(frozen=True)
class _Scale:
    """Scores of any unit as fractions, for tests that take fractions: (score - low) / width.

    width is a power of two, so that scores on a lattice stay on one and the exact tests see it.
    """

    low: float
    width: float

    @staticmethod
    def of(scores: pd.Series[float]) -> _Scale:
        low, high = float(scores.min()), float(scores.max())
        if low >= 0 and high <= 1:
            return _Scale(0.0, 1.0)
        low = math.floor(low)
        return _Scale(low, 2.0 ** math.ceil(math.log2(max(high - low, 1.0))))

    def fractions(self, scores: pd.Series[float]) -> pd.Series[float]:
        return (scores - self.low) / self.width

    def difference(self, points: float) -> float:
        """A difference of 0 to 100 points in the unit of the metric."""
        return points * self.width / 100

    def value(self, points: float) -> float:
        return self.low + self.difference(points)


def measures(results: pd.DataFrame, design: Design) -> list[tuple[str, str]]:
    """(benchmark, metric) of the secondary metrics of the long table, sorted."""
    pairs = results[["benchmark", "metric"]].drop_duplicates()
    named = {(str(b), str(m)) for b, m in zip(pairs["benchmark"], pairs["metric"], strict=True)}
    return sorted(named - {(benchmark, metric) for benchmark, metric in design.metrics.items()})


def secondary(results: pd.DataFrame, design: Design) -> pd.DataFrame:
    """The contrasts of all secondary metrics (COLUMNS); without a row where the table has none.

    results: the long table; scores of secondary metrics may have any finite value. Raises DataError for what is wrong
    with scores or ids, as `stats.panel.align` does.
    """
    found = measures(results, design)
    rows = [row for pair in found for row in _rows(results, design, *pair, len(found))]
    table = pd.DataFrame(rows, columns=[name for name in COLUMNS if name != "p_adjusted"])
    table["p_adjusted"] = math.nan
    for _, members in table.groupby("family"):
        table.loc[members.index, "p_adjusted"] = adjust(
            members["p"].to_numpy(np.float64), design.settings.correction
        )
    return table[COLUMNS]


def _rows(
    results: pd.DataFrame, design: Design, benchmark: str, metric: str, metrics: int
) -> Iterator[dict[str, object]]:
    """The contrasts of one of so many metrics, arm by arm, a mean over contexts in front of the single ones."""
    part = results[(results["benchmark"] == benchmark) & (results["metric"] == metric)]
    scale = _Scale.of(part["score"])
    part = part.assign(score=scale.fractions(part["score"]))
    alone = replace(design, metrics={benchmark: metric}, majority={}, families={})
    data = Data.of(align(part, alone.metrics), alone)
    stacked, error = data.of_benchmark[benchmark], data.error([benchmark])
    settings, several = design.settings, len(design.contexts) > 1
    family_size = metrics * len({arm for arm, _ in data.pairs})

    def row(
        arm: str, context: str, contexts: Sequence[str], level: str, family: str, test: Tested
    ) -> dict[str, object]:
        cells = [[(name, where) for where in contexts] for name in (design.baseline, arm)]
        means = [
            float(np.mean([data.values(cell, [benchmark]).mean() for cell in of_arm])) for of_arm in cells
        ]
        return {
            "arm": arm,
            "baseline": design.baseline,
            "context": context,
            "level": level,
            "benchmark": benchmark,
            "metric": metric,
            "n_examples": stacked.n,
            "n_clusters": stacked.clusters.count,
            "n_seeds": min(len(data.cells[cell]) for of_arm in cells for cell in of_arm),
            "mean_baseline": scale.value(means[0]),
            "mean_arm": scale.value(means[1]),
            "delta": scale.difference(test.delta),
            "ci_low": scale.difference(test.ci[0]),
            "ci_high": scale.difference(test.ci[1]),
            "p": test.p,
            "correction": settings.correction,
            "family": family,
            "method": test.method,
            "unit": UNITS[level],
        }

    for arm in design.arms:
        for name, contexts in groups_of_contexts(data, arm):
            single = several and name != ALL_CONTEXTS
            cells = [((arm, context), (design.baseline, context)) for context in contexts]
            size = family_size * (len(design.contexts) if single else 1)
            test = compare(data, cells, (benchmark,), error, size, "two-sided")
            family = f"{FAMILY}:contexts" if single else FAMILY
            yield row(arm, name, contexts, "design", family, test)
            if single or not several:
                a, b = cells[0]
                paired = paired_test(
                    stacked.mean(data.cells[a]),
                    stacked.mean(data.cells[b]),
                    stacked.clusters,
                    alpha=settings.alpha,
                    seed=settings.seed,
                )
                yield row(arm, name, contexts, "items", f"{FAMILY}:items", paired)
