"""The kept archives of an asset cache: downloaded once, checked before anything reads them."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from vlmablate import files
from vlmablate.data.download import SourceUnavailable
from vlmablate.data.sources import Archive
from vlmablate.errors import DiskFull, is_disk_full

Report = Callable[[str], None]
Progress = Callable[[str, int, int], None]
"""`progress(what, bytes done, bytes in all)`"""
Download = Callable[[Archive, Path, Callable[[int], None]], Path]

_TOOL = {"pypi": "pip", "debian": "apt-get"}


class ChecksumMismatch(SourceUnavailable):
    """A download is not the file this version of vlmablate was built for. Nothing of it was read or kept."""


@contextmanager
def locked(root: Path, name: str, report: Report) -> Iterator[None]:
    """Hold a lock file in this process; says so when another process holds it, and waits."""
    import filelock

    folder = root / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / f"{name}.lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        report(f"{name}: another process is working on it; waiting for it to finish")
        lock.acquire(poll_interval=0.1)
    try:
        yield
    finally:
        lock.release()


def fresh_name(target: Path) -> Path:
    """A temporary name beside `target` that nobody uses, after clearing away what killed processes left.

    The caller holds the lock, so nobody else works on it, except perhaps the orphaned child of a process
    that was killed: it may go on writing for a while, which is why a name is never used twice.
    """
    for left in target.parent.glob(f"{files.TEMPORARY_PREFIX}*-{target.name}"):
        shutil.rmtree(left, ignore_errors=True)
    return target.with_name(f"{files.TEMPORARY_PREFIX}{uuid.uuid4().hex[:8]}-{target.name}")


def get_archive(root: Path, archive: Archive, download: Download, report: Report, progress: Progress) -> Path:
    """The path of a checked archive: the kept one, or a fresh download.

    Raises:
        ChecksumMismatch: for a download with another content; it is deleted unread.
        SourceUnavailable: when it cannot be downloaded.
    """
    kept = root / "archives" / archive.filename
    if kept.is_file():
        difference = _difference(archive, kept)
        if difference is None:
            return kept
        report(f"WARNING: the kept archive {kept} is damaged ({difference}). Fetching it again.")
        kept.unlink()
    incoming = fresh_name(kept)
    report(f"{archive.requirement}: downloading {archive.bytes / 1e6:.1f} MB with {_TOOL[archive.kind]}")
    try:
        incoming.mkdir(parents=True)
        got = download(
            archive,
            incoming,
            lambda done: progress(archive.filename, min(done, archive.bytes), archive.bytes),
        )
        progress(archive.filename, archive.bytes, archive.bytes)
        difference = _difference(archive, got)
        if difference is not None:
            raise ChecksumMismatch(
                f"the download of {archive.requirement} is not the expected file: {difference}.\n"
                "  It was deleted unread. Either it was damaged on the way (try again), or the registry "
                "now serves another file under this version."
            )
        os.replace(got, kept)
    except OSError as error:
        if is_disk_full(error):
            raise DiskFull(f"no space left while downloading to {kept.parent}; nothing was kept") from error
        raise
    finally:
        shutil.rmtree(incoming, ignore_errors=True)
    return kept


def _difference(archive: Archive, path: Path) -> str | None:
    """None when the file is the declared archive, else expected and got."""
    size = path.stat().st_size
    if size != archive.bytes:
        return f"expected {archive.bytes:,} bytes, got {size:,}"
    digest = files.sha256_file(path)
    return None if digest == archive.sha256 else f"expected sha256 {archive.sha256}, got {digest}"
