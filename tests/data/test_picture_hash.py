"""Perceptual hashes: near for copies, far for others; and reading at a reduced size still notices a cut file."""

from __future__ import annotations

import io

import numpy as np
import pytest
from drawn_pictures import encoded, photograph
from PIL import Image

from vlmablate.data.picture_hash import NEAR, alike, perceptual_hash, thumbnail


def seen(content: bytes) -> tuple[int, np.ndarray]:
    with Image.open(io.BytesIO(content)) as image:
        small = thumbnail(image)
    found = perceptual_hash(small)
    assert found is not None
    return found, small


def bits(first: int, second: int) -> int:
    return (first ^ second).bit_count()


@pytest.mark.parametrize("number", range(8))
def test_copies_of_a_picture_are_near_and_alike(number: int) -> None:
    picture = photograph(number, (640, 480))
    original, small = seen(encoded(picture, quality=95))
    copies = [
        encoded(picture, quality=50),
        encoded(picture, quality=90, progressive=True),
        encoded(picture.resize((320, 240), Image.Resampling.LANCZOS)),
        encoded(picture.resize((1000, 750), Image.Resampling.BICUBIC)),
        encoded(picture, "PNG"),
        encoded(picture.convert("L")),
    ]
    for copy in copies:
        other, its = seen(copy)
        assert bits(original, other) <= NEAR
        assert alike(small, its)


def test_other_pictures_are_far() -> None:
    hashes, smalls = zip(*(seen(encoded(photograph(number))) for number in range(60)), strict=True)
    pairs = [(i, j) for i in range(60) for j in range(i)]
    assert min(bits(hashes[i], hashes[j]) for i, j in pairs) > 2 * NEAR
    assert not any(alike(smalls[i], smalls[j]) for i, j in pairs)


def test_crops_and_mirror_images_are_other_pictures() -> None:
    picture = photograph(3, (640, 480))
    original, _ = seen(encoded(picture))
    mirrored = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for other in (mirrored, picture.crop((160, 120, 640, 480))):
        assert bits(original, seen(encoded(other))[0]) > NEAR


def test_a_hash_has_63_bits_of_which_half_are_set() -> None:
    found, _ = seen(encoded(photograph(0)))
    assert found < 1 << 63
    assert found.bit_count() == 31


def test_a_flat_picture_has_no_hash_and_is_alike_to_nothing() -> None:
    white = np.full((32, 32), 255, dtype=np.uint8)
    assert perceptual_hash(white) is None
    assert not alike(white, white)


@pytest.mark.parametrize("progressive", [False, True])
def test_reading_at_a_reduced_size_fails_exactly_where_reading_in_full_does(progressive: bool) -> None:
    whole = encoded(photograph(1, (640, 480)), progressive=progressive)
    cuts = [1, 2, 3, 10, 100, 500, len(whole) // 2, len(whole) - 800]

    def fails(content: bytes, reduced: bool) -> bool:
        try:
            with Image.open(io.BytesIO(content)) as image:
                thumbnail(image) if reduced else image.load()
        except OSError:
            return True
        return False

    assert not fails(whole, True)
    for cut in cuts:
        assert fails(whole[:-cut], True)
        assert fails(whole[:-cut], False)
        zeroed = whole[:-cut] + b"\0" * cut  # as a download leaves that reserved its space
        assert fails(zeroed, True) == fails(zeroed, False)
