"""RefCOCO, RefCOCO+ (Kazemzadeh et al. 2014, split by UNC) and RefCOCOg (Mao et al. 2016, split by UMD), val: which box
does a sentence describe? 10,834, 10,758 and 4,896 sentences about pictures of COCO train2014.

One folder for the three, as the REFER interface has it::

    refcoco/refs(unc).p    refcoco/instances.json
    refcoco+/refs(unc).p   refcoco+/instances.json
    refcocog/refs(umd).p   refcocog/instances.json
    train2014/COCO_train2014_000000000042.jpg …     (or images/mscoco/images/train2014/)
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import chain
from pathlib import Path

from vlmablate.data.picture_ids import picture_id
from vlmablate.evaluation.protocol import Benchmark, Example
from vlmablate.evaluation.scorers import REFCOCO_IOU
from vlmablate.evaluation.tasks.boxes import FRAMES, VARIANTS, box_benchmark
from vlmablate.evaluation.tasks.reading import (
    Row,
    array,
    each,
    pickled,
    published,
    subfolder,
    values_by,
    without,
)
from vlmablate.evaluation.tasks.task import Task
from vlmablate.vlm.image import Box

SPLIT = "val"
SOURCES = {
    # task: its folder, who split it, sentences of val
    "refcoco": ("refcoco", "unc", 10834),
    "refcoco_plus": ("refcoco+", "unc", 10758),
    "refcocog": ("refcocog", "umd", 4896),
}


def examples(name: str, folder: Path) -> Iterator[Example]:
    """The sentences of the split, reference by reference. The box is in pixels of the original picture."""
    place, splitter, _ = SOURCES[name]
    references = published(folder, f"{place}/refs({splitter}).p")
    instances = array(published(folder, f"{place}/instances.json"), "annotations", without("segmentation"))
    boxes = values_by(instances, "id")
    pictures = subfolder(folder, "train2014", "images/mscoco/images/train2014")

    def sentences(row: Row) -> list[Example]:
        if row.text("split") != SPLIT:
            return []
        number = row.whole("ann_id")
        if number not in boxes:
            raise row.wrong(f"instances.json has no box {number}")
        picture = f"{pictures}/COCO_train2014_{row.whole('image_id'):012d}.jpg"
        return [
            Example(
                name,
                SPLIT,
                f"{name}/{row.whole('ref_id')}/{sentence.whole('sent_id')}",
                picture_id(picture),
                picture,
                sentence.text("sent"),
                box=_box(boxes[number]),
            )
            for sentence in row.rows("sentences")
        ]

    return chain.from_iterable(each(pickled(references), sentences))


def _box(row: Row) -> Box:
    values = row.get("bbox", list, "[x, y, width, height]")
    numbers = [float(value) for value in values if isinstance(value, int | float)]
    if len(numbers) != 4 or len(values) != 4 or numbers[2] <= 0 or numbers[3] <= 0:
        raise row.wrong(f"'bbox' is {values}, expected [x, y, width, height] with a width and a height")
    x, y, width, height = numbers
    return x, y, x + width, y + height


def task(name: str) -> Task:
    def make(variant: str, frame: str | None) -> Benchmark:
        return box_benchmark(
            name, REFCOCO_IOU, partial(examples, name), "refcoco", SOURCES[name][2], variant, frame
        )

    return Task(name, make, VARIANTS, FRAMES)


TASKS = tuple(task(name) for name in SOURCES)
