"""Is it alive? The voices of Slurm, of the job's own script and of the lease, put together. Pure.

No voice alone may declare a job dead: ``squeue`` may give no answer or a state nobody has heard of, accounting may
be switched off, lag behind, or speak of an older job with the same id. A job has ended when Slurm names a state that is
final, or when Slurm no longer knows it *and* something it left behind says so; everything else is unknown, and unknown
is treated like alive.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from vlmablate.orchestration.slurm.commands import Row, covers
from vlmablate.orchestration.slurm.journal import Submission, job_name

WAITING = frozenset(
    {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"}
)
WORKING = frozenset({"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING"})
FINAL = frozenset(
    {
        "COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE",
        "PREEMPTED", "REVOKED",
    }
)  # fmt: skip
LOST = "LOST"


class Fate(StrEnum):
    """What is known of an element."""

    QUEUED = "queued"
    RUNNING = "running"
    ENDED = "ended"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class JobState:
    """The fused state of one element.

    Attributes:
        fate: what to make of it.
        text: the state in Slurm's word, or ``LOST`` when Slurm has forgotten it and nobody works on it.
        reason: Slurm's reason, for people.
        nodes: where it runs or ran.
        code: exit code of its worker when its script left one.
        source: which voice decided.
    """

    fate: Fate
    text: str
    reason: str = ""
    nodes: str = ""
    code: int | None = None
    source: str = ""

    @property
    def alive(self) -> bool:
        """True unless there is evidence of the end."""
        return self.fate is not Fate.ENDED


@dataclass(frozen=True)
class Voices:
    """What could be heard at one moment; None where there was no answer.

    Attributes:
        squeue: rows of all of the user's jobs.
        sacct: rows of the jobs asked for.
        shown: array id -> rows of ``scontrol show job``, None for "no such job"; ids not asked for are absent.
        exits: token -> index -> exit record.
        leases: (token, index) -> whether a worker of that element still holds a lease that may be alive.
        settled: tokens of submissions old enough that Slurm must have known them by now.
    """

    squeue: Sequence[Row] | None
    sacct: Sequence[Row] | None
    shown: Mapping[str, Sequence[Row] | None]
    exits: Mapping[str, Mapping[int, Mapping[str, Any]]]
    leases: Mapping[tuple[str, int], bool]
    settled: frozenset[str]


def by_element(rows: Sequence[Row] | None) -> dict[tuple[str, int], Row]:
    """(job name, index) -> row. The name is unique to a submission, so reused job ids cannot be mistaken."""
    return {(row.name, row.index): row for row in rows or () if row.index is not None}


def fuse(submission: Submission, voices: Voices) -> dict[int, JobState]:
    """The state of every element of a submission."""
    name = job_name(submission.token)
    queue, account = by_element(voices.squeue), by_element(voices.sacct)
    shown = voices.shown.get(submission.job_id or "")
    listed = by_element(shown)
    # Elements that have not started may be shown as one row, without an index of its own.
    together = [
        row for row in [*(voices.squeue or ()), *(shown or ())] if row.name == name and row.index is None
    ]
    exits = voices.exits.get(submission.token, {})
    found = {}
    for index in submission.indices:
        key = (name, index)
        found[index] = _fuse_one(
            queue.get(key), account.get(key), listed.get(key), _covering(together, index), exits.get(index),
            voices.leases.get((submission.token, index), False),
            answered=voices.squeue is not None,
            # Slurm forgets an element some minutes after its end, also while others of its array go on.
            forgotten=(submission.job_id or "") in voices.shown,
            settled=submission.token in voices.settled,
        )  # fmt: skip
    return found


def _covering(rows: Sequence[Row], index: int) -> Row | None:
    """The row that speaks for an element among others; one that does not say for whom speaks for all."""
    for row in rows:
        if row.span and covers(row.span, index):
            return row
    return next((row for row in rows if not row.span), None)


def _fuse_one(
    queue: Row | None,
    account: Row | None,
    shown: Row | None,
    together: Row | None,
    record: Mapping[str, Any] | None,
    leased: bool,
    *,
    answered: bool,
    forgotten: bool,
    settled: bool,
) -> JobState:
    code = int(record["code"]) if record is not None else None
    if together is not None and not together.span and record is not None:
        together = None  # it has run, so it is none of those that have not started
    for row, source in ((queue, "squeue"), (shown, "scontrol"), (together, "squeue")):
        if row is None:
            continue
        fate = fate_of(row.state)
        return JobState(fate, row.state, row.reason, row.nodes, code if fate is Fate.ENDED else None, source)
    if answered and account is not None and fate_of(account.state) is Fate.ENDED:
        return JobState(Fate.ENDED, account.state, "", account.nodes, code, "sacct")
    if leased:
        return JobState(Fate.RUNNING, "RUNNING", source="lease")
    if record is not None and answered and forgotten:
        text = "COMPLETED" if code == 0 else "FAILED"
        return JobState(Fate.ENDED, text, "", str(record.get("node", "")), code, "exit record")
    if answered and forgotten and settled and account is None:
        return JobState(
            Fate.ENDED, LOST, "Slurm no longer knows it and nobody works on it", source="all voices"
        )
    return JobState(Fate.UNKNOWN, "UNKNOWN", source="no voice")


def fate_of(state: str) -> Fate:
    """What a state in Slurm's word says of a job."""
    word = state.split()[0].rstrip("+") if state.strip() else ""
    if word in FINAL:
        return Fate.ENDED
    if word in WAITING:
        return Fate.QUEUED
    if word in WORKING:
        return Fate.RUNNING
    return Fate.UNKNOWN
