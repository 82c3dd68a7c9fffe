"""VQAv2 (Goyal et al. 2017), val: 214,354 questions about 40,504 pictures of COCO val2014, ten answers to each.

The folder::

    v2_OpenEnded_mscoco_val2014_questions.json   (or v2_val2014_questions.json)
    v2_mscoco_val2014_annotations.json           (or v2_val2014_annotations.json)
    val2014/COCO_val2014_000000000042.jpg …      (or images_val2014/)
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from vlmablate.data.picture_ids import picture_id
from vlmablate.evaluation.protocol import Benchmark, Example
from vlmablate.evaluation.tasks.figures import split_means
from vlmablate.evaluation.tasks.prompts import ANSWER_TOKENS, short_answer
from vlmablate.evaluation.tasks.reading import Row, array, each, published, subfolder, values_by
from vlmablate.evaluation.tasks.task import Task
from vlmablate.evaluation.tasks.written import majority_against_people, score_against_people, variants_from

ANSWER_TYPES = ("yes/no", "number", "other")


def examples(folder: Path) -> Iterator[Example]:
    """The questions in the order of the annotations. The split is the type of the answer."""
    asked = published(folder, "v2_OpenEnded_mscoco_val2014_questions.json", "v2_val2014_questions.json")
    annotations = published(folder, "v2_mscoco_val2014_annotations.json", "v2_val2014_annotations.json")
    questions = values_by(array(asked, "questions"), "question_id")
    pictures = subfolder(folder, "val2014", "images_val2014")
    cluster = cache(picture_id)

    def example(row: Row) -> Example:
        number = row.whole("question_id")
        if number not in questions:
            raise row.wrong(f"there is no question {number} in {asked.name}")
        picture = f"{pictures}/COCO_val2014_{row.whole('image_id'):012d}.jpg"
        return Example(
            "vqav2",
            row.one_of("answer_type", ANSWER_TYPES),
            f"vqav2/{number}",
            cluster(picture),
            picture,
            questions[number].text("question"),
            row.texts("answers"),
            facts={"question_type": sys.intern(row.text("question_type"))},
        )

    return each(array(annotations, "annotations", _plain_answer), example)


def _plain_answer(values: dict[str, Any]) -> Any:
    """An annotated answer as its text, the same object for the same text: two million of them have to be kept."""
    if "answer_id" not in values:
        return values
    answer = values.get("answer")
    return sys.intern(answer) if isinstance(answer, str) else values


def make(variant: str) -> Benchmark:
    return Benchmark(
        name="vqav2",
        metric=f"vqa_accuracy:{variant}",
        answer_tokens=ANSWER_TOKENS,
        score=score_against_people(variant),
        majority=majority_against_people(variant),
        prompt=lambda example: short_answer(example.question),
        summary=split_means("vqa_accuracy"),
        examples=examples,
        folder="vqav2",
        sizes=(214354,),
    )


TASK = Task("vqav2", make, variants_from("vlm-evaluation"))
