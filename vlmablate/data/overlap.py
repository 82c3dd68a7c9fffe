"""Which pictures that are evaluated on were trained on: by the id of their data set, and by perceptual hash.

Ids find what two publishers take from the same collection (`data.picture_ids`): LVIS-Instruct-4V is made of COCO
train2017 and val2017, which hold most of the val2014 pictures that VQAv2 and POPE ask about. Hashes find what ids do
not: the same photograph under another name, at another size or quality (`data.picture_hash`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vlmablate.data.overlap_near import near_pairs
from vlmablate.data.overlap_table import Row
from vlmablate.data.picture_hash import NEAR, alike

Thumbnails = Callable[[Sequence[int]], Iterable[np.ndarray]]
"""The thumbnails of pictures by their number, in the order asked for."""


@dataclass(frozen=True)
class Pictures:
    """The distinct pictures of one data set, numbered 0 to n - 1.

    Attributes:
        names: where they are, or what they are called.
        ids: `picture_ids.known_id`; None where the path does not tell.
        hashes: `picture_hash.perceptual_hash`; None for a picture that cannot be compared so.
        thumbnails: of pictures with a hash.
    """

    names: Sequence[str]
    ids: Sequence[str | None]
    hashes: Sequence[int | None]
    thumbnails: Thumbnails

    @property
    def hashed(self) -> int:
        """How many have a hash."""
        return sum(one is not None for one in self.hashes)


@dataclass(frozen=True)
class Match:
    """An evaluation picture and a training picture, by number, that are the same.

    distance: in bits of their hashes; None for a pair with one id.
    """

    evaluation: int
    training: int
    distance: int | None


def matches(evaluation: Pictures, training: Pictures) -> list[Match]:
    """Every pair of the same picture, by evaluation picture. One that shares an id is not looked for by hash.

    A pair with near hashes counts when the thumbnails of both are alike.
    """
    places: dict[str, list[int]] = defaultdict(list)
    for number, name in enumerate(training.ids):
        if name is not None:
            places[name].append(number)
    found = [
        Match(number, same, None)
        for number, name in enumerate(evaluation.ids)
        if name is not None
        for same in places.get(name, ())
    ]
    known = {match.evaluation for match in found}
    mine = _numbers(evaluation.hashes, known)
    theirs = _numbers(training.hashes, frozenset())
    i, j, far = near_pairs(_values(evaluation.hashes, mine), _values(training.hashes, theirs), NEAR)
    near = list(zip((mine[k] for k in i), (theirs[k] for k in j), far.tolist(), strict=True))
    looks = _by_number(evaluation.thumbnails, {pair[0] for pair in near})
    others = _by_number(training.thumbnails, {pair[1] for pair in near})
    found += [Match(*pair) for pair in near if alike(looks[pair[0]], others[pair[1]])]
    return sorted(found, key=lambda match: (match.evaluation, match.distance or 0, match.training))


def _numbers(hashes: Sequence[int | None], without: set[int] | frozenset[int]) -> list[int]:
    return [k for k, one in enumerate(hashes) if one is not None and k not in without]


def _values(hashes: Sequence[int | None], numbers: Sequence[int]) -> np.ndarray:
    return np.array([hashes[k] for k in numbers], dtype=np.uint64)


def _by_number(thumbnails: Thumbnails, numbers: set[int]) -> dict[int, np.ndarray]:
    asked = sorted(numbers)
    return dict(zip(asked, thumbnails(asked), strict=True))


def row(
    benchmark: str,
    source: str,
    evaluation: Pictures,
    training: Pictures,
    asked: Mapping[int, int],
    found: Iterable[Match],
) -> Row:
    """The line of a table. asked: evaluation picture -> how many questions of the benchmark are about it."""
    counted = [match for match in found if match.evaluation in asked]
    by_id = {match.evaluation for match in counted if match.distance is None}
    shared = {match.evaluation for match in counted}
    return Row(
        benchmark,
        source,
        pictures=len(asked),
        by_id=len(by_id),
        by_hash=len(shared - by_id),
        questions=sum(asked.values()),
        touched=sum(asked[number] for number in shared),
        unhashed=sum(evaluation.hashes[number] is None for number in asked),
        training=len(training.names),
        unhashed_training=len(training.names) - training.hashed,
    )


def pair_lines(
    benchmark: str, source: str, evaluation: Pictures, training: Pictures, found: Iterable[Match]
) -> Iterator[dict[str, Any]]:
    """Pairs as they are written to a file: {benchmark, source, evaluation, training, by, id or distance}."""
    for match in found:
        how: dict[str, Any] = {"by": "hash", "distance": match.distance}
        if match.distance is None:
            how = {"by": "id", "id": evaluation.ids[match.evaluation]}
        yield {
            "benchmark": benchmark,
            "source": source,
            "evaluation": evaluation.names[match.evaluation],
            "training": training.names[match.training],
            **how,
        }
