"""Perceptual hashes: near-equal for the same photograph saved at another size or quality, far for any other.

The hash is the sign pattern of the 63 lowest frequencies of a small grey picture (pHash; Zauner, "Implementation and
benchmarking of perceptual image hash functions", 2010, chapter 3.2.1). Two pictures whose hashes differ in at most
`NEAR` bits are candidates; :func:`alike` then compares what the hashes were made from, so that a chance collision is
never called a copy. Crops, mirror images and drawings over a picture are other pictures here.

JPEG files are decoded at a fraction of their size. That reads the whole stream, so that a truncated file is noticed all
the same.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

VERSION = 1
"""Of the hash: stored hashes of another version are not compared with these."""
SIDE = 32
NEAR = 4
"""Bits (of 63) in which hashes of one picture may differ. JPEG quality from 50 to 92 and sizes from 0.35 to 1.6 times
moved at most 2 bits of 56 photographs, among which the nearest two were 18 bits apart."""
ALIKE = 0.9
"""Least correlation of two thumbnails of one picture. In the same measurement: 0.99 or more; of others 0.8 or less."""
FLAT = 1.0
"""Grey levels of standard deviation below which a thumbnail shows nothing to compare."""

_DRAFT = 2 * SIDE  # a JPEG decoder reduces coarsely; half of the way is left to the resampling
_LOW = 8
_MIDDLE = (_LOW * _LOW - 1) // 2


def _cosines() -> np.ndarray:
    """[_LOW, SIDE]: the lowest rows of the type-II cosine transform, up to scale."""
    angles = np.outer(np.arange(_LOW), 2 * np.arange(SIDE) + 1) * math.pi / (2 * SIDE)
    return np.cos(angles)


_COSINES = _cosines()
_WEIGHTS = (1 << np.arange(_LOW * _LOW - 1, dtype=np.uint64)).astype(np.uint64)


def thumbnail(image: Image.Image) -> np.ndarray:
    """[SIDE, SIDE] grey levels (uint8) of a picture that may still be unread, stretched to a square.

    Raises what Pillow raises for a file that cannot be decoded to its end.
    """
    image.draft("L", (_DRAFT, _DRAFT))
    grey = image if image.mode == "L" else image.convert("L")
    return np.asarray(grey.resize((SIDE, SIDE), Image.Resampling.LANCZOS))


def perceptual_hash(grey: np.ndarray) -> int | None:
    """63 bits of a thumbnail: which of the lowest frequencies, the constant left out, are above their median.

    None for a picture that is all but flat, whose bits would say nothing.
    """
    levels = grey.astype(np.float64)
    if levels.std() < FLAT:
        return None
    low = (_COSINES @ levels @ _COSINES.T).ravel()[1:]
    median = np.partition(low, _MIDDLE)[_MIDDLE]  # as numpy.median, in a third of its time
    return int(_WEIGHTS[low > median].sum(dtype=np.uint64))


def alike(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether two thumbnails show one picture: their grey levels correlate, whatever brightness and contrast are."""
    a, b = (grey.astype(np.float64) - grey.mean() for grey in (first, second))
    size = math.sqrt(float((a * a).sum() * (b * b).sum()))
    return size > 0 and float((a * b).sum()) / size >= ALIKE
