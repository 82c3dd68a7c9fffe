"""Sources as one: which record every visit of an epoch shows. Pure functions of the seed, so nothing is replayed.

An epoch of a mix has as many slots as it shows records, those of each source side by side; who trains draws their order
(`training.balance.DataOrder`). In which order a source gives its records is drawn from the seed, the name of the source
and the pass over it, so another source in the mix does not change it, and a source that shows half of its records in an
epoch shows the other half in the next.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from types import TracebackType
from typing import Self

import numpy as np

from vlmablate.data.records.schema import Record
from vlmablate.data.records.source import Source
from vlmablate.design.shares import WHERE, Share, visits
from vlmablate.errors import UserError

SOURCE_STREAM = 19  # apart from the streams of `training.visits` and `training.text_steps`
_PASSES_KEPT = 16


@lru_cache(maxsize=_PASSES_KEPT)
def pass_order(source: str, size: int, seed: int, number: int) -> np.ndarray:
    """int32 [size], the order of a source in its pass `number`."""
    rng = np.random.default_rng([seed, SOURCE_STREAM, zlib.crc32(source.encode()), number])
    order: np.ndarray = rng.permutation(np.arange(size, dtype=np.int32))
    order.flags.writeable = False
    return order


class Mix:
    """Opened sources with their shares, in the order of their names.

    Attributes:
        sources: the sources. count: slots of an epoch.
    """

    def __init__(
        self, sources: Sequence[Source], shares: Mapping[str, Share], *, language_only: bool = True, seed: int
    ) -> None:
        """shares: of every source, by name. language_only: False leaves records without a picture out.

        Raises UserError for a count of a source without records, or a mix that shows none.
        """
        self.sources = sorted(sources, key=lambda source: source.name)
        self._seed = seed
        # What has no answer (see `formats`) teaches nothing.
        wanted = [source.turns > 0 for source in self.sources]
        if not language_only:
            wanted = [kept & source.pictured for kept, source in zip(wanted, self.sources, strict=True)]
        self._numbers = [np.flatnonzero(kept).astype(np.int32) for kept in wanted]
        sizes = {source.name: len(rows) for source, rows in zip(self.sources, self._numbers, strict=True)}
        shown = visits(shares, sizes)
        self._shown = np.array([shown[source.name] for source in self.sources], np.int64)
        self._ends = np.cumsum(self._shown)
        self.count = int(self._ends[-1])
        if not self.count:
            raise UserError(f"{WHERE} shows no record at all: {', '.join(shares)} leave none to learn from")

    def locate(self, slots: np.ndarray, epochs: np.ndarray) -> list[tuple[int, int]]:
        """(source, number of the record) of some slots, each in an epoch of the mix; int64 [n] both."""
        found = []
        for slot, epoch in zip(slots.tolist(), epochs.tolist(), strict=True):
            source = int(np.searchsorted(self._ends, slot, side="right"))
            shown, numbers = int(self._shown[source]), self._numbers[source]
            visit = epoch * shown + slot - int(self._ends[source] - shown)
            passed, place = divmod(visit, len(numbers))
            order = pass_order(self.sources[source].name, len(numbers), self._seed, passed)
            found.append((source, int(numbers[order[place]])))
        return found

    def record(self, source: int, number: int) -> Record:
        """A record as `locate` names it."""
        return self.sources[source].at(number)

    def rows(self, slots: np.ndarray) -> dict[str, int]:
        """Source -> how many of these slots are its."""
        counts = np.bincount(np.searchsorted(self._ends, slots, side="right"), minlength=len(self.sources))
        return {source.name: int(count) for source, count in zip(self.sources, counts, strict=True)}

    def left_out(self) -> dict[str, int]:
        """Source -> how many of its records nobody sees: those without an answer, or without a picture."""
        pairs = zip(self.sources, self._numbers, strict=True)
        return {source.name: len(source) - len(numbers) for source, numbers in pairs}

    def close(self) -> None:
        """Close the sources."""
        for source in self.sources:
            source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
