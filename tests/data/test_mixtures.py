"""What a mixture adds: true, deterministic, and in exact shares."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from vlmablate.data.layout import Scene, Thing, sample_scene
from vlmablate.data.lexicon import DRAWN, load_lexicon
from vlmablate.data.mixtures import SOURCES, Mixture, read_share, source_questions, text_rows
from vlmablate.data.pictures import load_art
from vlmablate.data.questions import NUMBERS
from vlmablate.data.vocabulary import build_vocabulary
from vlmablate.errors import UserError

LEXICON = load_lexicon(DRAWN)


def scenes(count: int = 60) -> list[Scene]:
    shapes = load_art(LEXICON).shapes
    return [sample_scene(LEXICON, shapes, 0, "train", index) for index in range(count)]


def thing(word: str, x: int, y: int) -> Thing:
    return Thing("cut", word, "animal", None, (x - 5, y - 5, x + 5, y + 5), False)


def scene_of(*things: Thing) -> Scene:
    return Scene("train-000000", "train", 200, 100, "plain-0", (0.0, 0.0, 1.0), things)


def answers(source: str, scene: Scene, number: int = 0) -> dict[str, str]:
    return {q.text: q.answer for q in source_questions(source, scene, number, LEXICON)}


def test_a_description_says_what_is_there_in_order() -> None:
    sign = Thing("sign", None, None, "STOP", (90, 0, 110, 10), False)
    found = answers("detailed", scene_of(thing("redbox", 180, 90), thing("bluedisc", 20, 50), sign))
    assert found["describe"] == "bluedisc STOP redbox"
    assert found["describe topmost"] == "STOP bluedisc redbox"
    assert found["describe kind"] == "animal animal"
    assert found["what is left of redbox?"] == "bluedisc STOP"
    assert found["what is below bluedisc?"] == "redbox"
    assert found["what is above redbox?"] == "STOP bluedisc"
    assert "what is left of bluedisc?" not in found


def test_what_a_direction_names_lies_there_and_nothing_else_does() -> None:
    axis = {"left of": (0, 1), "right of": (0, -1), "above": (1, 1), "below": (1, -1)}
    checked = 0
    for scene in scenes():
        for text, answer in answers("detailed", scene).items():
            if not text.startswith("what is"):
                continue
            relation, noun = text.removeprefix("what is ").removesuffix("?").rsplit(" ", 1)
            (here,) = (t for t in scene.objects if t.word == noun)
            place, sign = axis[relation]
            gap = 0.16 * (scene.width, scene.height)[place]
            there = [t.written for t in scene.things if sign * (here.centre[place] - t.centre[place]) >= gap]
            assert sorted(answer.split()) == sorted(there)
            checked += 1
    assert checked > 50


def test_half_of_the_negative_source_is_about_what_is_absent() -> None:
    for number, scene in enumerate(scenes()):
        asked = source_questions("negative", scene, number, LEXICON)
        words = [t.word for t in scene.objects if t.word]
        absent = 0
        for question in asked:
            noun = question.text.removesuffix("?").split()[-1]
            count = words.count(noun)
            truth = ("yes" if count else "no") if question.text.startswith("is there") else NUMBERS[count]
            assert question.answer == truth
            absent += count == 0
        assert absent * (2 if words else 1) == len(asked) > 0


def test_every_scene_with_a_thing_has_questions_of_every_source_in_words_that_the_model_knows() -> None:
    vocabulary = build_vocabulary(LEXICON)
    for number, scene in enumerate(scenes()):
        for source in SOURCES:
            asked = source_questions(source, scene, number, LEXICON)
            assert asked or not scene.things
            for question in asked:
                tokens = vocabulary.encode(question.text) + vocabulary.encode(question.answer)
                assert len(tokens) + 2 <= 16  # with the marks of a template, into the longest segment


def test_the_same_scene_gets_the_same_questions_and_another_one_others() -> None:
    scene = scene_of(thing("redbox", 180, 90))
    assert source_questions("negative", scene, 3, LEXICON) == source_questions("negative", scene, 3, LEXICON)
    assert answers("negative", scene, 3) != answers("negative", scene, 4)


def test_the_share_of_rows_without_a_picture_is_exact_from_the_first_row_on() -> None:
    for text in ("0.0612", "0.1", "0.29", "0.5", "0.99"):
        share = Fraction(text)
        flags = text_rows(10_000, share)
        assert flags.sum() == int(10_000 * share)
        upto = np.cumsum(flags)
        assert all(upto[n - 1] == n * share.numerator // share.denominator for n in (1, 7, 100, 1723, 9999))
    assert not text_rows(50, Fraction(0)).any()


def test_a_mixture_keeps_only_what_it_adds() -> None:
    assert Mixture.read(None) == Mixture.read({"detailed": 0, "negative": 0, "text_only": 0.0}) == Mixture()
    assert Mixture.read({"negative": 2, "text_only": 0.1}) == Mixture({"negative": 2}, Fraction(1, 10))
    assert read_share(0.29, "x") == Fraction(29, 100)


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"lrv": 1}, "unknown source of training data 'lrv' in stages.finetune.mixture"),
        ({"detailed": 1.5}, "stages.finetune.mixture.detailed is how many questions"),
        ({"detailed": True}, "a whole number, not True"),
        ({"negative": -1}, "a whole number, not -1"),
        ({"text_only": 1}, "from 0 to below 1, not 1"),
        ({"text_only": "much"}, "from 0 to below 1, not 'much'"),
    ],
)
def test_a_mixture_that_means_nothing_is_refused_with_the_place(declared: dict, message: str) -> None:
    with pytest.raises(UserError) as caught:
        Mixture.read(declared)
    assert message in str(caught.value)
