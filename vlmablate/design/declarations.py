"""Studies of several axes: ``sweeps/<name>.yaml`` read into frozen values, with exact names."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from vlmablate.design.catalogue import one_line_fields
from vlmablate.errors import UserError, unknown_name
from vlmablate.paths import resource

_KEYS = ("question", "axes", "seeds", "scale", "overrides", "presets", "contrasts")
_ALL = "all"


@dataclass(frozen=True)
class Declaration:
    """A set of axes that are planned together, each with the same seeds, scale and overrides.

    ``seeds`` and ``scale`` are texts as on the command line, empty where the file leaves them out.

    Attributes:
        presets: models of conf/paper that the study is about (``vlmablate cost`` prices them).
        contrasts: published comparison (analysis/reference/comparisons.csv, with the printed p-value) -> the axis that
            asks its question.
    """

    name: str
    question: str
    axes: tuple[str, ...]
    seeds: str
    scale: str
    overrides: tuple[str, ...]
    presets: tuple[str, ...] = ()
    contrasts: Mapping[str, str] = field(default_factory=dict)


def preset_names() -> list[str]:
    """Names of the models of the paper in conf/paper, sorted."""
    return sorted(path.stem for path in (resource("conf") / "paper").glob("*.yaml"))


def comparison_names() -> list[str]:
    """Keys of the published comparisons, in their order."""
    path = resource("analysis") / "reference" / "comparisons.csv"
    with open(path, encoding="utf-8", newline="") as file:
        return [row["comparison"] for row in csv.DictReader(file)]


def declaration_names(directory: Path | None = None) -> list[str]:
    """Names of all declared studies, sorted."""
    return sorted(path.stem for path in (directory or resource("sweeps")).glob("*.yaml"))


def study_questions(directory: Path | None = None) -> dict[str, str]:
    """Name of a declared study -> its question, read without a YAML parser (``question:`` stands on one line)."""
    return one_line_fields(directory or resource("sweeps"), "question")


def load_declaration(name: str, directory: Path | None = None) -> Declaration:
    """The declared study called ``name``.

    Raises:
        UserError: for an unknown study (lists what exists) or a file that breaks the format (says where).
    """
    folder = directory or resource("sweeps")
    known = declaration_names(folder)
    if name not in known:
        error = unknown_name("study", name, known, where="sweeps/")
        raise UserError(f"{error}\n(together with axis=NAME, study= names the folder of the results)")
    path = folder / f"{name}.yaml"
    import yaml

    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {error}") from error
    return parse_declaration(raw, str(path), name)


def parse_declaration(raw: Any, where: str, name: str) -> Declaration:
    """A :class:`Declaration` from the parsed content of its file. Raises UserError that names ``where`` and field."""
    if not isinstance(raw, dict):
        raise UserError(f"{where}: a declared study holds a mapping of fields")
    for key in raw:
        if key not in _KEYS:
            raise unknown_name("field", str(key), _KEYS, where=where)
    question = raw.get("question")
    if not isinstance(question, str) or not question.strip():
        raise UserError(f"{where}: the field question is missing")
    axes = _texts(raw.get("axes"), "axes", where)
    if not axes:
        raise UserError(f"{where}: the field axes names no axis")
    if len(set(axes)) != len(axes):
        raise UserError(f"{where}: the field axes names an axis twice: {', '.join(axes)}")
    return Declaration(
        name=name,
        question=question.strip(),
        axes=axes,
        seeds=str(raw.get("seeds", "")).replace(" ", ""),
        scale=str(raw.get("scale", "")),
        overrides=_texts(raw.get("overrides") or [], "overrides", where),
        presets=_presets(raw.get("presets") or [], where),
        contrasts=_contrasts(raw.get("contrasts") or {}, axes, where),
    )


def _presets(value: Any, where: str) -> tuple[str, ...]:
    known = preset_names()
    names = tuple(known) if value == _ALL else _texts(value, "presets", where)
    for name in names:
        if name not in known:
            raise unknown_name("preset", name, known, where=f"{where}, presets")
    return names


def _contrasts(value: Any, axes: tuple[str, ...], where: str) -> Mapping[str, str]:
    if not isinstance(value, dict) or not all(isinstance(axis, str) for axis in value.values()):
        raise UserError(f"{where}: the field contrasts must give an axis for each comparison, not {value!r}")
    known = comparison_names() if value else []
    for comparison, axis in value.items():
        if comparison not in known:
            raise unknown_name("comparison", str(comparison), known, where=f"{where}, contrasts")
        if axis not in axes:
            raise unknown_name("axis", axis, axes, where=f"{where}, contrasts.{comparison}")
    return MappingProxyType(dict(value))


def _texts(value: Any, field: str, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise UserError(f"{where}: the field {field} must be a list of texts, not {value!r}")
    return tuple(value)
