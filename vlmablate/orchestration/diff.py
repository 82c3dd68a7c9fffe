"""Field-level differences between two configurations. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any


class Missing(Enum):
    """The value of a field that one side does not have."""

    MISSING = "(absent)"

    def __str__(self) -> str:
        return str(self.value)


MISSING = Missing.MISSING


@dataclass(frozen=True)
class Difference:
    """One field that differs: its dotted path and both values (:data:`MISSING` where there is none)."""

    path: str
    then: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.path}: {value_text(self.then)} → {value_text(self.now)}"


def fields(then: Any, now: Any, path: str = "") -> list[Difference]:
    """Every field in which two plain values (dicts, lists, scalars) differ, in the order of their paths.

    Values are compared as identity compares them: ``2`` equals ``2.0``, ``True`` is not ``1``. Lists of the same
    length are compared item by item (``towers[1]``), others as a whole.

    >>> [str(difference) for difference in fields({"a": {"b": 2.0}}, {"a": {"b": 3.0}})]
    ['a.b: 2.0 → 3.0']
    """
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        found = []
        for key in sorted({*then, *now}):
            inner = f"{path}.{key}" if path else str(key)
            found += fields(then.get(key, MISSING), now.get(key, MISSING), inner)
        return found
    if isinstance(then, list) and isinstance(now, list) and len(then) == len(now):
        pairs = enumerate(zip(then, now, strict=True))
        return [change for i, (old, new) in pairs for change in fields(old, new, f"{path}[{i}]")]
    return [] if _equal(then, now) else [Difference(path, then, now)]


def _equal(then: Any, now: Any) -> bool:
    if isinstance(then, bool) is not isinstance(now, bool):
        return False
    return bool(then == now)


def value_text(value: Any) -> str:
    """A value as people read it; long ones are cut."""
    if isinstance(value, str | Missing):
        text = str(value)
    else:
        text = json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)
    return text if len(text) <= 80 else f"{text[:77]}…"
