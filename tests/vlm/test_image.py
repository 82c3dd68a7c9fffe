"""Image transforms against Pillow and torchvision, and the box maps against their inverse."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from vlmablate.errors import UserError
from vlmablate.vlm.image import (
    TRANSFORMS,
    Frame,
    fill_colour,
    letterbox,
    letterbox_prismatic,
    resize_crop,
    resize_naive,
    transform_named,
)

FILL = (10, 200, 30)
SIZES = [
    (64, 64),
    (96, 32),
    (32, 96),
    (63, 50),
    (50, 63),
    (51, 50),
    (640, 427),
    (427, 640),
    (17, 51),
    (200, 67),
]
SIDES = [32, 47, 160]


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, size=(height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR)


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image)


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("size", SIDES)
def test_every_transform_makes_an_exact_square(name: str, shape: tuple[int, int], size: int) -> None:
    made, frame = transform_named(name)(picture(*shape), size, FILL)
    assert made.size == (size, size)
    assert made.mode == "RGB"
    assert (frame.width, frame.height, frame.size) == (*shape, size)


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("size", SIDES)
def test_resize_naive_is_torchvision_resize(shape: tuple[int, int], size: int) -> None:
    v2 = pytest.importorskip("torchvision.transforms.v2")
    image = picture(*shape)
    expected = v2.Resize((size, size), interpolation=v2.InterpolationMode.BICUBIC, antialias=True)(image)
    np.testing.assert_array_equal(pixels(resize_naive(image, size, FILL)[0]), pixels(expected))


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("size", SIDES)
def test_resize_crop_is_torchvision_resize_and_center_crop(shape: tuple[int, int], size: int) -> None:
    v2 = pytest.importorskip("torchvision.transforms.v2")
    image = picture(*shape)
    steps = [v2.Resize(size, interpolation=v2.InterpolationMode.BICUBIC, antialias=True), v2.CenterCrop(size)]
    np.testing.assert_array_equal(pixels(resize_crop(image, size, FILL)[0]), pixels(v2.Compose(steps)(image)))


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("size", SIDES)
def test_letterbox_is_an_exact_square_padded_by_hand(shape: tuple[int, int], size: int) -> None:
    width, height = shape
    image, side = picture(*shape), max(shape)
    padded = np.empty((side, side, 3), np.uint8)
    padded[:] = FILL
    top, left = (side - height) // 2, (side - width) // 2
    padded[top : top + height, left : left + width] = pixels(image)
    expected = Image.fromarray(padded).resize((size, size), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(pixels(letterbox(image, size, FILL)[0]), pixels(expected))


@pytest.mark.parametrize("shape", SIZES)
def test_letterbox_prismatic_pads_both_sides_alike_then_resizes_and_crops(shape: tuple[int, int]) -> None:
    v2 = pytest.importorskip("torchvision.transforms.v2")
    width, height = shape
    image, side, size = picture(*shape), max(shape), 48
    horizontal, vertical = int((side - width) / 2), int((side - height) / 2)
    padded = v2.functional.pad(image, [horizontal, vertical, horizontal, vertical], fill=FILL)
    steps = [v2.Resize(size, interpolation=v2.InterpolationMode.BICUBIC, antialias=True), v2.CenterCrop(size)]
    expected = v2.Compose(steps)(padded)
    np.testing.assert_array_equal(pixels(letterbox_prismatic(image, size, FILL)[0]), pixels(expected))


def test_the_two_letterboxes_differ_only_for_odd_differences() -> None:
    even, odd = picture(640, 426), picture(640, 427)
    assert (
        pixels(letterbox(even, 64, FILL)[0]).tolist()
        == pixels(letterbox_prismatic(even, 64, FILL)[0]).tolist()
    )
    assert (
        pixels(letterbox(odd, 64, FILL)[0]).tolist() != pixels(letterbox_prismatic(odd, 64, FILL)[0]).tolist()
    )


def test_the_declared_fill_is_what_surrounds_a_letterboxed_picture() -> None:
    made = pixels(letterbox(Image.new("RGB", (90, 30), (255, 255, 255)), 90, FILL)[0])
    assert (made[:26] == FILL).all()
    assert (made[-26:] == FILL).all()
    assert (made[34:56] == 255).all()


def test_fill_colour_rounds_down_like_the_reference_pipelines() -> None:
    assert fill_colour((0.48145466, 0.4578275, 0.40821073)) == (122, 116, 104)
    assert fill_colour((0.485, 0.456, 0.406)) == (123, 116, 103)
    assert fill_colour((0.5, 0.5, 0.5)) == (127, 127, 127)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_boxes_return_to_where_they_were(name: str) -> None:
    """A property over many sizes: the inverse undoes the map, and what stays inside survives clipping."""
    rng = np.random.default_rng(7)
    for _ in range(120):
        width = int(rng.integers(16, 700))
        height = int(np.clip(width * np.exp(rng.uniform(-np.log(3), np.log(3))), 8, 900))
        size = int(rng.integers(24, 260))
        _, frame = transform_named(name)(Image.new("RGB", (width, height)), size, FILL)
        x, y = np.sort(rng.uniform(0, width, 2)), np.sort(rng.uniform(0, height, 2))
        box = (float(x[0]), float(y[0]), float(x[1]), float(y[1]))
        back = frame.to_original(frame.to_model(box, clip=False), clip=False)
        np.testing.assert_allclose(back, box, atol=1e-9 * max(width, height))
        clipped = frame.to_model(box)
        assert all(0 <= value <= size for value in clipped)
        inside = frame.to_original(clipped)
        assert box[0] - 1e-6 <= inside[0] <= inside[2] <= box[2] + 1e-6 or inside[0] == inside[2]
        assert all(0 <= value <= limit for value, limit in zip(inside, (width, height) * 2, strict=True))
        if name in ("letterbox", "resize_naive"):
            np.testing.assert_allclose(inside, box, atol=1e-6)


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("shape", [(300, 100), (100, 300), (240, 201), (160, 160)])
def test_a_frame_points_at_the_pixels_it_says(name: str, shape: tuple[int, int]) -> None:
    """A white rectangle in the middle is found in the model's square where `to_model` puts it."""
    width, height = shape
    image = Image.new("RGB", shape, (0, 0, 0))
    box = (width // 2 - 24, height // 2 - 18, width // 2 + 24, height // 2 + 18)
    image.paste((255, 255, 255), box)
    made, frame = transform_named(name)(image, 128, (0, 0, 0))
    x0, y0, x1, y1 = frame.to_model(box)
    rows, columns = np.nonzero(pixels(made)[..., 0] > 127)
    found = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    np.testing.assert_allclose(found, (x0, y0, x1, y1), atol=1.0)


def test_a_crop_loses_what_it_cuts_off() -> None:
    _, frame = resize_crop(Image.new("RGB", (300, 100)), 100, FILL)
    assert frame.to_model((0, 0, 90, 100)) == (0.0, 0.0, 0.0, 100.0)
    assert frame.to_original((0, 0, 100, 100)) == (100.0, 0.0, 200.0, 100.0)


def test_a_frame_survives_its_row() -> None:
    _, frame = resize_crop(Image.new("RGB", (301, 100)), 97, FILL)
    assert Frame.from_row(tuple(np.array(frame.as_row()))) == frame


def test_an_unknown_transform_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"leterbox(.|\n)*resize_crop"):
        transform_named("leterbox")
