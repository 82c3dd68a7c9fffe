"""The catalogue of design axes: ``conf/axis/<name>.yaml`` read into frozen values, with exact names."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from vlmablate.errors import UserError, unknown_name
from vlmablate.paths import resource

_KEYS = frozenset(
    {"name", "question", "baseline", "arms", "contexts", "affects", "paper", "limits", "scales"}
)
_REPLACEABLE = frozenset({"arms", "contexts", "baseline"})
_NAME = re.compile(r"[a-z0-9][a-z0-9_]*")


@dataclass(frozen=True)
class Arm:
    """One choice on an axis: the overrides that make it, and the words a table prints for it."""

    name: str
    overrides: tuple[str, ...]
    label: str


@dataclass(frozen=True)
class Context:
    """A fixed setting in which the axis' contrast is repeated."""

    name: str
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class Axis:
    """One design question at one scale. ``paper`` and ``limits`` are for the report and never enter an
    identity.
    """

    name: str
    question: str
    baseline: str
    arms: tuple[Arm, ...]
    contexts: tuple[Context, ...]
    affects: tuple[str, ...]
    paper: MappingProxyType[str, Any]
    limits: tuple[str, ...]

    def arm(self, name: str) -> Arm:
        """The arm called ``name``; a UserError lists the arms there are."""
        for arm in self.arms:
            if arm.name == name:
                return arm
        raise unknown_name("arm", name, (a.name for a in self.arms), where=f"axis {self.name}")

    def to_dict(self) -> dict[str, Any]:
        """The axis as plain JSON values, as ``study.json`` keeps it."""
        return {
            "name": self.name,
            "question": self.question,
            "baseline": self.baseline,
            "arms": {a.name: {"overrides": list(a.overrides), "label": a.label} for a in self.arms},
            "contexts": {c.name: {"overrides": list(c.overrides)} for c in self.contexts},
            "affects": list(self.affects),
            "paper": dict(self.paper),
            "limits": list(self.limits),
        }


def axis_directory() -> Path:
    """The folder of axis files."""
    return resource("conf") / "axis"


def axis_names(directory: Path | None = None) -> list[str]:
    """Names of all axes, sorted."""
    return sorted(path.stem for path in (directory or axis_directory()).glob("*.yaml"))


def questions(directory: Path | None = None) -> dict[str, str]:
    """Axis name -> its question, read without a YAML parser so that ``--help`` stays quick.

    It relies on the convention that ``question:`` stands on one line (checked by :func:`load_axis` in the
    tests).
    """
    return one_line_fields(directory or axis_directory(), "question")


def one_line_fields(folder: Path, field: str) -> dict[str, str]:
    """File name -> the text of a top-level field that stands on one line, for every YAML file of a folder."""
    found = {}
    for path in sorted(folder.glob("*.yaml")):
        found[path.stem] = ""
        with open(path, encoding="utf-8") as lines:
            for line in lines:
                if line.startswith(f"{field}:"):
                    found[path.stem] = line.partition(":")[2].strip().strip("\"'")
                    break
    return found


def load_axis(name: str, scale: str = "", directory: Path | None = None) -> Axis:
    """The axis called ``name`` as it stands at ``scale``.

    Args:
        name: exact name of a file in ``conf/axis``.
        scale: a scale preset; what the file lists under ``scales: <scale>`` replaces arms, contexts or
            baseline.
        directory: another folder of axis files (tests).

    Raises:
        UserError: for an unknown axis (lists what exists) or a file that breaks the axis format (says where).
    """
    folder = directory or axis_directory()
    known = axis_names(folder)
    if name not in known:
        raise unknown_name("axis", name, known)
    path = folder / f"{name}.yaml"
    import yaml

    try:
        # libyaml, where it is there, reads ten times as fast.
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        raw = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {error}") from error
    return parse_axis(raw, scale, str(path), name)


def parse_axis(raw: Any, scale: str, where: str, name: str) -> Axis:
    """An :class:`Axis` from the parsed content of its file. Raises UserError that names ``where`` and the
    field.
    """
    if not isinstance(raw, dict):
        raise UserError(f"{where}: an axis file holds a mapping of fields")
    for key in raw:
        if key not in _KEYS:
            raise unknown_name("field", str(key), _KEYS, where=where)
    if raw.get("name") != name:
        raise UserError(f"{where}: the field name is {raw.get('name')!r}, but the file is called {name}.yaml")
    replaced = (raw.get("scales") or {}).get(scale) or {}
    for key in replaced:
        if key not in _REPLACEABLE:
            raise unknown_name("field", str(key), _REPLACEABLE, where=f"{where}, scales.{scale}")
    merged = {**raw, **replaced}
    arms = tuple(_arm(key, value, where) for key, value in _mapping(merged, "arms", where).items())
    contexts = tuple(
        Context(_name(key, "contexts", where), _overrides(value, f"{where}: contexts.{key}"))
        for key, value in _mapping(merged, "contexts", where, default={"default": {"overrides": []}}).items()
    )
    baseline = merged.get("baseline")
    if baseline not in [arm.name for arm in arms]:
        raise UserError(
            f"{where}: baseline {baseline!r} is none of its arms ({', '.join(a.name for a in arms)})"
        )
    if len(arms) < 2:
        raise UserError(f"{where}: an axis needs at least two arms, this one has {len(arms)}")
    question = merged.get("question")
    if not isinstance(question, str) or not question.strip():
        raise UserError(f"{where}: the field question is missing")
    return Axis(
        name=name,
        question=question.strip(),
        baseline=str(baseline),
        arms=arms,
        contexts=contexts,
        affects=tuple(str(kind) for kind in merged.get("affects") or ()),
        paper=MappingProxyType(dict(merged.get("paper") or {})),
        limits=tuple(str(text) for text in merged.get("limits") or ()),
    )


def _mapping(raw: dict[str, Any], key: str, where: str, default: Any = None) -> dict[str, Any]:
    value = raw.get(key, default)
    if not isinstance(value, dict) or not value:
        raise UserError(f"{where}: the field {key} must be a mapping with at least one entry")
    return value


def _name(value: Any, field: str, where: str) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise UserError(
            f"{where}: {value!r} in {field} is not a name (lower-case letters, digits, underscores)"
        )
    return value


def _arm(key: Any, value: Any, where: str) -> Arm:
    name = _name(key, "arms", where)
    label = value.get("label", name) if isinstance(value, dict) else name
    return Arm(name, _overrides(value, f"{where}: arms.{name}"), str(label))


def _overrides(value: Any, where: str) -> tuple[str, ...]:
    overrides = value.get("overrides") if isinstance(value, dict) else None
    if not isinstance(overrides, list) or not all(isinstance(item, str) for item in overrides):
        raise UserError(f"{where}.overrides must be a list of texts such as 'image=letterbox'")
    return tuple(overrides)
