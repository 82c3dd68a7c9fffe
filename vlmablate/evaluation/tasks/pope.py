"""POPE (Li et al. 2023), the questions about COCO: is there a thing in the picture? Three splits by how the absent
things were chosen, 3,000 questions each (2,910 random ones in the release that Prismatic pins), about 500 pictures.

The folder::

    coco_pope_random.json   coco_pope_popular.json   coco_pope_adversarial.json
    val2014/COCO_val2014_000000310196.jpg …          (or val_images/)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from vlmablate.data.picture_ids import picture_id
from vlmablate.evaluation.majority import majority_answer
from vlmablate.evaluation.protocol import Answer, Benchmark, Example, Verdict
from vlmablate.evaluation.scorers import POPE_VARIANTS, pope_parse, pope_summary
from vlmablate.evaluation.tasks.closed import score_by
from vlmablate.evaluation.tasks.figures import ALL, places_by_split, ranking
from vlmablate.evaluation.tasks.prompts import ANSWER_TOKENS, short_answer
from vlmablate.evaluation.tasks.reading import Row, digest, each, lines, published, subfolder
from vlmablate.evaluation.tasks.task import Task

OPTIONS = ("Yes", "No")
SPLITS = ("random", "popular", "adversarial")


def examples(folder: Path) -> Iterator[Example]:
    """The questions, split by split, in the order of the files."""
    pictures = subfolder(folder, "val2014", "val_images")
    for split in SPLITS:
        rows = lines(published(folder, f"coco_pope_{split}.json"))
        yield from each(rows, partial(_example, split, pictures))


def _example(split: str, pictures: str, row: Row) -> Example:
    """Picture and words name a question: its official number means another one in another release."""
    picture, question = row.text("image"), row.text("text")
    return Example(
        "pope",
        split,
        f"pope/{split}/{picture.rsplit('.', 1)[0]}/{digest(question)}",
        picture_id(picture),
        f"{pictures}/{picture}",
        question,
        (row.one_of("label", ("yes", "no")),),
    )


def _read(variant: str) -> Callable[[str, Example], str | None]:
    def read(text: str, example: Example) -> str | None:
        said = pope_parse(text, variant)
        return said.capitalize() if said in ("yes", "no") else None

    return read


def summary(
    examples: Sequence[Example], answers: Sequence[Answer], verdicts: Sequence[Verdict]
) -> Mapping[str, float]:
    """The figures of POPE for each split and for all questions, and where probabilities are known how well they rank.

    ``…/mean_of_splits`` of accuracy and F1 is what papers print as one number (Prismatic the one, LLaVA the other).
    """
    figures: dict[str, float] = {}
    splits = {**places_by_split(examples), ALL: list(range(len(examples)))}
    by_probability = all(answer.probabilities for answer in answers)
    for split, places in splits.items():
        labels = [verdicts[place].target.lower() for place in places]
        said = [verdicts[place].prediction.lower() for place in places]
        figures |= {f"{name}/{split}": value for name, value in pope_summary(said, labels).items()}
        if by_probability:
            scores = [answers[place].probabilities[OPTIONS[0]] for place in places]
            figures |= ranking([label == "yes" for label in labels], scores, split)
    for name in ("accuracy", "f1"):
        values = [figures[f"{name}/{split}"] for split in splits if split != ALL]
        figures[f"{name}/mean_of_splits"] = sum(values) / len(values)
    return figures


def make(variant: str) -> Benchmark:
    reading = "official" if variant == "probability" else variant
    return Benchmark(
        name="pope",
        metric=f"accuracy:{variant}",
        answer_tokens=ANSWER_TOKENS,
        score=score_by(
            lambda example: OPTIONS, _read(reading), lambda example: example.answers[0].capitalize()
        ),
        majority=majority_answer,
        prompt=lambda example: short_answer(example.question),
        options=lambda example: OPTIONS if variant == "probability" else (),
        summary=summary,
        examples=examples,
        folder="pope",
        sizes=(9000, 8910),
    )


TASK = Task("pope", make, ("probability", *POPE_VARIANTS))
