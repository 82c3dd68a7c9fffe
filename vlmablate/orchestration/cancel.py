"""``vlmablate cancel``: take work back, and nothing that somebody else still waits for."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vlmablate.orchestration import marks
from vlmablate.orchestration.lease import TTL_S, Attempt, latest
from vlmablate.orchestration.names import Index, KnownRun, KnownStep, Selection
from vlmablate.orchestration.store import ATTEMPTS, RESULT

Report = Callable[[str], None]


@dataclass(frozen=True)
class Chosen:
    """What is to be cancelled, and what is spared although it belongs to it.

    Attributes:
        steps: unfinished steps to cancel.
        spared: step id -> labels of other unfinished runs that need it.
    """

    steps: tuple[KnownStep, ...]
    spared: dict[str, list[str]]


def cancel(home: Path, words: Sequence[str], why: str, force: bool, report: Report) -> int:
    """Cancel the unfinished steps of studies, runs or single steps; returns how many.

    Every one is marked first, so that nothing starts it again, and then its worker is told to stop: by SIGTERM on this
    machine, by scancel in Slurm's queue. A training saves a checkpoint before it ends.

    Args:
        home: the results folder.
        words: what to cancel (see :mod:`vlmablate.orchestration.names`).
        why: kept with the marks.
        force: also steps that other unfinished runs need.
        report: prints a line.

    Raises:
        UserError: for a name that means nothing (nothing is cancelled then), and when Slurm takes no cancellation.
    """
    index = Index(home)
    chosen = choose(index, [index.select(word) for word in words], force)
    _say_spared(index, chosen, report)
    if not chosen.steps:
        report("nothing to cancel: no unfinished step is left")
        return 0
    for step in chosen.steps:
        marks.cancel(home / step.directory, why)
    # A mark that was set before a worker claims the step is seen by it; one that holds the step already is told.
    for step in chosen.steps:
        attempt = latest(home / step.directory / ATTEMPTS)
        if attempt is not None:
            stop(step, attempt, report)
    if (home / "submissions").is_dir():
        from vlmablate.orchestration.slurm.cancel import cancel as cancel_jobs

        cancel_jobs(home, [step.id for step in chosen.steps], report)
    kinds = ", ".join(f"{len(ids)} {kind}" for kind, ids in _by_kind(chosen.steps).items())
    report(f"cancelled {len(chosen.steps)} steps ({kinds}); what is done is kept")
    report(f"to have them computed after all: vlmablate retry {' '.join(words)}")
    return len(chosen.steps)


def choose(index: Index, selections: Sequence[Selection], force: bool = False) -> Chosen:
    """The unfinished steps that belong to the selections and to nothing else that is still wanted."""
    mine = {(run.study, run.run_id) for selection in selections for run in selection.runs}
    single = {selection.step.id for selection in selections if selection.step is not None}
    done: dict[str, bool] = {}

    def unfinished(ids: Iterable[str]) -> list[str]:
        for step_id in ids:
            if step_id not in done:
                done[step_id] = step_id in index.steps and is_done(index.home, index.steps[step_id])
        return [step_id for step_id in ids if not done[step_id]]

    wanted: dict[str, list[str]] = {}
    candidates: list[str] = []
    for run in (*index.runs, *index.trials):
        if not unfinished([run.run_id]):
            continue
        left = unfinished(run.steps.values())
        if (run.study, run.run_id) in mine:
            candidates += left
        elif not _is_given_up(index, run, left):
            for step_id in left:
                wanted.setdefault(step_id, []).append(run.label)
    candidates += unfinished(single)
    steps = {**{s.step.id: s.step for s in selections if s.step is not None}, **index.steps}
    spared = {} if force else {step_id: wanted[step_id] for step_id in candidates if step_id in wanted}
    taken = [step_id for step_id in dict.fromkeys(candidates) if step_id not in spared]
    return Chosen(tuple(steps[step_id] for step_id in taken), spared)


def is_done(home: Path, step: KnownStep) -> bool:
    """Whether a step has a result."""
    return (home / step.directory / RESULT).exists()


def stop(step: KnownStep, attempt: Attempt, report: Report) -> bool:
    """Tell the worker of a step on this machine to stop; returns whether it was told."""
    owner = attempt.owner
    if attempt.record.get("slurm") or owner is None or not attempt.alive(TTL_S):
        return False
    if not owner.on_this_machine():
        report(
            f"{step} is computed by {attempt.describe()}: it stops there when it ends, or at once with kill {owner.pid}"
        )
        return False
    try:
        os.kill(owner.pid, signal.SIGTERM)
    except ProcessLookupError:
        return False
    except PermissionError:
        report(f"{step} is computed by {attempt.describe()}, which belongs to somebody else")
        return False
    report(f"told process {owner.pid} to stop: {step}")
    return True


def _is_given_up(index: Index, run: KnownRun, left: Collection[str]) -> bool:
    return any(marks.is_cancelled(index.home / index.steps[step_id].directory) for step_id in left)


def _say_spared(index: Index, chosen: Chosen, report: Report) -> None:
    for step_id, labels in chosen.spared.items():
        more = f" and {len(labels) - 1} more" if len(labels) > 1 else ""
        report(
            f"left alone: {index.steps[step_id]}, needed by {labels[0]}{more} (--force cancels it as well)"
        )


def _by_kind(steps: Sequence[KnownStep]) -> dict[str, list[str]]:
    kinds: dict[str, list[str]] = {}
    for step in steps:
        kinds.setdefault(step.kind, []).append(step.id)
    return kinds
