"""What an end is called: the evidence that an attempt left behind, and the class of failure it speaks for. Pure."""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from vlmablate.orchestration.worker import Exit


class FailureClass(StrEnum):
    """Kinds of failure; each has a row in the policy's table, but for PRUNED: a trial that was stopped early."""

    CUDA_OOM = "cuda_oom"
    HOST_OOM = "host_oom"
    NAN = "nan"
    PRUNED = "pruned"
    NODE_FAIL = "node_fail"
    TIMEOUT = "timeout"
    PREEMPTED = "preempted"
    CODE = "code"
    NO_PROGRESS = "no_progress"
    DISK_FULL = "disk_full"
    CANCELLED = "cancelled"
    DEPENDENCY = "dependency"
    KILLED = "killed"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Evidence:
    """What is known of the end of an attempt; whatever is not known keeps its default.

    Attributes:
        error: the error of the attempt's record ({type, message, traceback, …}), when the step itself failed.
        code: exit code of the worker; minus a signal, or 128 plus a signal as shells say it.
        slurm_state: the final state in Slurm's word (``OUT_OF_MEMORY``, ``CANCELLED by 1000``, …).
        slurm_reason: Slurm's reason (``NonZeroExitCode``, ``TimeLimit``, …).
        node_down: the node of the job is down or was rebooted.
        log_tail: the last lines of what the worker, or its batch script, printed.
        cancelled: who cancelled the step, in words.
    """

    error: Mapping[str, Any] = field(default_factory=dict)
    code: int | None = None
    slurm_state: str = ""
    slurm_reason: str = ""
    node_down: bool = False
    log_tail: str = ""
    cancelled: str = ""


_CUDA_OOM = re.compile(
    r"CUDA out of memory|CUBLAS_STATUS_ALLOC_FAILED|CUDA error: out of memory|HIP out of memory"
)
_HOST_OOM = re.compile(
    r"oom[-_ ]kill|Out of memory: Killed process|DefaultCPUAllocator: can't allocate memory"
    r"|Cannot allocate memory|DataLoader worker \(pid.*\) is killed by signal: (Killed|Bus error)",
    re.IGNORECASE,
)
_NODE = re.compile(r"uncorrectable ECC error|GPU has fallen off the bus", re.IGNORECASE)
_DISK_FULL = re.compile(r"No space left on device|Disk quota exceeded")
_TYPES = {
    "OutOfMemoryError": FailureClass.CUDA_OOM,
    "MemoryError": FailureClass.HOST_OOM,
    "Diverged": FailureClass.NAN,
    "Pruned": FailureClass.PRUNED,
    "NoProgress": FailureClass.NO_PROGRESS,
    "DiskFull": FailureClass.DISK_FULL,
}
_GONE = "GangBrokenError"
"""Rank 0's word for another rank that vanished without one of its own."""

_SLURM_STATES = {
    "OUT_OF_MEMORY": FailureClass.HOST_OOM,
    "NODE_FAIL": FailureClass.NODE_FAIL,
    "BOOT_FAIL": FailureClass.NODE_FAIL,
    "TIMEOUT": FailureClass.TIMEOUT,
    "DEADLINE": FailureClass.TIMEOUT,
    "PREEMPTED": FailureClass.PREEMPTED,
    "CANCELLED": FailureClass.CANCELLED,
}
_SLURM_REASONS = {
    "DependencyNeverSatisfied": FailureClass.DEPENDENCY,
    "OutOfMemory": FailureClass.HOST_OOM,
    "TimeLimit": FailureClass.TIMEOUT,
    "NodeDown": FailureClass.NODE_FAIL,
    "NodeFail": FailureClass.NODE_FAIL,
}
_SLURM_PLAIN = ("", "FAILED", "COMPLETED")
"""States that say no more than the exit code does."""


def classify(evidence: Evidence) -> FailureClass:
    """The class of a failure. What nobody has heard of is UNKNOWN.

    The most telling evidence comes first: what the step itself reported, then Slurm's word, then the exit code.
    """
    if evidence.cancelled:
        return FailureClass.CANCELLED
    own = _own_words(evidence)
    if own is not None:
        return own
    word = evidence.slurm_state.split()[0].rstrip("+").upper() if evidence.slurm_state.strip() else ""
    for part, cls in _SLURM_REASONS.items():
        if part in evidence.slurm_reason and word not in ("COMPLETED", "RUNNING"):
            return cls
    if word in _SLURM_STATES:
        return _SLURM_STATES[word]
    if evidence.node_down:
        return FailureClass.NODE_FAIL
    if evidence.error and evidence.error.get("type") != _GONE:
        return FailureClass.CODE
    if word not in _SLURM_PLAIN:
        return FailureClass.UNKNOWN
    return _by_code(evidence, word)


def _own_words(evidence: Evidence) -> FailureClass | None:
    kind, message = str(evidence.error.get("type", "")), str(evidence.error.get("message", ""))
    if kind in _TYPES:
        return _TYPES[kind]
    # The traceback also holds what lies behind the last error, for example on another rank or in a loader process.
    said = f"{message}\n{evidence.error.get('traceback', '')}"
    if not evidence.error:
        said = evidence.log_tail
    for pattern, cls in (
        (_CUDA_OOM, FailureClass.CUDA_OOM),
        (_NODE, FailureClass.NODE_FAIL),
        (_HOST_OOM, FailureClass.HOST_OOM),
        (_DISK_FULL, FailureClass.DISK_FULL),
    ):
        if pattern.search(said):
            return cls
    return FailureClass.DISK_FULL if evidence.code == Exit.DISK_FULL else None


def _by_code(evidence: Evidence, word: str) -> FailureClass:
    code = evidence.code
    if evidence.error:
        return FailureClass.KILLED  # another rank is gone, and nobody knows better
    if code is None:
        # Nobody was left to say how it ended.
        return FailureClass.KILLED if word == "FAILED" else FailureClass.UNKNOWN
    if code == Exit.REQUEUE:
        return FailureClass.PREEMPTED
    if code < 0 or code > 128:
        return FailureClass.KILLED
    # Also a worker that ended well and left no result: trying again would end the same way.
    return FailureClass.CODE


def death(code: int) -> str:
    """How a worker was killed, in words; ``code`` is minus a signal, or 128 plus one."""
    number = -code if code < 0 else code - 128
    if number == signal.SIGTERM:
        return "the worker was stopped from outside"
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    return f"the worker was killed by {name}" + (" (out of memory?)" if number == signal.SIGKILL else "")
