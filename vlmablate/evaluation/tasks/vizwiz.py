"""VizWiz-VQA (Gurari et al. 2018), val: 4,319 questions of blind people about a picture each, ten answers to each.

The folder::

    val.json                              (or Annotations/val.json)
    val/VizWiz_val_00000000.jpg …         (or val_images/)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from vlmablate.data.picture_ids import picture_id
from vlmablate.evaluation.protocol import Answer, Benchmark, Example, Verdict
from vlmablate.evaluation.scorers import vizwiz_unanswerability
from vlmablate.evaluation.tasks.figures import ALL, means
from vlmablate.evaluation.tasks.prompts import ANSWER_TOKENS, short_or_unanswerable
from vlmablate.evaluation.tasks.reading import Row, array, each, published, subfolder
from vlmablate.evaluation.tasks.task import Task
from vlmablate.evaluation.tasks.written import majority_against_people, score_against_people, variants_from

ANSWERABLE, UNANSWERABLE = "answerable", "unanswerable"


def examples(folder: Path) -> Iterator[Example]:
    """The questions in the order of the file. The split says whether people found that the picture answers it."""
    pictures = subfolder(folder, "val", "val_images")

    def example(row: Row) -> Example:
        picture = row.text("image")
        given = row.rows("answers")
        if not given:
            raise row.wrong("'answers' is empty; the test split, which has none, cannot be scored")
        return Example(
            "vizwiz",
            ANSWERABLE if row.one_of("answerable", (0, 1)) else UNANSWERABLE,
            f"vizwiz/{picture.rsplit('.', 1)[0]}",
            picture_id(f"vizwiz/{picture}"),
            f"{pictures}/{picture}",
            row.text("question"),
            tuple(one.text("answer") for one in given),
        )

    return each(array(published(folder, "val.json", "Annotations/val.json")), example)


def summary(
    examples: Sequence[Example], answers: Sequence[Answer], verdicts: Sequence[Verdict]
) -> Mapping[str, float]:
    """Accuracy of both splits; average precision and F1 of saying "unanswerable"."""
    said = [answer.text.strip() for answer in answers]
    figures = vizwiz_unanswerability(said, [example.split == ANSWERABLE for example in examples])
    return {
        **means("vqa_accuracy", examples, verdicts),
        **{f"unanswerable_{name}/{ALL}": value for name, value in figures.items()},
    }


def make(variant: str) -> Benchmark:
    return Benchmark(
        name="vizwiz",
        metric=f"vqa_accuracy:{variant}",
        answer_tokens=ANSWER_TOKENS,
        score=score_against_people(variant),
        majority=majority_against_people(variant),
        prompt=lambda example: short_or_unanswerable(example.question),
        summary=summary,
        examples=examples,
        folder="vizwiz",
        sizes=(4319,),
    )


TASK = Task("vizwiz", make, variants_from("vizwiz"))
