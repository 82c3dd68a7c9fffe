"""What to do when work fails: the class of a failure finds its row in a table (``conf/policy/``), and the row decides.

Pure: nothing here looks at files or clocks, so the same failures always give the same decision, on one machine and
under Slurm.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any

from vlmablate.errors import UserError, unknown_name
from vlmablate.orchestration.evidence import FailureClass


class Action(StrEnum):
    """What follows a failure."""

    RETRY = "retry"
    REQUEUE = "requeue"
    FAIL = "fail"
    STOP_SWEEP = "stop_sweep"
    END = "end"


@dataclass(frozen=True)
class PastFailure:
    """One failure of a step, as :func:`decide` looks back at it.

    Attributes:
        cls: its class.
        node: the machine it happened on, empty when unknown.
        checkpoint: the last training step that was committed by then, None without any.
    """

    cls: FailureClass
    node: str = ""
    checkpoint: int | None = None


@dataclass(frozen=True)
class Decision:
    """What to do now.

    Attributes:
        action: retry (counted), requeue (not counted), fail, stop_sweep, or end: a trial that has no result.
        execution: changed placement for the next attempt, dotted key below ``execution`` -> value. Never an identity.
        exclude_nodes: nodes the next attempt must not run on.
        why: the reason in words, for people.
    """

    action: Action
    execution: Mapping[str, Any] = field(default_factory=dict)
    exclude_nodes: tuple[str, ...] = ()
    why: str = ""

    @property
    def again(self) -> bool:
        """Whether the step is to be started again."""
        return self.action in (Action.RETRY, Action.REQUEUE)


@dataclass(frozen=True)
class Row:
    """The policy for one class.

    Attributes:
        action: what follows.
        retries: how often a step may be tried again because of this class; None: as often as it gets further.
        multiply: placement key -> factor for every further attempt.
        exclude_node_after: so many failures of this class on one node exclude it; 0: never.
    """

    action: Action = Action.FAIL
    retries: int | None = 0
    multiply: Mapping[str, float] = field(default_factory=dict)
    exclude_node_after: int = 0


_FAIL = Row()
_ENDS_OF_TRIALS = (FailureClass.PRUNED, FailureClass.NAN)
"""What says something about the values of a trial; the table has no say in it."""
_ACTIONS = tuple(action.value for action in Action if action is not Action.END)
ON_DRIFT = ("warn", "rerun", "refuse")
SCALABLE = ("micro_batch", "slurm.mem_gb", "slurm.time_min")
"""Placement that a policy may change; nothing else of a run may differ between two attempts."""


@dataclass(frozen=True)
class Policy:
    """The whole table. A class without a row fails.

    Attributes:
        rows: class -> row.
        no_progress_after: so many attempts in a row that end without a new checkpoint are no progress; 0: any number.
        stop_after_equal: so many steps that failed in the same way stop the sweep; 0: never.
        on_drift: what to do when a stored result was made by another configuration or code: warn, rerun or refuse.
    """

    rows: Mapping[FailureClass, Row] = field(default_factory=dict)
    no_progress_after: int = 2
    stop_after_equal: int = 0
    on_drift: str = "warn"

    def row(self, cls: FailureClass) -> Row:
        """The row of a class."""
        return self.rows.get(cls, _FAIL)


# Decisions


def decide(
    cls: FailureClass,
    history: Sequence[PastFailure],
    policy: Policy,
    execution: Mapping[str, Any] | None = None,
    trial: bool = False,
) -> Decision:
    """What to do after a failure.

    Args:
        cls: its class.
        history: the failures of this step that count, oldest first, **this one last**.
        policy: the table.
        execution: placement of the failed attempt (nested, as in the configuration), the base of what is multiplied.
        trial: whether it is a training of a trial, which may be stopped early or diverge.
    """
    if trial and cls in _ENDS_OF_TRIALS:
        return Decision(Action.END, why="the trial ends here")
    row = policy.row(cls)
    if row.action in (Action.FAIL, Action.STOP_SWEEP):
        return Decision(row.action, why=_GIVEN_UP.get(cls, ""))
    excluded = excluded_nodes(history, policy)
    used = sum(past.cls is cls for past in history) - 1
    if row.retries is not None and used >= row.retries:
        times = f"was tried again {_times(used)}" if used else "is not tried again"
        return Decision(Action.FAIL, why=f"{times} (policy {cls}.retries={row.retries})")
    if row.action is Action.REQUEUE and _stuck(history, policy.no_progress_after):
        count = policy.no_progress_after
        why = f"{count} attempts in a row ended without a new checkpoint"
        stuck = policy.row(FailureClass.NO_PROGRESS)
        return Decision(Action.FAIL if stuck.action is not Action.STOP_SWEEP else stuck.action, why=why)
    changes: dict[str, Any] = {}
    for key, factor in row.multiply.items():
        value = get(execution or {}, key)
        if value is None:
            continue
        changes[key] = _multiplied(value, factor)
        if changes[key] == value:
            return Decision(Action.FAIL, why=f"execution.{key}={value} cannot be made any smaller")
    return Decision(row.action, changes, excluded, _again(row, changes, excluded))


_GIVEN_UP = {
    FailureClass.NAN: "the loss is not finite, and the same steps would diverge again",
    FailureClass.CANCELLED: "it was cancelled",
}


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _again(row: Row, changes: Mapping[str, Any], excluded: Sequence[str]) -> str:
    words = "goes on as soon as there is room" if row.action is Action.REQUEUE else "trying once more"
    if changes:
        words += " with " + ", ".join(f"execution.{key}={value}" for key, value in changes.items())
    if excluded:
        words += " without " + ", ".join(excluded)
    return words


def _stuck(history: Sequence[PastFailure], limit: int) -> bool:
    """Whether each of the last ``limit`` attempts ended where the one before it had."""
    if limit == 0 or len(history) < limit:
        return False
    saved = [-1 if past.checkpoint is None else past.checkpoint for past in history]
    return max(saved[-limit:]) <= max(saved[:-limit], default=-1)


def _multiplied(value: Any, factor: float) -> Any:
    if isinstance(value, int):
        return max(1, math.floor(value * factor)) if factor < 1 else math.ceil(value * factor)
    return value * factor


def excluded_nodes(failures: Iterable[PastFailure], policy: Policy) -> tuple[str, ...]:
    """Nodes on which so many failures of one class happened that no more work should be sent there, by name."""
    counts = Counter((past.node, past.cls) for past in failures if past.node)
    return tuple(
        sorted(
            {node for (node, cls), count in counts.items() if 0 < policy.row(cls).exclude_node_after <= count}
        )
    )


def crash_loop(fingerprints: Iterable[str], policy: Policy) -> str | None:
    """The fingerprint that so many steps failed with that the sweep should stop; None while there is none.

    Args:
        fingerprints: of the steps that failed for good, one each; empty ones are failures without a known cause.
    """
    counts = Counter(fingerprint for fingerprint in fingerprints if fingerprint)
    worst = counts.most_common(1)
    return worst[0][0] if worst and 0 < policy.stop_after_equal <= worst[0][1] else None


# Placement


def get(execution: Mapping[str, Any], key: str) -> Any:
    """The value of a dotted key; None where there is none."""
    value: Any = execution
    for name in key.split("."):
        if not isinstance(value, Mapping):
            return None
        value = value.get(name)
    return value


def changed(execution: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a placement with the dotted keys of :attr:`Decision.execution` set."""
    copy = dict(execution)
    for key, value in changes.items():
        name, _, rest = key.partition(".")
        copy[name] = changed(copy.get(name) or {}, {rest: value}) if rest else value
    return copy


