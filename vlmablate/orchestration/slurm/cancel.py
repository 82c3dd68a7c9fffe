"""Cancelling elements of arrays by the steps that they compute."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

from vlmablate.errors import UserError
from vlmablate.orchestration.slurm import commands, journal
from vlmablate.orchestration.slurm.observe import observe, steps_of
from vlmablate.orchestration.store import Store


def cancel(home: Path, step_ids: Collection[str], report: Callable[[str], None]) -> int:
    """Cancel the elements that compute nothing but these steps; returns how many were cancelled.

    An element that also computes a step which is not in ``step_ids`` is left alone, and said.

    Raises:
        UserError: when Slurm gives no answer; nothing is known to be cancelled then.
    """
    submissions = [s for s in journal.open_submissions(home) if s.job_id is not None]
    wanted = set(step_ids)
    store = Store(home)
    states = observe(submissions, store) if submissions else {}
    names = []
    for submission in submissions:
        for index, state in states[submission.token].items():
            own = {
                step.id for step in steps_of(submission, index) if not store.has_result(step.kind, step.id)
            }
            if not state.alive or not own & wanted:
                continue
            if own - wanted:
                report(
                    f"left alone: {submission.element_name(index)} also computes a step that is still wanted"
                )
                continue
            names.append(submission.element_name(index))
    try:
        commands.scancel(names)
    except commands.NoAnswer as error:
        raise UserError(f"Slurm did not take the cancellation: {error}") from error
    for name in names:
        report(f"cancelled {name}")
    return len(names)
