"""Reading members out of wheels (zip) and Debian packages (ar + tar) without running anything."""

from __future__ import annotations

import io
import lzma
import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from vlmablate.errors import UserError

_AR_MAGIC = b"!<arch>\n"
_AR_HEADER = 60


class DamagedArchive(UserError):  # noqa: N818
    """An archive that cannot be read, although its checksum was right: a change of its format."""


def read_wheel(path: Path, wanted: Callable[[str], bool]) -> dict[str, bytes]:
    """Content of the members of a wheel whose name satisfies `wanted`. Raises DamagedArchive."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {name: archive.read(name) for name in archive.namelist() if wanted(name)}
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        raise DamagedArchive(f"{path} is not a readable wheel: {error}") from error


def wheel_names(path: Path) -> list[str]:
    """Names of all members of a wheel. Raises DamagedArchive."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except (zipfile.BadZipFile, OSError) as error:
        raise DamagedArchive(f"{path} is not a readable wheel: {error}") from error


def _ar_members(file: IO[bytes]) -> Iterator[tuple[str, int]]:
    """(name, size) of each member of an ar archive, with `file` standing at the member's first byte."""
    length = file.seek(0, io.SEEK_END)
    file.seek(0)
    if file.read(len(_AR_MAGIC)) != _AR_MAGIC:
        raise DamagedArchive("not an ar archive")
    while len(header := file.read(_AR_HEADER)) == _AR_HEADER:
        if header[58:60] != b"`\n":
            raise DamagedArchive("damaged ar header")
        name, size = header[:16].decode("ascii", "replace").strip().rstrip("/"), int(header[48:58])
        start = file.tell()
        if start + size > length:
            raise DamagedArchive(f"truncated: {name} should end at byte {start + size:,} of {length:,}")
        yield name, size
        file.seek(start + size + size % 2)


class _Part(io.RawIOBase):
    """A window of an open file, so that a member is decompressed as it is read, with constant memory."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file, self._left = file, size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._file.read(min(len(buffer), self._left))
        buffer[: len(data)] = data
        self._left -= len(data)
        return len(data)


def _extract(stream: IO[bytes], mode: str, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(fileobj=stream, mode=mode) as archive:  # type: ignore[call-overload]
        for member in archive:
            name = member.name.removeprefix("./")
            if member.isfile() and wanted(name):
                content = archive.extractfile(member)
                assert content is not None
                yield name, content.read()


def read_deb(path: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """(name, content) of the files of a Debian package that satisfy `wanted`, in archive order.

    The data member may be tar, tar.gz, tar.xz or tar.zst; the last needs `dpkg-deb` or `zstd` on the machine.
    Raises DamagedArchive.
    """
    modes = {"data.tar": "r|", "data.tar.gz": "r|gz", "data.tar.xz": "r|xz"}
    try:
        with open(path, "rb") as file:
            for name, size in _ar_members(file):
                if name in modes:
                    yield from _extract(io.BufferedReader(_Part(file, size)), modes[name], wanted)
                    return
                if name == "data.tar.zst":
                    yield from _from_dpkg(path, wanted)
                    return
    except (tarfile.TarError, lzma.LZMAError, EOFError, OSError, ValueError) as error:
        raise DamagedArchive(f"{path} is not a readable Debian package: {error}") from error
    raise DamagedArchive(f"{path} holds no data.tar: not a Debian package")


def _from_dpkg(path: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    tool = shutil.which("dpkg-deb")
    if tool is None:
        raise DamagedArchive(f"{path} is compressed with zstd, and dpkg-deb is not there to read it")
    with subprocess.Popen([tool, "--fsys-tarfile", str(path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        yield from _extract(process.stdout, "r|", wanted)
    if process.returncode:
        raise DamagedArchive(f"dpkg-deb could not read {path} (exit code {process.returncode})")
