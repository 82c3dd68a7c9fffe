"""Pictures with structure at every scale, drawn from a number; those of different numbers do not look alike."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image


def photograph(number: int, size: tuple[int, int] = (160, 120)) -> Image.Image:
    """Coarse and fine random shading of a size in pixels."""
    rng = np.random.default_rng(number)
    picture = np.zeros((size[1], size[0], 3))
    for cells, weight in ((4, 1.0), (9, 0.6), (20, 0.3)):
        grid = Image.fromarray(rng.integers(0, 255, (cells, cells, 3), dtype=np.uint8))
        picture += weight * np.asarray(grid.resize(size, Image.Resampling.BICUBIC), dtype=float)
    return Image.fromarray((picture / 1.9).astype(np.uint8))


def encoded(picture: Image.Image, form: str = "JPEG", **options: object) -> bytes:
    """The bytes of a file."""
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def save(path: Path, picture: Image.Image, **options: object) -> Path:
    """A JPEG file, with the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(picture, **options))
    return path
