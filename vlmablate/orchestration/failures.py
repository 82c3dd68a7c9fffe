"""What went wrong, in words: from the attempt record of a step, or else from the way its worker ended."""

from __future__ import annotations

import signal
from dataclasses import dataclass, field
from pathlib import Path

from vlmablate.design.spec import StepSpec
from vlmablate.orchestration.jobs import Job
from vlmablate.orchestration.lease import Attempt
from vlmablate.orchestration.worker import Exit


@dataclass(frozen=True)
class Failure:
    """A step that failed: why, where its log is, and the full traceback when there is one."""

    step: StepSpec
    label: str
    cause: str
    log: Path
    fingerprint: str = ""


@dataclass
class Outcome:
    """How a round of work ended."""

    failures: list[Failure] = field(default_factory=list)
    dep_failed: list[Job] = field(default_factory=list)
    not_started: list[Job] = field(default_factory=list)
    computed: int = 0
    replan: bool = False
    disk_full: str = ""
    interrupted: bool = False


def cause_of(attempt: Attempt | None, code: int, worker_log: Path) -> tuple[str, str]:
    """Why a job ended without finishing a step.

    Args:
        attempt: the latest attempt of the step.
        code: the exit code of the worker; a negative one is minus a signal.
        worker_log: what the worker itself printed.

    Returns:
        The cause in words, and a fingerprint that is equal for the same bug twice (empty when unknown).
    """
    error = attempt.record.get("error") if attempt is not None else None
    if attempt is not None and attempt.state == "failed" and isinstance(error, dict):
        message = str(error.get("message", "")).strip() or "no message"
        words = message if error.get("user") else f"{error.get('type')}: {message}"
        return words, str(error.get("fingerprint", ""))
    if code < 0 or code == Exit.STOPPED:
        return death(code), ""
    if code == Exit.DISK_FULL:
        return "no space left on the disk of the results folder", ""
    if code == Exit.DONE:
        return "the worker ended well but left no valid result", ""
    tail = _last_line(worker_log)
    return f"the worker ended with code {code}" + (f": {tail}" if tail else ""), ""


def death(code: int) -> str:
    """How a worker died, in words."""
    if code >= 0:
        return "the worker was stopped from outside"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"the worker was killed by {name}" + (" (out of memory?)" if -code == signal.SIGKILL else "")


def _last_line(path: Path) -> str:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError:
        return ""
    return lines[-1] if lines else ""
