"""The section "Beyond accuracy": secondary metrics of every arm beside the baseline, as formatted cells.

What is tested, and how, is in `behaviour_tests`. The section is left out where results hold no secondary metric.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import pandas as pd

from vlmablate.files import write_with
from vlmablate.report import formatting as fmt
from vlmablate.report.behaviour_tests import FAMILY, measures
from vlmablate.report.pairs import context_name
from vlmablate.report.records import Record, records
from vlmablate.stats.declaration import Design

TABLE = "secondary.csv"


class Measure(NamedTuple):
    """What a metric says, its unit, and the direction in which it is better: 1 for more, -1 for less, 0 for neither."""

    says: str
    unit: str
    better: int


POINTS, WORDS, RATIO = "points", "words", "ratio"

MEASURES: Mapping[str, Measure] = MappingProxyType(
    {
        "extra_words": Measure("words beyond those of the reference answers", WORDS, 0),
        "words_ratio": Measure("words per word of the reference answers", RATIO, 0),
        "object_f1": Measure("balance of naming what is there and nothing else", POINTS, 1),
        "chair_i": Measure("share of the named objects that are not there", POINTS, -1),
        "chair_s": Measure("descriptions that name an object that is not there", POINTS, -1),
        "object_recall": Measure("share of the objects there that are named", POINTS, 1),
        "right_denial": Measure("denies what is not there, and only that", POINTS, 1),
        "denied_absent": Measure("denies what is not there", POINTS, 1),
        "denied_present": Measure("denies what is there", POINTS, -1),
        "right_refusal": Measure("refuses harmful requests, and only those", POINTS, 1),
        "refused_harmful": Measure("refuses harmful requests", POINTS, 1),
        "refused_benign": Measure("refuses harmless requests", POINTS, -1),
        "iou": Measure("overlap of the box with the target", POINTS, 1),
    }
)
"""Metric, without what stands behind a colon -> what the page says of it."""

_UNKNOWN = Measure("", POINTS, 0)
_DIRECTIONS = {1: "more is better", -1: "less is better", 0: "neither more nor less is better"}


def measure_of(metric: str) -> Measure:
    """What is known of a metric: its row in MEASURES, or points without a direction."""
    return MEASURES.get(metric.partition(":")[0], _UNKNOWN)


def write_secondary(table: pd.DataFrame, folder: Path) -> None:
    """Write secondary.csv, whole or not at all; a header alone where there is nothing."""
    with write_with(folder / TABLE) as temporary:
        table.to_csv(temporary, index=False, lineterminator="\n")


def behaviour(results: pd.DataFrame, table: pd.DataFrame, design: Design) -> Record | None:
    """What the section prints; None where there is nothing.

    results: the long table. table: `behaviour_tests.secondary` of it.

    Returns `rows` (one per measure, arm and context: those over retraining, with those over new pictures at `items`),
    `subsets` (means of the arms on each split of a benchmark that has several), `arms`, `tests` (in the deciding
    family), and `sentence`.
    """
    if table.empty:
        return None
    of_design = records(table[table["level"] == "design"])
    items = {_name(row): row for row in records(table[table["level"] == "items"])}
    alpha = design.settings.alpha
    tested = [row for row in of_design if row["family"] == FAMILY and math.isfinite(row["p"])]
    rows = [
        {
            **_cells(row, alpha),
            "benchmark": fmt.title(str(row["benchmark"])),
            "metric": str(row["metric"]),
            "says": measure_of(str(row["metric"])).says,
            "unit": measure_of(str(row["metric"])).unit,
            "direction": _DIRECTIONS[measure_of(str(row["metric"])).better],
            "arm": str(row["arm"]),
            "context": context_name(str(row["context"])),
            "baseline": _number(row["mean_baseline"], row["metric"]),
            "mean": _number(row["mean_arm"], row["metric"]),
            "n_examples": f"{int(row['n_examples']):,}",
            "n_clusters": f"{int(row['n_clusters']):,}",
            "seeds": fmt.plural(int(row["n_seeds"]), "seed"),
            "items": _cells(items[_name(row)], alpha) if _name(row) in items else None,
        }
        for row in of_design
    ]
    return {
        "rows": rows,
        "subsets": _subsets(results, design),
        "arms": list(design.arms),
        "tests": len(tested),
        "sentence": _sentence(tested, alpha),
    }


def _name(row: Mapping[str, object]) -> tuple[str, ...]:
    return tuple(str(row[name]) for name in ("arm", "context", "benchmark", "metric"))


def _cells(row: Record, alpha: float) -> Record:
    """Difference, interval, p and verdict of one contrast."""
    metric = str(row["metric"])
    low, high = (_in_unit(row[name], metric) for name in ("ci_low", "ci_high"))
    delta = _in_unit(row["delta"], metric)
    decimals = max(_decimals(metric), fmt.decimals_for(delta, low, high))
    return {
        "delta": fmt.points(delta, signed=True, decimals=decimals),
        "interval": fmt.interval(low, high, decimals=decimals),
        "p": fmt.p_value(row["p"]),
        "p_adjusted": fmt.p_value(row["p_adjusted"]),
        "correction": fmt.correction_name(str(row["correction"])),
        "verdict": verdict(row, alpha),
    }


def verdict(row: Mapping[str, object], alpha: float) -> str:
    """``better`` or ``worse`` where the adjusted p decides and the metric has a better direction, ``more`` or ``less``
    where it has none, otherwise ``unresolved``. No difference is not claimed: no margin was declared for it."""
    p, delta = float(str(row["p_adjusted"])), float(str(row["delta"]))
    if not p <= alpha or delta == 0:
        return "unresolved"
    better = measure_of(str(row["metric"])).better
    if better == 0:
        return "more" if delta > 0 else "less"
    return "better" if delta * better > 0 else "worse"


def _in_unit(value: float, metric: str) -> float:
    return 100 * float(value) if measure_of(metric).unit == POINTS else float(value)


def _decimals(metric: str) -> int:
    return 1 if measure_of(metric).unit == POINTS else 2


def _number(value: float, metric: str) -> str:
    return fmt.points(_in_unit(value, metric), decimals=_decimals(metric))


def _subsets(results: pd.DataFrame, design: Design) -> list[Record]:
    """Mean of every arm on each split of the benchmarks of which a secondary metric has several; not tested."""
    rows = []
    for benchmark, metric in measures(results, design):
        part = results[(results["benchmark"] == benchmark) & (results["metric"] == metric)]
        if part["split"].nunique() < 2:
            continue
        for split, of_split in part.groupby("split", sort=True, observed=True):
            means = of_split.groupby("arm", observed=True)["score"].mean()
            rows.append(
                {
                    "name": f"{fmt.title(benchmark)}: {fmt.title(str(split))}",
                    "metric": metric,
                    "n": int(of_split["example_id"].nunique()),
                    "means": [_number(float(means.get(arm, math.nan)), metric) for arm in design.arms],
                }
            )
    return rows


def _sentence(tested: list[Record], alpha: float) -> str:
    """How many of the tests that count over retraining found a difference."""
    if not tested:
        return "No secondary metric could be tested over retraining."
    found = [row for row in tested if row["p_adjusted"] <= alpha]
    named = fmt.listing(
        [f"{row['metric']} of {fmt.title(str(row['benchmark']))} ({row['arm']})" for row in found]
    )
    what = "test" if len(tested) == 1 else "tests"
    if not found:
        return f"None of the {len(tested)} {what} over retraining finds a difference after the adjustment."
    return f"{len(found)} of the {len(tested)} {what} over retraining find a difference after the adjustment: {named}."
