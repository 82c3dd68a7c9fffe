"""Arms that are tuned before they are compared.

Every cell gets the same number of trials, evaluated on scenes that no comparison is made on (the validation split). The
best trial of a cell says with which values it is compared. Its score was chosen for being high and is no estimate of
anything: the comparison trains every cell anew, with seeds that no trial had, and asks about the scenes of the test.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vlmablate.design.spec import RunSpec
from vlmablate.errors import UserError
from vlmablate.orchestration.study import Cell
from vlmablate.orchestration.tuning_cells import (
    SEED,
    Tunable,
    for_trial,
    label_of,
    tunable_cells,
    with_values,
)
from vlmablate.orchestration.tuning_trials import Tried, own_trainings, still_to_come, trials_of
from vlmablate.search.proposals import TrialState
from vlmablate.search.space import Space, distance, load_space, to_json

if TYPE_CHECKING:
    from vlmablate.orchestration.wishes import Ahead, Question, Wishes

_DIGITS = 9
"""Of a score in points: trials that differ by less are equally good."""


def wishes(question: Question, compared: Callable[[Question], Wishes]) -> Wishes:
    """Trials while there are some to wait for, then what `compared` asks for of the tuned cells.

    Raises:
        UserError: for an unknown space, what cannot be tuned, and an arm of which every trial failed.
    """
    from vlmablate.orchestration.wishes import Wishes

    request = question.request
    space = load_space(request.tune)
    cells = tunable_cells(question, space)

    def make(cell: Tunable) -> Callable[[Sequence[Mapping[str, Any]]], list[RunSpec]]:
        return lambda values: question.build(
            [for_trial(cell.cell, v) for v in values], (SEED,), validation=True
        )

    tried = [trials_of(cell, request.trials, make(cell), question.store) for cell in cells]
    every = [trial for of_cell in tried for trial in of_cell]
    best = [_best(cell, trials) for cell, trials in zip(cells, tried, strict=True)]
    given_up = frozenset(t.run.run_id for t in every if t.ended and t.end.state is not TrialState.FINISHED)
    waiting = [trial for trial in every if not trial.ended]
    trials = [trial.run for trial in every]
    if waiting:
        watched = {
            step.id: trial.milestones if step.kind == "finetune" else ()
            for trial in waiting
            for step in own_trainings(trial.run)
        }
        facts = {"tuning": _record(request.tune, request.trials, space, cells, tried, [None] * len(cells))}

        def ahead() -> Ahead:
            return _ahead(question, compared, cells, tried, make)

        return Wishes([], trials, False, (), facts, given_up, watched, ahead)
    chosen = [
        _chosen(request.tune, cell, trials, trial)
        for cell, trials, trial in zip(cells, tried, best, strict=True)
    ]
    tuned = [with_values(cell.cell, trial.values) for cell, trial in zip(cells, chosen, strict=True)]
    wanted = compared(replace(question, cells=tuned))
    lines = [_line(cell, trials, trial) for cell, trials, trial in zip(cells, tried, chosen, strict=True)]
    return replace(
        wanted,
        trials=trials,
        lines=(*lines, *wanted.lines) if wanted.final else (),
        facts={**wanted.facts, "tuning": _record(request.tune, request.trials, space, cells, tried, chosen)},
        given_up=given_up,
    )


def with_choices(cells: Sequence[Cell], tuning: Mapping[str, Any] | None) -> list[Cell]:
    """Cells with the values that a study's ``tuning`` says were chosen for them."""
    return [with_values(cell, chosen_values(tuning, cell.arm, cell.context)) for cell in cells]


def chosen_values(tuning: Mapping[str, Any] | None, arm: str, context: str) -> Mapping[str, Any]:
    """What a study's ``tuning`` says was chosen for a cell; empty where it was not tuned, or not yet."""
    for cell in (tuning or {}).get("cells", ()):
        if (cell["arm"], cell["context"]) == (arm, context):
            return cell["chosen"] or {}
    return {}


def _best(cell: Tunable, trials: Sequence[Tried]) -> Tried | None:
    """The trial with the best score; of equal ones the nearest to the configured values, then the first."""
    finished = [trial for trial in trials if trial.end.score is not None]
    sign = -1.0 if cell.space.direction == "maximize" else 1.0

    def rank(trial: Tried) -> tuple[float, float, int]:
        assert trial.end.score is not None
        away = sum(
            distance(parameter, trial.values[path], cell.configured[path])
            for path, parameter in cell.space.parameters.items()
        )
        return sign * round(trial.end.score, _DIGITS), away, trial.number

    return min(finished, key=rank, default=None)


