"""Words of a command line of the form KEY=VALUE, shared by the verbs that take nothing else."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from vlmablate.errors import UserError, unknown_name


def key_values(
    argv: Sequence[str], plain: Collection[str], prefixes: Collection[str] = ()
) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """({key: value} of KEY=VALUE, {prefix: {name: value}} of PREFIX.NAME=VALUE), every prefix being there.

    Raises UserError for a word that is no KEY=VALUE, a key that is not in `plain` or of an unknown prefix, a key that
    is given twice, and an empty value.
    """
    given: dict[str, str] = {}
    named: dict[str, dict[str, str]] = {prefix: {} for prefix in prefixes}
    for word in argv:
        key, equals, value = word.partition("=")
        prefix, _, name = key.partition(".")
        if not equals or not key:
            raise UserError(f"cannot read '{word}': every argument is KEY=VALUE; --help shows them")
        if name and prefix in named:
            target, name = named[prefix], name
        elif key in plain:
            target, name = given, key
        else:
            raise unknown_name("argument", key, [*plain, *(f"{prefix}.NAME" for prefix in prefixes)])
        if not value.strip():
            raise UserError(f"{key}= needs a value")
        if name in target:
            raise UserError(f"{key} is given twice: {key}={target[name]} and {word}")
        target[name] = value.strip()
    return given, named


def number(key: str, text: str) -> float:
    """A finite number. Raises UserError that names the key."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"{key} must be a number, got '{text}'")
    return value


def whole_number(key: str, text: str, least: int) -> int:
    """A whole number of at least `least`. Raises UserError that names the key."""
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least:
        raise UserError(f"{key} must be a whole number of at least {least}, got '{text}'")
    return value


def score_range(text: str) -> tuple[float, float]:
    """LOW,HIGH as numbers. Raises UserError for anything else."""
    parts = text.strip("[]()").split(",")
    if len(parts) != 2:
        raise UserError(f"score_range must be LOW,HIGH (for example 0,100), got '{text}'")
    low, high = (number("score_range", part) for part in parts)
    if not low < high:
        raise UserError(f"score_range must go from a lower to a higher number, got '{text}'")
    return low, high


def fractions(given: Mapping[str, str], key: str, low: float, high: float) -> dict[str, float]:
    """Scores in the unit of the table, {name: text}, as fractions of its range. Raises UserError for one outside."""
    found = {}
    for name, text in given.items():
        value = number(f"{key}.{name}", text)
        if not low <= value <= high:
            raise UserError(
                f"{key}.{name}={text} lies outside the range of the scores, {low:g} to {high:g}; it is in the unit of "
                "the scores (score_range=LOW,HIGH sets their range)"
            )
        found[name] = (value - low) / (high - low)
    return found


def setting_values(given: Mapping[str, str]) -> dict[str, Any]:
    """Text as values for stats.settings.Settings.from_mapping. Raises UserError for a truth value that is none."""
    values: dict[str, Any] = dict(given)
    if "paired_seeds" in values:
        text = given["paired_seeds"].lower()
        if text not in ("true", "false"):
            raise UserError(f"paired_seeds must be true or false, got '{given['paired_seeds']}'")
        values["paired_seeds"] = text == "true"
    return values
