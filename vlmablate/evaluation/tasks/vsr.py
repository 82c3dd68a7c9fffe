"""VSR (Liu et al. 2023), the test part of the zero-shot split: is a statement about a picture true? 1,222 statements
about 715 pictures of COCO.

The folder::

    test.jsonl                           (data/splits/zeroshot/test.jsonl of the repository)
    images/000000017697.jpg …
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from vlmablate.data.picture_ids import picture_id
from vlmablate.evaluation.majority import majority_answer
from vlmablate.evaluation.protocol import Answer, Benchmark, Example, Verdict
from vlmablate.evaluation.tasks.closed import first_word, score_by
from vlmablate.evaluation.tasks.figures import ALL, ranking
from vlmablate.evaluation.tasks.prompts import ANSWER_TOKENS, true_or_false
from vlmablate.evaluation.tasks.reading import Row, digest, each, lines, published
from vlmablate.evaluation.tasks.task import Task

OPTIONS = ("True", "False")


def examples(folder: Path) -> Iterator[Example]:
    """The statements in the order of the file."""
    return each(lines(published(folder, "test.jsonl")), _example)


def _example(row: Row) -> Example:
    """A statement has no id, so picture and words name it. A picture is known by its place in COCO, which its link
    tells."""
    picture, caption = row.text("image"), row.text("caption")
    return Example(
        "vsr",
        "zeroshot_test",
        f"vsr/{picture.rsplit('.', 1)[0]}/{digest(caption)}",
        picture_id("/".join(row.text("image_link").rsplit("/", 2)[-2:])),
        f"images/{picture}",
        caption,
        (OPTIONS[0] if row.one_of("label", (0, 1)) else OPTIONS[1],),
        facts={"relation": row.text("relation")},
    )


def summary(
    examples: Sequence[Example], answers: Sequence[Answer], verdicts: Sequence[Verdict]
) -> Mapping[str, float]:
    """How well the probability of "True" tells true from false statements."""
    if not all(answer.probabilities for answer in answers):
        return {}
    right = [example.answers[0] == OPTIONS[0] for example in examples]
    return ranking(right, [answer.probabilities[OPTIONS[0]] for answer in answers], ALL)


def make(variant: str) -> Benchmark:
    return Benchmark(
        name="vsr",
        metric=f"accuracy:{variant}",
        answer_tokens=ANSWER_TOKENS,
        score=score_by(lambda example: OPTIONS, first_word(OPTIONS), lambda example: example.answers[0]),
        majority=majority_answer,
        prompt=lambda example: true_or_false(example.question),
        options=lambda example: OPTIONS if variant == "probability" else (),
        summary=summary,
        examples=examples,
        folder="vsr",
        sizes=(1222,),
    )


TASK = Task("vsr", make, ("probability", "written"))
