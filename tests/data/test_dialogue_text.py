"""Questions and answers of the embedded data in words, and what a language model wrote read back."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from vlmablate.data.dialogue_text import asked, box_text, caption, read_answer, read_box, sentence, told
from vlmablate.data.layout import Scene, Thing
from vlmablate.data.questions import Question
from vlmablate.evaluation.benchmarks import benchmark_named, example_of
from vlmablate.evaluation.protocol import Answer
from vlmablate.vlm.image import Frame, transform_named


def frame_of(name: str, width: int, height: int) -> Frame:
    return transform_named(name)(Image.new("RGB", (width, height)), 100, (0, 0, 0))[1]


def question(text: str, answer: str, box: tuple[int, int, int, int] | None = None) -> Question:
    benchmark = "open_vqa" if box is None else "localisation"
    return Question(f"{benchmark}/s/1", "s", benchmark, "subset", text, answer, box)


def thing(word: str, left: int, text: str | None = None) -> Thing:
    return Thing("c", None if text else word, "animal", text, (left, 0, left + 10, 10), False)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("what is leftmost?", "What is leftmost?"),
        ("is there a zebra?", "Is there a zebra?"),
        ("how to wash chair", "How to wash chair"),
        ("", ""),
    ],
)
def test_a_question_is_said_as_a_sentence(text: str, said: str) -> None:
    assert asked(question(text, "zebra")) == sentence(text) == said


def test_words_are_told_as_they_are() -> None:
    assert told(question("what is leftmost?", "zebra"), frame_of("letterbox", 40, 20)) == "zebra"


def test_a_box_is_told_in_shares_of_the_square_that_the_model_sees() -> None:
    where = question("where is zebra?", "", (0, 0, 100, 100))
    # 200 x 100 in a square of 200: a strip of 50 above it.
    assert told(where, frame_of("letterbox", 200, 100)) == "[0.00, 0.25, 0.50, 0.75]"
    assert told(where, frame_of("resize_naive", 200, 100)) == "[0.00, 0.00, 0.50, 1.00]"
    assert told(where, frame_of("resize_crop", 200, 100)) == "[0.00, 0.00, 0.50, 1.00]"


def test_a_box_that_the_crop_removed_is_not_told() -> None:
    assert told(question("where is zebra?", "", (0, 0, 40, 100)), frame_of("resize_crop", 200, 100)) is None


def test_a_caption_names_all_things_from_left_to_right() -> None:
    things = (thing("zebra", 50), thing("", 20, text="OPEN"), thing("teapot", 0))
    scene = Scene("s", "train", 100, 50, "b", (0.0, 0.0, 1.0), things)
    assert caption(scene) == "teapot, OPEN, zebra"
    assert caption(Scene("s", "train", 100, 50, "b", (0.0, 0.0, 1.0), ())) is None


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (" Zebra.", "zebra"),
        ("zebra", "zebra"),
        ("\n\n  Sorry no \nand more", "sorry no"),
        ("[0.10, 0.20, 0.30, 0.40]", "[0.10, 0.20, 0.30, 0.40]"),
        ("yes .", "yes"),
        (".", ""),
        ("", ""),
        (" \n ", ""),
    ],
)
def test_what_was_written_is_read_as_it_is_compared(written: str, read: str) -> None:
    assert read_answer(written) == read


@pytest.mark.parametrize(
    ("text", "box"),
    [
        ("[0.12, 0.30, 0.55, 0.80]", (0.12, 0.30, 0.55, 0.80)),
        ("it is at [0,.5,1,1.] or [0,0,1,1]", (0.0, 0.5, 1.0, 1.0)),
        ("[-0.10, 0.00, 1.20, 1.00]", (-0.1, 0.0, 1.2, 1.0)),
        ("[0.5, 0.3, 0.5, 0.8]", None),
        ("[0.1, 0.8, 0.5, 0.3]", None),
        ("[0.1, 0.2, 0.3]", None),
        ("[0.1, 0.2, 0.3, 0.4, 0.5]", None),
        ("[0.1, 0.2, 0.3, 0.4", None),
        ("[., 0.2, 0.3, 0.4]", None),
        ("[nan, 0.2, 0.3, 0.4]", None),
        ("", None),
    ],
)
def test_a_box_is_read_from_brackets(text: str, box: tuple[float, ...] | None) -> None:
    assert read_box(text) == box


def test_reading_undoes_writing() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        x0, y0 = rng.uniform(0, 0.9, 2)
        x1, y1 = rng.uniform(x0 + 0.05, 1.0), rng.uniform(y0 + 0.05, 1.0)
        assert read_box(read_answer(box_text((x0, y0, x1, y1)))) == pytest.approx(
            (x0, y0, x1, y1), abs=0.0051
        )


@pytest.mark.parametrize("transform", ["letterbox", "resize_naive"])
def test_the_answer_that_is_taught_scores_in_every_benchmark(transform: str) -> None:
    frame = frame_of(transform, 384, 128)
    for taught in (
        question("what is leftmost?", "zebra"),
        question("where is zebra?", "", (40, 10, 150, 110)),
    ):
        answer = told(taught, frame)
        assert answer is not None
        benchmark = benchmark_named(taught.benchmark)
        example = example_of(taught)
        right, wrong = Answer(read_answer(f" {answer}.\n")), Answer(read_answer("[0.90, 0.90, 0.99, 0.99]"))
        assert benchmark.score(example, right, frame).score == 1.0
        assert benchmark.score(example, wrong, frame).score == 0.0


def test_a_written_box_is_scored_in_pixels_of_the_picture() -> None:
    where = question("where is zebra?", "", (0, 0, 100, 100))
    verdict = benchmark_named("localisation").score(
        example_of(where), Answer("[0.00, 0.25, 0.50, 0.75]"), frame_of("letterbox", 200, 100)
    )
    assert (verdict.score, verdict.prediction) == (1.0, "0.0 0.0 100.0 100.0")
