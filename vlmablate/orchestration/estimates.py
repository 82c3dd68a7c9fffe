"""What a step will cost: from what the store remembers, else from its operations, else from what the scale declares."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from vlmablate.design.spec import StepSpec
from vlmablate.errors import UserError, unknown_name
from vlmablate.orchestration.store import Store

DEFAULT_S = 60.0
_KEYS = ("seconds", "throughput", "disk_mb", "seed_sd")


@dataclass(frozen=True)
class Declared:
    """The part ``estimates`` of a configuration: what to expect while there is no history.

    Attributes:
        seconds: kind -> seconds; of a training step, per epoch.
        throughput: floating-point operations per second of one worker.
        disk_mb: kind -> size of the files.
        seed_sd: points by which suite scores spread between trainings that differ in their seed.
    """

    seconds: Mapping[str, float] = field(default_factory=dict)
    throughput: float | None = None
    disk_mb: Mapping[str, float] = field(default_factory=dict)
    seed_sd: float | None = None


def read_estimates(raw: Mapping[str, Any]) -> Declared:
    """``estimates`` of a configuration, checked.

    Raises:
        UserError: for an unknown key (lists the known ones) or a value that is no positive number.
    """
    for key in raw:
        if key not in _KEYS:
            raise unknown_name("key", str(key), _KEYS, where="estimates")
    numbers = {name: raw.get(name) for name in ("throughput", "seed_sd")}
    for name in ("seconds", "disk_mb"):
        numbers.update({f"{name}.{kind}": value for kind, value in (raw.get(name) or {}).items()})
    for name, value in numbers.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is not None and not (number and value > 0):
            raise UserError(f"estimates.{name} must be a positive number, not {value!r}")
    return Declared(
        seconds=dict(raw.get("seconds") or {}),
        throughput=raw.get("throughput"),
        disk_mb=dict(raw.get("disk_mb") or {}),
        seed_sd=raw.get("seed_sd"),
    )


@dataclass(frozen=True)
class Cost:
    """What a step is expected to cost.

    Attributes:
        seconds: wall time, the median of like steps where there are some.
        high: what nine of ten like steps stay below; the same as ``seconds`` where nothing was measured.
        megabytes: size of its files; None when nobody knows.
        basis: where the time comes from: ``measured``, ``operations``, ``declared`` or ``guessed``.
    """

    seconds: float
    high: float
    megabytes: float | None
    basis: str


@dataclass
class _History:
    """Finished steps by what they are alike in; at a scale, seconds per unit of work and megabytes per unit of disk."""

    seconds: dict[tuple[str, str], list[float]] = field(default_factory=lambda: defaultdict(list))
    megabytes: dict[tuple[str, str], list[float]] = field(default_factory=lambda: defaultdict(list))


class Estimator:
    """Costs of steps. Looks, in this order, for: the same work with another seed; the same kind at the same
    scale, scaled by the epochs; the step's operations over the declared throughput; the scale's declared seconds,
    scaled by the epochs; one minute.

    Args:
        store: its finished steps are the history; None for no history.
        declared: kind -> seconds, from the scale preset.
        throughput: floating-point operations per second of one worker.
        disk_mb: kind -> megabytes, of a step that takes one unit of disk (features: of pictures in one piece).
    """

    def __init__(
        self,
        store: Store | None,
        declared: Mapping[str, float],
        throughput: float | None = None,
        disk_mb: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        self._store = store
        self._declared = declared
        self._throughput = throughput
        self._disk_mb = disk_mb
        self._loaded: set[str] = set()
        self._similar = _History()
        self._scale = _History()
        self._known: dict[tuple[str, str, str, float, float, float | None], Cost] = {}

    def seconds(self, step: StepSpec) -> float:
        """Expected wall time of a step in seconds."""
        return self.cost(step).seconds

    def cost(self, step: StepSpec) -> Cost:
        """Expected cost of a step."""
        hints = step.hints
        units, disk_units = _units(hints)
        similar, scale = str(hints.get("similar")), str(hints.get("scale"))
        key = (step.kind, similar, scale, units, disk_units, hints.get("flops"))
        if key not in self._known:
            self._load(step.kind)
            self._known[key] = self._look(*key)
        return self._known[key]

    def learn(self, step: StepSpec, wall_s: float) -> None:
        """Add a step that just finished."""
        self._load(step.kind)
        self._add(step.kind, step.hints, wall_s, None)
        self._known = {key: cost for key, cost in self._known.items() if key[0] != step.kind}

    def _look(
        self, kind: str, similar: str, scale: str, units: float, disk_units: float, flops: float | None
    ) -> Cost:
        exact, alike = (kind, similar), (kind, scale)
        size = self._size(exact, alike, disk_units)
        if times := self._similar.seconds.get(exact):
            return Cost(_median(times), _ninth_tenth(times), size, "measured")
        if times := self._scale.seconds.get(alike):
            return Cost(units * _median(times), units * _ninth_tenth(times), size, "measured")
        if flops is not None and self._throughput is not None:
            seconds, basis = flops / self._throughput, "operations"
        elif kind in self._declared:
            seconds, basis = units * float(self._declared[kind]), "declared"
        else:
            seconds, basis = units * DEFAULT_S, "guessed"
        return Cost(seconds, seconds, size, basis)

    def _size(self, exact: tuple[str, str], alike: tuple[str, str], disk_units: float) -> float | None:
        if sizes := self._similar.megabytes.get(exact):
            return _median(sizes)
        if sizes := self._scale.megabytes.get(alike):
            return disk_units * _median(sizes)
        declared = self._disk_mb.get(exact[0])
        return None if declared is None else disk_units * declared

    def _load(self, kind: str) -> None:
        if kind in self._loaded or self._store is None:
            return
        self._loaded.add(kind)
        for spec, result in self._store.results(kind):
            wall = result.get("wall_s") if isinstance(result, dict) else None
            hints = spec.get("hints") if isinstance(spec, dict) else None
            if isinstance(wall, int | float) and isinstance(hints, dict):
                self._add(kind, hints, float(wall), _megabytes(result))

    def _add(self, kind: str, hints: Mapping[str, Any], wall_s: float, megabytes: float | None) -> None:
        similar, scale = str(hints.get("similar")), str(hints.get("scale"))
        units, disk_units = _units(hints)
        self._similar.seconds[kind, similar].append(wall_s)
        self._scale.seconds[kind, scale].append(wall_s / units)
        if megabytes is not None:
            self._similar.megabytes[kind, similar].append(megabytes)
            self._scale.megabytes[kind, scale].append(megabytes / disk_units)


def _units(hints: Mapping[str, Any]) -> tuple[float, float]:
    """Units of work and of disk; a step from before there were such has one."""
    return float(hints.get("units") or 1.0), float(hints.get("disk_units") or 1.0)


def _megabytes(result: Mapping[str, Any]) -> float | None:
    files = result.get("files")
    if not isinstance(files, dict):
        return None
    return sum(float(facts.get("bytes") or 0) for facts in files.values()) / 1e6


def _median(values: list[float]) -> float:
    # The module statistics would take longer to import than a finished sweep takes to be found finished.
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def _ninth_tenth(values: list[float]) -> float:
    """The smallest value that nine of ten stay at or below."""
    ordered = sorted(values)
    return ordered[max(0, -(-9 * len(ordered) // 10) - 1)]
