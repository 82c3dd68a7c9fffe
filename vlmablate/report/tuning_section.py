"""The section "Tuning" of a page: what every arm got, what was chosen, what that cost, and how much of it is luck."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from vlmablate.report import formatting as fmt
from vlmablate.report.cost import by_purpose
from vlmablate.report.records import Record
from vlmablate.report.study import Study
from vlmablate.report.tuning import STATES, Cell, Noise, Trial, Tuning, best_of, noise, read_tuning
from vlmablate.stats.table import Analysis

EDGE = 0.05
"""A chosen number within this share of its range from an end lies at the edge of the range."""
PROPOSED = {
    "tpe": "drawn at random or, once there were scores to learn from, proposed by TPE",
    "random": "drawn at random",
    "grid": "from a grid",
}
"""Method of a search -> where its proposals come from."""


def lead(tuning: Tuning | None) -> str:
    """How a verdict about tuned arms begins; empty where nothing was tuned."""
    if tuning is None:
        return ""
    if tuning.whole:
        return f"With {tuning.space} tuned for every arm"
    done = sum(cell.chosen is not None for cell in tuning.cells)
    several = len({cell.context for cell in tuning.cells}) > 1
    of = "pairs of arm and context" if several else "arms"
    return f"With {tuning.space} tuned for {done} of {len(tuning.cells)} {of} so far"


def edges(tuning: Tuning) -> list[str]:
    """A sentence for every chosen number at an end of its range: better ones may lie beyond."""
    found = []
    for cell in tuning.cells:
        for name, value in (cell.chosen or {}).items():
            parameter = tuning.range_of(cell, name)
            where = _where(parameter, value)
            if where:
                low, high = (show_value(parameter[key]) for key in ("low", "high"))
                found.append(
                    f"{tuning.name(cell)}: the chosen {tuning.short(name)} {show_value(value)} lies {where} "
                    f"its range ({low} to {high}), so a better one may lie beyond; widen the range in "
                    f"conf/search/{tuning.space}.yaml and run the same command again."
                )
    return found


def _where(parameter: Mapping[str, Any], value: Any) -> str:
    """'at the lower end of' for a number at an end of its range, 'outside' for a configured one that is not in it, else
    empty."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if parameter["kind"] not in ("float", "int") or not number:
        return ""
    low, high, at = float(parameter["low"]), float(parameter["high"]), float(value)
    if not low <= at <= high:
        return "outside"
    if parameter.get("log"):
        low, high, at = math.log(low), math.log(high), math.log(at)
    share = (at - low) / (high - low)
    # Whole numbers are at an end or they are not; of floats none falls on it exactly.
    room = EDGE if parameter["kind"] == "float" else 1e-9
    end = "lower" if share <= room else "upper" if share >= 1 - room else ""
    return f"at the {end} end of" if end else ""


def luck(tuning: Tuning, found: Noise) -> list[str]:
    """How many trials of each cell one training cannot tell from the chosen one."""
    if not math.isfinite(found.difference):
        return []
    told = []
    for cell in tuning.cells:
        best = cell.chosen_trial
        if best is None or len(cell.finished) < 2:
            continue
        others = [trial for trial in cell.finished if trial is not best]
        near = [trial for trial in others if abs(best.score - trial.score) <= found.difference]
        if not near:
            continue
        configured = any(trial.values == cell.configured for trial in near)
        same = ", the configured values among them" if configured else ""
        many = f"{len(near)} of {fmt.plural(len(others), 'other finished trial')} scored"
        room = fmt.points(found.difference, decimals=fmt.decimals_for(found.difference))
        told.append(
            f"{tuning.name(cell)}: {many} within {room} points of the chosen one{same}. Two trainings of one "
            "configuration may differ by as much, so these trials do not show that the chosen values are better."
        )
    return told


def budget_sentence(tuning: Tuning) -> str:
    """What every cell got, and what became of it."""
    several = len({cell.context for cell in tuning.cells}) > 1
    of = "arm in every context" if several else "arm"
    names = fmt.listing([f"{tuning.short(name)} ({_range(one)})" for name, one in tuning.parameters.items()])
    counts = [
        f"{sum(cell.count(state) for cell in tuning.cells)} {word}"
        for state, word in STATES.items()
        if any(cell.count(state) for cell in tuning.cells)
    ]
    text = (
        f"Every {of} got the same budget: {fmt.plural(tuning.budget, 'trial')} of {names}, the first of them with the "
        f"values that were configured, the others {PROPOSED[tuning.method]}. All trials: {fmt.listing(counts)}."
    )
    short = [cell for cell in tuning.cells if len(cell.trials) < tuning.budget]
    if short and tuning.final:
        text += (
            f" {fmt.listing([tuning.name(cell) for cell in short])} got fewer: the space has no more values."
        )
    if not tuning.final:
        text += " Tuning is not finished; the same command goes on."
    return text