def _chosen(name: str, cell: Tunable, trials: Sequence[Tried], best: Tried | None) -> Tried:
    if best is not None:
        return best
    tried = [
        f"{path} from {min(values, key=_order)} to {max(values, key=_order)}"
        for path in cell.space.parameters
        for values in [[trial.values[path] for trial in trials]]
    ]
    runs = ", ".join(trial.run.run_id for trial in trials)
    raise UserError(
        f"tune={name}: none of the {len(trials)} trials of the arm {label_of(cell.cell)} came to an end "
        f"({runs}). They tried {'; '.join(tried)}. The first one: {trials[0].end.why}\n"
        f"Narrow the range in conf/search/{name}.yaml, or configure the arm with values that train "
        "(vlmablate why RUN says what happened to one)"
    )


def _order(value: Any) -> tuple[bool, Any]:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return (False, value) if number else (True, str(value))


def _record(
    name: str,
    budget: int,
    space: Space,
    cells: Sequence[Tunable],
    tried: Sequence[Sequence[Tried]],
    chosen: Sequence[Tried | None],
) -> dict[str, Any]:
    """The entry ``tuning`` of study.json: what was tried, what became of it, and what was chosen."""
    return {
        "space": {
            "name": name,
            "method": space.method,
            "direction": space.direction,
            "startup": space.startup,
            "parameters": {path: to_json(parameter) for path, parameter in space.parameters.items()},
        },
        "trials": budget,
        "seed": SEED,
        "split": "validation",
        "final": None not in chosen,
        "cells": [
            {
                "arm": cell.cell.arm,
                "context": cell.cell.context,
                "configured": dict(cell.configured),
                "chosen": dict(best.values) if best is not None else None,
                "score": best.end.score if best is not None else None,
                "trials": [_trial_record(trial) for trial in trials],
            }
            for cell, trials, best in zip(cells, tried, chosen, strict=True)
        ],
    }


def _trial_record(trial: Tried) -> dict[str, Any]:
    end = trial.end
    return {
        "number": trial.number,
        "values": dict(trial.values),
        "state": str(end.state),
        "score": end.score,
        "share": round(end.share, 4),
        "why": end.why,
        "run_id": trial.run.run_id,
        "steps": {role: step.id for role, step in trial.run.steps.items()},
    }


def _line(cell: Tunable, trials: Sequence[Tried], best: Tried) -> str:
    """What was chosen for a cell, in words."""
    values = ", ".join(
        f"{path}={_short(value)} (configured {_short(cell.configured[path])})"
        for path, value in best.values.items()
    )
    counts = [
        f"{count} {words}"
        for state, words in ((TrialState.CENSORED, "stopped early"), (TrialState.FAILED, "diverged"))
        if (count := sum(trial.end.state is state for trial in trials))
    ]
    return (
        f"{label_of(cell.cell)}: {values}, the best of {', '.join([f'{len(trials)} trials', *counts])}; "
        f"{best.end.score:.1f} points on the validation scenes"
    )


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _ahead(
    question: Question,
    compared: Callable[[Question], Wishes],
    cells: Sequence[Tunable],
    tried: Sequence[Sequence[Tried]],
    make: Callable[[Tunable], Callable[[Sequence[Mapping[str, Any]]], list[RunSpec]]],
) -> Ahead:
    """What follows the trials that are asked for now, as if nothing were stopped early or better than configured."""
    from vlmablate.orchestration.wishes import Ahead

    budget = question.request.trials
    later = [
        run
        for cell, trials in zip(cells, tried, strict=True)
        for run in make(cell)(still_to_come(cell, trials, budget))
    ]
    comparison = compared(question).runs
    every = [trial for of_cell in tried for trial in of_cell]
    ended = sum(trial.ended for trial in every)
    first = "at first " if question.request.max_seeds is not None else ""
    return Ahead(
        f"tuning ({question.request.tune}): {len(every) + len(later)} trials, {budget} for each of {len(cells)} "
        f"configurations, {ended} ended, {len(every) - ended} asked for now; then the arms are compared with fresh "
        f"seeds, {first}{len(comparison)} runs. Trials that are stopped early make it less",
        [*later, *comparison],
    )
