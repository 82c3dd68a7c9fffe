"""Tiles against transformers' LLaVA-NeXT and GOT-OCR2 (InternVL) processors, and their frames against pixels."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from PIL import Image

from vlmablate.errors import UserError
from vlmablate.vlm.image import letterbox, resize_crop, resize_naive
from vlmablate.vlm.tiling import (
    ONE_SQUARE,
    Tile,
    TileLayout,
    anyres_tiles,
    best_resolution,
    closest_grid,
    dynamic_tiles,
    fixed_tiles,
    split,
    tile_grids,
    unpadded,
)

pytest.importorskip("torch")
pytest.importorskip("transformers")

SIZES = [(w, h) for w in (1, 37, 100, 333, 448, 640, 1344) for h in (1, 50, 333, 427, 448, 1000)]
PICTURES = [(90, 60), (61, 97), (64, 64), (200, 31), (40, 150)]
PINPOINTS = [(64, 32), (32, 64), (64, 64), (96, 32), (32, 96)]
FILL = (0, 0, 0)


def noise(size: tuple[int, int]) -> Image.Image:
    rng = np.random.default_rng(size)
    small = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def as_array(tiles: Sequence[Tile]) -> np.ndarray:
    return np.stack([np.asarray(tile.picture) for tile in tiles])


def test_the_best_resolution_is_that_of_transformers() -> None:
    from transformers.image_processing_utils import select_best_resolution

    lists = [PINPOINTS, [(336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008)], [(448, 448)]]
    for resolutions in lists:
        flipped = [(h, w) for w, h in resolutions]
        for w, h in SIZES:
            expected = select_best_resolution((h, w), flipped)
            assert best_resolution((w, h), resolutions) == expected[::-1], (w, h)


@pytest.mark.parametrize("size", PICTURES)
def test_any_resolution_tiles_are_those_of_llava_next(size: tuple[int, int]) -> None:
    from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

    processor = LlavaNextImageProcessorPil(
        size={"shortest_edge": 32},
        crop_size={"height": 32, "width": 32},
        image_grid_pinpoints=[[h, w] for w, h in PINPOINTS],
        do_rescale=False,
        do_normalize=False,
    )
    image = noise(size)
    expected = np.asarray(processor(image)["pixel_values"][0])
    tiles = as_array(anyres_tiles(image, 32, PINPOINTS, FILL)).transpose(0, 3, 1, 2)
    assert expected.shape == tiles.shape
    np.testing.assert_array_equal(tiles, expected)


def test_what_is_left_without_padding_is_that_of_llava_next() -> None:
    import torch
    from transformers.models.llava_next.modeling_llava_next import unpad_image

    for columns, rows in ((48, 24), (24, 48), (48, 48), (27, 27), (5, 10)):
        features = torch.arange(columns * rows).view(1, rows, columns)
        for w, h in SIZES:
            across, down = unpadded((columns, rows), (w, h))
            assert torch.equal(features[:, down, across], unpad_image(features, (h, w))), (
                columns,
                rows,
                w,
                h,
            )


@pytest.mark.parametrize(("fewest", "most"), [(1, 1), (1, 6), (2, 6), (1, 12), (3, 4), (5, 40)])
def test_the_grids_and_the_closest_one_are_those_of_internvl(fewest: int, most: int) -> None:
    from transformers.models.got_ocr2 import image_processing_got_ocr2 as reference

    grids = tile_grids(fewest, most)
    assert grids == reference.get_all_supported_aspect_ratios(fewest, most)
    for w, h in SIZES:
        expected = reference.get_optimal_tiled_canvas((h, w), (448, 448), fewest, most)
        assert closest_grid((w, h), 448, grids) == expected, (w, h)


def test_equally_near_grids_are_decided_by_the_area() -> None:
    grids = tile_grids(1, 4)
    assert closest_grid((448, 448), 448, grids) == (1, 1)
    assert closest_grid((633, 633), 448, grids) == (1, 1)  # 633^2 < 0.5 * 4 * 448^2 < 634^2
    assert closest_grid((634, 634), 448, grids) == (2, 2)


@pytest.mark.parametrize("size", PICTURES)
@pytest.mark.parametrize("thumbnail", [True, False])
def test_dynamic_tiles_are_those_of_internvl(size: tuple[int, int], thumbnail: bool) -> None:
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

    image = noise(size)
    processor = GotOcr2ImageProcessorPil(
        size={"height": 32, "width": 32},
        crop_to_patches=True,
        min_patches=1,
        max_patches=6,
        do_rescale=False,
        do_normalize=False,
        resample=Image.Resampling.BICUBIC,
    )
    patches = processor.crop_image_to_patches(
        np.asarray(image).transpose(2, 0, 1), 1, 6, thumbnail, processor.size, processor.resample
    )
    tiles = as_array(dynamic_tiles(image, 32, 1, 6, thumbnail)).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(tiles, np.stack(patches))


def test_one_tile_gets_no_thumbnail() -> None:
    assert len(dynamic_tiles(noise((30, 30)), 32, 1, 6)) == 1


MAKERS: dict[str, Callable[[Image.Image], list[Tile]]] = {
    "anyres": lambda image: anyres_tiles(image, 32, PINPOINTS, FILL),
    "dynamic": lambda image: dynamic_tiles(image, 32, 1, 6),
    "letterbox": lambda image: fixed_tiles(image, 32, TileLayout(2, True), letterbox, FILL)[0],
    "crop": lambda image: fixed_tiles(image, 32, TileLayout(3, False), resize_crop, FILL)[0],
}


@pytest.mark.parametrize("size", PICTURES)
@pytest.mark.parametrize("maker", MAKERS)
def test_a_tile_shows_what_its_frame_says(maker: str, size: tuple[int, int]) -> None:
    """A picture whose colours are the coordinates of its pixels: the middle of a tile names the place it came from."""
    w, h = size
    x = np.broadcast_to((np.arange(w) + 0.5) * 255 / w, (h, w))
    y = np.broadcast_to(((np.arange(h) + 0.5) * 255 / h)[:, None], (h, w))
    image = Image.fromarray(np.stack([x, y, np.full((h, w), 255)], axis=2).astype(np.uint8))
    seen = 0
    for tile in MAKERS[maker](image):
        assert tile.picture.size == (32, 32)
        assert (tile.frame.size, tile.frame.width, tile.frame.height) == (32, w, h)
        pixels = np.asarray(tile.picture).astype(float)
        for column, row in itertools.product((6, 16, 25), (3, 9, 16, 25, 30)):
            if pixels[max(row - 3, 0) : row + 4, max(column - 3, 0) : column + 4, 2].min() < 250:
                continue  # fill, or a border that is blurred with it
            box = tile.frame.to_original((column, row, column + 1, row + 1), clip=False)
            middle = (box[0] + box[2]) / 2 * 255 / w, (box[1] + box[3]) / 2 * 255 / h
            assert abs(pixels[row, column, 0] - middle[0]) < 3
            assert abs(pixels[row, column, 1] - middle[1]) < 3
            back = tile.frame.to_model(box, clip=False)
            assert back == pytest.approx((column, row, column + 1, row + 1))
            seen += 1
    assert seen >= 3


@pytest.mark.parametrize("size", PICTURES)
def test_fixed_tiles_put_together_are_the_larger_square(size: tuple[int, int]) -> None:
    image = noise(size)
    for transform in (letterbox, resize_naive, resize_crop):
        tiles, frame = fixed_tiles(image, 16, TileLayout(3, True), transform, (7, 8, 9))
        square, expected = transform(image, 48, (7, 8, 9))
        assert (len(tiles), frame) == (10, expected)
        rows = [np.concatenate(as_array(tiles[3 * r : 3 * r + 3]), axis=1) for r in range(3)]
        np.testing.assert_array_equal(np.concatenate(rows), np.asarray(square))
        thumbnail, small = transform(image, 16, (7, 8, 9))
        np.testing.assert_array_equal(np.asarray(tiles[9].picture), np.asarray(thumbnail))
        assert tiles[9].frame == small


def test_a_layout_is_read_and_written() -> None:
    assert TileLayout.read(None) == ONE_SQUARE
    assert (ONE_SQUARE.count, TileLayout(2, True).count, TileLayout(2, False).count) == (1, 5, 4)
    layout = TileLayout(3, True)
    assert TileLayout.read(layout.as_card()) == layout
    for wrong in ({}, {"side": 1, "thumbnail": True}, {"side": 2}, {"side": 2, "thumbnail": 1}):
        with pytest.raises(UserError, match=r"image\.tiles needs a side"):
            TileLayout.read(wrong)


def test_what_does_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="50x32"):
        split(Image.new("RGB", (50, 32)), letterbox(Image.new("RGB", (5, 5)), 32, FILL)[1], 32)
    with pytest.raises(UserError, match="at least 3 and at most 2"):
        dynamic_tiles(noise((30, 30)), 32, 3, 2)
