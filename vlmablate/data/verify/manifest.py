"""The files of a folder by size and SHA-256: written once, compared later.

A manifest is JSON lines, {path, bytes, sha256}, sorted by path, and paths are relative to the folder, so that it can be
taken to another machine. Hidden files are left out, and so is the manifest itself.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from vlmablate import files
from vlmablate.data.picture_looks import Progress
from vlmablate.data.picture_workers import in_order
from vlmablate.data.verify.findings import Finding
from vlmablate.errors import UserError


def write_manifest(
    folder: Path, path: Path, *, workers: int, progress: Progress = lambda done, total: None
) -> int:
    """Write the manifest of a folder; returns the number of files. Raises UserError for a folder without any."""
    sizes = _sizes(folder, path)
    if not sizes:
        raise UserError(f"{folder} holds no files")
    with files.write_with(path) as temporary, open(temporary, "w", encoding="utf-8") as manifest:
        for name, digest in _digests(folder, sizes, workers, progress):
            row = {"path": name, "bytes": sizes[name], "sha256": digest}
            manifest.write(json.dumps(row) + "\n")
    return len(sizes)


def compare(
    folder: Path, path: Path, *, workers: int, progress: Progress = lambda done, total: None
) -> Iterator[Finding]:
    """What is not as the manifest says: files that changed, are new, or are gone, each sorted by path.

    Content is read of the files that have the size they had. Raises UserError for a manifest that cannot be read.
    """
    noted, sizes = _read(path), _sizes(folder, path)
    changed = {
        name: f"has {sizes[name]:,} bytes, the manifest says {size:,}"
        for name, (size, _) in noted.items()
        if name in sizes and sizes[name] != size
    }
    equal = {name: size for name, size in sizes.items() if name in noted and name not in changed}
    for name, digest in _digests(folder, equal, workers, progress):
        if digest != noted[name][1]:
            changed[name] = "has the size it had and other content"
    yield from (Finding("changed_file", what, name) for name, what in sorted(changed.items()))
    yield from (Finding("new_file", "is not in the manifest", name) for name in sizes if name not in noted)
    yield from (Finding("gone_file", "is in the manifest", name) for name in noted if name not in sizes)


def _digests(
    folder: Path, names: Mapping[str, int], workers: int, progress: Progress
) -> Iterator[tuple[str, str]]:
    found = in_order(files.sha256_file, [folder / name for name in names], workers)
    for done, (name, digest) in enumerate(zip(names, found, strict=True), 1):
        progress(done, len(names))
        yield name, digest


def _sizes(folder: Path, manifest: Path) -> dict[str, int]:
    """Relative path -> bytes of every file below a folder, sorted by path."""
    own, found = manifest.resolve(), {}
    for root, below, names in os.walk(folder, followlinks=True):
        below[:] = [name for name in below if not name.startswith(".")]
        for name in names:
            place = Path(root, name)
            if not name.startswith(".") and place.is_file() and place.resolve() != own:
                found[place.relative_to(folder).as_posix()] = place.stat().st_size
    return dict(sorted(found.items()))


def _read(path: Path) -> dict[str, tuple[int, str]]:
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    noted = {}
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            noted[str(row["path"])] = (int(row["bytes"]), str(row["sha256"]))
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path}, line {number}: not a line of a manifest; --write-manifest writes one anew"
            ) from error
    return noted
