"""The pictures of data sets that lie in folders, ready to be compared: see :mod:`vlmablate.data.overlap`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vlmablate.data.overlap import Pictures
from vlmablate.data.picture_looks import Progress, looks, thumbnails


@dataclass(frozen=True)
class Used:
    """A picture and how often it is used.

    Attributes:
        name: relative to the folder; id: of its data set, None where nothing tells.
        times: questions or records that are about it.
    """

    name: str
    id: str | None
    times: int


def used(pictures: Iterable[tuple[str, str | None]]) -> list[Used]:
    """The distinct pictures among those of all records, each (name, id), in the order of their first use."""
    times: Counter[str] = Counter()
    ids: dict[str, str | None] = {}
    for name, known in pictures:
        times[name] += 1
        ids.setdefault(name, known)
    return [Used(name, ids[name], count) for name, count in times.items()]


def in_folder(
    root: Path,
    pictures: Sequence[Used],
    *,
    workers: int,
    progress: Progress = lambda done, total: None,
) -> Pictures:
    """Pictures with their hashes, which are made now or read from the cache."""
    names = [one.name for one in pictures]
    seen = dict(looks(root, names, workers=workers, progress=progress))

    def small(numbers: Sequence[int]) -> Iterator[np.ndarray]:
        return thumbnails([root / names[number] for number in numbers], workers)

    return Pictures(names, [one.id for one in pictures], [seen[name].hash for name in names], small)


def by_id_only(pictures: Sequence[Used]) -> Pictures:
    """Pictures that are compared by id alone: no file is opened."""
    return Pictures(
        [one.name for one in pictures],
        [one.id for one in pictures],
        [None] * len(pictures),
        lambda numbers: iter(()),
    )
