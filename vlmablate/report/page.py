"""What the page shows, as plain values: every number is formatted here, from the tables, once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pandas as pd

from vlmablate.report import formatting as fmt
from vlmablate.report.caveats import caveats
from vlmablate.report.collect import Collected
from vlmablate.report.cost import Cost, by_arm, by_kind, sharing
from vlmablate.report.sentences import (
    Outlook,
    paper_sentence,
    suite_sentence,
    verdict_sentences,
)
from vlmablate.report.study import STEP_ORDER, Study
from vlmablate.stats.families import PRIMARY, is_silent
from vlmablate.stats.settings import Settings
from vlmablate.stats.table import Analysis

Record = dict[str, Any]


def records(table: pd.DataFrame) -> list[Record]:
    """Rows as dictionaries with text keys."""
    return [{str(key): value for key, value in row.items()} for row in table.to_dict("records")]


def primary_rows(analysis: Analysis) -> list[Record]:
    table = analysis.significance
    return records(table[table["family"] == PRIMARY])


def outlook(study: Study, analysis: Analysis, settings: Settings) -> Outlook:
    """What the verdict sentences need besides their rows."""
    return Outlook(
        seed_sd=analysis.seed_sd,
        cells=analysis.cells,
        alpha=settings.alpha,
        family_size=max(len(primary_rows(analysis)), 1),
        benchmarks=[name for name, signal in analysis.signal.items() if signal.carries],
        contexts=max(len(study.contexts), 1),
        command=str(study.facts.get("command", "python -m vlmablate.sweep")),
        complete=not any(study.unfinished(run) for run in study.runs),
    )


def verdicts(study: Study, analysis: Analysis, settings: Settings) -> list[str]:
    return verdict_sentences(primary_rows(analysis), outlook(study, analysis, settings))


def test_cells(row: Mapping[str, Any]) -> Record:
    """The formatted cells of one significance row; `key` finds the row in significance.csv again."""
    silent = is_silent(str(row["family"]))
    return {
        "key": "|".join(str(row[name]) for name in ("level", "arm", "context", "benchmark", "family")),
        "delta": fmt.points(row["delta"], signed=True),
        "interval": fmt.interval(row["ci_low"], row["ci_high"]),
        "p": fmt.p_value(row["p"]),
        "p_adjusted": fmt.p_value(row["p_adjusted"]),
        "mde": fmt.points(row["mde"]),
        "verdict": "no signal" if silent else str(row["verdict"]),
        "method": str(row["method"]),
        "n_examples": int(row["n_examples"]),
        "n_clusters": int(row["n_clusters"]),
        "n_seeds": int(row["n_seeds"]),
        "benchmark": fmt.title(str(row["benchmark"])),
        "arm": str(row["arm"]),
        "context": str(row["context"]),
        "family": str(row["family"]),
    }


def _scores(table: pd.DataFrame, arm: str, context: str) -> Record:
    part = table[(table["arm"] == arm) & (table["context"] == context)].sort_values("seed")
    return {
        "mean": fmt.points(float(part["points"].mean())) if len(part) else fmt.NOTHING,
        "seeds": [
            {"seed": int(s), "points": fmt.points(float(v))}
            for s, v in zip(part["seed"], part["points"], strict=True)
        ],
    }


def benchmark_tables(study: Study, analysis: Analysis) -> list[Record]:
    """One table per (arm, context): suite first, then every benchmark, at the levels design and items."""
    by_key: dict[tuple[str, str, str, str], Record] = {}
    for row in records(analysis.significance):
        if row["level"] in ("design", "items"):
            by_key[(row["arm"], row["context"], row["level"], row["benchmark"])] = test_cells(row)
    tables = []
    for arm in study.arms:
        for context in study.contexts:
            if (
                arm == study.baseline
                or (arm, context, "design", next(iter(analysis.signal), "")) not in by_key
            ):
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
                        "baseline": _scores(scores, study.baseline, context),
                        "arm": _scores(scores, arm, context),
                        "design": by_key[(arm, context, "design", name)],
                        "items": by_key.get((arm, context, "items", name)),
                    }
                )
            tables.append({"arm": arm, "context": context, "lines": lines})
    return tables


def subsets(study: Study, collected: Collected) -> list[Record]:
    """Mean score of every arm on each subset (split) of the benchmarks that have several; for reading, no
    tests."""
    results = collected.results
    primary = results[results["metric"] == results["benchmark"].map(_metrics(collected))]
    rows = []
    for (benchmark, split), part in primary.groupby(["benchmark", "split"], sort=True):
        if primary.loc[primary["benchmark"] == benchmark, "split"].nunique() > 1:
            means = 100 * part.groupby("arm")["score"].mean()
            scores = [fmt.points(float(means.get(arm, float("nan")))) for arm in study.arms]
            number = int(part["example_id"].nunique())
            name = f"{fmt.title(str(benchmark))}: {fmt.title(str(split))}"
            rows.append({"name": name, "n": number, "scores": scores})
    return rows


def _metrics(collected: Collected) -> dict[str, str]:
    return {name: facts["metric"] for name, facts in collected.benchmarks.items()}


def _flat(value: Any, prefix: str = "") -> dict[str, str]:
    if isinstance(value, dict):
        found: dict[str, str] = {}
        for key, inner in value.items():
            found |= _flat(inner, f"{prefix}.{key}" if prefix else str(key))
        return found
    return {prefix: json.dumps(value, ensure_ascii=False)}


def arm_configs(study: Study) -> list[Record]:
    """Arms with what they say of themselves and the exact config of each step of their first run."""
    declared, entries = study.axis.get("arms") or {}, []
    for arm in study.arms:
        run = min(
            (r for r in study.runs if r.arm == arm), key=lambda r: (study.contexts.index(r.context), r.seed)
        )
        steps = []
        order = sorted(run.steps.items(), key=lambda item: (STEP_ORDER.index(study.kind(item[1])), item[0]))
        for role, step_id in order:
            config = study.spec(step_id).get("config", {})
            text = json.dumps(config, indent=2, ensure_ascii=False, sort_keys=True)
            steps.append({"role": role, "id": step_id, "config": text, "flat": _flat(config)})
        facts = declared.get(arm) or {}
        entries.append(
            {
                "name": arm,
                "label": str(facts.get("label", "")),
                "overrides": [str(override) for override in facts.get("overrides") or []],
                "baseline": arm == study.baseline,
                "run": run.name,
                "steps": steps,
            }
        )
    return entries


def config_differences(arms: list[Record]) -> list[Record]:
    """Settings (role and dotted key) that are not the same in all arms, with each arm's value."""
    values = {
        arm["name"]: {f"{s['role']}: {k}": v for s in arm["steps"] for k, v in s["flat"].items()}
        for arm in arms
    }
    keys = sorted({key for of_arm in values.values() for key in of_arm})
    rows = [
        {"key": key, "values": [values[arm["name"]].get(key, fmt.NOTHING) for arm in arms]} for key in keys
    ]
    return [row for row in rows if len(set(row["values"])) > 1]


