"""What may be tried: a file of ``conf/search`` as frozen values, with exact names."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from vlmablate.errors import UserError, unknown_name
from vlmablate.paths import resource

METHODS = ("tpe", "random", "grid")
DIRECTIONS = ("maximize", "minimize")
DIGITS = 6
"""Significant digits of a proposed float: processors differ in the last bits of a logarithm, proposals must not."""

Choice = str | int | float | bool | None


@dataclass(frozen=True)
class Float:
    """A number from low to high, both included; ``points`` is what a grid visits of it, None: it cannot.

    With ``relative`` both are multiples of the value that a configuration has; :func:`around` makes numbers of them.
    """

    low: float
    high: float
    log: bool = False
    points: int | None = None
    relative: bool = False

    def at(self, share: float) -> float:
        """The number at a share of the way from low (0) to high (1)."""
        if self.log:
            low, high = math.log(self.low), math.log(self.high)
            return self.tidy(math.exp(low + share * (high - low)))
        return self.tidy(self.low + share * (self.high - self.low))

    def tidy(self, value: float) -> float:
        """The number in :data:`DIGITS` digits, inside the range."""
        return min(max(float(f"{value:.{DIGITS}g}"), self.low), self.high)

    def holds(self, value: Any) -> bool:
        """Whether the value is one of these."""
        return _is_number(value) and self.low <= value <= self.high

    def values(self) -> list[float] | None:
        """What a grid visits; None when that was not said."""
        if self.points is None:
            return None
        return list(dict.fromkeys(self.at(i / max(1, self.points - 1)) for i in range(self.points)))


@dataclass(frozen=True)
class Int:
    """A whole number from low to high, both included."""

    low: int
    high: int
    log: bool = False

    def at(self, share: float) -> int:
        """The number at a share of the way through the range: equal parts for equal numbers (or ratios)."""
        if self.log:
            low, high = math.log(self.low - 0.5), math.log(self.high + 0.5)
            number = round(math.exp(low + share * (high - low)))
        else:
            number = self.low + int(share * (self.high - self.low + 1))
        return min(max(number, self.low), self.high)

    def holds(self, value: Any) -> bool:
        """Whether the value is one of these."""
        return isinstance(value, int) and not isinstance(value, bool) and self.low <= value <= self.high

    def values(self) -> list[int]:
        """All of them."""
        return list(range(self.low, self.high + 1))


@dataclass(frozen=True)
class Categorical:
    """One of some values, which have no order."""

    choices: tuple[Choice, ...]

    def at(self, share: float) -> Choice:
        """The choice at a share of the way through the list."""
        return self.choices[min(int(share * len(self.choices)), len(self.choices) - 1)]

    def holds(self, value: Any) -> bool:
        """Whether the value is one of these; ``1``, ``1.0`` and ``true`` are three."""
        return spelled(value) in map(spelled, self.choices)

    def values(self) -> list[Choice]:
        """All of them."""
        return list(self.choices)


Parameter = Float | Int | Categorical


@dataclass(frozen=True)
class Space:
    """What may be tried, and how proposals are made.

    Attributes:
        parameters: dotted name of a setting -> its range, in the order of the file.
        method: ``tpe``, ``random`` or ``grid``.
        direction: whether the score is to be maximised or minimised.
        startup: scored trials before ``tpe`` looks at them.
    """

    parameters: Mapping[str, Parameter]
    method: str = "tpe"
    direction: Literal["maximize", "minimize"] = "maximize"
    startup: int = 8

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Whether these are values of exactly these parameters, each in its range."""
        return set(values) == set(self.parameters) and all(
            parameter.holds(values[name]) for name, parameter in self.parameters.items()
        )

    def size(self) -> float:
        """How many different configurations there are; infinite with a float."""
        if any(isinstance(parameter, Float) for parameter in self.parameters.values()):
            return math.inf
        return math.prod(len(parameter.values() or ()) for parameter in self.parameters.values())


def around(space: Space, configured: Mapping[str, Any]) -> Space:
    """The space with numbers in place of multiples.

    Args:
        configured: parameter -> the value that a configuration has.

    Raises:
        UserError: where that is no number above 0.
    """
    made: dict[str, Parameter] = {}
    for name, parameter in space.parameters.items():
        if isinstance(parameter, Float) and parameter.relative:
            value = configured[name]
            if not _is_number(value) or not 0 < value < math.inf:
                raise UserError(
                    f"{name} is {value!r}, and a range of multiples (relative: true) needs a number above 0"
                )
            low, high = parameter.low * value, parameter.high * value
            parameter = replace(parameter, low=low, high=high, relative=False)
        made[name] = parameter
    return replace(space, parameters=made)


def distance(parameter: Parameter, value: Any, other: Any) -> float:
    """How far two values lie apart, as a share of the range; of values without an order 0 or 1."""
    if isinstance(parameter, Categorical) or not (_is_number(value) and _is_number(other)):
        return float(spelled(value) != spelled(other))
    ends = (parameter.low, parameter.high, value, other)
    if parameter.log and min(ends) > 0:
        low, high, value, other = map(math.log, ends)
        return abs(value - other) / (high - low)
    return abs(value - other) / (parameter.high - parameter.low)


def to_json(parameter: Parameter) -> dict[str, Any]:
    """The parameter as its file has it."""
    kind = type(parameter).__name__.lower()
    values = {name: list(v) if isinstance(v, tuple) else v for name, v in vars(parameter).items()}
    return {"kind": kind, **values}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def spelled(value: Any) -> str:
    """A text that is equal for equal values of a configuration, and only for those."""
    return json.dumps(value, sort_keys=True)


