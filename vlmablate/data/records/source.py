"""An opened source: any of its records by number, read from the published file where it lies."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from vlmablate.data.records.formats import Malformed, parts_in, read_record
from vlmablate.data.records.index import open_index
from vlmablate.data.records.schema import Record
from vlmablate.errors import UserError


class Source:
    """The records of a source in a folder, numbered from 0 through all its parts. Close it, or use it in a ``with``.

    Reading moves no file position, so any thread may ask. Memory holds the index alone: what was read is let go.

    Attributes:
        name: of the source. folder: that of the user, below which its pictures lie.
        characters, turns, pictured, negative: [records], see `index.COLUMNS`.
    """

    def __init__(self, name: str, folder: Path) -> None:
        """Makes the indexes that are not there yet. Raises UserError as `parts_in` and `open_index` do."""
        self.name, self.folder = name, folder
        self._parts = parts_in(name, folder)
        self._indexes = [open_index(found) for found in self._parts]
        self._ends = np.cumsum([len(index) for index in self._indexes])
        self._files = [os.open(found.path, os.O_RDONLY) for found in self._parts]
        columns = ("characters", "turns", "pictured", "negative")
        self.characters, self.turns, self.pictured, self.negative = (
            np.concatenate([index[column] for index in self._indexes]) for column in columns
        )

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __iter__(self) -> Iterator[Record]:
        return (self.at(number) for number in range(len(self)))

    def at(self, number: int) -> Record:
        """Record `number`, 0 <= number < len. Raises UserError for a file that was changed under way."""
        part = int(np.searchsorted(self._ends, number, side="right"))
        place = number - (int(self._ends[part - 1]) if part else 0)
        found, row = self._parts[part], self._indexes[part][place]
        text = os.pread(self._files[part], int(row["size"]), int(row["start"]))
        try:
            return read_record(found, place + 1, json.loads(text))
        except (ValueError, Malformed) as error:
            raise UserError(
                f"record {place + 1} of {found.path} is not where it was when the file was indexed ({error}): the file "
                "was changed. Start the sweep again: it plans with what is there."
            ) from error

    def close(self) -> None:
        """Close the files."""
        while self._files:
            os.close(self._files.pop())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
