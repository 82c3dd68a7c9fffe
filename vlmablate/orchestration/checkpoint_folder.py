"""Checkpoints that are whole or do not count, saved and chosen by all ranks of a job together.

``checkpoint-<step>/`` holds what the ranks wrote and, written last, ``COMMIT`` with the size and SHA-256 of every
file. It is made under a temporary name and renamed when it is whole, so a kill leaves a draft that nobody goes on
from. A folder that is no whole checkpoint is moved aside, never repaired and never an error: the one before it is
taken, whose loss is only time.

Every decision is taken once and told to all ranks: a rank that raised alone, or alone saw another folder than its
neighbours, would leave them waiting for it for ever.
"""

from __future__ import annotations

import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from vlmablate.errors import DiskFull, UserError, is_disk_full
from vlmablate.files import fsync_directory, read_json, sha256_file, write_json

COMMIT = "COMMIT"
KEEP = 2
_PREFIX = "checkpoint"
_QUARANTINE = f"{_PREFIX}-quarantine-"
_NAME = re.compile(rf"{_PREFIX}-(\d+)")

T = TypeVar("T")


class Group(Protocol):
    """The processes that save together."""

    @property
    def rank(self) -> int:
        """This process, 0 to size - 1."""

    @property
    def size(self) -> int:
        """How many there are."""

    def share(self, value: Any) -> list[Any]:
        """What every rank gives, in the order of ranks, on every rank; returns when all have called."""


class Alone:
    """The group of a process that has no other."""

    rank = 0
    size = 1

    def share(self, value: Any) -> list[Any]:
        """Its own value."""
        return [value]


@dataclass(frozen=True)
class Checkpoint:
    """A committed checkpoint.

    Attributes:
        folder: where it is.
        step: training steps that were done when it was saved.
        ranks: how many processes saved it.
        files: name -> {bytes, sha256}.
        note: what the trainer wrote down beside its files.
    """

    folder: Path
    step: int
    ranks: int
    files: Mapping[str, Mapping[str, Any]]
    note: Mapping[str, Any] = field(default_factory=dict)


def save(
    parent: Path,
    step: int,
    attempt: int,
    group: Group,
    write: Callable[[Path], Iterable[str]],
    note: Mapping[str, Any],
    keep: int = KEEP,
) -> Checkpoint:
    """Save a checkpoint; call it on all ranks. Older ones than the `keep` newest go, once this one is committed.

    Args:
        parent: the folder of the step, the same for all ranks.
        step: training steps that are done.
        attempt: number of the attempt; keeps the draft of an overtaken attempt apart.
        group: the ranks.
        write: writes this rank's files into a folder, flushed to the disk, and returns their names.
        note: JSON to keep beside the files; that of rank 0 counts.
        keep: how many checkpoints stay, this one included. With one, a disk that loses it loses all.

    Raises:
        DiskFull: on all ranks, when one of them met a full disk. Earlier checkpoints are untouched.
        RuntimeError: on the other ranks, when one failed in any other way (which there raises what happened).
    """
    draft = parent / f"{_PREFIX}-{step}.tmp-{attempt}"
    _lead(group, draft.mkdir)
    try:
        parts = together(group, lambda: _facts(draft, write(draft)))
        files = {name: facts for part in parts for name, facts in part.items()}
        record = {"step": step, "ranks": group.size, "files": files, "note": dict(note)}
        _lead(group, partial(_commit, draft, record, keep))
    except Exception:
        if group.rank == 0:
            shutil.rmtree(draft, ignore_errors=True)
        raise
    return Checkpoint(parent / f"{_PREFIX}-{step}", step, group.size, files, note)


def newest(parent: Path, group: Group) -> Checkpoint | None:
    """The newest checkpoint whose files are what was committed; None when there is none. Call it on all ranks.

    Everything else that looks like a checkpoint and is newer is renamed to ``checkpoint-quarantine-…``; the ranks
    share the reading.
    """
    for name in _lead(group, partial(_sort_out, parent)):
        folder = parent / name
        found: Checkpoint | str = _lead(group, partial(_read, folder))
        if isinstance(found, Checkpoint):
            mine = sorted(found.files)[group.rank :: group.size]
            faults = [fault for part in together(group, partial(_faults, found, mine)) for fault in part]
            if not faults:
                return found
        else:
            faults = [found]
        _lead(group, partial(_quarantine, folder, faults[0]))
    return None


def handed_on(parent: Path, group: Group) -> Checkpoint:
    """The checkpoint that another step left among its results. Call it on all ranks.

    Its files were checked with those results, and nothing is moved: others may read it now. Raises UserError when there
    is none.
    """
    found: Checkpoint = _lead(group, partial(_handed_on, parent))
    return found


