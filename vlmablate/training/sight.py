"""What a training stage sees: features from disk, or the pictures themselves, for towers that learn."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlmablate.data.scenes_store import SceneStore
from vlmablate.errors import UserError
from vlmablate.training import tuning
from vlmablate.training.loop import pieces
from vlmablate.training.pictures import FolderPictures, PictureStream, SquarePictures
from vlmablate.training.ranks import Ranks
from vlmablate.vlm.image import Frame
from vlmablate.vlm.model import FusedFeatures, feature_folders
from vlmablate.vlm.seen import LiveVision, open_vision
from vlmablate.vlm.tiling import ONE_SQUARE, TileLayout

Look = Callable[[slice], Tensor | list[Tensor]]
"""Some rows of a batch -> what `VisionLanguageModel.see` takes for them."""

LookUp = Callable[[Sequence[Any]], Tensor | list[Tensor]]
"""The same for pictures by name."""


@dataclass(frozen=True)
class Sight:
    """The training pictures of a stage.

    Attributes:
        ids, frames: of every picture, in order; none of pictures in folders, which are too many to look at first.
        cells, channels: of the features, wherever they come from.
        tiles: how each picture is cut.
        vision: the towers in the loop, still frozen; None when features come from disk.
    """

    ids: Sequence[str]
    frames: Sequence[Frame]
    cells: int
    channels: int
    tiles: TileLayout
    vision: LiveVision | None
    _source: FusedFeatures | SquarePictures | FolderPictures

    @property
    def side(self) -> int:
        """Of the grid of one tile, in cells."""
        return self.tiles.cells_a_side(self.cells)

    @contextmanager
    def stream(
        self, rows_at: Callable[[int], np.ndarray], steps: int, ranks: Ranks, threads: int
    ) -> Iterator[Callable[[int], Look]]:
        """A function from a step to a look at its pictures, while the block lasts.

        rows_at(step) gives the pictures of the global batch. Of a live picture a rank prepares only its own.
        """
        source = self._source
        if isinstance(source, FusedFeatures):
            yield lambda step: lambda rows: source.batch(rows_at(step)[rows]).to(ranks.device)
            return

        def share(step: int) -> slice:
            mine = pieces(len(rows_at(step)), ranks.rank, ranks.size, None)[0]
            return mine if mine.start < mine.stop else slice(0, 1)

        with PictureStream(source.at, lambda step: rows_at(step)[share(step)], steps, threads) as pictures:

            def look_at(step: int) -> Look:
                first = share(step).start
                squares = [tensor.to(ranks.device) for tensor in pictures.at(step)]

                def look(rows: slice) -> list[Tensor]:
                    # A turn without rows lets some picture pass through, whichever; nothing is asked of it.
                    start = max(rows.start - first, 0)
                    return [tensor[start : start + rows.stop - rows.start] for tensor in squares]

                return look

            yield look_at

    @contextmanager
    def by_name(
        self, pictures_at: Callable[[int], Sequence[Hashable]], steps: int, ranks: Ranks, threads: int
    ) -> Iterator[Callable[[int], LookUp]]:
        """As `stream`, for batches whose rows hold several pictures: a look is at pictures by their numbers, or by the
        paths of files.

        pictures_at(step) gives those of this rank's rows; a look at another raises KeyError.
        """
        source = self._source
        if isinstance(source, FusedFeatures):
            yield lambda step: lambda names: source.batch(np.asarray(names, np.int64)).to(ranks.device)
            return

        assert self.vision is not None
        nothing = [torch.empty(0, side, side, 3, dtype=torch.uint8) for side, _ in self.vision.squares()]

        with PictureStream(source.at, pictures_at, steps, threads) as pictures:

            def look_at(step: int) -> LookUp:
                places = {name: place for place, name in enumerate(pictures_at(step))}
                squares = [tensor.to(ranks.device) for tensor in pictures.at(step) or nothing]

                def look(names: Sequence[Hashable]) -> list[Tensor]:
                    chosen = [places[name] for name in names]
                    return [tensor[chosen] for tensor in squares]

                return look

            yield look_at


def open_sight(live: Mapping[str, Any] | None, deps: Mapping[str, Path], store: SceneStore) -> Sight:
    """The sight of a stage: live towers as `vlm.seen` describes them, or None for stored features of the towers.

    Raises UserError for damaged features or weights.
    """
    if live is None:
        features = FusedFeatures(feature_folders(dict(deps)), store.split)
        return Sight(
            features.ids, features.frames, features.cells, features.channels, features.tiles, None, features
        )
    vision = open_vision(live)
    pictures = SquarePictures(store, live["image"]["resize"], vision.squares())
    return Sight(pictures.ids, pictures.frames, vision.cells, vision.channels, ONE_SQUARE, vision, pictures)


def open_folder_sight(live: Mapping[str, Any]) -> Sight:
    """The sight of pictures that lie in files, through live towers. Raises UserError for damaged weights."""
    vision = open_vision(live)
    pictures = FolderPictures(live["image"]["resize"], vision.squares())
    return Sight((), (), vision.cells, vision.channels, ONE_SQUARE, vision, pictures)


def tune_vision(vision: LiveVision, how: tuning.How) -> None:
    """Let towers learn: all of each (``full``), or its last n layers (``{last: n}``, see `Tower.layers`).

    Raises UserError for another way, or more layers than a tower has.
    """
    way, options = tuning.read(how)
    if way == "lora":
        raise UserError("stages.finetune.vision is frozen, full or {last: n}: towers take no LoRA adapters")
    for tower in vision.towers:
        if way != "last":
            tuning.apply(tower, how)
            continue
        layers = tower.layers
        if options["last"] > len(layers):
            raise UserError(
                f"stages.finetune.vision asks for the last {options['last']} layers of the tower {tower.name}, which "
                f"has {len(layers)}; `full` trains all of it"
            )
        tuning.apply(tower, "frozen")
        for layer in layers[len(layers) - options["last"] :]:
            tuning.apply(layer, "full")
