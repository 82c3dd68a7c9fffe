"""One picture as several square tiles, each with its `Frame`: boxes map exactly between a tile and the original.

Three ways: a fixed grid of tiles of one larger square (so that every picture has equally many), LLaVA-NeXT's any
resolution (Liu et al. 2024) and InternVL 1.5's dynamic tiling (Chen et al. 2024, section 3.2). All are pure.

Sizes are (width, height) in pixels and grids (columns, rows) in tiles, as in Pillow; transformers writes them the other
way round.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from vlmablate.errors import UserError
from vlmablate.vlm.image import BICUBIC, Colour, Frame, Transform, resize_naive

Size = tuple[int, int]


@dataclass(frozen=True)
class Tile:
    """An S x S picture and the map between its pixels and those of the original."""

    picture: Image.Image
    frame: Frame


@dataclass(frozen=True)
class TileLayout:
    """A fixed layout: side x side tiles in reading order, then (with `thumbnail`) the whole picture as one more."""

    side: int = 1
    thumbnail: bool = False

    @property
    def count(self) -> int:
        return self.side**2 + self.thumbnail

    def cells_a_side(self, cells: int) -> int:
        """Side of the grid of one tile, for the cells of all. Raises UserError when they are no square grids."""
        side = math.isqrt(cells // self.count)
        if side * side * self.count != cells:
            raise UserError(
                f"{cells} cells do not make {self.count} square grids: delete the features step and run again"
            )
        return side

    def as_card(self) -> dict[str, Any] | None:
        """What `read` takes."""
        return None if self == ONE_SQUARE else {"side": self.side, "thumbnail": self.thumbnail}

    @staticmethod
    def read(config: Mapping[str, Any] | None) -> TileLayout:
        """The layout of `image.tiles` {side, thumbnail}; None is one square. Raises UserError for anything else."""
        if config is None:
            return ONE_SQUARE
        side, thumbnail = config.get("side"), config.get("thumbnail")
        if type(side) is not int or side < 2 or not isinstance(thumbnail, bool) or len(config) != 2:
            raise UserError(
                "image.tiles needs a side (tiles along it, 2 or more) and a thumbnail (true or false), "
                f"not {dict(config)!r}; without tiles, choose another image group, such as image=letterbox"
            )
        return TileLayout(side, thumbnail)


ONE_SQUARE = TileLayout()


def split(canvas: Image.Image, frame: Frame, size: int) -> list[Tile]:
    """Tiles of side `size` in reading order; `frame` maps original pixels to those of the canvas.

    Raises ValueError for a canvas that does not divide into tiles.
    """
    width, height = canvas.size
    if width % size or height % size:
        raise ValueError(f"a canvas of {width}x{height} does not divide into tiles of {size} pixels")
    return [
        Tile(
            canvas.crop((left, top, left + size, top + size)),
            Frame(
                frame.width, frame.height, size, frame.scale_x, frame.scale_y,
                frame.offset_x - left, frame.offset_y - top,
            ),
        )
        for top in range(0, height, size)
        for left in range(0, width, size)
    ]  # fmt: skip


def fixed_tiles(
    image: Image.Image, size: int, layout: TileLayout, transform: Transform, fill: Colour
) -> tuple[list[Tile], Frame]:
    """The transform at side * size pixels, cut into tiles of `size`; the thumbnail is the transform at `size`.

    Returns the tiles and the frame of the whole square, in which answers about the picture are given.
    """
    canvas, frame = transform(image, layout.side * size, fill)
    tiles = split(canvas, frame, size) if layout.side > 1 else [Tile(canvas, frame)]
    if layout.thumbnail:
        tiles.append(Tile(*transform(image, size, fill)))
    return tiles, frame


def best_resolution(size: Size, resolutions: Sequence[Size]) -> Size:
    """LLaVA-NeXT: the resolution that keeps most pixels of a picture, among these the one with the least padding.

    Pixels kept are those of the picture scaled to fit, at most its own; the first of equals wins. Raises ValueError
    without resolutions.
    """
    width, height = size

    def worth(resolution: Size) -> tuple[int, int]:
        scale = min(resolution[0] / width, resolution[1] / height)
        kept = min(int(width * scale) * int(height * scale), width * height)
        return kept, kept - resolution[0] * resolution[1]

    return max(resolutions, key=worth)


def fitted(size: Size, target: Size) -> Size:
    """The size of a picture that is scaled, in its shape, until it fills the target along one side (rounded up)."""
    scales = target[0] / size[0], target[1] / size[1]
    if scales[0] < scales[1]:
        return target[0], min(math.ceil(size[1] * scales[0]), target[1])
    return min(math.ceil(size[0] * scales[1]), target[0]), target[1]


def anyres_tiles(image: Image.Image, size: int, resolutions: Sequence[Size], fill: Colour) -> list[Tile]:
    """LLaVA-NeXT: the whole picture stretched to one tile, then the tiles of its best resolution, in reading order.

    There it is scaled in its shape and centred; an odd pixel of fill goes to the right or the bottom.
    """
    target = best_resolution(image.size, resolutions)
    width, height = fitted(image.size, target)
    left, top = (target[0] - width) // 2, (target[1] - height) // 2
    canvas = Image.new("RGB", target, fill)
    canvas.paste(image.convert("RGB").resize((width, height), BICUBIC), (left, top))
    frame = Frame(
        image.width, image.height, size, width / image.width, height / image.height, float(left), float(top)
    )
    return [Tile(*resize_naive(image, size, fill)), *split(canvas, frame, size)]


def unpadded(cells: Size, size: Size) -> tuple[slice, slice]:
    """LLaVA-NeXT: the (columns, rows) of joined feature maps that hold a picture of that size, without its padding.

    cells: columns and rows of the maps of all tiles, joined.
    """
    columns, rows = cells
    width, height = size
    if width / height > columns / rows:
        rest = (rows - int(round(height * (columns / width), 7))) // 2
        return slice(0, columns), slice(rest, rows - rest)
    rest = (columns - int(round(width * (rows / height), 7))) // 2
    return slice(rest, columns - rest), slice(0, rows)


def tile_grids(fewest: int, most: int) -> list[Size]:
    """InternVL: every grid of `fewest` to `most` tiles, by number of tiles, then columns."""
    grids = [(c, r) for c in range(1, most + 1) for r in range(1, most // c + 1) if c * r >= fewest]
    return sorted(grids, key=lambda grid: grid[0] * grid[1])


def closest_grid(size: Size, tile: int, grids: Sequence[Size]) -> Size:
    """InternVL: the grid whose shape is nearest to the picture's, by the difference of width / height.

    Among equally near ones a later (larger) one wins as long as the picture has more than half of its pixels. Raises
    ValueError without grids.
    """
    if not grids:
        raise ValueError("no grid of tiles to choose from")
    width, height = size
    best, nearest = grids[0], math.inf
    for columns, rows in grids:
        distance = abs(width / height - columns / rows)
        larger = width * height > 0.5 * tile * tile * columns * rows
        if distance < nearest or (distance == nearest and larger):
            best, nearest = (columns, rows), distance
    return best


def dynamic_tiles(
    image: Image.Image, size: int, fewest: int, most: int, thumbnail: bool = True
) -> list[Tile]:
    """InternVL: the picture stretched to its closest grid and cut; more than one tile gets a thumbnail behind them.

    Raises UserError for numbers of tiles that no grid has.
    """
    if not 1 <= fewest <= most:
        raise UserError(
            f"a picture cannot have at least {fewest} and at most {most} tiles: use 1 <= fewest <= most"
        )
    columns, rows = closest_grid(image.size, size, tile_grids(fewest, most))
    target = columns * size, rows * size
    frame = Frame(
        image.width, image.height, size, target[0] / image.width, target[1] / image.height, 0.0, 0.0
    )
    tiles = split(image.convert("RGB").resize(target, BICUBIC), frame, size)
    if thumbnail and len(tiles) > 1:
        tiles.append(Tile(*resize_naive(image, size, (0, 0, 0))))
    return tiles
