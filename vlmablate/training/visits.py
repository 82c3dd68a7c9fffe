"""Which rows a training step visits, and what is asked behind each: pure functions of (seed, step)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Generic, TypeVar

import numpy as np

from vlmablate.data.mixtures import TEXT_ONLY, Mixture, text_rows

# Streams of random numbers that must not touch each other, nor those of `training.steps`.
ORDER_STREAM, PICK_STREAM, SOURCE_STREAM, REQUEST_STREAM = 12, 13, 15, 16
BASE = "base"

Asked = TypeVar("Asked")
"""What is asked and answered, in whatever form a stage wants it (`packing.Segment`, or a pair of texts)."""

Rows = Sequence[Sequence[Asked]]


def steps_of(epochs: float, rows: int | Fraction, size: int) -> int:
    """The batches of `size` that come nearest to `epochs` visits of every row, at least one.

    Exact for every number of epochs as it is written (1.25 epochs of 64 rows in batches of 8 are 10 steps), so what a
    training sees beyond or short of its epochs is at most half a batch.
    """
    return max(1, round(Fraction(str(epochs)) * rows / size))


def order_of(count: int, needed: int, seed: int) -> np.ndarray:
    """Indices for `needed` visits: whole epochs, each a fresh permutation drawn from (seed, epoch)."""
    epochs = -(-needed // count)
    drawn = [np.random.default_rng([seed, ORDER_STREAM, epoch]).permutation(count) for epoch in range(epochs)]
    return np.concatenate([np.empty(0, np.int64), *drawn])[:needed]


def picked(rows: Rows[Asked], limit: int, seed: int, step: int) -> list[list[Asked]]:
    """At most `limit` segments behind each picture, another draw at every visit."""
    rng = np.random.default_rng([seed, PICK_STREAM, step])
    return [[row[i] for i in rng.permutation(len(row))[:limit]] for row in rows]


def added(rows: Rows[Asked], count: int, seed: int, step: int, source: int) -> list[list[Asked]]:
    """Exactly `count` segments of a further source behind each picture, another draw at every visit.

    A picture with fewer has some of them asked again. Raises ValueError for a picture without any.
    """
    rng = np.random.default_rng([seed, SOURCE_STREAM, source, step])
    if not all(rows):
        raise ValueError(f"source {source} has no question about one of the pictures of step {step}")
    return [[row[int(i)] for i in np.resize(rng.permutation(len(row)), count)] for row in rows]


@dataclass(frozen=True)
class Visit(Generic[Asked]):
    """The rows of one step: the picture of each, whether its text sees that picture, and the text."""

    pictures: np.ndarray
    pictured: np.ndarray
    segments: list[list[Asked]]


class Visits(Generic[Asked]):
    """The rows of every step of a stage under a mixture.

    The pictures, their order and the questions of the scenes are those of the same stage without a mixture: further
    questions come on top at each visit, and rows without a picture come between, so that there are more steps.

    Attributes:
        steps: optimiser steps of the stage, `steps_of` of the pictures and of the rows without one.
    """

    def __init__(
        self,
        base: Rows[Asked],
        sources: Mapping[str, Rows[Asked]],
        requests: Sequence[Asked],
        mixture: Mixture,
        *,
        epochs: float,
        batch: int,
        questions: int,
        seed: int,
    ) -> None:
        """base: the questions of every picture; pictures without one are left out. sources: those of each further
        source of the mixture. requests: text without a picture. questions: at most so many of `base` per visit."""
        self._base, self._sources, self._requests = base, sources, requests
        self._mixture, self._batch, self._questions, self._seed = mixture, batch, questions, seed
        share = mixture.text_only
        asked = np.flatnonzero([len(row) > 0 for row in base])
        self.steps = steps_of(epochs, len(asked) / (1 - share), batch)
        self._text = text_rows(self.steps * batch, share)
        # Before row n of the stage came so many with and without a picture.
        self._before = np.concatenate([[0], np.cumsum(~self._text)])
        self._order = asked[order_of(len(asked), int(self._before[-1]), seed)]
        needed = int(self._text.sum()) * questions
        self._request_order = order_of(max(1, len(requests)), needed, seed + REQUEST_STREAM)

    def pictures_at(self, step: int) -> np.ndarray:
        """[batch] the picture of each row. A row without one borrows the first, which its text cannot see."""
        text = self._text[step * self._batch : (step + 1) * self._batch]
        pictures = np.zeros(self._batch, np.int64)
        first, last = self._before[step * self._batch], self._before[(step + 1) * self._batch]
        pictures[~text] = self._order[first:last]
        return pictures

    def at(self, step: int) -> Visit[Asked]:
        """The rows of step `step`, counted from 0."""
        start, stop = step * self._batch, (step + 1) * self._batch
        text, pictures = self._text[start:stop], self.pictures_at(step)
        chosen = pictures[~text]
        seen = picked([self._base[i] for i in chosen], self._questions, self._seed, step)
        for number, (source, count) in enumerate(self._mixture.questions.items()):
            more = added([self._sources[source][i] for i in chosen], count, self._seed, step, number)
            seen = [[*row, *further] for row, further in zip(seen, more, strict=True)]
        rows, told = iter(seen), (start - int(self._before[start])) * self._questions
        segments = []
        for is_text in text:
            if not is_text:
                segments.append(next(rows))
                continue
            order = self._request_order[told : told + self._questions]
            segments.append([self._requests[i] for i in order])
            told += self._questions
        return Visit(pictures, ~text, segments)

    def counts(self) -> dict[str, dict[str, int]]:
        """Source -> its rows and questions in the whole stage: the provenance of what was learnt."""
        pictures, text = int((~self._text).sum()), int(self._text.sum())
        lengths = np.array([len(row) for row in self._base])
        base = int(np.minimum(lengths[self._order], self._questions).sum())
        found = {BASE: {"rows": pictures, "questions": base}}
        for source, count in self._mixture.questions.items():
            found[source] = {"rows": pictures, "questions": pictures * count}
        if text:
            found[TEXT_ONLY] = {"rows": text, "questions": text * self._questions}
        return found
