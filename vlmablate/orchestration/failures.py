"""What went wrong: the evidence that an ended job left behind, its cause in words, and verdicts on attempts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlmablate.design.spec import StepSpec
from vlmablate.files import read_json, write_json
from vlmablate.orchestration.evidence import Evidence, FailureClass, death
from vlmablate.orchestration.jobs import Job
from vlmablate.orchestration.lease import Attempt, now_text
from vlmablate.orchestration.marks import cancellation, forgiven
from vlmablate.orchestration.policy import Decision, PastFailure
from vlmablate.orchestration.store import Store
from vlmablate.orchestration.worker import Exit

TAIL_BYTES = 4096
ENDS_OF_TRIALS = ("Pruned", "Diverged")
"""Types of errors that say something about the values of a trial."""


@dataclass(frozen=True)
class Failure:
    """A step that failed: why, where its log is, and a fingerprint that is equal for the same bug twice."""

    step: StepSpec
    label: str
    cause: str
    log: Path
    fingerprint: str = ""


@dataclass
class Outcome:
    """How a round of work ended. ``ended``: ids of trainings of trials that were stopped early, or diverged."""

    failures: list[Failure] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    dep_failed: list[Job] = field(default_factory=list)
    not_started: list[Job] = field(default_factory=list)
    computed: int = 0
    replan: bool = False
    disk_full: str = ""
    interrupted: bool = False
    detached: bool = False


def evidence_of(
    attempt: Attempt | None, code: int | None, log: Path, cancelled: str = "", **slurm: Any
) -> Evidence:
    """What is known of the end of a job.

    Args:
        attempt: the attempt that the job made on the step; None when it did not come that far.
        code: exit code of its worker.
        log: what the worker itself, or its batch script, printed.
        cancelled: who cancelled the step, in words (:func:`cancelled_by`).
        slurm: ``slurm_state``, ``slurm_reason``, ``node_down``.
    """
    error = attempt.record.get("error") if attempt is not None and attempt.state == "failed" else None
    return Evidence(
        error=error if isinstance(error, Mapping) else {},
        code=code,
        cancelled=cancelled,
        log_tail=_tail(log),
        **slurm,
    )


def cause_of(cls: FailureClass, evidence: Evidence) -> str:
    """Why a job ended without finishing a step, in words."""
    if cls is FailureClass.CANCELLED:
        return evidence.cancelled or "it was cancelled from outside"
    error = evidence.error
    if error:
        message = str(error.get("message", "")).strip() or "no message"
        return message if error.get("user") else f"{error.get('type')}: {message}"
    if cls is FailureClass.DISK_FULL:
        return "no space left on the disk of the results folder"
    if cls is FailureClass.KILLED and evidence.code is not None:
        return death(evidence.code)
    if cls in _WORDS:
        return _WORDS[cls]
    if evidence.code == Exit.DONE:
        return "the worker ended well but left no valid result"
    said = (
        f"the worker ended with code {evidence.code}" if evidence.code is not None else "the worker is gone"
    )
    if evidence.slurm_state:
        said += f" (Slurm says {evidence.slurm_state})"
    last = evidence.log_tail.strip().splitlines()[-1:]
    return ": ".join([said, *last])


_WORDS = {
    FailureClass.HOST_OOM: "the memory was not enough, and the worker was ended for it",
    FailureClass.CUDA_OOM: "the memory of the GPU was not enough",
    FailureClass.NODE_FAIL: "the machine it ran on failed",
    FailureClass.TIMEOUT: "the time limit of its allocation was over",
    FailureClass.PREEMPTED: "it had to make room for others",
    FailureClass.DEPENDENCY: "a step it needs failed",
    FailureClass.KILLED: "the worker and its batch script were killed",
}


def end_of_trial(store: Store, step: StepSpec) -> Mapping[str, Any] | None:
    """The error with which the training of a trial ended for good: it was stopped early, or diverged. None for one that
    may go on, also because somebody asked for it again.
    """
    attempt = store.attempt(step)
    if attempt is None or attempt.state != "failed" or attempt.number <= forgiven(store.directory(step)):
        return None
    error: Mapping[str, Any] = attempt.record.get("error") or {}
    return error if error.get("type") in ENDS_OF_TRIALS else None


def fingerprint_of(evidence: Evidence) -> str:
    """Equal for the same bug twice; empty when the step itself reported no error."""
    return str(evidence.error.get("fingerprint", ""))


def cancelled_by(directory: Path) -> str:
    """Who cancelled a step and how to bring it back, in words; empty when nobody did."""
    said = cancellation(directory)
    return f"{said}; to have it computed: vlmablate retry {directory.name}" if said else ""


def same_failures(failures: Sequence[Failure]) -> list[str]:
    """The failures as texts for people, every cause once with the steps that met it."""
    groups: dict[tuple[str, str], list[Failure]] = {}
    for failure in failures:
        groups.setdefault((failure.fingerprint, failure.cause), []).append(failure)
    texts = []
    for group in groups.values():
        names = [f"{failure.step.kind} {failure.label}" for failure in group]
        shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        texts.append(f"failed: {shown}: {group[0].cause}\n  log: {group[0].log}")
    return texts


# Verdicts: what was made of an attempt, beside its record, because only the worker itself writes that one


def _verdict(attempt: Attempt) -> Path:
    return attempt.path.with_suffix(".verdict.json")


def write_verdict(
    attempt: Attempt, cls: FailureClass, cause: str, decision: Decision, node: str = ""
) -> None:
    """Note the class of an ended attempt and what follows: ``attempts/NNN.verdict.json``."""
    record = {
        "class": cls,
        "cause": cause,
        "action": decision.action,
        "why": decision.why,
        "execution": dict(decision.execution),
        "node": node or str(attempt.record.get("node") or ""),
        "at": now_text(),
    }
    write_json(_verdict(attempt), record)


def read_verdict(attempt: Attempt) -> dict[str, Any] | None:
    """{class, cause, action, why, execution, node, at} of an attempt; None when nobody judged it."""
    try:
        record: dict[str, Any] = read_json(_verdict(attempt))
    except (OSError, ValueError):
        return None
    return record if record.get("class") in list(FailureClass) else None


def past_failure(cls: FailureClass, attempt: Attempt | None, node: str = "") -> PastFailure:
    """A failure as the policy looks back at it."""
    record = attempt.record if attempt is not None else {}
    saved = record.get("checkpoint")
    return PastFailure(cls, node or str(record.get("node") or ""), saved if isinstance(saved, int) else None)


def _tail(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            return file.read().decode(errors="replace")
    except OSError:
        return ""
