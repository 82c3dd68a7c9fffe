"""The trials of a cell, told from the store alone.

Trials are asked for in batches of a fixed size. Each batch follows from the batches before it, once all of these have
ended, so the history is the same however often it is told, on whatever machine, and in whatever order the trials of a
batch end. What is lost of the results is computed again; nothing else is remembered, so nothing else can be lost.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vlmablate.design.spec import RunSpec, StepSpec
from vlmablate.design.step_table import seed_field
from vlmablate.errors import UserError
from vlmablate.orchestration import adaptive
from vlmablate.orchestration.failures import end_of_trial
from vlmablate.orchestration.milestones import Milestone, limits, read_curve
from vlmablate.orchestration.store import Store
from vlmablate.orchestration.trial_batches import next_batch
from vlmablate.orchestration.tuning_cells import SEED, Tunable, label_of
from vlmablate.search.proposals import Trial, TrialState, propose
from vlmablate.search.space import Space, spelled

BATCH = 2
"""Trials of a cell that are asked for together, after those that start a search: fewer would leave workers idle, more
would be proposed knowing less."""
CURVE = "metrics.jsonl"
_POINTS = 100.0

Make = Callable[[Sequence[Mapping[str, Any]]], list[RunSpec]]
"""Values -> the runs of trials with them, in order."""


@dataclass(frozen=True)
class End:
    """What became of a trial.

    Attributes:
        state: running also stands for what was not started.
        score: suite score on the validation scenes in points, of one that finished.
        share: how much of its training was done, 1 when all of it was.
        why: what ended it before, in words.
        loss, step, steps: of one that was stopped early, its smoothed loss, the step, and the steps of the training.
    """

    state: TrialState
    score: float | None = None
    share: float = 0.0
    why: str = ""
    loss: float | None = None
    step: int = 0
    steps: int = 0


@dataclass(frozen=True)
class Tried:
    """A trial: its number, its values, its run, what became of it, and the milestones that it trains under."""

    number: int
    values: Mapping[str, Any] = field(hash=False)
    run: RunSpec
    end: End
    milestones: tuple[Milestone, ...] = ()

    @property
    def ended(self) -> bool:
        """Whether there is nothing more to wait for."""
        return self.end.state is not TrialState.RUNNING


def suite_score(benchmarks: adaptive.Facts) -> float:
    """100 times the mean over the benchmarks of the suite of their mean scores: points.

    Raises UserError where none of the benchmarks is part of the suite.
    """
    means = [float(entry["mean"]) for entry in benchmarks.values() if entry.get("suite", True)]
    if not means:
        raise nothing_to_choose_by(benchmarks)
    return _POINTS * sum(means) / len(means)


def nothing_to_choose_by(benchmarks: Collection[str]) -> UserError:
    """The error for scores that make no suite score."""
    return UserError(
        f"benchmark.names={sorted(benchmarks)}: none of these is part of the suite score, by which tune= and "
        "axis=[…] choose; add one that is"
    )


def trials_of(cell: Tunable, budget: int, make: Make, store: Store) -> list[Tried]:
    """The trials of a cell as far as they are known: all batches that have ended, and the one that has not.

    Trial 0 has the values that the cell is configured with. Fewer than `budget` when the space has no more.

    Raises:
        UserError: for a parameter that changes nothing, and for an evaluation that cannot be read.
    """
    known: list[Tried] = []
    while len(known) < budget and all(trial.ended for trial in known):
        batch = _next_batch(cell, known, budget)
        if not batch:
            break
        runs = make([proposal["values"] for proposal in batch])
        scores = adaptive.finished(runs, store)
        ends = [end_of(run, scores.get(run.run_id), store) for run in runs]
        waiting = any(end.state is TrialState.RUNNING for end in ends)
        milestones = _milestones(known, store) if waiting else ()
        known += [
            Tried(proposal["number"], proposal["values"], run, end, milestones)
            for proposal, run, end in zip(batch, runs, ends, strict=True)
        ]
        _check_different(cell, known)
    return known


def still_to_come(cell: Tunable, known: Sequence[Tried], budget: int) -> list[dict[str, Any]]:
    """Values of the trials that are not asked for yet, as they would be proposed now: to estimate what they cost."""
    asked = [Trial(trial.number, trial.values, TrialState.RUNNING) for trial in known]
    return [p["values"] for p in propose(cell.space, asked, budget - len(known), SEED)]


def _next_batch(cell: Tunable, known: Sequence[Tried], budget: int) -> list[dict[str, Any]]:
    """{number, values} of the trials that follow; from nothing, those that start a search."""
    told = [_as_trial(cell.space, trial) for trial in known]
    return next_batch(cell.space, cell.configured, told, budget, BATCH, SEED)


def _as_trial(space: Space, tried: Tried) -> Trial:
    """The trial as a search learns from it.

    One that was stopped early has a loss and no score. It is told as censored, because a failed one would leave no
    trace and its region would be proposed again: so it counts as worse than all that finished, and the loss, turned so
    that better is what the search calls better, only orders such trials among each other.
    """
    end = tried.end
    if end.state is not TrialState.CENSORED or end.loss is None:
        return Trial(tried.number, tried.values, end.state, end.score)
    told = -end.loss if space.direction == "maximize" else end.loss
    return Trial(tried.number, tried.values, end.state, told, end.step)


def own_trainings(run: RunSpec) -> list[StepSpec]:
    """The trainings of a trial that its seed and its values decide: those that may be stopped early, or diverge."""
    return [step for step in run.steps.values() if seed_field(step.kind)]


def end_of(run: RunSpec, benchmarks: adaptive.Facts | None, store: Store) -> End:
    """What became of a run that may end without a result. benchmarks: of its evaluation, None while there is none."""
    if benchmarks is not None:
        return End(TrialState.FINISHED, suite_score(benchmarks), 1.0)
    for step in own_trainings(run):
        error = end_of_trial(store, step)
        if error is None:
            continue
        state, facts = _ENDS[error["type"]], error.get("facts") or {}
        share, why = float(facts.get("share", 0.0)), str(error.get("message", ""))
        return End(
            state, None, share, why, facts.get("loss"), int(facts.get("step", 0)), int(facts.get("steps", 0))
        )
    return End(TrialState.RUNNING)


_ENDS = {"Pruned": TrialState.CENSORED, "Diverged": TrialState.FAILED}


def _milestones(known: Sequence[Tried], store: Store) -> tuple[Milestone, ...]:
    """Where the next trials are looked at, by the curves of those of the cell that finished or were stopped early."""
    curves = []
    for trial in known:
        curve = read_curve(store.directory(trial.run.steps["finetune"]) / CURVE)
        if curve and trial.end.state is not TrialState.FAILED:
            curves.append((trial.end.steps or curve[-1][0], curve))
    return limits(curves)


def _check_different(cell: Tunable, trials: Sequence[Tried]) -> None:
    seen: dict[str, Tried] = {}
    for trial in trials:
        other = seen.setdefault(trial.run.run_id, trial)
        if spelled(other.values) != spelled(trial.values):
            raise UserError(
                f"the arm {label_of(cell.cell)} is the same with {_words(other.values)} and with "
                f"{_words(trial.values)}: no step reads the setting. Tune the setting that is read "
                "(stages.finetune.epochs, not sizes.epochs)"
            )


def _words(values: Mapping[str, Any]) -> str:
    return " ".join(f"{path}={value}" for path, value in values.items())
