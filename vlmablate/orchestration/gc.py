"""``vlmablate gc``: what may be deleted, how large it is, and its removal. Nothing that a study or a worker uses."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from vlmablate.files import TEMPORARY_PREFIX
from vlmablate.orchestration.drift import SUPERSEDED
from vlmablate.orchestration.lease import LeaseBusyError, claim, latest
from vlmablate.orchestration.marks import forgiven
from vlmablate.orchestration.names import Index
from vlmablate.orchestration.slurm import journal
from vlmablate.orchestration.snapshot import FOLDER as CODE
from vlmablate.orchestration.status import columns
from vlmablate.orchestration.store import ATTEMPTS, CHECKPOINT_PREFIX, QUARANTINE, RESULT

CATEGORIES = {
    "quarantine": "damaged and superseded results that were set aside",
    "temporary": "temporary files that a killed process left behind",
    "checkpoints": "checkpoints of finished steps, and of trials that were stopped early",
    "steps": "steps that no study refers to any more",
    "submissions": "journals of Slurm submissions that have ended",
    "code": "copies of the code that no job uses",
}
DAY_S = 86400.0
_YOUNG_S = 3600.0
_REVOKED_S = 7 * DAY_S


@dataclass(frozen=True)
class Item:
    """Something that may be deleted: its category, file or folder, and size in bytes."""

    category: str
    path: Path
    bytes: int


def find(
    home: Path, categories: Collection[str], older_than_s: float, report: Callable[[str], None]
) -> list[Item]:
    """What may be deleted, by category, the largest first.

    Args:
        home: the results folder.
        categories: names of :data:`CATEGORIES`.
        older_than_s: leave what was changed within so many seconds.
        report: told why a category is passed over.
    """
    now = time.time()
    found = []
    index = Index(home)
    if index.unreadable and "steps" in categories:
        report(
            f"steps are left alone: the declaration of {', '.join(index.unreadable)} cannot be read, so nobody knows "
            "which it needs (its sweep command writes it again)"
        )
        categories = [name for name in categories if name != "steps"]
    makers = {
        "quarantine": _quarantine(home),
        "temporary": _temporary(home),
        "checkpoints": _checkpoints(home),
        "steps": _steps(index),
        "submissions": _submissions(home, now),
        "code": _code(home),
    }
    for category in CATEGORIES:
        if category not in categories:
            continue
        least = max(older_than_s, _YOUNG_S) if category == "temporary" else older_than_s
        items = [
            Item(category, path, size_of(path)) for path in makers[category] if now - _changed(path) >= least
        ]
        found += sorted(items, key=lambda item: (-item.bytes, item.path))
    return found


def remove(home: Path, items: Sequence[Item], report: Callable[[str], None]) -> int:
    """Delete what :func:`find` found, as far as it still may be deleted; the number of freed bytes."""
    index = Index(home)  # a study may have been declared since
    used = _used(index)
    freed = 0
    for item in items:
        if item.category == "steps" and (index.unreadable or item.path.name.rpartition("-")[2] in used):
            report(f"left alone, it is needed by now: {item.path}")
        elif item.category == "steps" and not _take(item.path):
            report(f"left alone, somebody works on it: {item.path}")
        elif item.category == "code" and item.path not in set(_code(home)):
            report(f"left alone, jobs use it by now: {item.path}")
        elif _delete(item.path):
            freed += item.bytes
    return freed


def table(items: Sequence[Item], home: Path, listed: int = 5) -> list[str]:
    """One row per category with number and size, the largest items below, and the total."""
    rows: list[tuple[str, ...]] = [("what", "items", "size", "")]
    for category, words in CATEGORIES.items():
        own = [item for item in items if item.category == category]
        if not own:
            continue
        rows.append((category, str(len(own)), size_text(sum(item.bytes for item in own)), words))
        for item in own[:listed]:
            rows.append(("", "", size_text(item.bytes), f"  {item.path.relative_to(home)}"))
        if len(own) > listed:
            rows.append(("", "", "", f"  … and {len(own) - listed} more"))
    rows.append(("total", str(len(items)), size_text(sum(item.bytes for item in items)), ""))
    return columns(rows)


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    total = 0
    with suppress(OSError):
        if not path.is_dir() or path.is_symlink():
            return path.lstat().st_size
        for folder, _, names in os.walk(path):
            for name in names:
                with suppress(OSError):
                    total += os.lstat(os.path.join(folder, name)).st_size
    return total


def size_text(count: int) -> str:
    """A size as people read it: ``532 B``, ``1.2 MB``."""
    size, unit = float(count), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"


# Where things are


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(Path(entry.path) for entry in os.scandir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _step_folders(home: Path) -> Iterator[Path]:
    for kind in _entries(home / "steps"):
        yield from (path for path in _entries(kind) if not path.name.startswith(".") and path.is_dir())


def _quarantine(home: Path) -> Iterator[Path]:
    for kind in _entries(home / "steps"):
        for folder in (QUARANTINE, SUPERSEDED):
            yield from _entries(kind / folder)


def _temporary(home: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(home):
        if _is_held(Path(folder)):
            folders.clear()
            continue
        ours = [name for name in (*folders, *names) if name.startswith(TEMPORARY_PREFIX)]
        yield from (Path(folder, name) for name in ours)
        folders[:] = [name for name in folders if not name.startswith(TEMPORARY_PREFIX)]


def _is_held(directory: Path) -> bool:
    attempt = latest(directory / ATTEMPTS)
    return attempt is not None and attempt.alive()


def _checkpoints(home: Path) -> Iterator[Path]:
    for step in _step_folders(home):
        if ((step / RESULT).exists() or _was_pruned(step)) and not _is_held(step):
            yield from (path for path in _entries(step) if path.name.startswith(CHECKPOINT_PREFIX))


def _was_pruned(step: Path) -> bool:
    """Whether a step is the training of a trial that was stopped early, and nobody asked for it again."""
    attempt = latest(step / ATTEMPTS)
    if attempt is None or (attempt.record.get("error") or {}).get("type") != "Pruned":
        return False
    return attempt.state == "failed" and attempt.number > forgiven(step)


def _used(index: Index) -> set[str]:
    """Ids of the steps that a study declares or an open submission computes."""
    used = set(index.steps)
    for submission in journal.open_submissions(index.home):
        for number in submission.indices:
            used |= {step["id"] for step in submission.job(number)["steps"]}
    return used


def _steps(index: Index) -> Iterator[Path]:
    used = _used(index)
    for step in _step_folders(index.home):
        if step.name.rpartition("-")[2] not in used and not _is_held(step):
            yield step


def _submissions(home: Path, now: float) -> Iterator[Path]:
    for place in _entries(home / journal.FOLDER):
        revoked = place / journal.REVOKED
        # A submission that was given up may still arrive, and ends at once only because of this file.
        late = revoked.exists() and now - _changed(revoked) > _REVOKED_S
        if late or (place / journal.CLOSED).exists():
            yield place


def _code(home: Path) -> Iterator[Path]:
    for control in home.glob("studies/*/control"):
        attempt = latest(control)
        if attempt is not None and attempt.alive():
            return  # it may be about to submit jobs that use any of them
    used = {Path(str(s.intent.get("code"))).name for s in journal.open_submissions(home)}
    yield from (path for path in _entries(home / CODE) if path.name not in used)


def _changed(path: Path) -> float:
    """When something was changed last: a folder together with its own entries, and a step's attempts."""
    times = [0.0]
    for entry in (path, *(_entries(path) if path.is_dir() else ()), path / ATTEMPTS):
        with suppress(OSError):
            times.append(entry.lstat().st_mtime)
    return max(times)


# Removal


def _take(step: Path) -> bool:
    """Hold the lease of a step, so that no worker begins with it while it goes; False when somebody holds it."""
    try:
        claim(step / ATTEMPTS).abandon()
    except LeaseBusyError:
        return False
    return True


def _delete(path: Path) -> bool:
    """Delete a file, or a folder in one instant: half a step is never seen under its name."""
    aside = path.with_name(f"{TEMPORARY_PREFIX}gc-{uuid4().hex[:8]}")
    try:
        os.rename(path, aside)
    except OSError:
        return False  # gone already, or not ours to delete
    if aside.is_dir() and not aside.is_symlink():
        shutil.rmtree(aside, ignore_errors=True)
    else:
        with suppress(OSError):
            aside.unlink()
    return True
