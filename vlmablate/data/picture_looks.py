"""One look at every picture of a folder: whether it decodes to its end, and its perceptual hash.

Looking costs a decoded picture, so it is done by several processes, and what was seen is noted in the user's cache by
path, size and time of change. A second look at the same files reads the notes, and one that was interrupted goes on
where it was. Notes can be deleted at any time.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from vlmablate import paths
from vlmablate.data.picture_hash import VERSION, perceptual_hash, thumbnail
from vlmablate.data.picture_workers import in_order

Progress = Callable[[int, int], None]
"""Called with (pictures looked at, pictures in all)."""

_NOTES = "picture_looks"


@dataclass(frozen=True)
class Look:
    """What was seen of a picture.

    Attributes:
        fault: ``missing_picture``; ``empty_picture``: no bytes, or nothing but zeros; ``not_a_picture``: no format that
            Pillow knows; ``truncated_picture``: the file ends before the picture does; ``corrupt_picture``: it cannot
            be decoded; ``unreadable_picture``: it cannot be read. Empty for a picture that is fine.
        what: the fault in words.
        hash: `picture_hash.perceptual_hash`; None for a picture with a fault, and for a flat one.
    """

    fault: str = ""
    what: str = ""
    hash: int | None = None


MISSING = Look("missing_picture", "no such file")


def look(path: str | Path) -> Look:
    """Decode one picture. Raises nothing: whatever is wrong with the file is in the answer.

    Damage inside a JPEG that still decodes (to a wrong picture) is not seen here; checksums show it.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        return _unreachable(error)
    if not content.strip(b"\0"):
        return Look("empty_picture", f"{len(content):,} zero bytes" if content else "0 bytes")
    try:
        with Image.open(io.BytesIO(content)) as image:
            return Look(hash=perceptual_hash(thumbnail(image)))
    except UnidentifiedImageError:
        return Look("not_a_picture", f"begins with {content[:16]!r}")
    except Exception as error:  # decoders of damaged files raise whatever they stumble over
        words = str(error) or type(error).__name__
        cut = "truncated" in words.lower()
        return Look("truncated_picture" if cut else "corrupt_picture", words)


def _unreachable(error: Exception) -> Look:
    gone = isinstance(error, FileNotFoundError | NotADirectoryError)
    return MISSING if gone else Look("unreadable_picture", getattr(error, "strerror", None) or str(error))


def looks(
    root: Path, names: Sequence[str], *, workers: int, progress: Progress = lambda done, total: None
) -> Iterator[tuple[str, Look]]:
    """(name, look) of the pictures `root`/name, in no particular order: those first that were looked at before.

    workers: processes that decode.
    """
    known = _read_notes(root)
    rest: list[tuple[str, int, int]] = []
    for name in names:
        try:
            found = os.stat(root / name)
        except (OSError, ValueError) as error:  # a name that no file can have is a ValueError
            yield name, _unreachable(error)
            continue
        size, changed, noted = known.pop(name, (-1, -1, MISSING))
        if (size, changed) == (found.st_size, found.st_mtime_ns):
            yield name, noted
        else:
            rest.append((name, found.st_size, found.st_mtime_ns))
    known.clear()
    done = len(names) - len(rest)
    progress(done, len(names))
    if not rest:
        return
    seen = in_order(look, [str(root / name) for name, _, _ in rest], workers)
    with _open_notes(root) as notes, closing(seen):
        for (name, size, changed), one in zip(rest, seen, strict=True):
            note = {"name": name, "bytes": size, "changed": changed, **asdict(one)}
            notes.write(json.dumps(note).encode() + b"\n")
            done += 1
            progress(done, len(names))
            yield name, one


def thumbnails(places: Iterable[Path], workers: int) -> Iterator[np.ndarray]:
    """The thumbnails of pictures that were looked at and found without fault."""
    return in_order(_thumbnail, [str(place) for place in places], workers)


def _thumbnail(path: str) -> np.ndarray:
    with Image.open(path) as image:
        return thumbnail(image)


def _notes_path(root: Path) -> Path:
    name = hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:24]
    return paths.cache_dir() / _NOTES / f"{name}-{VERSION}.jsonl"


def _open_notes(root: Path) -> BinaryIO:
    path = _notes_path(root)
    path.parent.mkdir(parents=True, exist_ok=True)
    # A killed run may have left half a line; what is added must not be glued to it.
    notes = path.open("ab")
    notes.write(b"\n")
    return notes


def _read_notes(root: Path) -> dict[str, tuple[int, int, Look]]:
    """Name -> (bytes, time of change in ns, look); later notes count. A torn line is passed over."""
    known: dict[str, tuple[int, int, Look]] = {}
    try:
        lines = _notes_path(root).open("rb")
    except FileNotFoundError:
        return known
    with lines:
        for line in lines:
            try:
                note = json.loads(line)
                seen = Look(note["fault"], note["what"], note["hash"])
                known[note["name"]] = (note["bytes"], note["changed"], seen)
            except (ValueError, KeyError, TypeError):
                continue
    return known
