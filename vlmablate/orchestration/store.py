"""The store of step results: plain files are the truth, and ``result.json`` is written last and only on
success.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any
from uuid import uuid4

from vlmablate.design.spec import StepSpec
from vlmablate.files import (
    TEMPORARY_PREFIX,
    create_exclusive,
    encode_json,
    read_json,
    sha256_file,
    write_json,
)
from vlmablate.orchestration.lease import Attempt, Lease, LeaseLostError, latest
from vlmablate.tracking.settings import MARK

RESULT = "result.json"
SPEC = "spec.json"
ATTEMPTS = "attempts"
LOG = "log.txt"
QUARANTINE = ".quarantine"
CHECKPOINT_PREFIX = "checkpoint"
_OF_OTHERS = ("cancelled.json", "retry.json")
"""Bookkeeping that another process may be writing at any time, whoever works on the step."""
_BOOKKEEPING = frozenset({RESULT, SPEC, ATTEMPTS, LOG, "progress.json", *_OF_OTHERS, MARK})


class State(StrEnum):
    """What the files of a step say."""

    ABSENT = "absent"
    DONE = "done"
    CORRUPT = "corrupt"


@dataclass(frozen=True)
class Inspection:
    """The state of a step, the reason when it is corrupt, and its result when it is done."""

    state: State
    reason: str = ""
    result: dict[str, Any] | None = None


class CorruptStepError(Exception):
    """A finished step's files are not what its result recorded. ``directory`` is the step's folder."""

    def __init__(self, directory: Path, reason: str) -> None:
        super().__init__(f"{directory}: {reason}")
        self.directory = directory
        self.reason = reason


def inspect_directory(directory: Path, step_id: str) -> Inspection:
    """Whether a step directory holds a finished result whose files have the recorded sizes (no content is
    read).
    """
    try:
        # Thousands are looked at by every command, so no path objects are made.
        result = read_json(f"{directory}/{RESULT}")
    except (FileNotFoundError, NotADirectoryError):
        return Inspection(State.ABSENT)
    except ValueError as error:
        return Inspection(State.CORRUPT, str(error))
    if not isinstance(result, dict) or not isinstance(result.get("files"), dict):
        return Inspection(State.CORRUPT, f"{RESULT} is not a result")
    if result.get("id") != step_id:
        return Inspection(State.CORRUPT, f"{RESULT} belongs to {result.get('id')!r}, not to {step_id!r}")
    for name, facts in result["files"].items():
        try:
            size = os.stat(f"{directory}/{name}").st_size
        except OSError:
            return Inspection(State.CORRUPT, f"{name} is missing")
        if size != facts["bytes"]:
            return Inspection(
                State.CORRUPT, f"{name} has {size:,} bytes, its result recorded {facts['bytes']:,}"
            )
    return Inspection(State.DONE, result=result)


def verify_content(directory: Path, step_id: str) -> dict[str, Any]:
    """The result of a finished step after its files were checked by size and SHA-256.

    Raises:
        CorruptStepError: when the step is not finished, or a file differs from what was recorded.
    """
    found = inspect_directory(directory, step_id)
    if found.state is not State.DONE or found.result is None:
        raise CorruptStepError(directory, found.reason or f"it holds no {RESULT}")
    for name, facts in found.result["files"].items():
        if sha256_file(directory / name) != facts["sha256"]:
            raise CorruptStepError(directory, f"the content of {name} is not what its result recorded")
    return found.result


def payload_files(directory: Path) -> dict[str, dict[str, Any]]:
    """Relative name -> {bytes, sha256} of every payload file; bookkeeping and temporary files are
    left out.
    """
    files = {}
    for path in _walk(directory):
        name = path.relative_to(directory).as_posix()
        files[name] = {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
    return files


def _walk(directory: Path, top: bool = True) -> Iterator[Path]:
    for entry in sorted(os.scandir(directory), key=lambda e: e.name):
        aside = entry.name in _BOOKKEEPING or entry.name.startswith(CHECKPOINT_PREFIX)
        if (top and aside) or entry.name.startswith(TEMPORARY_PREFIX):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(Path(entry.path), top=False)
        else:
            yield Path(entry.path)


class Store:
    """Finds, checks and commits steps under ``<home>/steps/<kind>/<slug>-<id>/``."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._names: dict[str, dict[str, str]] = {}

    def kind_directory(self, kind: str) -> Path:
        """The folder of all steps of a kind."""
        return self.home / "steps" / kind

    def directory(self, step: StepSpec) -> Path:
        """Where a step lives: the folder that ends in its id when there is one, else its proper name."""
        return self.find(step.kind, step.id) or self.kind_directory(step.kind) / step.name

    def find(self, kind: str, step_id: str) -> Path | None:
        """The existing folder of a step, whatever words precede its id; None when there is none."""
        folder = self.kind_directory(kind)
        name = self._names.get(kind, {}).get(step_id)
        if name is not None and (folder / name).is_dir():
            return folder / name
        try:
            names = os.listdir(folder)
        except FileNotFoundError:
            return None
        self._names[kind] = {name.rpartition("-")[2]: name for name in names if not name.startswith(".")}
        name = self._names[kind].get(step_id)
        return folder / name if name is not None and (folder / name).is_dir() else None

    def listing(self, kind: str) -> dict[str, str]:
        """Step id -> name of the folder of every step of a kind, finished or not: one look for many questions."""
        try:
            names = os.listdir(self.kind_directory(kind))
        except FileNotFoundError:
            return {}
        return {name.rpartition("-")[2]: name for name in names if not name.startswith(".")}

    def has_result(self, kind: str, step_id: str) -> bool:
        """Whether a step has committed a result; its files are not looked at."""
        directory = self.find(kind, step_id)
        return directory is not None and (directory / RESULT).exists()

    def inspect(self, step: StepSpec) -> Inspection:
        """The state of a step by its result and the sizes of its files."""
        directory = self.find(step.kind, step.id)
        return inspect_directory(directory, step.id) if directory else Inspection(State.ABSENT)

    def attempt(self, step: StepSpec) -> Attempt | None:
        """The latest attempt of a step, or None."""
        directory = self.find(step.kind, step.id)
        return latest(directory / ATTEMPTS) if directory else None

    def results(self, kind: str) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        """(spec, result) of every finished step of a kind, for time estimates; unreadable ones are passed
        over.
        """
        try:
            names = os.listdir(self.kind_directory(kind))
        except FileNotFoundError:
            return
        for name in names:
            folder = self.kind_directory(kind) / name
            try:
                yield read_json(folder / SPEC), read_json(folder / RESULT)
            except (OSError, ValueError):
                continue

    def quarantine(self, directory: Path, reason: str, report: Callable[[str], None]) -> None:
        """Move a corrupt step aside, for inspection, so that it is computed again. Says so loudly."""
        target = directory.parent / QUARANTINE / f"{directory.name}-{uuid4().hex[:8]}"
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.rename(directory, target)
        except FileNotFoundError:
            return  # another process was quicker
        report(f"CORRUPT: {directory}: {reason}\n  moved to {target}; the step will be computed again")


