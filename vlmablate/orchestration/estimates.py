"""How long a step will take: from what the store remembers, else from the declared defaults of the scale."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from statistics import median
from typing import Any

from vlmablate.design.spec import StepSpec
from vlmablate.orchestration.store import Store

DEFAULT_S = 60.0


class Estimator:
    """Seconds per step. Looks, in this order, for: the same work with another seed; the same kind at the same
    scale, scaled by the epochs; the scale's declared default, scaled by the epochs; one minute.

    Args:
        store: its finished steps are the history; None for no history.
        declared: kind -> seconds, from the scale preset.
    """

    def __init__(self, store: Store | None, declared: Mapping[str, float]) -> None:
        self._store = store
        self._declared = declared
        self._loaded: set[str] = set()
        self._similar: dict[tuple[str, str], list[float]] = defaultdict(list)
        self._scale: dict[tuple[str, str], list[float]] = defaultdict(list)

    def seconds(self, step: StepSpec) -> float:
        """Expected wall time of a step in seconds."""
        self._load(step.kind)
        exact = self._similar.get((step.kind, str(step.hints.get("similar"))))
        if exact:
            return median(exact)
        units = float(step.hints.get("units", 1.0))
        per_unit = self._scale.get((step.kind, str(step.hints.get("scale"))))
        if per_unit:
            return units * median(per_unit)
        return units * float(self._declared.get(step.kind, DEFAULT_S))

    def learn(self, step: StepSpec, wall_s: float) -> None:
        """Add a step that just finished."""
        self._load(step.kind)
        self._add(step.kind, step.hints, wall_s)

    def _load(self, kind: str) -> None:
        if kind in self._loaded or self._store is None:
            return
        self._loaded.add(kind)
        for spec, result in self._store.results(kind):
            wall = result.get("wall_s") if isinstance(result, dict) else None
            hints = spec.get("hints") if isinstance(spec, dict) else None
            if isinstance(wall, int | float) and isinstance(hints, dict):
                self._add(kind, hints, float(wall))

    def _add(self, kind: str, hints: Mapping[str, Any], wall_s: float) -> None:
        self._similar[kind, str(hints.get("similar"))].append(wall_s)
        units = float(hints.get("units") or 1.0)
        self._scale[kind, str(hints.get("scale"))].append(wall_s / units)
