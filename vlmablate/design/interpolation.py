"""Resolving ``${…}`` in a composed configuration. Pure.

Nearly every interpolation names other values (``${sizes.epochs}``, ``${.name}-${data.name}``). Those are looked up
here, because building OmegaConf's own nodes costs far more than everything else of a configuration; all others are left
to OmegaConf, so the outcome is always its.
"""

from __future__ import annotations

import re
from typing import Any

_NODE = re.compile(r"\$\{(\.*)([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)\}")
_MISSING = "???"
_DEEPEST = 20

Keys = tuple[Any, ...]


class _Intricate(Exception):  # noqa: N818
    """Something other than plain values and names of values."""


def resolve(raw: dict[str, Any]) -> dict[str, Any]:
    """A copy of ``raw`` in which every interpolation is replaced by the value it stands for.

    Args:
        raw: plain dicts, lists and scalars.

    Raises:
        ValueError: for an interpolation that leads nowhere, and for a value that was never given (``???``).

    >>> resolve({"sizes": {"epochs": 2.0}, "stage": {"epochs": "${sizes.epochs}"}})["stage"]
    {'epochs': 2.0}
    """
    try:
        resolved: dict[str, Any] = _copy(raw, (), raw, 0)
    except _Intricate:
        return _by_omegaconf(raw)
    return resolved


def _copy(value: Any, place: Keys, root: dict[str, Any], depth: int) -> Any:
    """A resolved copy of the value at a place; ``depth`` counts the interpolations on the way."""
    if isinstance(value, dict):
        return {key: _copy(item, (*place, key), root, depth) for key, item in value.items()}
    if isinstance(value, list):
        return [_copy(item, (*place, index), root, depth) for index, item in enumerate(value)]
    if isinstance(value, str) and ("${" in value or value == _MISSING):
        return _interpolate(value, place, root, depth)
    return value


def _interpolate(text: str, place: Keys, root: dict[str, Any], depth: int) -> Any:
    if depth > _DEEPEST or text == _MISSING or "\\" in text:
        raise _Intricate
    whole = _NODE.fullmatch(text)
    if whole is not None:
        return _look_up(whole, place, root, depth)

    def words(found: re.Match[str]) -> str:
        value = _look_up(found, place, root, depth)
        if type(value) not in (str, int):
            raise _Intricate
        return str(value)

    filled = _NODE.sub(words, text)
    if "$" in _NODE.sub("", text) or "${" in filled:
        raise _Intricate
    return filled


def _look_up(found: re.Match[str], place: Keys, root: dict[str, Any], depth: int) -> Any:
    """The value that an interpolation names: from the root, or after n dots from the n-th container above it."""
    dots, path = found.groups()
    if dots and (len(dots) > len(place) or any(isinstance(key, int) for key in place)):
        raise _Intricate
    target: Keys = (*(place[: len(place) - len(dots)] if dots else ()), *path.split("."))
    node: Any = root
    for key in target:
        if not isinstance(node, dict) or key not in node:
            raise _Intricate
        node = node[key]
    return _copy(node, target, root, depth + 1)


def _by_omegaconf(raw: dict[str, Any]) -> dict[str, Any]:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        plain = OmegaConf.to_container(OmegaConf.create(raw), resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ValueError(str(error).strip()) from error
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}
