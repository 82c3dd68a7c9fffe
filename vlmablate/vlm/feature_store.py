"""Frozen features on disk: one step directory holds the features of the splits of its scenes, in scene order.

For each split: `<split>.features.npy` float16 [N, cells, channels] (memory-mapped when read),
`<split>.frames.npy` float64 [N, 7] (`Frame.as_row`), and `<split>.ids.json`, the scene ids of the rows. Where pictures
were cut into tiles, the cells are those of one tile after the other, and `tiles.json` says how (`TileLayout`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap, read_array_header_1_0, read_magic

from vlmablate import files
from vlmablate.errors import UserError
from vlmablate.vlm.image import Frame
from vlmablate.vlm.tiling import ONE_SQUARE, TileLayout

TILES_FILE = "tiles.json"


@dataclass(frozen=True)
class FeatureStore:
    """Features of one split of one tower.

    Attributes:
        features: float16 [N, cells, channels], a read-only memory map.
        frames: how boxes of scene i map between its original pixels and the tower's square.
        ids: the scene of each row.
        tiles: how a picture was cut.
    """

    features: np.ndarray
    frames: Sequence[Frame]
    ids: Sequence[str]
    tiles: TileLayout = ONE_SQUARE

    def __len__(self) -> int:
        return len(self.ids)


def paths(folder: Path, split: str) -> tuple[Path, Path, Path]:
    """The features, frames and ids files of a split."""
    return folder / f"{split}.features.npy", folder / f"{split}.frames.npy", folder / f"{split}.ids.json"


def _checked_array(path: Path) -> np.ndarray:
    """A memory-mapped array whose file has exactly the size its header states. Raises UserError otherwise."""
    try:
        with open(path, "rb") as file:
            if read_magic(file) != (1, 0):
                raise ValueError("not a version 1.0 .npy file")
            shape, _, dtype = read_array_header_1_0(file)
            expected = file.tell() + int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        size = path.stat().st_size
        if size != expected:
            raise ValueError(f"it has {size:,} bytes, its header asks for {expected:,}: truncated or damaged")
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(
            f"cannot read the features in {path}: {error}.\n"
            f"Delete the step directory {path.parent} and start the sweep again: it extracts them anew."
        ) from error


def open_features(folder: Path, split: str) -> FeatureStore:
    """The features of a finished step.

    Raises:
        UserError: when a file is missing, truncated or does not belong to the others; it says what to do.
    """
    features_path, frames_path, ids_path = paths(folder, split)
    features, rows = _checked_array(features_path), _checked_array(frames_path)
    try:
        ids = files.read_json(ids_path)
    except (OSError, ValueError) as error:
        raise UserError(
            f"cannot read {ids_path}: {error}.\nDelete the step directory {folder} and start the sweep again."
        ) from error
    if not len(features) == len(rows) == len(ids):
        raise UserError(
            f"{folder}: {len(features)} features, {len(rows)} frames and {len(ids)} ids of "
            f"split '{split}' do not belong together. Delete this step directory and start the sweep again."
        )
    frames = [Frame.from_row(tuple(row)) for row in rows]
    return FeatureStore(features, frames, ids, read_tiles(folder))


def read_tiles(folder: Path) -> TileLayout:
    """How the pictures of a finished step were cut. Raises UserError for a damaged file."""
    path = folder / TILES_FILE
    try:
        return TileLayout.read(files.read_json(path)) if path.exists() else ONE_SQUARE
    except (OSError, ValueError) as error:
        raise UserError(
            f"cannot read {path}: {error}.\nDelete the step directory {folder} and start the sweep again."
        ) from error


def write_tiles(folder: Path, tiles: TileLayout) -> None:
    """Note how pictures are cut; for one square there is nothing to note."""
    if card := tiles.as_card():
        files.write_json(folder / TILES_FILE, card)


@contextmanager
def writing_features(
    folder: Path, split: str, ids: Sequence[str], cells: int, channels: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield writable (features [N, cells, channels] float16, frames [N, 7] float64) of a split.

    The files appear on a clean exit. Rows go straight to the disk through a memory map, so memory does not
    grow with N.

    Raises:
        DiskFull: when there is no space. It is claimed before the first row is computed.
    """
    features_path, frames_path, ids_path = paths(folder, split)
    with files.write_with(features_path) as temporary:
        shape = (len(ids), cells, channels)
        open_memmap(temporary, mode="w+", dtype=np.float16, shape=shape).flush()
        _claim_space(temporary)
        features = open_memmap(temporary, mode="r+")
        frames = np.zeros((len(ids), len(Frame(1, 1, 1, 1, 1, 0, 0).as_row())))
        yield features, frames
        features.flush()
        with files.write_with(frames_path) as target, open(target, "wb") as file:
            np.save(file, frames)
        files.write_json(ids_path, list(ids))


def _claim_space(path: Path) -> None:
    """Allocate the whole file: under a sparse one, a disk that fills up would kill the process (SIGBUS)."""
    if hasattr(os, "posix_fallocate"):
        with open(path, "rb+") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
