"""Files that are either whole or absent.

Every write goes to a temporary name beside the target, is flushed to the disk (fsync), and is then renamed
over the target; the directory entry is flushed too. A crash, a kill -9 or a full disk therefore never leaves
half a file under a final name. Temporary names start with ``.tmp-`` and can be deleted at any time.
"""

from __future__ import annotations

import errno
import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from vlmablate.errors import DiskFull, is_disk_full

TEMPORARY_PREFIX = ".tmp-"


def _full(path: Path, error: BaseException) -> DiskFull:
    import shutil  # here, because `vlmablate status` has no use for it

    folder = path.parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        free = f"{shutil.disk_usage(folder).free:,} bytes free on its file system"
    except OSError:
        free = "free space unknown"
    return DiskFull(
        f"no space left while writing {path} ({free}).\n"
        "Nothing half-written was kept. Free some space, or set VLMABLATE_HOME (results) and VLMABLATE_CACHE "
        "(downloads) to a larger disk, and run the same command again: it goes on from here."
    )


def fsync_directory(folder: Path) -> None:
    """Flush a directory's entries; silently does nothing where the platform cannot (Windows, some network
    disks).
    """
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _temporary(path: Path) -> Path:
    # The suffix is kept because writers such as numpy.save and torchvision choose the format by it.
    return path.with_name(f"{TEMPORARY_PREFIX}{os.getpid()}-{uuid.uuid4().hex[:8]}-{path.name}")


@contextmanager
def write_with(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to; on a clean exit it becomes ``path``, on an error it vanishes.

    Raises:
        DiskFull: when the writer or the flush reports ENOSPC or EDQUOT (also as the cause of another error).
    """
    path = Path(path)
    temporary = _temporary(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb+") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if is_disk_full(error) and not isinstance(error, DiskFull):
            raise _full(path, error) from error
        raise
    fsync_directory(path.parent)


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` atomically and durably. Raises :class:`DiskFull` when there is no space."""
    with write_with(path) as temporary, open(temporary, "wb") as file:
        file.write(data)


def encode_json(value: Any) -> bytes:
    """Readable, strict JSON (no NaN), UTF-8, with a newline at the end."""
    return (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as JSON atomically. Raises ValueError on NaN or infinity, DiskFull when there is no
    space.
    """
    write_bytes(path, encode_json(value))


def create_exclusive(path: Path, data: bytes) -> bool:
    """Create ``path`` with ``data`` only if it does not exist yet; True for the one caller that created it.

    The content is complete from the first instant the name exists: the data is written under a temporary name
    and then linked (link(2) fails when the target exists, also on NFS). File systems without hard links fall
    back to O_CREAT | O_EXCL, where a reader may meet a file that is still empty.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)
        except FileExistsError:
            # A network file system may repeat a request whose answer was lost, and then find its own link.
            if os.stat(temporary).st_nlink != 2:
                return False
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
                raise
            return _create_o_excl(path, data)
    except OSError as error:
        if is_disk_full(error):
            raise _full(path, error) from error
        raise
    finally:
        with suppress(OSError):
            temporary.unlink()
    fsync_directory(path.parent)
    return True


def _create_o_excl(path: Path, data: bytes) -> bool:
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return False
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return True


def read_json(path: Path | str) -> Any:
    """The value of a JSON file. Raises FileNotFoundError, or ValueError that names the file when it is
    damaged.
    """
    with open(path, "rb") as file:
        text = file.read()
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error


def sha256_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's content, read in blocks (constant memory)."""
    import hashlib

    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
