"""OCID-Ref (Wang et al. 2021), val: 18,342 sentences about objects on cluttered tables. The paper counts a box as right
from an overlap of 0.25 on.

The folder::

    val_expressions.json
    OCID-dataset/ARID20/table/… .png          (or OCID-Dataset/)

Its instruction.txt says that a box is (x, y, w, h). The boxes of the file are (left, top, right, bottom): they are read
so by vlm-evaluation, which checks that each is one inside 640 x 480, and so here.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path

from vlmablate.data.picture_ids import picture_id
from vlmablate.evaluation.protocol import Benchmark, Example
from vlmablate.evaluation.scorers import OCID_REF_IOU
from vlmablate.evaluation.tasks.boxes import FRAMES, VARIANTS, box_benchmark
from vlmablate.evaluation.tasks.reading import Row, each, mapping, published, subfolder
from vlmablate.evaluation.tasks.task import Task
from vlmablate.vlm.image import Box

WIDTH, HEIGHT = 640, 480
# The objects were put on the table one by one: the number of the picture says how many there are.
CLUTTER = ("minimum", "medium", "maximum")
LAST_TAKES = (9, 16, 20)


def examples(folder: Path) -> Iterator[Example]:
    """The sentences in the order of the file. The split is how cluttered the table is."""
    pictures = subfolder(folder, "OCID-dataset", "OCID-Dataset")

    def example(row: Row) -> Example:
        take = row.whole("take_id")
        if not 0 <= take <= LAST_TAKES[-1]:
            raise row.wrong(f"'take_id' is {take}, expected 0 to {LAST_TAKES[-1]}")
        scene = row.text("scene_path")
        return Example(
            "ocid_ref",
            CLUTTER[bisect_left(LAST_TAKES, take)],
            f"ocid_ref/{row.name}",
            picture_id(f"ocid/{scene}"),
            f"{pictures}/{scene}",
            row.text("sentence"),
            box=_box(row),
        )

    return each(mapping(published(folder, "val_expressions.json")), example)


def _box(row: Row) -> Box:
    written = row.text("bbox")
    expected = f"'bbox' is {written!r}, expected [left, top, right, bottom] inside {WIDTH} x {HEIGHT}"
    try:
        left, top, right, bottom = (float(value) for value in json.loads(written))
    except (ValueError, TypeError) as error:
        raise row.wrong(expected) from error
    if not (0 <= left < right <= WIDTH and 0 <= top < bottom <= HEIGHT):
        raise row.wrong(expected)
    return left, top, right, bottom


def make(variant: str, frame: str | None) -> Benchmark:
    return box_benchmark("ocid_ref", OCID_REF_IOU, examples, "ocid_ref", 18342, variant, frame)


TASK = Task("ocid_ref", make, VARIANTS, FRAMES)
