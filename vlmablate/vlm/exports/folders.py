"""Folders that are either whole or absent."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vlmablate.errors import DiskFull, UserError, is_disk_full
from vlmablate.files import TEMPORARY_PREFIX, fsync_directory


def absent(path: Path) -> Path:
    """The absolute path. Raises UserError when something is there that is not an empty folder."""
    path = Path(path).expanduser().absolute()
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise UserError(f"{path} exists already: give another folder, or delete it first")
    return path


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a folder to write into; on a clean exit it becomes `path`, flushed to the disk, on an error it vanishes.

    A kill leaves a folder beside it whose name begins with ``.tmp-`` and that can be deleted.

    Raises:
        UserError: when `path` exists and is not an empty folder.
        DiskFull: when there is no space.
    """
    path = absent(path)
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{os.getpid()}-{uuid.uuid4().hex[:8]}-{path.name}")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        for folder, _, names in os.walk(temporary):
            for name in names:
                with open(Path(folder) / name, "rb+") as written:
                    os.fsync(written.fileno())
            fsync_directory(Path(folder))
        os.replace(temporary, path)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        # safetensors and torch report a full disk as errors of their own.
        if not isinstance(error, DiskFull) and (is_disk_full(error) or "No space left" in str(error)):
            raise DiskFull(f"no space left while writing {path}; nothing half-written was kept") from error
        raise
    fsync_directory(path.parent)