def discard(parent: Path) -> None:
    """Remove all checkpoints of a step that is done. What cannot be removed does no harm but to the disk."""
    with suppress(OSError):
        for name in os.listdir(parent):
            if name.startswith(_PREFIX):
                _remove(parent / name)


def together(group: Group, work: Callable[[], T]) -> list[T]:
    """Do something on every rank and share the outcomes; where one rank fails, all raise.

    Raises:
        Exception: what ``work`` raised here; else DiskFull when another rank met a full disk, or RuntimeError.
    """
    value, error = None, None
    try:
        value = work()
    except Exception as caught:
        error = caught
    told = (
        (value, None) if error is None else (None, (is_disk_full(error), f"{type(error).__name__}: {error}"))
    )
    outcomes = group.share(told)
    if error is not None:
        raise error
    for rank, (_, failure) in enumerate(outcomes):
        if failure is not None:
            full, message = failure
            raise (DiskFull if full else RuntimeError)(f"rank {rank} failed: {message}")
    return [outcome for outcome, _ in outcomes]


def _lead(group: Group, work: Callable[[], T]) -> Any:
    """What rank 0 gets from ``work``, on all ranks."""
    return together(group, work if group.rank == 0 else _nothing)[0]


def _nothing() -> None:
    return None


def _facts(folder: Path, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    return {
        name: {"bytes": (folder / name).stat().st_size, "sha256": sha256_file(folder / name)}
        for name in names
    }


def _commit(draft: Path, record: Mapping[str, Any], keep: int) -> None:
    parent, final = draft.parent, draft.parent / f"{_PREFIX}-{record['step']}"
    write_json(draft / COMMIT, record)
    if final.exists():
        # Left by an attempt that was overtaken and did not know it yet.
        _quarantine(final, f"saved anew by {draft.name}")
    os.rename(draft, final)
    fsync_directory(parent)
    for name in _by_age(parent)[keep:]:
        shutil.rmtree(parent / name, ignore_errors=True)


def _by_age(parent: Path) -> list[str]:
    """Names of all folders under a final name, the newest first."""
    steps = {name: match for name in os.listdir(parent) if (match := _NAME.fullmatch(name))}
    return sorted(steps, key=lambda name: int(steps[name].group(1)), reverse=True)


def _sort_out(parent: Path) -> list[str]:
    """Move drafts and foreign things aside; the names that are left, the newest first.

    What was moved aside by an earlier attempt goes: it must not fill the disk.
    """
    whole = _by_age(parent)
    for name in sorted(os.listdir(parent)):
        if name.startswith(_QUARANTINE):
            _remove(parent / name)
        elif name.startswith(_PREFIX) and name not in whole:
            _quarantine(parent / name, "it was never committed")
    return whole


def _read(folder: Path) -> Checkpoint | str:
    """The checkpoint, or why it is none."""
    try:
        record = read_json(folder / COMMIT)
        checkpoint = Checkpoint(
            folder, int(record["step"]), int(record["ranks"]), dict(record["files"]), dict(record["note"])
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"no {COMMIT} that can be read ({type(error).__name__}: {error})"
    if folder.name != f"{_PREFIX}-{checkpoint.step}" or not checkpoint.files:
        return f"its {COMMIT} is that of another checkpoint"
    return checkpoint


def _handed_on(parent: Path) -> Checkpoint:
    names = _by_age(parent) if parent.is_dir() else []
    found = _read(parent / names[0]) if names else "there is none"
    if isinstance(found, str):
        raise UserError(
            f"{parent} holds no checkpoint to go on from: {found}.\n"
            f"Delete {parent.parent} and run the same command again: it is computed anew."
        )
    return found


def _faults(checkpoint: Checkpoint, names: Iterable[str]) -> list[str]:
    """What is wrong with these files."""
    found = []
    for name in names:
        expected, path = checkpoint.files[name], checkpoint.folder / name
        try:
            if path.stat().st_size != expected["bytes"]:
                found.append(
                    f"{name} has {path.stat().st_size:,} bytes, committed were {expected['bytes']:,}"
                )
            elif sha256_file(path) != expected["sha256"]:
                found.append(f"the content of {name} is not what was committed")
        except (OSError, KeyError, TypeError) as error:
            found.append(f"{name} cannot be read ({type(error).__name__}: {error})")
    return found


def _quarantine(path: Path, reason: str) -> None:
    target = path.with_name(f"{_QUARANTINE}{path.name.removeprefix(_PREFIX + '-')}-{uuid.uuid4().hex[:8]}")
    os.rename(path, target)
    print(f"{path} is not gone on from: {reason}; moved to {target.name}", flush=True)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
