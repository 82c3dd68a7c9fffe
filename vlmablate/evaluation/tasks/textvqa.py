"""TextVQA (Singh et al. 2019), val: 5,000 questions about text in 3,166 pictures, ten answers to each.

Two tasks: `textvqa` asks the question, `textvqa_ocr` adds what an OCR system read in the picture, as LLaVA-1.5 was
evaluated. The folder::

    TextVQA_0.5.1_val.json
    train_images/003a8ae2ef43b901.jpg …       (or train_val_images/)

and for `textvqa_ocr` one of::

    llava_textvqa_val_v051_ocr.jsonl          (LLaVA's questions; or textvqa_val_v051_ocr.jsonl, vlm-evaluation's)
    TextVQA_Rosetta_OCR_v0.2_val.json         (the tokens themselves, which LLaVA joins by commas)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

from vlmablate.data.picture_ids import picture_id
from vlmablate.evaluation.protocol import Benchmark, Example
from vlmablate.evaluation.tasks.prompts import ANSWER_TOKENS, short_answer, short_answer_with_tokens
from vlmablate.evaluation.tasks.reading import Row, array, each, lines, published, subfolder
from vlmablate.evaluation.tasks.task import Task
from vlmablate.evaluation.tasks.written import majority_against_people, score_against_people, variants_from

TOKENS = "ocr_tokens"
_SAID = re.compile(r"^Reference OCR token: ?(.*)$", re.MULTILINE)
_LLAVA = ("llava_textvqa_val_v051_ocr.jsonl", "textvqa_val_v051_ocr.jsonl")
_ROSETTA = "TextVQA_Rosetta_OCR_v0.2_val.json"


def examples(name: str, folder: Path) -> Iterator[Example]:
    """The questions in the order of the file; with tokens for `textvqa_ocr`."""
    questions = published(folder, "TextVQA_0.5.1_val.json")
    tokens = _tokens(published(folder, *_LLAVA, _ROSETTA)) if name == "textvqa_ocr" else None
    pictures = subfolder(folder, "train_images", "train_val_images")

    def example(row: Row) -> Example:
        image, number = row.text("image_id"), row.whole("question_id")
        if tokens is not None and image not in tokens:
            raise row.wrong(f"the file of OCR tokens has nothing about its picture {image}")
        return Example(
            name,
            "val",
            f"{name}/{number}",
            picture_id(f"textvqa/train_images/{image}.jpg"),
            f"{pictures}/{image}.jpg",
            row.text("question"),
            row.texts("answers"),
            facts={} if tokens is None else {TOKENS: tokens[image]},
        )

    return each(array(questions, "data"), example)


def _tokens(path: Path) -> Mapping[str, str]:
    """Picture -> what was read in it, parted by commas."""
    if path.name == _ROSETTA:
        return dict(each(array(path, "data"), _rosetta))
    return dict(each(lines(path), _llava))


def _rosetta(row: Row) -> tuple[str, str]:
    tokens = row.texts("ocr_tokens") if row.get("ocr_tokens", list, "a list of texts") else ()
    return row.text("image_id"), ", ".join(tokens)


def _llava(row: Row) -> tuple[str, str]:
    said = _SAID.search(row.text("text"))
    if said is None:
        raise row.wrong("no line 'Reference OCR token: …' in 'text'")
    return row.text("image").rsplit(".", 1)[0], said[1]


def prompt(example: Example) -> str:
    """The question begins with a capital and has no other, as LLaVA asks it."""
    question = example.question.strip().capitalize()
    if TOKENS not in example.facts:
        return short_answer(question)
    return short_answer_with_tokens(question, example.facts[TOKENS])


def maker(name: str) -> Callable[[str], Benchmark]:
    """variant -> the benchmark of that name."""

    def make(variant: str) -> Benchmark:
        return Benchmark(
            name=name,
            metric=f"vqa_accuracy:{variant}",
            answer_tokens=ANSWER_TOKENS,
            score=score_against_people(variant),
            majority=majority_against_people(variant),
            prompt=prompt,
            examples=partial(examples, name),
            folder="textvqa",
            sizes=(5000,),
        )

    return make


TASK = Task("textvqa", maker("textvqa"), variants_from("m4c"))
TASK_OCR = Task("textvqa_ocr", maker("textvqa_ocr"), variants_from("m4c"))
