"""Pictures for a tower that is trained: decoded and made square ahead of the step that needs them.

Which pictures belong to a step is the caller's choice and a pure function of the step, so the stream has no state worth
saving: whoever asks for step n gets the pictures of step n, at once or after a resume, however many threads prepare
them and however they overtake each other.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vlmablate.data.scenes_store import SceneStore
from vlmablate.errors import UserError
from vlmablate.vlm.image import Colour, Frame, transform_named

AHEAD = 2
"""Steps whose pictures wait beside those of the step at work: what bounds the memory."""


class SquarePictures:
    """One split of the scenes as the squares that towers take.

    Attributes:
        ids, frames: of every picture, in order; the frame is that of the first square, as in stored features.
    """

    def __init__(self, store: SceneStore, resize: str, squares: Sequence[tuple[int, Colour]]) -> None:
        """squares: side in pixels and fill colour of each tower's square. Raises UserError for an unknown transform."""
        self._store, self._squares, self._transform = store, squares, transform_named(resize)
        self._archive = Lock()
        self.ids = store.ids
        # A frame depends on the size of the picture alone, and canvases come in few sizes.
        size, fill = squares[0]
        shapes = {(scene.width, scene.height) for scene in store.scenes}
        frames = {shape: self._transform(Image.new("RGB", shape), size, fill)[1] for shape in shapes}
        self.frames: list[Frame] = [frames[scene.width, scene.height] for scene in store.scenes]

    def at(self, row: int) -> list[np.ndarray]:
        """The squares of one picture, uint8 [S, S, 3] each. Any thread may ask.

        Raises:
            UserError: for a picture that is missing or damaged; it names the picture.
            OSError: when the disk fails; it names the picture.
        """
        try:
            with self._archive:
                encoded = self._store.encoded(row)
            picture = self._store.decode(encoded)
            return [np.asarray(self._transform(picture, size, fill)[0]) for size, fill in self._squares]
        except OSError as error:
            if error.errno is not None:
                raise OSError(error.errno, f"{error.strerror} (picture {self.ids[row]})") from error
            raise self._damaged(row, error) from error
        except (KeyError, ValueError, SyntaxError, zipfile.BadZipFile) as error:
            raise self._damaged(row, error) from error

    def _damaged(self, row: int, error: Exception) -> UserError:
        return UserError(
            f"picture {self.ids[row]} in {self._store.folder} cannot be used: {error}.\n"
            "Delete this step directory and start the sweep again: it composes the pictures anew."
        )


class FolderPictures:
    """Pictures in files of the user's, named by their paths, as the squares that towers take."""

    def __init__(self, resize: str, squares: Sequence[tuple[int, Colour]]) -> None:
        """squares: side in pixels and fill colour of each tower's square. Raises UserError for an unknown transform."""
        self._squares, self._transform = squares, transform_named(resize)

    def at(self, path: str | Path) -> list[np.ndarray]:
        """The squares of one picture, uint8 [S, S, 3] each. Any thread may ask. Raises as `read_picture` does."""
        picture = read_picture(path)
        return [np.asarray(self._transform(picture, size, fill)[0]) for size, fill in self._squares]


def read_picture(path: str | Path) -> Image.Image:
    """A picture in a file, decoded, in colours.

    Raises:
        UserError: for a picture that is missing or damaged; it names the file.
        OSError: when the disk fails.
    """
    try:
        with Image.open(path) as picture:
            return picture.convert("RGB")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(
            f"the picture {path} is missing: put it where the data set's folder has it (`vlmablate data verify` lists "
            "all that are missing or damaged)"
        ) from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise UserError(
            f"the picture {path} cannot be read ({error}): get it anew (`vlmablate data verify` lists all that are "
            "missing or damaged)"
        ) from error


class PictureStream:
    """The pictures of training steps, prepared by threads a few steps ahead. Close it, or use it in a ``with``."""

    def __init__(
        self,
        load: Callable[[Any], Sequence[np.ndarray]],
        rows_at: Callable[[int], Sequence[Hashable] | np.ndarray],
        steps: int,
        threads: int = 1,
    ) -> None:
        """load(row) gives the squares of a picture; rows_at(step), for 0 <= step < steps, the pictures of a step: their
        numbers, or whatever `load` knows them by."""
        self._load, self._rows_at, self._steps = load, rows_at, steps
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="pictures")
        self._waiting: dict[int, list[Future[Sequence[np.ndarray]]]] = {}

    def at(self, step: int) -> list[Tensor]:
        """For each tower uint8 [rows, S, S, 3], in the order of ``rows_at(step)``.

        Raises what `load` raised for the first of these pictures that failed.
        """
        wanted = range(step, min(step + 1 + AHEAD, self._steps))
        for far in self._waiting.keys() - set(wanted):
            for future in self._waiting.pop(far):
                future.cancel()
        for near in wanted:
            if near not in self._waiting:
                rows = self._rows_at(near)
                names = rows.tolist() if isinstance(rows, np.ndarray) else rows
                self._waiting[near] = [self._pool.submit(self._load, name) for name in names]
        pictures = [future.result() for future in self._waiting.pop(step)]
        return [torch.from_numpy(np.stack(squares)) for squares in zip(*pictures, strict=True)]

    def close(self) -> None:
        """Let go of what is not begun, and wait for what is."""
        self._waiting.clear()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
