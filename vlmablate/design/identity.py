"""Canonical form and content identity.

``id = base32(sha256(canonical JSON of {kind, version, config, deps}))[:16]``: 80 bits, lower case, so that a
step is found again by what it *means*, wherever and whenever it runs. Three rules keep identity honest:

* the encoder refuses values without one canonical form, instead of guessing (``repr`` of a set depends on
  hash seeds; ``nan != nan``; a numpy scalar prints differently between releases);
* numbers are compared by value: ``2`` and ``2.0`` are one epoch count, ``True`` is not ``1``;
* a field that was added later and stands at its declared default is left out (:func:`elide`), so old ids live
  on.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from json.encoder import encode_basestring
from typing import Any, NoReturn

ID_LENGTH = 16
_LARGEST_EXACT = 2**53


class CanonicalError(TypeError):
    """A value without a canonical form was about to enter an identity. The message says where it sits."""


def canonical(value: Any) -> str:
    """The one canonical JSON text of ``value``: sorted keys, no spaces, shortest round-trip floats.

    Accepted: None, bool, int, finite float, str, list, and dict with str keys, exactly these types. A float
    with an integer value is written as that integer, so that ``1`` and ``1.0`` agree.

    Raises:
        CanonicalError: on nan, infinity, sets, tuples, bytes, numpy values, enums, non-string keys, lone
            surrogates, and everything else; the message gives the path of the offending value.
    """
    try:
        return _encode(value)
    except _Refused:
        raise CanonicalError(_complaint(value, "$")) from None


class Encoded(str):
    """A canonical text, which stands for the value it was made of: what many ids share is encoded once."""

    __slots__ = ()


class _Refused(Exception):  # noqa: N818
    """Somewhere in the value there is something without a canonical form."""


def _encode(value: Any) -> str:
    # Ids are made by the thousand, so the way to a refused value is only sought once there is one.
    kind = type(value)
    if kind is str:
        return _encode_text(value)
    if kind is dict:
        if not all(type(key) is str for key in value):
            _refuse()
        return "{" + ",".join([f"{_encode_text(key)}:{_encode(value[key])}" for key in sorted(value)]) + "}"
    if value is None or kind is bool:
        return _CONSTANTS[value]
    if kind is int:
        return str(value)
    if kind is float:
        if not math.isfinite(value):
            _refuse()
        if value.is_integer() and abs(value) < _LARGEST_EXACT:
            return str(int(value))
        return repr(value)
    if kind is list:
        return "[" + ",".join([_encode(item) for item in value]) + "]"
    if kind is Encoded:
        return str(value)
    return _refuse()


_CONSTANTS = {None: "null", True: "true", False: "false"}


def _refuse() -> NoReturn:
    raise _Refused


def _encode_text(value: str) -> str:
    if not value.isascii() and not _is_unicode(value):
        _refuse()
    return encode_basestring(value)


def _is_unicode(value: str) -> bool:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _complaint(value: Any, where: str) -> str:
    """What is wrong with a refused value, and where it sits; empty when it has a canonical form."""
    kind = type(value)
    if kind is dict:
        for key in value:
            if type(key) is not str:
                return (
                    f"{where}: the key {key!r} is a {type(key).__name__}; keys must be text "
                    "(two keys that print alike would share an identity)"
                )
            if found := _complaint(key, where) or _complaint(value[key], f"{where}.{key}"):
                return found
        return ""
    if kind is list:
        return next(filter(None, (_complaint(item, f"{where}[{i}]") for i, item in enumerate(value))), "")
    if kind is str:
        return "" if _is_unicode(value) else f"{where}: the text {value!r:.80} is not valid Unicode"
    if kind is float and not math.isfinite(value):
        return f"{where}: {value} has no canonical form; leave the field out or use a finite number"
    if value is None or kind in (bool, int, float, Encoded):
        return ""
    return (
        f"{where}: a {kind.__module__}.{kind.__qualname__} has no canonical form: {value!r:.80}; "
        "use None, bool, int, float, str, list or dict"
    )


def digest(value: Any) -> str:
    """Hexadecimal SHA-256 of the canonical form of ``value``."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def short_id(value: Any) -> str:
    """The first 16 letters of the base-32 SHA-256 of the canonical form of ``value``, lower case
    (80 bits).
    """
    raw = hashlib.sha256(canonical(value).encode()).digest()
    bits = int.from_bytes(raw[: ID_LENGTH * 5 // 8], "big")
    # base64.b32encode says the same at three times the price, and ids are made by the thousand.
    return "".join([_PAIRS[bits >> shift & 1023] for shift in range(5 * ID_LENGTH - 10, -10, -10)])


_LETTERS = "abcdefghijklmnopqrstuvwxyz234567"
_PAIRS = [first + second for first in _LETTERS for second in _LETTERS]


def elide(config: dict[str, Any], added: Mapping[str, Any]) -> dict[str, Any]:
    """``config`` without the later-added fields that stand at their default. The argument is left unchanged.

    Args:
        config: the semantic config of a step.
        added: dotted path -> default, for every field that joined after ids had been given out. A whole group
            that joined is declared by its own path with its dictionary of defaults. Deeper paths are elided
            first, so a group may grow after it joined.
    """
    result = dict(config)
    for path in sorted(added, key=lambda p: (-p.count("."), p)):
        *parents, leaf = path.split(".")
        node: Any = result
        for key in parents:
            below = node.get(key)
            if not isinstance(below, dict):
                break
            node[key] = node = dict(below)  # only what lies on the way is copied
        else:
            if leaf in node and canonical(node[leaf]) == canonical(added[path]):
                del node[leaf]
    return result


def step_id(
    kind: str,
    version: int,
    config: dict[str, Any],
    deps: dict[str, str],
    added: Mapping[str, Any] | None = None,
) -> str:
    """The identity of a step.

    Args:
        kind: the step kind, for example ``features``.
        version: the version of the kind's meaning; raising it retires every result of the kind.
        config: the semantic config of the step, and nothing about where or how fast it runs.
        deps: role -> id of the step that fills it.
        added: the kind's later-added fields and their defaults (see :func:`elide`).

    Raises:
        CanonicalError: when the config holds a value without a canonical form.
    """
    semantic = elide(config, added) if added else config
    return short_id(step_text(kind, version, semantic, deps))


def step_text(kind: str, version: int, semantic: Mapping[str, Any], deps: dict[str, str]) -> Encoded:
    """The canonical text of which :func:`step_id` is the digest; ``semantic`` is the config after :func:`elide`."""
    content = {"kind": kind, "version": version, "config": dict(semantic), "deps": deps}
    return Encoded(canonical(content))
