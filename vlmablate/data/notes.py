"""What was found out of a user's files, kept in the cache: a note can be deleted, and is then found out again.

Neither numpy nor torch is imported.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlmablate import files, paths

_DIGESTS = "file_digests"


def notes(kind: str) -> Path:
    """The folder of the notes of a kind; it is not made here."""
    return paths.cache_dir() / kind


def read_note(kind: str, name: str) -> Mapping[str, Any]:
    """What was noted; empty where nothing was, or nothing that can be read."""
    try:
        noted = files.read_json(notes(kind) / f"{name}.json")
    except (OSError, ValueError):
        return {}
    return noted if isinstance(noted, dict) else {}


def write_note(kind: str, name: str, value: Mapping[str, Any]) -> None:
    """Note it, where it is not noted yet: many processes may find out the same."""
    if read_note(kind, name) != value:
        files.write_json(notes(kind) / f"{name}.json", value)


def file_digest(path: Path) -> str:
    """SHA-256 of a file, remembered as long as its size and time of change stay."""
    facts = path.stat()
    seen = [facts.st_size, facts.st_mtime_ns]
    name = hashlib.sha256(str(path.resolve()).encode()).hexdigest()
    noted = read_note(_DIGESTS, name)
    if noted.get("seen") == seen:
        return str(noted["sha256"])
    digest = files.sha256_file(path)
    write_note(_DIGESTS, name, {"path": str(path), "seen": seen, "sha256": digest})
    return digest
