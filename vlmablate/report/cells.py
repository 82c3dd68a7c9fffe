"""Every number of the page is formatted here, from a row of a table, once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from vlmablate.report import formatting as fmt
from vlmablate.report.pairs import context_name
from vlmablate.report.records import Record, records, row_key
from vlmablate.stats.families import is_silent
from vlmablate.stats.table import Analysis


def row_cells(row: Mapping[str, Any], sizes: Mapping[str, int] | None = None) -> Record:
    """The formatted cells of one significance row; `key` finds the row in significance.csv again, `sizes`
    tells how many tests its family has."""
    silent = is_silent(str(row["family"]))
    size = (sizes or {}).get(str(row["family"]), 0)
    decimals = fmt.decimals_for(row["delta"], row["ci_low"], row["ci_high"])
    return {
        "key": row_key("significance", row),
        "delta": fmt.points(row["delta"], signed=True, decimals=decimals),
        "interval": fmt.interval(row["ci_low"], row["ci_high"], decimals=decimals),
        "new": fmt.interval(
            row["new_low"], row["new_high"], decimals=fmt.decimals_for(row["new_low"], row["new_high"])
        ),
        "p": fmt.p_value(row["p"]),
        "p_adjusted": fmt.p_value(row["p_adjusted"]),
        "correction": fmt.correction_name(str(row["correction"])),
        "of": "" if silent or not size else f"of {size}",
        "mde": fmt.points(row["mde"]),
        "verdict": "no signal" if silent else str(row["verdict"]),
        "method": str(row["method"]),
        "unit": str(row["unit"]),
        "n_examples": f"{int(row['n_examples']):,}",
        "n_clusters": f"{int(row['n_clusters']):,}",
        "n_seeds": int(row["n_seeds"]),
        "seeds": fmt.plural(int(row["n_seeds"]), "seed"),
        "design_effect": fmt.points(row["design_effect"], decimals=2),
        "benchmark": fmt.title(str(row["benchmark"])),
        "arm": str(row["arm"]),
        "context": str(row["context"]),
        "family": str(row["family"]),
    }


def pair_cells(row: Mapping[str, Any]) -> Record:
    """One comparison of two arms."""
    return {
        "key": row_key("pairwise", row),
        "arms": f"{row['arm_a']} − {row['arm_b']}",
        "context": context_name(str(row["context"])),
        "level": str(row["level"]),
        "delta": fmt.points(row["delta"], signed=True, decimals=fmt.decimals_for(row["delta"])),
        "interval": fmt.interval(row["ci_low"], row["ci_high"]),
        "p": fmt.p_value(row["p"]),
        "p_adjusted": fmt.p_value(row["p_adjusted"]),
        "n_clusters": f"{int(row['n_clusters']):,}",
        "n_seeds": int(row["n_seeds"]),
        "method": str(row["method"]),
    }


def component_cells(row: Mapping[str, Any]) -> Record:
    """Variance components of one benchmark in one context."""
    spread = {name: row[name] for name in ("seed_sd", "item_sd", "residual_sd", "se_seed", "se_item")}
    return {
        "key": row_key("components", row),
        "benchmark": fmt.title(str(row["benchmark"])),
        "context": str(row["context"]),
        **{name: fmt.points(value, decimals=fmt.decimals_for(value)) for name, value in spread.items()},
        "icc": fmt.points(row["icc"], decimals=2),
        "design_effect": fmt.points(row["design_effect"], decimals=2),
    }


def improvement_cells(row: Mapping[str, Any]) -> Record:
    """Probability of improvement of one arm in one context."""
    return {
        "key": row_key("improvement", row),
        "arm": str(row["arm"]),
        "context": context_name(str(row["context"])),
        "p_improvement": fmt.probability(row["p_improvement"]),
        "interval": fmt.probability_interval(row["ci_low"], row["ci_high"]),
        "runs": f"{int(row['n_alternate'])} / {int(row['n_baseline'])}",
        "method": str(row["method"]),
    }


def duplicate_cells(row: Mapping[str, Any]) -> Record:
    """Repeated questions of one benchmark."""
    ids = row["example_ids"]
    text = ids if isinstance(ids, str) else fmt.listing([str(i) for i in ids]) if ids is not None else ""
    return {
        "key": row_key("duplicates", row),
        "benchmark": fmt.title(str(row["benchmark"])),
        "n_examples": f"{int(row['n_examples']):,}",
        "n_distinct": f"{int(row['n_distinct']):,}",
        "most_copies": str(int(row["most_copies"])),
        "example_ids": text,
        "repeated": int(row["n_distinct"]) < int(row["n_examples"]),
    }


def curve_cells(row: Mapping[str, Any]) -> Record:
    """What one number of seeds per arm can show."""
    return {
        "key": row_key("mde_curve", row),
        "seeds": int(row["seeds"]),
        "mde": fmt.points(row["mde"], decimals=fmt.decimals_for(row["mde"])),
        "half_width": fmt.points(row["half_width"], decimals=fmt.decimals_for(row["half_width"])),
    }


def score_cells(table: pd.DataFrame, arm: str, context: str) -> Record:
    """Mean and every seed of one cell, in points."""
    part = table[(table["arm"] == arm) & (table["context"] == context)].sort_values("seed")
    return {
        "mean": fmt.points(float(part["points"].mean())) if len(part) else fmt.NOTHING,
        "seeds": [
            {"seed": int(s), "points": fmt.points(float(v))}
            for s, v in zip(part["seed"], part["points"], strict=True)
        ],
    }


def benchmark_tables(analysis: Analysis) -> list[Record]:
    """One table per (arm, context): suite first, then every benchmark, at the levels design and items."""
    design = analysis.design
    by_key: dict[tuple[str, str, str, str], Record] = {}
    for row in records(analysis.significance):
        if row["level"] in ("design", "items"):
            cells = row_cells(row, analysis.family_sizes)
            by_key[(row["arm"], row["context"], row["level"], row["benchmark"])] = cells
    tables = []
    for arm in design.arms:
        for context in design.contexts:
            first = next(iter(analysis.signal), "")
            if arm == design.baseline or (arm, context, "design", first) not in by_key:
                continue
            lines = []
            names = ["suite"] if not analysis.suite_scores.empty else []
            for name in [*names, *analysis.signal]:
                scores = analysis.suite_scores
                if name != "suite":
                    scores = analysis.run_scores[analysis.run_scores["benchmark"] == name]
                signal = analysis.signal.get(name)
                lines.append(
                    {
                        "name": fmt.title(name),
                        "suite": name == "suite",
                        "silent": signal is not None and not signal.carries,
                        "majority": fmt.points(signal.majority) if signal else "",
                        "baseline": score_cells(scores, design.baseline, context),
                        "arm": score_cells(scores, arm, context),
                        "design": by_key[(arm, context, "design", name)],
                        "items": by_key.get((arm, context, "items", name)),
                    }
                )
            tables.append({"arm": arm, "context": context, "lines": lines})
    return tables
