"""The code of queued jobs: a copy of the package, made when they are submitted and used by all of their lives.

A job that waits for days, or goes back to the queue after a preemption, must not pick up what was edited meanwhile.
Step functions that live outside the package are found as before, on the rest of the PYTHONPATH.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from uuid import uuid4

from vlmablate.errors import DiskFull, is_disk_full
from vlmablate.files import TEMPORARY_PREFIX

FOLDER = "code"
PACKAGE = Path(__file__).resolve().parents[1]
_ASIDE = frozenset({"__pycache__", "_resources", "report", "stats"})
"""What no worker reads: caches, the trees that only the controller composes from, and what follows the results."""


def snapshot(home: Path, package: Path = PACKAGE) -> Path:
    """The folder to put first on a worker's PYTHONPATH; made once for every content of the package.

    Its files are read-only, so that an edit by mistake does not reach jobs that wait.

    Args:
        home: the results folder; snapshots lie in ``code/<digest>/``.
        package: the folder of the package, in a checkout or installed.

    Raises:
        DiskFull: when there is no room for the copy; nothing is left behind then.
    """
    files = {Path(package.name) / name: data for name, data in source_files(package, _ASIDE).items()}
    target = home / FOLDER / digest_of(files)
    if target.is_dir():
        return target
    temporary = target.with_name(f"{TEMPORARY_PREFIX}{uuid4().hex[:8]}")
    try:
        for name, content in files.items():
            copy = temporary / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(content)
            copy.chmod(0o444)
        os.rename(temporary, target)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if is_disk_full(error):
            raise DiskFull(
                f"no space left for the copy of the code in {target}; free some space, and try again"
            ) from error
        if not target.is_dir():  # else somebody was quicker, with the same content
            raise
    return target


def source_files(folder: Path, aside: frozenset[str] = frozenset({"__pycache__"})) -> dict[Path, bytes]:
    """Path below ``folder`` -> content, of every file that is no compiled or hidden one.

    Args:
        folder: a package.
        aside: names directly below ``folder`` to leave out.
    """
    return {path.relative_to(folder): path.read_bytes() for path in _walk(folder, aside)}


def digest_of(files: Mapping[Path, bytes]) -> str:
    """One digest over names and contents."""
    total = hashlib.sha256()
    for name in sorted(files):
        total.update(f"{name.as_posix()}\0{len(files[name])}\0".encode())
        total.update(files[name])
    return total.hexdigest()[:16]


def _walk(folder: Path, aside: frozenset[str]) -> Iterator[Path]:
    for entry in sorted(os.scandir(folder), key=lambda found: found.name):
        if entry.name in aside or entry.name.startswith(".") or entry.name == "__pycache__":
            continue
        if entry.is_dir():
            yield from _walk(Path(entry.path), frozenset())
        elif not entry.name.endswith(".pyc"):
            yield Path(entry.path)
