"""GQA (Hudson and Manning 2019), testdev_balanced: 12,578 questions about 398 pictures, one answer to each.

The folder::

    testdev_balanced_questions.json
    images/n161313.jpg …
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from vlmablate.data.picture_ids import picture_id
from vlmablate.evaluation.protocol import Answer, Benchmark, Example, Verdict
from vlmablate.evaluation.scorers import gqa_match, gqa_text
from vlmablate.evaluation.tasks.figures import split_means
from vlmablate.evaluation.tasks.prompts import ANSWER_TOKENS, short_answer
from vlmablate.evaluation.tasks.reading import Row, each, mapping, published
from vlmablate.evaluation.tasks.task import Task
from vlmablate.vlm.image import Frame


def examples(folder: Path) -> Iterator[Example]:
    """The questions in the order of the file."""
    return each(mapping(published(folder, "testdev_balanced_questions.json")), _example)


def _example(row: Row) -> Example:
    """The split is `open` for a question whose structure is a query, else `binary`, as the official scorer has it."""
    picture = f"images/{row.text('imageId')}.jpg"
    return Example(
        "gqa",
        "open" if row.inner("types").text("structural") == "query" else "binary",
        f"gqa/{row.name}",
        picture_id(f"gqa/{picture}"),
        picture,
        row.text("question"),
        (row.text("answer"),),
    )


def score(variant: str, example: Example, answer: Answer, frame: Frame | None) -> Verdict:
    """1 if the answer is the right one but for capitals and punctuation, as a variant of `gqa_match` sees them."""
    text = answer.text.strip()
    return Verdict(float(gqa_match(text, example.answers[0], variant)), text, example.answers[0])


def majority(examples: Sequence[Example]) -> float:
    """Share of the most frequent answer."""
    return max(Counter(gqa_text(example.answers[0]) for example in examples).values()) / len(examples)


def make(variant: str) -> Benchmark:
    return Benchmark(
        name="gqa",
        metric=f"exact_match:{variant}",
        answer_tokens=ANSWER_TOKENS,
        score=partial(score, variant),
        majority=majority,
        prompt=lambda example: short_answer(example.question),
        summary=split_means("exact_match"),
        examples=examples,
        folder="gqa",
        sizes=(12578,),
    )


TASK = Task("gqa", make, ("vlm-evaluation", "lmms-eval"))
