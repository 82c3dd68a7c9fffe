"""CHAIR on COCO (Rohrbach et al., EMNLP 2018): describe a picture, and name nothing that is not there.

The folder::

    annotations/instances_val2014.json    which objects were outlined in a picture
    annotations/captions_val2014.json     what five people wrote about it
    val2014/COCO_val2014_000000000042.jpg …

An object is there if it was outlined or if one of the captions names it, as in the official script. The names are those
of its synonym list (coco_objects.yaml). Where this differs from the script: plurals are looked up and not guessed, so
that nothing depends on the version of a tagger. A benchmark of behaviour (`evaluation.behaviour`), in no suite score.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from vlmablate.data.picture_ids import picture_id
from vlmablate.evaluation.behaviour.chair import METRIC, chair_summary, describe_verdict
from vlmablate.evaluation.behaviour.mentions import Phrases, mentions, phrases
from vlmablate.evaluation.protocol import Answer, Benchmark, Example, Verdict
from vlmablate.evaluation.tasks.reading import Row, array, arrays, each, published, without
from vlmablate.evaluation.tasks.task import Task
from vlmablate.vlm.image import Frame

NAME = "coco_objects"
SPLIT = "val2014"
PICTURES = 40_504
PROMPT = "Please describe this image in detail."
ANSWER_TOKENS = 128
"""Longer descriptions name more that is not there, so the length is part of the benchmark."""

INSTANCES, CAPTIONS = f"annotations/instances_{SPLIT}.json", f"annotations/captions_{SPLIT}.json"
_FILE = Path(__file__).with_name("coco_objects.yaml")


@cache
def _table() -> dict[str, Any]:
    table: dict[str, Any] = yaml.safe_load(_FILE.read_text(encoding="utf-8"))
    return table


def coco_names() -> tuple[str, ...]:
    """The 80 objects in the order of COCO's categories, by COCO's names."""
    return tuple(_table()["objects"])


@cache
def coco_phrases(seats: bool = True) -> Phrases:
    """All that is read as a name of one of the objects, in singular and plural. seats: whether a seat is a chair."""
    table = _table()
    names: dict[str, str | None] = {}
    for name, called in table["objects"].items():
        names |= {word: name for word in (name, *called.split(", ")) if word}
    found = {**names, **table["phrases"]}
    for qualifier, nouns in table["qualifiers"].items():
        found |= {f"{qualifier} {noun}": names[noun] for noun in nouns}
    for qualifier, nouns in table["qualified_nothing"].items():
        found |= dict.fromkeys((f"{qualifier} {noun}" for noun in nouns), None)
    return phrases(found if seats else {**found, "seat": None})


def coco_mentions(text: str) -> list[str]:
    """The objects that a text names, once for each mention. "The seat of a toilet" is no chair (official script)."""
    said = mentions(text, coco_phrases())
    return mentions(text, coco_phrases(seats=False)) if "toilet" in said else said


def examples(folder: Path) -> Iterator[Example]:
    """One example for every picture, in the order of the file."""
    instances, captions = published(folder, INSTANCES), published(folder, CAPTIONS)
    categories, outlines, pictures = arrays(
        instances, "categories", "annotations", "images", hook=without("segmentation")
    )
    named = dict(each(categories, lambda row: (row.whole("id"), row.one_of("name", coco_names()))))

    def outlined(row: Row) -> tuple[int, str]:
        if row.whole("category_id") not in named:
            raise row.wrong(f"category {row.whole('category_id')} is none of those of the file")
        return row.whole("image_id"), named[row.whole("category_id")]

    there = _grouped(each(outlines, outlined))
    written = _grouped(
        each(
            array(captions, "annotations"),
            lambda row: (row.whole("image_id"), row.text("caption").strip()),
        )
    )

    def example(row: Row) -> Example:
        number, picture = row.whole("id"), f"{SPLIT}/{row.text('file_name')}"
        if number not in written:
            raise row.wrong(f"no caption of picture {number} in {captions}")
        said = {name for caption in written[number] for name in coco_mentions(caption)}
        return Example(
            NAME,
            SPLIT,
            f"{NAME}/{number}",
            picture_id(picture),
            picture,
            PROMPT,
            tuple(written[number]),
            facts={"objects": tuple(sorted({*there.get(number, ()), *said}))},
        )

    return each(pictures, example)


def _grouped(pairs: Iterable[tuple[int, str]]) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for number, value in pairs:
        found.setdefault(number, []).append(value)
    return found


def _score(example: Example, answer: Answer, frame: Frame | None) -> Verdict:
    return describe_verdict(coco_mentions(answer.text), example.facts["objects"])


def _summary(
    examples: Sequence[Example], answers: Sequence[Answer], verdicts: Sequence[Verdict]
) -> Mapping[str, float]:
    return chair_summary(
        [coco_mentions(answer.text) for answer in answers], [example.facts["objects"] for example in examples]
    )


def _majority(examples: Sequence[Example]) -> float:
    """Naming a person in every picture, the object that most pictures show."""
    scores = [describe_verdict(["person"], example.facts["objects"]).score for example in examples]
    return sum(scores) / len(scores)


def make(variant: str) -> Benchmark:
    return Benchmark(
        NAME,
        f"{METRIC}:{variant}",
        ANSWER_TOKENS,
        _score,
        _majority,
        prompt=lambda example: example.question,
        summary=_summary,
        examples=examples,
        folder="coco",
        sizes=(PICTURES,),
        in_suite=False,
    )


TASK = Task(NAME, make, ("chair-synonyms",))
