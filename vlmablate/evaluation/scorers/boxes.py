"""Boxes: read out of an answer, compared by intersection over union. Edges are continuous, as in `vlm.image`."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Callable, Mapping

from vlmablate.errors import unknown_name

Box = tuple[float, float, float, float]

REFCOCO_IOU = 0.5
"""RefCOCO, RefCOCO+ and RefCOCOg: a box is right from this overlap on."""
OCID_REF_IOU = 0.25
"""OCID-Ref (Wang et al. 2021, arXiv 2103.07679)."""

_FOUR_NUMBERS = re.compile(r"\[\s*" + r",\s*".join([r"(-?\d+(?:\.\d+)?)"] * 4) + r"\s*\]")


def _strict(text: str) -> Box | None:
    """The whole text is a Python list of four numbers in [0, 1], left < right and top < bottom (vlm-evaluation)."""
    if "[" not in text:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python warns of text that is odd as source code, as answers are
            value = ast.literal_eval(text)
        if not isinstance(value, list) or len(value) != 4 or not all(0 <= number <= 1 for number in value):
            return None
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
    left, top, right, bottom = (float(number) for number in value)
    return (left, top, right, bottom) if left < right and top < bottom else None


def _anywhere(text: str) -> Box | None:
    """The first ``[number, number, number, number]`` in the text, of any size and order (lmms-eval)."""
    found = _FOUR_NUMBERS.search(text)
    if found is None:
        return None
    left, top, right, bottom = (float(number) for number in found.groups())
    return left, top, right, bottom


BOX_VARIANTS: Mapping[str, Callable[[str], Box | None]] = {"strict": _strict, "anywhere": _anywhere}


def parse_box(text: str, variant: str = "strict") -> Box | None:
    """The box (left, top, right, bottom) of an answer, in the unit in which it is written; None where there is none,
    which counts as wrong.

    variant: ``strict`` takes an answer that is nothing but a list of four numbers in [0, 1] in the right order, as
    vlm-evaluation does. ``anywhere`` takes the first four decimal numbers in brackets, whatever stands around them, as
    lmms-eval does; ``.5`` and ``1e-3`` are no numbers to it.

    Raises UserError for an unknown variant.

    >>> parse_box("[0.1, 0.2, 0.5, 0.75]"), parse_box("It is at [0.1, 0.2, 0.5, 0.75].")
    ((0.1, 0.2, 0.5, 0.75), None)
    >>> parse_box("It is at [0.1, 0.2, 0.5, 0.75].", "anywhere")
    (0.1, 0.2, 0.5, 0.75)
    """
    read = BOX_VARIANTS.get(variant)
    if read is None:
        raise unknown_name("variant", variant, BOX_VARIANTS, "reading a box")
    return read(text)


def box_iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes (left, top, right, bottom) of one frame; 0 where both are empty.

    A box whose right edge lies left of its left edge, or that is upside down, is empty.
    """
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0.0) * max(height, 0.0)
    union = _area(a) + _area(b) - shared
    return shared / union if union > 0 else 0.0


def _area(box: Box) -> float:
    return max(box[2] - box[0], 0.0) * max(box[3] - box[1], 0.0)


def box_accuracy(predicted: Box | None, target: Box, threshold: float = REFCOCO_IOU) -> float:
    """1.0 where the boxes overlap by at least `threshold`, else 0.0, also for an answer without a box."""
    return float(predicted is not None and box_iou(predicted, target) >= threshold)
