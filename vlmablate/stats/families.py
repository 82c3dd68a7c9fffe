"""Contrasts, the families they are adjusted in, and the table that holds them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from vlmablate.stats.estimate import Estimate
from vlmablate.stats.margins import equivalence, verdict
from vlmablate.stats.multiplicity import adjust
from vlmablate.stats.power import mde
from vlmablate.stats.settings import Settings

COLUMNS = [
    *("axis", "arm", "baseline", "context", "level", "benchmark", "metric"),
    *("n_examples", "n_clusters", "n_seeds", "delta", "ci_low", "ci_high", "p", "p_adjusted"),
    *("family", "method", "verdict", "margin", "mde"),
]
"""Columns of significance.csv. delta, ci_low, ci_high, margin and mde are points; level is design
(retraining; unit: seed), items (new pictures; unit: scene), checkpoint (two checkpoints, these items) or
suite (other benchmarks)."""

PRIMARY = "primary"
"""Family of the contrasts that answer the axis's question: one suite contrast per arm."""

NO_SIGNAL = "no-signal"
"""Start of the families of benchmarks without signal: they are not adjusted and decide nothing."""


def silent(family: str) -> str:
    """The family of the contrasts in `family` whose benchmark carries no signal."""
    return f"{NO_SIGNAL}:{family}"


def is_silent(family: str) -> bool:
    """Whether a family holds contrasts that decide nothing."""
    return family.startswith(NO_SIGNAL)


@dataclass(frozen=True)
class Row:
    """One contrast before the adjustment for its family."""

    arm: str
    context: str
    level: str
    benchmark: str
    metric: str
    n_examples: int
    n_clusters: int
    n_seeds: int
    estimate: Estimate
    family: str


def _equivalence_p(estimate: Estimate, settings: Settings) -> float:
    return equivalence(estimate.delta, estimate.se, estimate.df, settings.margin, settings.alpha).p


def adjusted_table(rows: Sequence[Row], axis: str, baseline: str, settings: Settings) -> pd.DataFrame:
    """Adjust both questions (different? equivalent?) by Holm within each family and decide the verdicts."""
    by_family: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        by_family.setdefault(row.family, []).append(index)
    adjusted, equivalence = [math.nan] * len(rows), [math.nan] * len(rows)
    for family, members in by_family.items():
        if is_silent(family):
            continue
        for index, p in zip(members, adjust([rows[i].estimate.p for i in members]), strict=True):
            adjusted[index] = float(p)
        tost = adjust([_equivalence_p(rows[i].estimate, settings) for i in members])
        for index, p in zip(members, tost, strict=True):
            equivalence[index] = float(p)
    records = []
    for row, p_adjusted, p_equivalence in zip(rows, adjusted, equivalence, strict=True):
        estimate = row.estimate
        records.append(
            {
                "axis": axis,
                "arm": row.arm,
                "baseline": baseline,
                "context": row.context,
                "level": row.level,
                "benchmark": row.benchmark,
                "metric": row.metric,
                "n_examples": row.n_examples,
                "n_clusters": row.n_clusters,
                "n_seeds": row.n_seeds,
                "delta": estimate.delta,
                "ci_low": estimate.ci_low,
                "ci_high": estimate.ci_high,
                "p": estimate.p,
                "p_adjusted": p_adjusted,
                "family": row.family,
                "method": estimate.method,
                "verdict": verdict(estimate.delta, p_adjusted, p_equivalence, settings.alpha),
                "margin": settings.margin,
                "mde": mde(estimate.se, estimate.df, alpha=settings.alpha, power=settings.power),
            }
        )
    return pd.DataFrame(records, columns=COLUMNS)
