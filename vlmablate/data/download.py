"""Fetches one archive through the package tools of the machine: pip for wheels, apt-get for Debian packages.

The tools use whatever index, mirror or proxy the user configured for them; no host name appears here.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from vlmablate.data.sources import Archive
from vlmablate.errors import DiskFull, UserError

Progress = Callable[[int], None]
_POLL_S = 0.2


class SourceUnavailable(UserError):  # noqa: N818
    """An archive could not be had: no network, no such version, no such tool, or not the expected content."""


def download(archive: Archive, folder: Path, progress: Progress) -> Path:
    """Download one archive into an empty folder and return its path.

    `progress` is called now and then with the bytes on disk so far. Nothing is installed and nothing is
    executed: only built wheels are accepted, so no build script runs.

    Raises:
        SourceUnavailable: with the tool's own last words.
    """
    if archive.kind == "pypi":
        _pip(archive, folder, progress)
    else:
        _apt(archive, folder, progress)
    suffix = ".whl" if archive.kind == "pypi" else ".deb"
    found = sorted(folder.glob(f"*{suffix}"))
    if len(found) != 1:
        raise SourceUnavailable(
            f"{archive.requirement}: the download left {len(found)} {suffix} files, not one"
        )
    return found[0]


def _folder_bytes(folder: Path) -> int:
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(root, name)).st_size
            except OSError:  # the tool renamed or removed it meanwhile
                continue
    return total


def _run(
    command: Sequence[str], folder: Path, progress: Progress, environment: dict[str, str] | None = None
) -> tuple[int, str]:
    """Exit code and the last lines of the output of a command that downloads into `folder`."""
    log = folder / "log.txt"
    with open(log, "wb") as output:
        process = subprocess.Popen(
            list(command), cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
        )  # fmt: skip
        try:
            while process.poll() is None:
                progress(_folder_bytes(folder))
                time.sleep(_POLL_S)
        except BaseException:
            process.terminate()
            process.wait()
            raise
    text = log.read_text("utf-8", "replace")
    if process.returncode and ("No space left on device" in text or "Disk quota exceeded" in text):
        raise DiskFull(f"no space left while downloading to {folder.parent}; nothing half-written was kept")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return process.returncode, "\n".join(f"    {line[:300]}" for line in lines[-4:])


def _pip(archive: Archive, folder: Path, progress: Progress) -> None:
    command = [
        sys.executable, "-m", "pip", "download", archive.requirement, "--no-deps", "--only-binary=:all:",
        "--dest", str(folder), "--no-cache-dir", "--no-input", "--disable-pip-version-check",
        "--progress-bar=off", "--timeout=30", "--retries=2",
    ]  # fmt: skip
    if archive.platform is not None:
        platform, python, abi = archive.platform
        command += [
            "--platform",
            platform,
            "--python-version",
            python,
            "--implementation",
            "cp",
            "--abi",
            abi,
        ]
    scratch = folder / "scratch"
    scratch.mkdir()
    # pip downloads to its temporary folder first; there, the bytes can be counted.
    code, words = _run(command, folder, progress, {"TMPDIR": str(scratch)})
    shutil.rmtree(scratch, ignore_errors=True)
    if code:
        hint = ""
        if "No module named pip" in words:
            hint = "\n  This environment has no pip: run `python -m ensurepip`, or create it with pip."
        raise SourceUnavailable(f"pip could not download {archive.requirement}:\n{words}{hint}")


def _apt(archive: Archive, folder: Path, progress: Progress) -> None:
    tool = shutil.which("apt-get")
    if tool is None:
        raise SourceUnavailable(
            f"{archive.requirement} is a Debian package and this machine has no apt-get "
            "(it exists on Debian, Ubuntu and their relatives)"
        )
    code, words = _run([tool, "download", archive.requirement], folder, progress)
    if code == 0:
        return
    # Fresh machines and containers have no package lists. A private copy of them needs no root and changes
    # nothing.
    lists, cache = folder / "lists", folder / "cache"
    (lists / "partial").mkdir(parents=True)
    (cache / "archives" / "partial").mkdir(parents=True)
    private = [
        tool,
        "-o",
        f"Dir::State::Lists={lists}",
        "-o",
        f"Dir::Cache={cache}",
        "-o",
        "Debug::NoLocking=1",
    ]
    # The unprivileged user that apt switches to as root cannot write in a user's cache folder.
    private += ["-o", "APT::Sandbox::User=root"] if os.geteuid() == 0 else []
    update_code, update_words = _run([*private, "update"], folder, lambda _: None)
    code, words = _run([*private, "download", archive.requirement], folder, progress)
    shutil.rmtree(lists, ignore_errors=True)
    shutil.rmtree(cache, ignore_errors=True)
    if code:
        update = f"\n  apt-get update had failed too:\n{update_words}" if update_code else ""
        raise SourceUnavailable(f"apt-get could not download {archive.requirement}:\n{words}{update}")