def cost_cells(cost: Cost) -> Record:
    return {
        "name": cost.name,
        "steps": cost.steps,
        "wall": fmt.duration(cost.wall_s),
        "cpu": f"{cost.cpu_s / 3600:.{4 if cost.cpu_s < 3600 else 2}f}",
        "tokens_per_s": f"{cost.tokens_per_s:,.0f}" if cost.tokens_per_s else fmt.NOTHING,
        "peak": f"{cost.peak_rss_mb:,.0f}",
    }


def page(study: Study, collected: Collected, analysis: Analysis, settings: Settings) -> Record:
    """Everything the template prints, in the order of the page."""
    primary, view = primary_rows(analysis), outlook(study, analysis, settings)
    table = analysis.significance
    arms = arm_configs(study)
    sentences = verdict_sentences(primary, view)
    badges = [str(row["verdict"]) for row in primary] if len(primary) == len(sentences) else []
    return {
        "name": study.name,
        "axis": study.axis_name,
        "question": str(study.axis.get("question", study.axis_name)),
        "scale": str(study.facts.get("scale", "")),
        "baseline": study.baseline,
        "contexts": study.contexts,
        "n_runs": len(study.runs) - len(collected.missing),
        "n_seeds": len({run.seed for run in study.runs}),
        "n_scores": len(collected.results),
        "missing": collected.missing,
        "verdicts": [
            {"text": text, "verdict": badges[i] if badges else "unresolved"}
            for i, text in enumerate(sentences)
        ],
        "suite": suite_sentence(view),
        "paper": paper_sentence(study.axis, primary),
        "settings": settings,
        "primary": [test_cells(row) for row in primary],
        "contexts_table": [test_cells(row) for row in records(table[table["family"] == "contexts"])],
        "tables": benchmark_tables(study, analysis),
        "subsets": subsets(study, collected),
        "suite_level": [test_cells(row) for row in records(table[table["level"] == "suite"])],
        "checkpoints": [test_cells(row) for row in records(table[table["level"] == "checkpoint"])],
        "sensitivity": [test_cells(row) for row in records(analysis.sensitivity)],
        "arms": arms,
        "differences": config_differences(arms),
        "cost": [cost_cells(cost) for cost in by_kind(study)],
        "cost_by_arm": [cost_cells(cost) for cost in by_arm(study)],
        "saved": fmt.duration(max(sharing(study), 0.0)),
        "caveats": caveats(study, collected, analysis, settings),
        "seed_sd": fmt.points(analysis.seed_sd, decimals=fmt.decimals_for(analysis.seed_sd)),
        "seed_df": analysis.seed_df,
        "cells": analysis.cells,
        "families": [
            (family, size)
            for family, size in sorted(analysis.family_sizes.items())
            if not is_silent(family) and not family.startswith("checkpoint")
        ],
        "command": view.command,
        "provenance": sorted(_flat(study.facts.get("provenance") or {}).items()),
        "runs": [
            {
                "name": run.name,
                "id": run.run_id,
                "steps": sorted(run.steps.items()),
                "why": study.unfinished(run),
            }
            for run in study.runs
        ],
    }
