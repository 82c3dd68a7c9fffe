"""Listening to all voices about the open submissions, with as few questions to Slurm as will do."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from vlmablate.orchestration.lease import TTL_S, latest
from vlmablate.orchestration.slurm import commands, journal
from vlmablate.orchestration.slurm.commands import NoAnswer, Row, covers
from vlmablate.orchestration.slurm.journal import Submission
from vlmablate.orchestration.slurm.states import Fate, JobState, Voices, by_element, fuse
from vlmablate.orchestration.store import ATTEMPTS, Store

SETTLED_S = 60.0
_SHOW_AT_MOST = 20
_SLACK = timedelta(minutes=10)

States = dict[str, dict[int, JobState]]
"""token -> index -> state"""


@dataclass(frozen=True)
class Step:
    """A step as the journal knows it."""

    id: str
    kind: str
    slug: str


def steps_of(submission: Submission, index: int) -> list[Step]:
    """The steps of an element, in their order."""
    return [Step(step["id"], step["kind"], step["slug"]) for step in submission.job(index)["steps"]]


def observe(submissions: Sequence[Submission], store: Store, ttl_s: float = TTL_S) -> States:
    """The fused state of every element: at most one ``squeue`` and one ``sacct``, and ``scontrol`` for the few jobs
    that neither knows.
    """
    known = [submission for submission in submissions if submission.job_id is not None]
    rows = _squeue() if known else None
    if rows is not None:
        _cancel_late(submissions, rows)
    undecided = _undecided(known, rows)
    account = _sacct([s for s in known if s.token in undecided])
    still = _undecided([s for s in known if s.token in undecided], [*(rows or ()), *_final(account)])
    shown = _shown([s for s in known if s.token in still])
    voices = Voices(
        squeue=rows,
        sacct=account,
        shown=shown,
        exits={s.token: s.exit_records() for s in known},
        leases=_leases([s for s in known if s.token in still], store, ttl_s),
        settled=frozenset(s.token for s in known if _age_s(s) > SETTLED_S),
    )
    states = {submission.token: fuse(submission, voices) for submission in known}
    for submission in submissions:
        if submission.job_id is None:  # being submitted right now, or its controller died: adopt() will tell
            state = JobState(Fate.UNKNOWN, "SUBMITTING", source="journal")
            states[submission.token] = dict.fromkeys(submission.indices, state)
    return states


def _squeue() -> list[Row] | None:
    with suppress(NoAnswer):
        return commands.squeue()
    return None


def _undecided(submissions: Sequence[Submission], rows: Sequence[Row] | None) -> set[str]:
    """Tokens with an element that no row is clearly about."""
    listed = by_element(rows)
    spans: dict[str, list[str]] = {}
    for row in rows or ():
        if row.index is None and row.span:
            spans.setdefault(row.name, []).append(row.span)
    return {
        s.token
        for s in submissions
        for name in [journal.job_name(s.token)]
        if any(
            (name, index) not in listed and not any(covers(span, index) for span in spans.get(name, ()))
            for index in s.indices
        )
    }


def _sacct(submissions: Sequence[Submission]) -> list[Row] | None:
    if not submissions:
        return None
    oldest = min(datetime.fromisoformat(str(s.intent["created"])) for s in submissions) - _SLACK
    since = oldest.astimezone().strftime("%Y-%m-%dT%H:%M:%S")
    with suppress(NoAnswer):
        return commands.sacct([str(s.job_id) for s in submissions], since)
    return None


def _final(rows: Sequence[Row] | None) -> list[Row]:
    from vlmablate.orchestration.slurm.states import FINAL

    return [row for row in rows or () if row.state in FINAL]


def _shown(submissions: Sequence[Submission]) -> dict[str, list[Row] | None]:
    found: dict[str, list[Row] | None] = {}
    for submission in submissions[:_SHOW_AT_MOST]:
        with suppress(NoAnswer):
            found[str(submission.job_id)] = commands.show_job(str(submission.job_id))
    return found


def _leases(submissions: Sequence[Submission], store: Store, ttl_s: float) -> dict[tuple[str, int], bool]:
    held = {}
    for submission in submissions:
        for index in submission.indices:
            held[submission.token, index] = any(
                _is_held_by(store, step, submission, index, ttl_s) for step in steps_of(submission, index)
            )
    return held


def _is_held_by(store: Store, step: Step, submission: Submission, index: int, ttl_s: float) -> bool:
    folder = store.find(step.kind, step.id)
    attempt = latest(folder / ATTEMPTS) if folder is not None else None
    if attempt is None:
        return False
    slurm: Mapping[str, Any] = attempt.record.get("slurm") or {}
    return (slurm.get("token"), slurm.get("index")) == (submission.token, index) and attempt.alive(ttl_s)


def _cancel_late(submissions: Sequence[Submission], rows: Sequence[Row]) -> None:
    """A submission that was given up, and arrived all the same, would only waste its place in the queue."""
    mine = {journal.job_name(submission.token) for submission in submissions}
    strange = {
        row.name.removeprefix("vlm-"): row
        for row in rows
        if row.name.startswith("vlm-") and row.name not in mine
    }
    if not strange or not submissions:
        return
    home = submissions[0].folder.parent.parent
    late = [
        row.job_id
        for token, row in strange.items()
        if row.state == "PENDING" and (journal.folder(home, token) / journal.REVOKED).exists()
    ]
    with suppress(NoAnswer):
        commands.scancel(late)


def _age_s(submission: Submission) -> float:
    try:
        return time.time() - datetime.fromisoformat(str(submission.intent["created"])).timestamp()
    except ValueError:
        return 0.0


def covered(submissions: Sequence[Submission], states: States) -> dict[str, tuple[str, int]]:
    """step id -> the element that computes it, for the elements that are not known to have ended."""
    found = {}
    for submission in submissions:
        for index, state in states[submission.token].items():
            if state.alive:
                found.update(
                    dict.fromkeys((s.id for s in steps_of(submission, index)), (submission.token, index))
                )
    return found
