"""Which runs an adaptive study wants next: a pure function of the runs that are finished.

The candidates are all runs that the study could ever want, in the order of
:func:`vlmablate.orchestration.study.build_runs`. A round asks for those that the rule pays for
(:mod:`vlmablate.stats.adaptive`), has them computed like any others, and asks again; nothing is remembered in between,
so the same command after a crash goes on where it was.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmablate.design.catalogue import Axis
from vlmablate.design.spec import RunSpec
from vlmablate.errors import UserError
from vlmablate.files import read_json
from vlmablate.orchestration.detectable import Spread
from vlmablate.orchestration.store import RESULT, Store

if TYPE_CHECKING:
    from vlmablate.stats.adaptive.rule import Rule

_POINTS = 100.0

Facts = Mapping[str, Mapping[str, Any]]
"""Benchmark -> what its evaluation says: mean, metric, majority, fractions."""


@dataclass(frozen=True)
class Round:
    """The runs that are paid for, in the order of the candidates; those of them without scores; what there is to say
    (why each contrast stopped) once nothing is wanted any more."""

    runs: tuple[RunSpec, ...]
    wanted: tuple[RunSpec, ...]
    lines: tuple[str, ...]


def plan_text(
    axis: Axis, max_seeds: int, budget: int | None, analysis: Mapping[str, Any], spread: Spread | None
) -> list[str]:
    """What an adaptive study is expected to take and to decide, in words, given the spread between seeds of a cell
    (None when nobody knows it). Raises what the rule refuses."""
    from vlmablate.stats.adaptive.conclusions import plan_lines

    rule = _rule(axis, max_seeds, budget, analysis)
    if spread is None:
        return plan_lines(rule, None, "")
    # Runs of one seed in two arms are taken to vary independently: how much they have in common is not measured yet.
    sd = spread.sd * math.sqrt(2) if rule.settings.paired_seeds else spread.sd
    source = f"from {spread.runs} finished runs at this scale" if spread.runs else "assumed"
    return plan_lines(rule, sd, source)


def most_seeds(axis: Axis, max_seeds: int, budget: int | None, analysis: Mapping[str, Any]) -> int:
    """How many seeds, from 0 on, the candidates need: those of the baseline, which gets the most.

    Raises UserError for settings, max_seeds or a budget that cannot be.
    """
    return _rule(axis, max_seeds, budget, analysis).baseline_looks[-1]


def next_round(
    axis: Axis,
    candidates: Sequence[RunSpec],
    facts: Mapping[str, Facts],
    *,
    max_seeds: int,
    budget: int | None,
    analysis: Mapping[str, Any],
) -> Round:
    """The runs that the rule pays for, given the results there are.

    facts: run id -> benchmarks of its evaluation, for the runs that are finished (:func:`finished`). analysis: the
    declared settings. While the first look is not complete, all runs of it are wanted; if no benchmark carries signal
    then, nothing more is. Raises UserError for arms that share training runs, and what the rule refuses.
    """
    from vlmablate.stats.adaptive.conclusions import conclude, report_lines
    from vlmablate.stats.adaptive.scores import alternates, follow
    from vlmablate.stats.declaration import Design, read_analysis

    rule = _rule(axis, max_seeds, budget, analysis)
    settings, families = read_analysis(analysis)
    known = {name: entry for of_run in facts.values() for name, entry in of_run.items()}
    design = Design(
        axis=axis.name,
        baseline=axis.baseline,
        arms=tuple(arm.name for arm in axis.arms),
        contexts=tuple(context.name for context in axis.contexts),
        metrics={name: str(entry.get("metric")) for name, entry in known.items()},
        majority={
            name: entry["majority"] for name, entry in known.items() if entry.get("majority") is not None
        },
        families=families,
        settings=settings,
    )
    state = follow(design, rule, _run_scores(candidates, facts))
    seeds = {axis.baseline: int(state.baseline_seeds[0])}
    seeds |= {arm: int(count) for arm, count in zip(alternates(design), state.arm_seeds[0], strict=True)}
    runs = tuple(run for run in candidates if run.seed < seeds[run.arm])
    wanted = tuple(run for run in runs if run.run_id not in facts)
    lines: list[str] = []
    if state.ready:
        lines = report_lines(rule, state, conclude(rule, state, alternates(design)))
    elif not wanted:
        lines = ["no benchmark carries signal after the first round, so more seeds would decide nothing"]
    return Round(runs, wanted, tuple(lines))


def _rule(axis: Axis, max_seeds: int, budget: int | None, analysis: Mapping[str, Any]) -> Rule:
    from vlmablate.stats.adaptive.rule import Rule
    from vlmablate.stats.declaration import read_analysis

    settings, _ = read_analysis(analysis)
    return Rule(len(axis.arms) - 1, len(axis.contexts), max_seeds, budget, settings)


def finished(candidates: Sequence[RunSpec], store: Store) -> dict[str, Facts]:
    """Run id -> benchmarks of its evaluation, for the candidates that have one.

    Raises UserError for a result that does not say how its benchmarks went, naming the file.
    """
    listing = store.listing("evaluate")
    found: dict[str, Facts] = {}
    for run in candidates:
        name = listing.get(run.run_id)
        if name is None or run.run_id in found:
            continue
        path = store.kind_directory("evaluate") / name / RESULT
        facts = _benchmarks(path)
        if facts is not None:
            found[run.run_id] = facts
    return found


def _benchmarks(path: Path) -> Facts | None:
    try:
        facts: Facts = read_json(path)["payload"]["benchmarks"]
        for entry in facts.values():
            float(entry["mean"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} does not say how its benchmarks went ({error}), and what is computed next depends on that; "
            "delete it and run the sweep again to redo the evaluation"
        ) from error
    return facts


def _run_scores(candidates: Sequence[RunSpec], facts: Mapping[str, Facts]) -> Any:
    """The columns of stats.data.run_table, from the means that evaluations recorded."""
    import pandas as pd

    records = [
        (run.arm, run.context, run.seed, run.run_id, name, _POINTS * float(entry["mean"]))
        for run in candidates
        for name, entry in facts.get(run.run_id, {}).items()
    ]
    return pd.DataFrame(records, columns=["arm", "context", "seed", "run_id", "benchmark", "points"])
