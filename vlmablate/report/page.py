"""What the page of a sweep shows, as plain values: the analysis and everything only a sweep knows."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd

from vlmablate.report import exploration_section, tuning_section
from vlmablate.report import formatting as fmt
from vlmablate.report.behaviour import behaviour
from vlmablate.report.caveats import caveats
from vlmablate.report.collect import Collected
from vlmablate.report.cost import Cost, by_arm, by_kind, by_purpose, sharing
from vlmablate.report.declared import declared_sentence
from vlmablate.report.exploration import Explored
from vlmablate.report.overlap import overlap_cells, shared_pictures
from vlmablate.report.records import Record
from vlmablate.report.sections import outlook, primary_rows, sections, verdicts
from vlmablate.report.sentences import paper_sentence
from vlmablate.report.study import Study, in_order
from vlmablate.report.tuning import Tuning, read_tuning
from vlmablate.stats.table import Analysis


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
        order = sorted(run.steps.items(), key=lambda item: (in_order(study.kind(item[1])), item[0]))
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
        arm["name"]: {
            f"{s['role']}: {k}": v
            for s in arm["steps"]
            if not s["role"].startswith("trunk")  # their settings are those of the training that they lead to
            for k, v in s["flat"].items()
        }
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


def page(
    study: Study,
    collected: Collected,
    analysis: Analysis,
    secondary: pd.DataFrame,
    explored: Explored | None = None,
) -> Record:
    """Everything the template prints, in the order of the page.

    collected: all runs with scores; the analysis, and secondary (as `behaviour_tests.secondary` gives it), are about
    those of them that are compared. explored: of a design space.
    """
    compared, tuning = study.compared, read_tuning(study)
    scores = collected if compared is study else collected.of(compared)
    view = outlook(
        analysis,
        str(study.facts.get("command", "python -m vlmablate.sweep")),
        not any(compared.unfinished(run) for run in compared.runs),
        lead=tuning_section.lead(tuning) if explored is None else exploration_section.lead(explored),
        asks="seeds" if explored is None else "confirm",
    )
    primary, arms = primary_rows(analysis), arm_configs(compared)
    shared = shared_pictures(study, collected)
    return {
        **sections(analysis, view),
        "name": study.name,
        "question": str(study.axis.get("question", study.axis_name)),
        "scale": str(study.facts.get("scale", "")),
        "kicker": kicker(study, explored),
        "intro": intro(compared, collected, len(scores.results), explored),
        "missing": collected.missing,
        "verdicts": verdicts(primary, view),
        "paper": paper_sentence(study.axis, primary),
        "subsets": subsets(compared, scores),
        "behaviour": behaviour(scores.results, secondary, analysis.design),
        "tuning": tuning_section.tuning_section(study, analysis),
        "space": None
        if explored is None
        else exploration_section.exploration_section(study, explored, analysis),
        "notes": notes(tuning, explored),
        "arms": arms,
        "differences": config_differences(arms),
        "cost": [cost_cells(cost) for cost in by_kind(study)],
        "cost_by_arm": [cost_cells(cost) for cost in (by_arm(study) if explored is None else [])],
        "cost_by_purpose": [cost_cells(cost) for cost in by_purpose(study)],
        "saved": fmt.duration(max(sharing(study), 0.0)),
        "overlap": None if shared is None else [overlap_cells(row) for row in shared],
        "caveats": caveats(study, collected, analysis, shared, explored),
        "declared": declared_sentence(study),
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


def kicker(study: Study, explored: Explored | None) -> str:
    """The line above the question."""
    scale = f" at scale {study.facts['scale']}" if study.facts.get("scale") else ""
    if explored is not None:
        return f"Design space {exploration_section.title(explored)}{scale}"
    return f"Ablation of {study.axis_name}{scale}"


def intro(compared: Study, collected: Collected, scores: int, explored: Explored | None) -> str:
    """What was done, in a sentence or two: arms, contexts, seeds, runs, scores."""
    if explored is not None:
        return exploration_section.intro(explored)
    contexts = f" in {len(compared.contexts)} contexts" if len(compared.contexts) > 1 else ""
    runs = len(compared.runs) - len(collected.missing)
    return (
        f"{fmt.plural(len(compared.arms), 'arm')} ({compared.baseline} is the baseline){contexts}, "
        f"{fmt.plural(len({run.seed for run in compared.runs}), 'seed')}, {fmt.plural(runs, 'finished run')}, "
        f"{scores:,} scored examples."
    )


def notes(tuning: Tuning | None, explored: Explored | None) -> list[tuple[str, str]]:
    """(heading, text) of what the methods section says beside the tests."""
    found = []
    if tuning is not None:
        found.append(("Tuning", tuning_section.methods_note(tuning)))
    if explored is not None:
        found.append(("Design space", exploration_section.methods_note(explored)))
    return found