def grid(space: Space) -> list[dict[str, Any]]:
    """Every point of the grid, the last parameter fastest.

    Raises:
        UserError: when a float does not say how many points.
    """
    columns = []
    for name, parameter in space.parameters.items():
        values = parameter.values()
        if values is None:
            raise UserError(f"{name}: a grid needs to know how many values of a float; add points: 5")
        columns.append(values)
    return [
        dict(zip(space.parameters, point, strict=True)) for point in itertools.product(*map(list, columns))
    ]


# Reading


def space_names(folder: Path | None = None) -> list[str]:
    """Names of all spaces, sorted."""
    return sorted(path.stem for path in (folder or resource("conf") / "search").glob("*.yaml"))


def load_space(name: str, folder: Path | None = None) -> Space:
    """The space called ``name``.

    Args:
        folder: another folder of such files.

    Raises:
        UserError: for an unknown space (lists what exists) or a file that breaks the format (says where).
    """
    folder = folder or resource("conf") / "search"
    if name not in space_names(folder):
        raise unknown_name("search space", name, space_names(folder))
    path = folder / f"{name}.yaml"
    import yaml

    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {error}") from error
    return parse_space(raw, str(path))


def parse_space(raw: Any, where: str) -> Space:
    """A :class:`Space` from the content of its file. Raises UserError that names ``where`` and the field."""
    fields = _fields(raw, where, required=("space",), optional=("method", "direction", "startup"))
    listed = fields.pop("space")
    if not isinstance(listed, dict) or not listed:
        raise UserError(f"{where}: space must be a mapping with at least one parameter")
    for key, known in (("method", METHODS), ("direction", DIRECTIONS)):
        if key in fields and fields[key] not in known:
            raise unknown_name(key, str(fields[key]), known, where)
    if "startup" in fields:
        _whole(fields, "startup", where, at_least=0)
    for name in listed:
        if not isinstance(name, str):
            raise UserError(f"{where}: space: {name!r} is not the name of a setting")
    space = Space(
        {name: _parameter(value, f"{where}: space.{name}") for name, value in listed.items()}, **fields
    )
    if space.method == "grid":
        try:
            grid(space)
        except UserError as error:
            raise UserError(f"{where}: space.{error}") from None
    return space


def _parameter(raw: Any, where: str) -> Parameter:
    kinds = ("float", "int", "categorical")
    kind = raw.get("kind") if isinstance(raw, dict) else None
    if kind not in kinds:
        raise unknown_name("kind", str(kind), kinds, where)
    if kind == "categorical":
        choices = _fields(raw, where, required=("kind", "choices"))["choices"]
        plain = isinstance(choices, list) and all(
            value is None or isinstance(value, str | int | float) for value in choices
        )
        if not plain or not choices:
            raise UserError(f"{where}.choices must be a list of texts, numbers, true, false or null")
        if any(isinstance(value, float) and not math.isfinite(value) for value in choices):
            raise UserError(f"{where}.choices holds a number that is not finite")
        if len(set(map(spelled, choices))) != len(choices):
            raise UserError(f"{where}.choices names a value twice: {choices}")
        return Categorical(tuple(choices))
    optional = ("log", "points", "relative") if kind == "float" else ("log",)
    fields = _fields(raw, where, required=("kind", "low", "high"), optional=optional)
    del fields["kind"]
    for key in ("low", "high"):
        if kind == "int":
            _whole(fields, key, where)
        else:
            fields[key] = _number(fields[key], f"{where}.{key}")
    for key in ("log", "relative"):
        if not isinstance(fields.get(key, False), bool):
            raise UserError(f"{where}.{key} must be true or false, not {fields[key]!r}")
    if fields["low"] >= fields["high"]:
        raise UserError(f"{where}: low ({fields['low']}) must be below high ({fields['high']})")
    if fields.get("log") and fields["low"] <= 0:
        raise UserError(f"{where}: on a logarithmic scale low must be above 0, not {fields['low']}")
    if fields.get("relative") and not 0 < fields["low"] <= 1 <= fields["high"]:
        raise UserError(
            f"{where}: multiples of the configured value must have it between them: 0 < low <= 1 <= high"
        )
    if kind == "int":
        return Int(**fields)
    if "points" in fields:
        _whole(fields, "points", where, at_least=2)
    return Float(**fields)


def _fields(
    raw: Any, where: str, required: tuple[str, ...], optional: tuple[str, ...] = ()
) -> dict[str, Any]:
    if not isinstance(raw, dict):
        raise UserError(f"{where}: a mapping of fields is needed, not {raw!r}")
    for key in raw:
        if key not in required + optional:
            raise unknown_name("field", str(key), required + optional, where)
    for key in required:
        if key not in raw:
            raise UserError(f"{where}: the field {key} is missing")
    return dict(raw)


def _whole(fields: Mapping[str, Any], key: str, where: str, at_least: int | None = None) -> None:
    value = fields[key]
    if isinstance(value, bool) or not isinstance(value, int) or (at_least is not None and value < at_least):
        limit = "" if at_least is None else f" of at least {at_least}"
        raise UserError(f"{where}: {key} must be a whole number{limit}, not {value!r}")


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        hint = " (YAML reads 1e-5 as a text: write 1.0e-5)" if isinstance(value, str) else ""
        raise UserError(f"{where} must be a finite number, not {value!r}{hint}")
    return float(value)
