"""The folders of benchmarks: known by the questions in them, found again by these. Imports no torch.

A result must not depend on where data lie, so the identity of an evaluation holds the digest of its examples, and a
note in the cache says where they were last seen. Pictures do not enter it: they would be a million files to read
(`vlmablate data verify` checks them). Notes can be deleted: naming the folder once more writes them anew. Annotations
are read for their digest once, and again when the size or time of change of one of their files is another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from vlmablate.data.notes import notes, read_note, write_note
from vlmablate.errors import UserError
from vlmablate.evaluation.protocol import Benchmark
from vlmablate.evaluation.tasks import task_named
from vlmablate.evaluation.tasks.loading import load
from vlmablate.evaluation.tasks.reading import reads

_NOTES = "benchmark_folders"


def folder_of(name: str, root: str | Path) -> Path:
    """Where a benchmark lies below the folder of all. Raises UserError for an unknown benchmark."""
    return Path(root).expanduser().resolve() / task_named(name).folder


def remember(name: str, root: str | Path) -> str:
    """The digest of all examples of a benchmark below the folder of all; notes where they are.

    Raises UserError for an unknown benchmark, and a folder that does not hold it or is malformed.
    """
    benchmark, folder = task_named(name), folder_of(name, root)
    if not benchmark.folder:  # its questions travel with the package, so there is nothing to find again
        return _digest(benchmark, folder)
    for note in sorted(notes(_NOTES).glob(f"{name}-*.json")):
        noted = read_note(_NOTES, note.stem)
        if noted.get("folder") == str(folder) and noted.get("seen") == _seen(noted.get("seen", {})):
            return note.stem.removeprefix(f"{name}-")
    with reads() as opened:
        found = _digest(benchmark, folder)
    # With their folders: a new file beside them may be one more to read.
    seen = _seen({str(place): None for path in opened for place in (path, path.parent)})
    write_note(_NOTES, f"{name}-{found}", {"folder": str(folder), "seen": seen})
    return found


def find(name: str, digest: str) -> Path:
    """The folder of the benchmark with these examples. Raises UserError when it is gone, or holds others by now."""
    benchmark = task_named(name)
    if not benchmark.folder:
        if remember(name, Path()) != digest:
            raise UserError(
                f"this version of vlmablate asks other questions of {name} than this run was planned with; start the "
                "sweep again: it plans with what is there"
            )
        return Path()
    where = read_note(_NOTES, f"{name}-{digest}").get("folder")
    if where is None:
        raise UserError(
            f"nobody has noted where the questions {digest[:16]}… of {name} are; run the sweep with "
            "benchmark.folder=FOLDER on a machine that shares this cache folder"
        )
    folder = Path(where)
    root = folder.parents[len(Path(benchmark.folder).parts) - 1]
    if remember(name, root) != digest:
        raise UserError(
            f"{where} no longer holds the questions of {name} that this run was planned with; put them back, or start "
            "the sweep again: it plans with what is there"
        )
    return folder


def _digest(benchmark: Benchmark, folder: Path) -> str:
    """Of all examples, whatever their order of facts."""
    digest = hashlib.sha256()
    for example in load(benchmark, folder)[0]:
        *texts, facts = (getattr(example, field.name) for field in fields(example))
        digest.update(repr((*texts, sorted(facts.items()))).encode())
    return digest.hexdigest()


def _seen(names: Mapping[str, Any]) -> dict[str, list[int] | None]:
    """File -> [bytes, time of change in ns], None for one that is gone."""
    found: dict[str, list[int] | None] = {}
    for name in sorted(names):
        try:
            facts = Path(name).stat()
            found[name] = [facts.st_size, facts.st_mtime_ns]
        except OSError:
            found[name] = None
    return found
