"""What the queue says, for ``vlmablate status``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vlmablate.orchestration.slurm import journal
from vlmablate.orchestration.slurm.observe import observe, steps_of
from vlmablate.orchestration.store import Store


@dataclass(frozen=True)
class QueueState:
    """A step in the queue: its job as Slurm's commands call it, Slurm's state and reason, and the node."""

    job: str
    state: str
    reason: str
    node: str


def queue_states(home: Path) -> dict[str, QueueState]:
    """step id -> its place in the queue, for every step of an element that is not known to have ended."""
    submissions = journal.open_submissions(home)
    if not submissions:
        return {}
    states = observe(submissions, Store(home))
    found = {}
    for submission in submissions:
        for index, state in states[submission.token].items():
            if state.alive:
                shown = QueueState(submission.element_name(index), state.text, state.reason, state.nodes)
                found.update(dict.fromkeys((step.id for step in steps_of(submission, index)), shown))
    return found
