"""The vision-language model of this scale: features of towers, a projector, a language model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from vlmablate.errors import UserError
from vlmablate.vlm.feature_store import FeatureStore, open_features
from vlmablate.vlm.image import Frame
from vlmablate.vlm.language_model import LanguageModel, Places
from vlmablate.vlm.projectors import Projector
from vlmablate.vlm.projectors.base import grid_places
from vlmablate.vlm.seen import LiveVision
from vlmablate.vlm.tiling import ONE_SQUARE, TileLayout


class VisionLanguageModel(nn.Module):
    """Cells of a picture (projected features) in front of the text of its questions.

    Attributes:
        cells: how many the language model reads of a picture: what the projector makes of every tile.
    """

    places: Tensor | None

    def __init__(
        self,
        projector: Projector,
        language: LanguageModel,
        vision: LiveVision | None = None,
        tiles: TileLayout = ONE_SQUARE,
    ) -> None:
        """vision: the towers, where they were trained with the rest; None where the features come from disk.

        tiles: how pictures are cut. Raises UserError for tiles whose tokens would stand nowhere.
        """
        super().__init__()
        self.projector = projector
        self.language = language
        self.vision = vision
        self.tiles = tiles
        self.cells = projector.tokens * tiles.count
        grid = language.config.grid
        places = picture_places(projector, grid, tiles)
        # The language model's own grid is the same places, and gives the same numbers to the last bit.
        self.on_grid = places is not None and torch.equal(places, grid_places(grid, grid))
        self.register_buffer("places", places, persistent=False)

    def see(self, seen: Tensor | Sequence[Tensor]) -> Tensor:
        """Features [B, cells, C]: those given, or what the towers make of the pictures given (see `LiveVision`)."""
        if self.vision is not None:
            return self.vision(seen)
        assert isinstance(seen, Tensor)
        return seen

    def forward(self, features: Tensor, tokens: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        """features [B, tiles * side * side, C]; the rest as LanguageModel.forward. Returns hidden [B, T, width]."""
        batch = len(features)
        cells = self.projector(features.reshape(batch * self.tiles.count, self.projector.side**2, -1))
        places: Places = "grid" if self.on_grid else self.places
        return self.language(cells.reshape(batch, self.cells, -1), tokens, positions, mask, places)


def picture_places(projector: Projector, grid: int, tiles: TileLayout) -> Tensor | None:
    """[tokens of all tiles, 2] places in the whole picture, in cells of a grid x grid square; None for tokens without.

    The language model knows places from the middle of its first cell to that of its last. What a tile shows nearer to
    the border than that stands on the border.

    Raises:
        UserError: for tiles with a projector whose tokens have no places: nothing would tell one tile from another.
    """
    within = projector.places
    if within is None:
        if tiles != ONE_SQUARE:
            raise UserError(
                "this projector makes tokens without places, so the tiles of a picture could not be told apart: "
                "use image=letterbox, or a projector that keeps places, such as projector=gelu_mlp"
            )
        return None
    side = projector.side
    corners = side * grid_places(tiles.side, tiles.side)
    every = (corners[:, None] + within + 0.5).flatten(0, 1) * (grid / (side * tiles.side))
    if tiles.thumbnail:
        every = torch.cat([every, (within + 0.5) * (grid / side)])
    return (every - 0.5).clamp(0.0, grid - 1.0)


class FusedFeatures:
    """One split of one or several towers; several are joined by channel concatenation, in order.

    All towers share the image transform, hence the frame up to scale; the first tower's frame is used for boxes, in
    shares of its square.
    """

    def __init__(self, folders: Sequence[Path], split: str) -> None:
        self.stores: list[FeatureStore] = [open_features(folder, split) for folder in folders]
        first = self.stores[0]
        for store in self.stores[1:]:
            same = store.features.shape[1] == first.features.shape[1] and store.tiles == first.tiles
            if list(store.ids) != list(first.ids) or not same:
                raise UserError(
                    "the towers' features are not of the same scenes and the same grid; extract them anew"
                )
        self.ids = list(first.ids)
        self.frames: Sequence[Frame] = first.frames
        self.cells = int(first.features.shape[1])
        self.tiles = first.tiles
        self.channels = sum(int(store.features.shape[2]) for store in self.stores)

    def batch(self, rows: np.ndarray) -> Tensor:
        """float32 [len(rows), cells, channels]."""
        parts = [store.features[rows].astype(np.float32) for store in self.stores]
        return torch.from_numpy(parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2))


def feature_folders(deps: dict[str, Path]) -> list[Path]:
    """The `features0`, `features1`, … dependencies of a step, in order."""
    roles = sorted(
        (role for role in deps if role.startswith("features")), key=lambda r: int(r[len("features") :])
    )
    return [deps[role] for role in roles]