def in_effect(config: Mapping[str, Any], execution: Mapping[str, Any]) -> dict[str, Any]:
    """A placement with the value that ``micro_batch`` has when it is left open: all rows that a rank takes of a batch.

    Args:
        config: the configuration of the step that failed.
        execution: its placement.
    """
    rows = max((*_values(config, "batch_scenes"), *_values(config, "batch_samples")), default=None)
    if execution.get("micro_batch") is not None or rows is None:
        return dict(execution)
    ranks = (execution.get("nodes") or 1) * (execution.get("ranks") or 1)
    return {**execution, "micro_batch": math.ceil(rows / ranks)}


def _values(config: Any, name: str) -> list[int]:
    if not isinstance(config, Mapping):
        return []
    own = [value for key, value in config.items() if key == name and isinstance(value, int)]
    return own + [value for part in config.values() for value in _values(part, name)]


# Reading


def read_policy(raw: Mapping[str, Any]) -> Policy:
    """The policy in a configuration (``conf/policy/``).

    Raises:
        UserError: for an unknown class, setting, action or placement key (lists the known ones), or a bad number.
    """
    classes = [cls.value for cls in FailureClass if cls is not FailureClass.PRUNED]
    settings = [setting.name for setting in fields(Policy) if setting.name != "rows"]
    values: dict[str, Any] = {}
    rows = {}
    for name, value in raw.items():
        if name in classes:
            rows[FailureClass(name)] = _read_row(name, value)
        elif name in settings:
            values[name] = value
        else:
            raise unknown_name("name", str(name), [*classes, *settings], where="policy")
    for name in ("no_progress_after", "stop_after_equal"):
        if name in values:
            values[name] = _count(values[name], f"policy.{name}")
    if values.get("on_drift", "warn") not in ON_DRIFT:
        raise unknown_name("policy.on_drift", str(values["on_drift"]), ON_DRIFT)
    return Policy(rows=rows, **values)


def _read_row(name: str, raw: Any) -> Row:
    where = f"policy.{name}"
    if not isinstance(raw, Mapping) or "action" not in raw:
        example = "{action: retry, retries: 1}"
        raise UserError(f"{where} must be a table with an action, for example {example}, not {raw!r}")
    known = [setting.name for setting in fields(Row)]
    for key in raw:
        if key not in known:
            raise unknown_name("setting", str(key), known, where=where)
    if raw["action"] not in _ACTIONS:
        raise unknown_name(f"{where}.action", str(raw["action"]), _ACTIONS)
    action = Action(raw["action"])
    retries = raw.get("retries", None if action is Action.REQUEUE else 0)
    if retries is not None or action is Action.RETRY:
        retries = _count(retries, f"{where}.retries")
    multiply = raw.get("multiply") or {}
    if not isinstance(multiply, Mapping):
        raise UserError(f"{where}.multiply must be a table of factors, not {multiply!r}")
    for key, factor in multiply.items():
        if key not in SCALABLE:
            raise unknown_name("placement", str(key), SCALABLE, where=f"{where}.multiply")
        if (
            isinstance(factor, bool)
            or not isinstance(factor, int | float)
            or not 0 < factor < math.inf
            or factor == 1
        ):
            raise UserError(f"{where}.multiply.{key} must be a positive factor other than 1, not {factor!r}")
    after = _count(raw.get("exclude_node_after", 0), f"{where}.exclude_node_after")
    return Row(action, retries, dict(multiply), after)


def _count(value: Any, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise UserError(f"{where} must be a whole number of at least 0, not {value!r}")
    return value