def prepare(directory: Path, step: StepSpec) -> None:
    """Make a step directory ready for a new attempt.

    Payload of an earlier attempt is removed, so that nothing is appended to an old file or recorded by
    mistake. It is kept beside a file or folder named ``checkpoint…``: the step then continues from there.
    """
    import shutil

    entries = list(os.scandir(directory))
    resumes = any(entry.name.startswith(CHECKPOINT_PREFIX) for entry in entries)
    for entry in entries:
        if entry.name.startswith(TEMPORARY_PREFIX) and entry.name.endswith(_OF_OTHERS):
            continue
        stale = entry.name not in _BOOKKEEPING and not resumes
        if stale or entry.name.startswith(TEMPORARY_PREFIX) or entry.name == "progress.json":
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            else:
                os.unlink(entry.path)
    if not (directory / SPEC).exists():
        write_json(directory / SPEC, step.to_dict())


def commit(directory: Path, lease: Lease, result: dict[str, Any]) -> None:
    """Write ``result.json``, if and only if the lease still is the latest and nobody committed before.

    Raises:
        LeaseLostError: when a later attempt took over, or an earlier commit exists.
        DiskFull: when it cannot be written; the step then stays unfinished.
    """
    lease.check()
    if not create_exclusive(directory / RESULT, encode_json(result)):
        raise LeaseLostError(f"{directory} was already finished by another attempt")
