"""What the `scenes` step leaves on disk, and how other steps read it.

Per split (`train`, `evaluation`): `<split>.scenes.jsonl`, one scene a line in order; `<split>.questions.jsonl`; and
`<split>.pictures.zip`, uncompressed JPEG files named by scene id, which any archive viewer opens. `world.json` holds
the picture source and the shapes of the cut-outs. A step that made scenes to tune on has them as its `evaluation`, and
no `train`.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image

from vlmablate import files
from vlmablate.data.layout import Scene
from vlmablate.data.questions import Question

SPLITS = ("train", "evaluation")
WORLD_FILE = "world.json"
JPEG_QUALITY = 95


class SceneStore:
    """One split of a finished `scenes` step; pictures are decoded one at a time."""

    def __init__(self, folder: Path, split: str) -> None:
        if split not in SPLITS:
            raise ValueError(f"unknown split {split!r}; known: {', '.join(SPLITS)}")
        self.folder, self.split = folder, split

    @cached_property
    def scenes(self) -> list[Scene]:
        return [Scene.from_json(row) for row in _read_lines(self.folder / f"{self.split}.scenes.jsonl")]

    @cached_property
    def questions(self) -> dict[str, list[Question]]:
        """scene id -> its questions, in order; a scene without questions has an empty list."""
        asked: dict[str, list[Question]] = {scene.id: [] for scene in self.scenes}
        for row in _read_lines(self.folder / f"{self.split}.questions.jsonl"):
            asked[row["scene"]].append(Question.from_json(row))
        return asked

    @property
    def ids(self) -> list[str]:
        return [scene.id for scene in self.scenes]

    @cached_property
    def _archive(self) -> zipfile.ZipFile:
        return zipfile.ZipFile(self.folder / f"{self.split}.pictures.zip")

    def __len__(self) -> int:
        return len(self.scenes)

    def image(self, index: int) -> Image.Image:
        """RGB picture number `index`, for one thread at a time."""
        return self.decode(self.encoded(index))

    def encoded(self, index: int) -> bytes:
        """The file of picture number `index`, for one thread at a time."""
        return self._archive.read(f"{self.scenes[index].id}.jpg")

    @staticmethod
    def decode(encoded: bytes) -> Image.Image:
        """The RGB picture in a file; any thread may ask."""
        return Image.open(io.BytesIO(encoded)).convert("RGB")


def splits_in(folder: Path) -> list[str]:
    """The splits that a finished `scenes` step made."""
    return [split for split in SPLITS if (folder / f"{split}.scenes.jsonl").exists()]


def read_world(folder: Path) -> tuple[str, dict[str, tuple[int, int]]]:
    """(picture source, cut-out id -> (width, height)) of a finished `scenes` step."""
    world = files.read_json(folder / WORLD_FILE)
    return world["source"], {name: (int(w), int(h)) for name, (w, h) in world["shapes"].items()}


def write_split(
    folder: Path,
    split: str,
    scenes: Iterable[Scene],
    questions: Iterable[Question],
    pictures: Iterable[tuple[str, Image.Image]],
) -> None:
    """Write one split atomically, file by file. `pictures` yields (scene id, picture) and is consumed as a stream."""
    _write_lines(folder / f"{split}.scenes.jsonl", (scene.to_json() for scene in scenes))
    _write_lines(folder / f"{split}.questions.jsonl", (question.to_json() for question in questions))
    with (
        files.write_with(folder / f"{split}.pictures.zip") as target,
        zipfile.ZipFile(target, "w") as archive,
    ):
        for name, picture in pictures:
            buffer = io.BytesIO()
            picture.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
            # The default time stamp of ZipInfo (1980) keeps the archive a function of its content.
            archive.writestr(zipfile.ZipInfo(f"{name}.jpg"), buffer.getvalue())


def _read_lines(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def _write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    text = "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows)
    files.write_bytes(path, text.encode())
