"""Weights that users keep in a folder (or a GGUF file) of their own: known by content, found again by it.

A result must not depend on where a file lies, so the identity of a step holds the digest of the weights, and a note in
the cache says where these were last seen. Notes can be deleted: naming the folder once more writes them anew. A file is
read for its digest once, and again when its size or time of change is another. Neither numpy nor torch is imported.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from vlmablate import files
from vlmablate.data import notes
from vlmablate.errors import UserError

_KIND = "weight_files"


def remember(path: str | Path) -> str:
    """The digest of a folder's files, or of one file, by name and content; notes where they are.

    Hidden files, text for people (``.md``) and folders inside are not looked at. Raises UserError for nothing there.
    """
    place = Path(path).expanduser().resolve()
    seen = _seen(place)
    if not seen:
        raise UserError(f"no weights at {path}: give a folder that transformers can read, or a .gguf file")
    for note in sorted(notes.notes(_KIND).glob("*.json")):
        noted = notes.read_note(_KIND, note.stem)
        if noted.get("path") == str(place) and noted.get("seen") == seen:
            return note.stem
    digest = hashlib.sha256()
    for name in seen:
        one = files.sha256_file(place if place.is_file() else place / name)
        digest.update(f"{one}  {name if place.is_dir() else place.suffix}\n".encode())
    found = digest.hexdigest()
    notes.write_note(_KIND, found, {"path": str(place), "seen": seen})
    return found


def find(digest: str) -> Path:
    """Where the weights with this digest are. Raises UserError when they are gone, or are others by now."""
    where = notes.read_note(_KIND, digest).get("path")
    if where is None:
        raise UserError(
            f"nobody has noted where the weights {digest[:16]}… are; run the sweep with llm.weights=FOLDER on a "
            "machine that shares this cache folder"
        )
    if remember(where) != digest:
        raise UserError(
            f"{where} no longer holds the weights that this run was planned with; put them back, or start the sweep "
            "again: it plans with what is there"
        )
    return Path(where)


def _seen(place: Path) -> dict[str, list[int]]:
    """Name -> [bytes, time of change in ns] of the files that count."""
    if place.is_file():
        listed = [place]
    elif place.is_dir():
        listed = [file for file in place.iterdir() if file.is_file()]
    else:
        return {}
    kept = [file for file in listed if not file.name.startswith(".") and file.suffix != ".md"]
    return {file.name: [file.stat().st_size, file.stat().st_mtime_ns] for file in sorted(kept)}
