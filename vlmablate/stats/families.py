"""Contrasts, the families they are adjusted in, and the table that holds them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from vlmablate.stats.declaration import Design
from vlmablate.stats.estimate import Tested
from vlmablate.stats.margins import equivalence, verdict
from vlmablate.stats.multiplicity import adjust
from vlmablate.stats.power import mde

COLUMNS = [
    *("axis", "arm", "baseline", "context", "level", "benchmark", "metric"),
    *("n_examples", "n_clusters", "n_seeds", "delta", "ci_low", "ci_high", "p", "p_adjusted"),
    *("family", "method", "verdict", "margin", "mde"),
    *("unit", "se", "df", "alternative", "p_equivalence", "correction", "floor"),
    *("new_low", "new_high", "design_effect", "icc", "tipping_sd"),
]
"""Columns of significance.csv. delta, ci_*, new_*, se, margin, mde and tipping_sd are points. level: design
(retraining), items (new pictures), checkpoint (two checkpoints, these items) or suite (other benchmarks); unit: what
is repeated at that level. new_low, new_high: at the level design the interval that holds for new seeds and new
pictures at once, at the level suite the prediction interval of one more benchmark. floor: the smallest p that the
test could have given. p_equivalence: two one-sided tests, adjusted like p. tipping_sd: the spread between seeds above
which a difference of this size would not be significant."""

UNITS = {
    "design": "training run",
    "items": "cluster of examples",
    "checkpoint": "cluster of examples",
    "suite": "benchmark family",
}

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
    """One contrast before the adjustment for its family; `new` is the interval for new seeds and pictures."""

    arm: str
    context: str
    level: str
    benchmark: str
    metric: str
    n_examples: int
    n_clusters: int
    n_seeds: int
    test: Tested
    family: str
    new: tuple[float, float] = (math.nan, math.nan)


def adjusted_table(rows: Sequence[Row], design: Design) -> pd.DataFrame:
    """Adjust both questions (different? equivalent?) within each family and decide the verdicts."""
    settings = design.settings
    by_family: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        by_family.setdefault(row.family, []).append(index)
    same = [
        equivalence(row.test.delta, row.test.se, row.test.df, settings.margin, settings.alpha).p
        for row in rows
    ]
    adjusted, equivalent = [math.nan] * len(rows), [math.nan] * len(rows)
    for family, members in by_family.items():
        if is_silent(family):
            continue
        different = adjust([rows[i].test.p for i in members], settings.correction)
        alike = adjust([same[i] for i in members], settings.correction)
        for index, p, q in zip(members, different, alike, strict=True):
            adjusted[index], equivalent[index] = float(p), float(q)
    records = [
        {
            "axis": design.axis,
            "arm": row.arm,
            "baseline": design.baseline,
            "context": row.context,
            "level": row.level,
            "benchmark": row.benchmark,
            "metric": row.metric,
            "n_examples": row.n_examples,
            "n_clusters": row.n_clusters,
            "n_seeds": row.n_seeds,
            "delta": row.test.delta,
            "ci_low": row.test.ci[0],
            "ci_high": row.test.ci[1],
            "p": row.test.p,
            "p_adjusted": p,
            "family": row.family,
            "method": row.test.method,
            "verdict": verdict(row.test.delta, p, q, settings.alpha),
            "margin": settings.margin,
            "mde": mde(
                row.test.se,
                row.test.df,
                alpha=settings.alpha,
                power=settings.power,
                alternative=settings.alternative,
            ),
            "unit": UNITS[row.level],
            "se": row.test.se,
            "df": row.test.df,
            "alternative": settings.alternative,
            "p_equivalence": q,
            "correction": settings.correction,
            "floor": row.test.floor,
            "new_low": row.new[0],
            "new_high": row.new[1],
            "design_effect": getattr(row.test, "design_effect", math.nan),
            "icc": getattr(row.test, "icc", math.nan),
            "tipping_sd": getattr(row.test, "tipping_sd", math.nan),
        }
        for row, p, q in zip(rows, adjusted, equivalent, strict=True)
    ]
    return pd.DataFrame(records, columns=COLUMNS)
