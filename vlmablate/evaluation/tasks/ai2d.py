"""AI2D (Kembhavi et al. 2016): 15,501 questions about diagrams of grade school science, with options. The paper
evaluates on all of them; the official list of test pictures tells which are `test`.

The folder::

    ai2d/questions/0.png.json …               (or questions/, val_qa/questions/)
    ai2d/images/0.png …                       (or images/, val_qa/images/)
    ai2d_test_ids.csv
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from vlmablate.data.picture_ids import picture_id
from vlmablate.errors import UserError
from vlmablate.evaluation.protocol import Benchmark, Example
from vlmablate.evaluation.tasks import letters
from vlmablate.evaluation.tasks.prompts import ANSWER_TOKENS, LETTERS, by_letter
from vlmablate.evaluation.tasks.reading import Row, each, published, subfolder, text_of, whole_file
from vlmablate.evaluation.tasks.task import Task

_PLACES = ("ai2d", "val_qa", ".")


def examples(folder: Path) -> Iterator[Example]:
    """The questions in the order of the numbers of their pictures. The split is `test` or `val`."""
    questions = folder / subfolder(folder, *(f"{place}/questions" for place in _PLACES))
    pictures = subfolder(folder, *(f"{place}/images" for place in _PLACES))
    test = _test_pictures(published(folder, "ai2d_test_ids.csv"))
    files = sorted(each(questions.glob("*.json"), lambda path: (_number(path), path)))
    if not files:
        raise UserError(
            f"{questions} has no file of questions; put the published folders `questions` and `images` into "
            f"{folder / 'ai2d'}"
        )

    def of_picture(file: tuple[int, Path]) -> list[Example]:
        number, path = file
        row = whole_file(path)
        picture, asked = row.text("imageName"), row.inner("questions")
        split = "test" if number in test else "val"
        return [
            _example(question, asked.inner(question), picture, pictures, split) for question in asked.values
        ]

    return chain.from_iterable(each(files, of_picture))


def _example(question: str, row: Row, picture: str, pictures: str, split: str) -> Example:
    choices, right = row.texts("answerTexts"), row.whole("correctAnswer")
    if not 0 <= right < len(choices) <= len(LETTERS):
        raise row.wrong(f"'correctAnswer' of {question!r} is {right} of {len(choices)} options")
    return Example(
        "ai2d",
        split,
        f"ai2d/{row.text('questionId')}",
        picture_id(f"ai2d/images/{picture}"),
        f"{pictures}/{picture}",
        question,
        (choices[right],),
        choices,
        facts={letters.RIGHT: LETTERS[right]},
    )


def _number(path: Path) -> int:
    name = path.name.split(".")[0]
    if not name.isdecimal():
        raise UserError(f"{path} is no file of questions about a picture, such as 12.png.json; take it away")
    return int(name)


def _test_pictures(path: Path) -> set[int]:
    found = set()
    for number, line in enumerate(text_of(path).splitlines(), 1):
        name = line.split(",")[0].strip()
        if not name:
            continue
        if not name.isdecimal():
            raise UserError(f"{path}, line {number}: {line!r} is no number of a picture; download it again")
        found.add(int(name))
    return found


def make(variant: str) -> Benchmark:
    return Benchmark(
        name="ai2d",
        metric=f"accuracy:{variant}",
        answer_tokens=ANSWER_TOKENS,
        score=letters.score,
        majority=letters.majority,
        prompt=lambda example: by_letter(example.question, example.choices),
        options=lambda example: letters.letters(example) if variant == "probability" else (),
        summary=letters.summary,
        examples=examples,
        folder="ai2d",
        sizes=(15501,),
    )


TASK = Task("ai2d", make, ("probability", "written"))
