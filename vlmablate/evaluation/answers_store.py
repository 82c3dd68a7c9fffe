"""Answers on disk as they are given, so that a killed evaluation goes on where it was.

Every process that answers writes a file of its own, new at every attempt, one JSON object a line, flushed to the disk
after every batch; nobody writes to a file of before. What a kill leaves of a line at the end of a file is no answer,
and the question is asked again. Files are read in the order of their names and the first answer with a key counts.

A key says which question was put to which model how: see `evaluation.runner`. Who writes holds a lock on its file, and
whoever begins an attempt looks for locks: so an attempt that is still at work, or a rank that survived the others, is
told instead of doubled. Where the file system has no locks, this is left to whoever starts the evaluations.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmablate.errors import DiskFull, UserError, is_disk_full
from vlmablate.evaluation.protocol import Answer
from vlmablate.files import fsync_directory
from vlmablate.vlm.image import Frame

FOLDER = "answers"
_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)
_HELD = (errno.EWOULDBLOCK, errno.EACCES)
_LOOK_S = 1.0


@dataclass(frozen=True)
class Given:
    """An answer to an example; frame: of the picture as the model saw it, None without a picture."""

    benchmark: str
    example_id: str
    answer: Answer
    frame: Frame | None


def read(folder: Path, files: Iterable[Path] | None = None) -> dict[str, Given]:
    """Key -> what was given; of some files, or of all in the folder. A folder that is not there holds nothing."""
    given: dict[str, Given] = {}
    for path in sorted(folder.glob("part-*.jsonl")) if files is None else files:
        for row in _rows(path):
            given.setdefault(row["key"], _given(row))
    return given


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """The lines that are whole."""
    with open(path, "rb") as file:
        for line in file:
            with suppress(ValueError):
                row = json.loads(line)
                if line.endswith(b"\n") and isinstance(row, dict) and "key" in row:
                    yield row


def _given(row: Mapping[str, Any]) -> Given:
    frame = row.get("frame")
    return Given(
        row["benchmark"],
        row["example_id"],
        Answer(row.get("text", ""), row.get("probabilities", {})),
        None if frame is None else Frame.from_row(tuple(frame)),
    )


def _line(key: str, given: Given) -> bytes:
    answer = given.answer
    said = {"probabilities": dict(answer.probabilities)} if answer.probabilities else {"text": answer.text}
    row: dict[str, Any] = {"key": key, "benchmark": given.benchmark, "example_id": given.example_id, **said}
    if given.frame is not None:
        row["frame"] = given.frame.as_row()
    return json.dumps(row, ensure_ascii=False).encode() + b"\n"


class Part:
    """The file of one process in one attempt."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path, self._descriptor = path, descriptor

    def add(self, given: Mapping[str, Given]) -> None:
        """Write some answers by key; on the disk when this returns. Raises DiskFull."""
        data = memoryview(b"".join(_line(key, each) for key, each in given.items()))
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
            os.fsync(self._descriptor)
        except OSError as error:
            if is_disk_full(error):
                raise DiskFull(
                    f"no space left while writing {self.path}. Free some, and run the same command again: answers "
                    "that were given are kept"
                ) from error
            raise


@contextmanager
def attempt(folder: Path, patience_s: float = 0.0) -> Iterator[int]:
    """The number of a new attempt, for the process that leads it, while no other attempt can begin.

    patience_s: how long to wait for an earlier one that is still at work, or seems to be: a network file system keeps
    the locks of a machine that died for a minute or two. Raises UserError when it does not end in that time.
    """
    folder.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + patience_s
    with _locked(folder / "lock", os.O_CREAT) as (descriptor, _):
        while not _lock(descriptor) or any(_is_held(path) for path in folder.glob("part-*.jsonl")):
            if time.monotonic() >= until:
                raise UserError(
                    f"another evaluation writes to {folder}: wait until it ends, or name another folder with out=FOLDER"
                )
            time.sleep(_LOOK_S)
        parts = folder.glob("part-*.jsonl")
        yield 1 + max((int(path.name.split("-")[1]) for path in parts), default=0)


@contextmanager
def part(folder: Path, number: int, rank: int) -> Iterator[Part]:
    """The new file of a rank in an attempt. Raises FileExistsError when it is there."""
    path = folder / f"part-{number:04d}-{rank:04d}.jsonl"
    with _locked(path, os.O_CREAT | os.O_EXCL) as (descriptor, _):
        fsync_directory(folder)
        yield Part(path, descriptor)


@contextmanager
def _locked(path: Path, how: int) -> Iterator[tuple[int, bool]]:
    """A file that is open for writing, and whether nobody else holds its lock; with the process both are gone."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | how, 0o644)
    try:
        yield descriptor, _lock(descriptor)
    finally:
        os.close(descriptor)


def _is_held(path: Path) -> bool:
    with _locked(path, 0) as (_, alone):
        return not alone


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _HELD:
            return False
        if error.errno not in _NO_LOCKS:
            raise
    return True
