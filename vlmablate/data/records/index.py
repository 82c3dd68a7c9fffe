"""Where every record of an annotation file lies, and what a plan must know of it: made once, then mapped from disk.

An index is one array in the cache, named by the content of the file, so it is whole or absent, and a file that moved
keeps it. Making it reads every record as training will, so a malformed one is told before anything is trained. A
million records take 20 MB.
"""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from vlmablate import files, paths
from vlmablate.data.archive_store import locked
from vlmablate.data.notes import file_digest
from vlmablate.data.records.formats import Found, Malformed, read_record
from vlmablate.data.records.scan import Element, elements
from vlmablate.data.records.schema import Record
from vlmablate.errors import UserError

VERSION = 1
"""Raise it when an importer reads a file in another way: old indexes are then made anew."""

COLUMNS = np.dtype(
    [
        ("start", "<i8"),
        ("size", "<i4"),
        ("characters", "<i4"),
        ("turns", "<i4"),
        ("pictured", "?"),
        ("negative", "?"),
    ]
)
"""Bytes of the record in its file; characters and number of its turns; whether it has a picture, and is negative."""

_FOLDER = "record_index"
_GROWTH = 1 << 16
_TOLD_EVERY = 1 << 10
_LARGE = 20_000_000

Told = Callable[[int], None]
"""Told the bytes that were read so far."""


def open_index(found: Found) -> np.ndarray:
    """The index of a part, COLUMNS [records], mapped from the cache; made first if it is not there.

    Raises UserError for the first malformed record, with file and line.
    """
    folder = paths.cache_dir() / _FOLDER
    about = f"{VERSION} {found.label} {file_digest(found.path)}"
    name = hashlib.sha256(about.encode()).hexdigest()[:32]
    path = folder / f"{name}.npy"
    if not path.is_file():
        with locked(paths.cache_dir(), f"index-{name}", _say):
            if not path.is_file():
                with _watching(found.path) as told, files.write_with(path) as temporary:
                    np.save(temporary, make_index(found, told))
    index: np.ndarray = np.load(path, mmap_mode="r")
    return index


def make_index(found: Found, told: Told = lambda read: None) -> np.ndarray:
    """COLUMNS [records] of a part, in one pass over its file. Raises UserError as `open_index` does."""
    rows = np.empty(_GROWTH, COLUMNS)
    count = 0
    for element, record, problem in walk(found):
        if record is None:
            raise UserError(
                f"{found.path}, line {element.line}, record {element.number}: {problem}\n"
                "Correct the record or take it out. `vlmablate data verify` lists all that are wrong."
            )
        if count == len(rows):
            rows = np.concatenate([rows, np.empty_like(rows)])
        text = sum(len(text) for _, text in record.turns)
        rows[count] = (
            element.start, element.size, text, len(record.turns), record.picture is not None, record.negative,
        )  # fmt: skip
        count += 1
        if count % _TOLD_EVERY == 0:
            told(element.start)
    if not count:
        raise UserError(f"{found.path} holds no records: fetch the file again")
    return rows[:count]


def walk(found: Found) -> Iterator[tuple[Element, Record | None, str]]:
    """Every record of a part with its element in the file; a malformed one is None, and said what is wrong with it."""
    for element in elements(found.path):
        record, problem = None, element.problem
        if not problem:
            try:
                record = read_record(found, element.number, element.value)
            except Malformed as error:
                problem = str(error)
        yield element, record, problem


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


@contextmanager
def _watching(path: Path) -> Iterator[Told]:
    """Of a large file, say on stderr that it is being indexed, and how long it took; on a terminal with a bar."""
    total, begun, what = path.stat().st_size, time.monotonic(), f"indexing {path.name}"
    if total < _LARGE:
        yield lambda read: None
        return
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(what, total=total)
            yield lambda read: bar.update(task, completed=read)
    else:
        _say(f"{what} ({total / 1e6:,.0f} MB)")
        yield lambda read: None
    _say(f"{what}: {time.monotonic() - begun:.1f} s")