def methods_note(tuning: Tuning) -> str:
    """The methods of tuning, for the methods section."""
    optimism = fmt.points(best_of(tuning.budget), decimals=2)
    return (
        f"Selection: each trial is one training with seed {tuning.seed}, scored on {tuning.split} pictures that no "
        "training saw and no test asks about; its score is 100 × the mean over the benchmarks of their mean scores, "
        "and the finished trial with the highest one is chosen. Comparison: the chosen values are trained again with "
        "fresh seeds and scored on the test pictures; no trial enters it. So the winner's curse stays in the trials: "
        f"the best of {tuning.budget} equally good configurations looks {optimism} SDs between seeds better than it is "
        "(1.16 of 5, 1.87 of 20, 2.25 of 50), and none of that is in a difference above. Trials that "
        "were stopped early (pruned) or failed cannot be chosen. Intervals are conditional on the chosen values: what "
        "tuning again, with another seed or on other validation pictures, would choose is a further source of variance "
        "that they leave out (Bouthillier et al., MLSys 2021)."
    )


def tuning_caveats(tuning: Tuning | None) -> list[str]:
    """What a reader has to know about tuned arms."""
    if tuning is None:
        return []
    found = []
    if not tuning.whole:
        without = [tuning.name(cell) for cell in tuning.cells if cell.chosen is None]
        found.append(
            "Tuning is not finished"
            + (f": {fmt.listing(without)} run with no chosen values yet" if without else "")
            + ". The same command completes it."
        )
    found += edges(tuning)
    found.append(
        "The intervals are conditional on the values that tuning chose; tuning again could choose others, and that "
        "variance is in no interval of this page."
    )
    return found


def tuning_section(study: Study, analysis: Analysis) -> Record | None:
    """What the section "Tuning" prints; None where nothing was tuned."""
    tuning = read_tuning(study)
    if tuning is None:
        return None
    alpha = analysis.design.settings.alpha
    found = noise(analysis.run_scores, alpha)
    spent, compared = by_purpose(study)
    whole = spent.wall_s + compared.wall_s
    return {
        "parameters": [tuning.short(name) for name in tuning.parameters],
        "contexts": len({cell.context for cell in tuning.cells}) > 1,
        "budget": budget_sentence(tuning),
        "cost": (
            f"Tuning took {fmt.plural(spent.steps, 'step')} and {fmt.duration(spent.wall_s)} of wall time, "
            f"{_percent(spent.wall_s, whole)} of the study's; the comparison {fmt.plural(compared.steps, 'step')} and "
            f"{fmt.duration(compared.wall_s)}. Steps that several trials share, or that the comparison needs as well, "
            "were computed once. Only steps with a result are counted: what a pruned or failed training took is not."
        ),
        "cells": [_cell(tuning, cell, analysis.run_scores) for cell in tuning.cells],
        "edges": edges(tuning),
        "luck": luck(tuning, found),
        "sd": fmt.points(found.sd, decimals=fmt.decimals_for(found.sd)) if math.isfinite(found.sd) else "",
        "trials": [_line(tuning, cell, trial) for cell in tuning.cells for trial in cell.trials],
    }


def _cell(tuning: Tuning, cell: Cell, run_scores: pd.DataFrame) -> Record:
    before, best = cell.configured_trial, cell.chosen_trial
    own = run_scores[(run_scores["arm"] == cell.arm) & (run_scores["context"] == cell.context)]
    test = own.groupby("seed")["points"].mean()
    gain = best.score - before.score if best and before else math.nan
    return {
        "arm": cell.arm,
        "context": cell.context,
        "trials": len(cell.trials),
        "states": ", ".join(f"{n} {word}" for state, word in STATES.items() if (n := cell.count(state))),
        "values": [
            {
                "configured": show_value(cell.configured.get(name)),
                "chosen": show_value(cell.chosen[name]) if cell.chosen else fmt.NOTHING,
            }
            for name in tuning.parameters
        ],
        "before": fmt.points(before.score) if before else fmt.NOTHING,
        "best": fmt.points(best.score) if best else fmt.NOTHING,
        "gain": fmt.points(gain, signed=True),
        "test": fmt.points(float(test.mean())) if len(test) else fmt.NOTHING,
        "seeds": fmt.plural(len(test), "seed") if len(test) else "",
    }


def _line(tuning: Tuning, cell: Cell, trial: Trial) -> Record:
    best = cell.chosen_trial
    return {
        "arm": cell.arm,
        "context": cell.context,
        "number": trial.number,
        "values": [show_value(trial.values.get(name)) for name in tuning.parameters],
        "state": STATES[trial.state],
        "why": trial.why,
        "share": f"{100 * trial.share:.0f} %",
        "score": fmt.points(trial.score),
        "chosen": best is not None and best.number == trial.number,
    }


def show_value(value: Any) -> str:
    """A value of a setting: numbers in four significant digits."""
    if isinstance(value, float):
        return f"{value:.4g}".replace("-", fmt.MINUS)
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _range(parameter: Mapping[str, Any]) -> str:
    if parameter.get("kind") == "categorical":
        return ", ".join(show_value(choice) for choice in parameter["choices"])
    low, high = show_value(parameter["low"]), show_value(parameter["high"])
    of = " times the configured value" if parameter.get("relative") else ""
    return f"{low} to {high}{of}{', logarithmic' if parameter.get('log') else ''}"


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.0f} %" if whole else fmt.NOTHING
