"""The folders of sources: known by the content of their annotation files, found again by it.

A result must not depend on where data lie, so the identity of a step holds the digest of a source, and a note in the
cache says where it was last seen. Pictures do not enter the digest: they would be a million files to read (`vlmablate
data verify` checks them). Notes can be deleted: naming the folder once more writes them anew. A file is read for its
digest once, and again when its size or time of change is another. Neither numpy nor torch is imported.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from vlmablate.data.notes import file_digest, read_note, write_note
from vlmablate.data.records.formats import parts_in
from vlmablate.errors import UserError

_PLACES = "record_folders"


def remember(source: str, folder: str | Path) -> str:
    """The digest of a source in a folder; notes where it is.

    Raises UserError for an unknown source, or a folder that does not hold it.
    """
    place = Path(folder).expanduser().resolve()
    digest = hashlib.sha256()
    for found in parts_in(source, place):
        digest.update(f"{file_digest(found.path)}  {found.label}\n".encode())
    known = digest.hexdigest()
    write_note(_PLACES, known, {"source": source, "folder": str(place)})
    return known


def find(source: str, digest: str) -> Path:
    """The folder of the source with this digest. Raises UserError when it is gone, or holds other data by now."""
    where = read_note(_PLACES, digest).get("folder")
    if where is None:
        raise UserError(
            f"nobody has noted where the data {digest[:16]}… of '{source}' are; run the sweep with "
            f"data.folders.{source}=FOLDER on a machine that shares this cache folder"
        )
    if remember(source, where) != digest:
        raise UserError(
            f"{where} no longer holds the data of '{source}' that this run was planned with; put them back, or start "
            "the sweep again: it plans with what is there"
        )
    return Path(where)
