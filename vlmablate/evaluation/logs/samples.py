"""What every log comes down to: the scored samples of one benchmark, by the ids that the harness gives them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from vlmablate.data.picture_ids import picture_id
from vlmablate.errors import DataError

_LONGEST_PATH = 1024
"""A longer text that stands for a picture is the picture itself, in base64."""


@dataclass(frozen=True)
class Sample:
    """One scored answer. scores: by metric, as the harness logged them. picture: the id of its picture, None where the
    log does not tell. kept: columns of the long table that a log of ours carries, by name."""

    where: str
    example_id: str
    picture: str | None
    scores: Mapping[str, float]
    prediction: str
    target: str
    kept: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True)
class Log:
    """The samples of one benchmark by one model."""

    path: Path
    benchmark: str
    samples: Sequence[Sample]


def named_picture(reference: Any) -> str | None:
    """The id of a picture from its path, address, number or content; None for nothing."""
    if reference is None or (isinstance(reference, float) and math.isnan(reference)):
        return None
    text = str(reference).strip()
    if not text:
        return None
    if len(text) > _LONGEST_PATH or text.startswith("data:"):
        return f"content/{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    return picture_id(text)


def number(value: Any) -> float | None:
    """A score as a number: numbers and truth values, also as text. None for anything else, NaN included."""
    if isinstance(value, str):
        word = value.strip().lower()
        value = {"true": 1.0, "false": 0.0}.get(word, word)
    try:
        found = float(value)
    except (TypeError, ValueError):
        return None
    return found if math.isfinite(found) else None


def check_unique(samples: Sequence[Sample], path: Path, advice: str) -> None:
    """Raise DataError where two samples have one id: then nothing tells which of them to pair."""
    first: dict[str, Sample] = {}
    for sample in samples:
        other = first.setdefault(sample.example_id, sample)
        if other is not sample:
            raise DataError(
                f"{path}, {sample.where}: {sample.example_id} stands there already, in {other.where}; {advice}"
            )
