"""``vlmablate retry``: take cancellations back and forgive failures; the next command then computes the steps."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from vlmablate.orchestration import marks
from vlmablate.orchestration.cancel import is_done
from vlmablate.orchestration.lease import latest
from vlmablate.orchestration.names import Index, KnownRun, KnownStep
from vlmablate.orchestration.store import ATTEMPTS


def retry(home: Path, words: Sequence[str], report: Callable[[str], None]) -> list[str]:
    """Make the failed and cancelled steps of studies, runs or single steps startable again.

    A step that somebody computes right now is left alone. Shared steps count: a run cannot go on without them.

    Returns:
        The commands that go on; studies that were started together have one in common.

    Raises:
        UserError: for a name that means nothing; nothing is changed then.
    """
    index = Index(home)
    selections = [index.select(word) for word in words]
    steps: dict[str, KnownStep] = {s.step.id: s.step for s in selections if s.step is not None}
    studies = [run.study for selection in selections for run in selection.runs]
    for selection in selections:
        for run in selection.runs:
            steps.update({step_id: index.steps[step_id] for step_id in run.steps.values()})
    for step_id in [selection.step.id for selection in selections if selection.step is not None]:
        studies += [run.study for run in index.users(step_id)]
    counts = {"cancelled": 0, "failed": 0}
    for step in steps.values():
        counts_as = _forgive(home, step)
        if counts_as:
            counts[counts_as] += 1
    changed = [f"{count} {word}" for word, count in counts.items() if count]
    report(
        f"to be computed again: {' and '.join(changed)} steps"
        if changed
        else "nothing was failed or cancelled"
    )
    for run in _still_cancelled(index, [s.step.id for s in selections if s.step is not None]):
        word = run.label if run.trial is None else run.study  # a trial has no name that a command line takes
        report(f"other steps of {run.label} are still cancelled: vlmablate retry {word}")
    return list(dict.fromkeys(str(index.studies[study]["command"]) for study in studies))


def _still_cancelled(index: Index, step_ids: Sequence[str]) -> list[KnownRun]:
    """The runs of single steps that would not get any further than these steps."""
    return [
        run
        for step_id in step_ids
        for run in index.users(step_id)
        if any(marks.is_cancelled(index.home / index.steps[other].directory) for other in run.steps.values())
    ]


def _forgive(home: Path, step: KnownStep) -> str:
    """What the step was: ``cancelled``, ``failed``, or nothing that needs to be forgiven."""
    directory = home / step.directory
    if is_done(home, step):
        return ""
    attempt = latest(directory / ATTEMPTS)
    if attempt is not None and attempt.alive():
        return ""
    number = attempt.number if attempt is not None else 0
    cancelled = marks.is_cancelled(directory)
    failed = attempt is not None and attempt.state == "failed" and marks.forgiven(directory) < number
    if cancelled or failed:
        marks.forgive(directory, number)
    return "cancelled" if cancelled else "failed" if failed else ""


def go_on(commands: Sequence[str]) -> int:
    """Run the commands of :func:`retry`, one after the other; the worst of their exit codes."""
    from vlmablate.sweep import run

    codes = []
    for command in commands:
        words = shlex.split(command)
        codes.append(run(words[words.index("vlmablate.sweep") + 1 :]))
    return max(codes, default=0)
