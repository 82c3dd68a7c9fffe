"""TallyQA (Acharya et al. 2019), test: 38,589 questions how many there are, simple or complex.

Asked in two ways: by letter, as Prismatic does (A for 0 to P for 15), or as an open question for a number. The folder::

    test.json
    VG_100K/2334.jpg …   VG_100K_2/2410408.jpg …
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from vlmablate.data.picture_ids import picture_id
from vlmablate.evaluation.majority import majority_answer
from vlmablate.evaluation.protocol import Answer, Benchmark, Example, Verdict
from vlmablate.evaluation.scorers import TALLY_CHOICES, read_count
from vlmablate.evaluation.tasks import letters
from vlmablate.evaluation.tasks.figures import split_means
from vlmablate.evaluation.tasks.prompts import ANSWER_TOKENS, by_letter, short_answer
from vlmablate.evaluation.tasks.reading import Row, array, each, published
from vlmablate.evaluation.tasks.task import Task
from vlmablate.vlm.image import Frame

COUNTS = tuple(str(count) for count in range(len(TALLY_CHOICES)))


def examples(folder: Path) -> Iterator[Example]:
    """The questions in the order of the file."""
    return each(array(published(folder, "test.json")), _example)


def _example(row: Row) -> Example:
    """The split is `simple` or `complex`."""
    picture, count = row.text("image"), row.whole("answer")
    if not 0 <= count < len(COUNTS):
        raise row.wrong(f"'answer' is {count}, expected 0 to {len(COUNTS) - 1}")
    return Example(
        "tallyqa",
        "simple" if row.flag("issimple") else "complex",
        f"tallyqa/{row.whole('question_id')}",
        picture_id(picture),
        picture,
        row.text("question"),
        (str(count),),
        COUNTS,
        facts={letters.RIGHT: TALLY_CHOICES[count]},
    )


def score_number(example: Example, answer: Answer, frame: Frame | None) -> Verdict:
    """1 if the first number of the text, in digits or words, is the right one."""
    text = answer.text.strip()
    count = read_count(text)
    said = text if count is None else str(count)
    return Verdict(float(count is not None and said == example.answers[0]), said, example.answers[0])


def make(variant: str) -> Benchmark:
    if variant == "open-number":
        return Benchmark(
            name="tallyqa",
            metric="accuracy:open-number",
            answer_tokens=ANSWER_TOKENS,
            score=score_number,
            majority=majority_answer,
            prompt=lambda example: short_answer(example.question),
            summary=split_means("accuracy"),
            examples=examples,
            folder="tallyqa",
            sizes=(38589,),
        )
    return Benchmark(
        name="tallyqa",
        metric=f"accuracy:{variant}",
        answer_tokens=ANSWER_TOKENS,
        score=letters.score,
        majority=letters.majority,
        prompt=lambda example: by_letter(example.question, COUNTS),
        options=letters.letters,
        summary=letters.summary,
        examples=examples,
        folder="tallyqa",
        sizes=(38589,),
    )


TASK = Task("tallyqa", make, ("16-letters", "open-number"))
