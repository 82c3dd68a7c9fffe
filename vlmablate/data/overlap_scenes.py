"""Composed scenes compared: no scene is drawn for both splits, and this shows whether two came out the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np

from vlmablate.data.overlap import Pictures, matches, row
from vlmablate.data.overlap_table import Row
from vlmablate.data.picture_hash import perceptual_hash
from vlmablate.data.questions import BENCHMARKS, Question

SOURCE = "training scenes"


def scene_rows(
    training: Mapping[str, np.ndarray], evaluation: Mapping[str, np.ndarray], asked: Iterable[Question]
) -> list[Row]:
    """A row for each benchmark that asks about scenes. training, evaluation: scene id -> `picture_hash.thumbnail`."""
    trained, tested = _pictures(training), _pictures(evaluation)
    found = matches(tested, trained)
    number = {name: place for place, name in enumerate(tested.names)}
    times = Counter((one.benchmark, number[one.scene]) for one in asked if one.scene in number)
    rows = []
    for benchmark in BENCHMARKS:
        own = {place: count for (name, place), count in times.items() if name == benchmark}
        if own:
            rows.append(row(benchmark, SOURCE, tested, trained, own, found))
    return rows


def _pictures(thumbnails: Mapping[str, np.ndarray]) -> Pictures:
    small = list(thumbnails.values())
    return Pictures(
        list(thumbnails),
        [None] * len(small),
        [perceptual_hash(one) for one in small],
        lambda numbers: (small[number] for number in numbers),
    )
