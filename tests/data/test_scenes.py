"""The composer: deterministic, split-disjoint, balanced, with true answers."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from PIL import Image

from vlmablate.data.layout import Scene, sample_scene
from vlmablate.data.lexicon import DRAWN, load_lexicon
from vlmablate.data.pictures import compose, load_art
from vlmablate.data.questions import (
    BENCHMARKS,
    NUMBERS,
    RELATIONS,
    Question,
    evaluation_questions,
    popular_nouns,
    training_questions,
)
from vlmablate.data.vocabulary import BINS, box_words, build_vocabulary, parse_box
from vlmablate.errors import UserError

LEXICON = load_lexicon(DRAWN)
ART = load_art(LEXICON)


def scenes(split: str, count: int = 300, seed: int = 0) -> list[Scene]:
    return [sample_scene(LEXICON, ART.shapes, seed, split, index) for index in range(count)]


@pytest.fixture(scope="module")
def asked() -> tuple[list[Scene], list[Question]]:
    evaluation = scenes("evaluation", 500)
    return evaluation, evaluation_questions(evaluation, LEXICON, popular_nouns(scenes("train")), 0)


def test_a_scene_is_a_function_of_its_seed_and_index() -> None:
    assert scenes("train", 5) == scenes("train", 5)
    assert scenes("train", 5) != scenes("train", 5, seed=1)
    scene = scenes("train", 1)[0]
    assert compose(scene, ART).tobytes() == compose(scene, ART).tobytes()
    assert Scene.from_json(scene.to_json()) == scene


def test_things_do_not_overlap_and_stay_inside() -> None:
    for scene in scenes("train"):
        covered = np.zeros((scene.height, scene.width), int)
        for thing in scene.things:
            x0, y0, x1, y1 = thing.box
            assert 0 <= x0 < x1 <= scene.width
            assert 0 <= y0 < y1 <= scene.height
            covered[y0:y1, x0:x1] += 1
        assert covered.max(initial=0) <= 1


def test_aspect_ratios_reach_three_to_one_both_ways() -> None:
    ratios = [scene.width / scene.height for scene in scenes("train")]
    assert max(ratios) == pytest.approx(3.0)
    assert min(ratios) == pytest.approx(1 / 3)


@pytest.mark.parametrize("source", [DRAWN, "tuxpaint_stamps", "openmoji"])
def test_the_splits_share_no_background_and_no_pool_cutout(source: str) -> None:
    lexicon = load_lexicon(source)
    assert not set(lexicon.backgrounds["train"]) & set(lexicon.backgrounds["evaluation"])
    pools = {split: {i for ids in pool.values() for i in ids} for split, pool in lexicon.pools.items()}
    assert not pools["train"] & pools["evaluation"]
    assert not pools["train"] & {noun.cutout for noun in lexicon.nouns}
    assert lexicon.words
    build_vocabulary(lexicon)  # raises when two lists share a word


def test_train_and_evaluation_scenes_differ_in_what_they_show() -> None:
    train = {(s.width, s.height, s.things) for s in scenes("train")}
    assert not train & {(s.width, s.height, s.things) for s in scenes("evaluation")}
    used = {s.background for s in scenes("train")}
    assert not used & {s.background for s in scenes("evaluation")}


def test_every_benchmark_has_four_hundred_examples_and_a_weak_majority(
    asked: tuple[list[Scene], list[Question]],
) -> None:
    _, questions = asked
    counts = Counter(question.benchmark for question in questions)
    assert {name: counts[name] >= 400 for name in BENCHMARKS} == dict.fromkeys(BENCHMARKS, True)
    for name, limit in {"existence": 0.52, "spatial": 0.52, "counting": 0.36, "open_vqa": 0.2}.items():
        answers = Counter(question.answer for question in questions if question.benchmark == name)
        assert max(answers.values()) / counts[name] <= limit, name


def test_example_ids_are_unique_and_cluster_by_scene(asked: tuple[list[Scene], list[Question]]) -> None:
    evaluation, questions = asked
    assert len({question.example_id for question in questions}) == len(questions)
    assert {question.scene for question in questions} <= {scene.id for scene in evaluation}


def test_the_answers_are_true(asked: tuple[list[Scene], list[Question]]) -> None:
    evaluation, questions = asked
    by_id = {scene.id: scene for scene in evaluation}
    for question in questions:
        scene = by_id[question.scene]
        words = Counter(thing.word for thing in scene.objects)
        terms = question.text.removesuffix("?").split()
        if question.benchmark == "existence":
            assert (terms[3] in words) == (question.answer == "yes")
        elif question.benchmark == "counting":
            count = len(scene.objects) if terms[2] == "objects" else words[terms[2]]
            assert NUMBERS[count] == question.answer
        elif question.benchmark == "localisation":
            assert question.box in {thing.box for thing in scene.objects if thing.word == terms[2]}
        elif question.benchmark == "spatial":
            a, b = (next(t for t in scene.objects if t.word == terms[i]) for i in (1, -1))
            axis, sign = RELATIONS[" ".join(terms[2:-1])]
            assert (sign * (b.centre[axis] - a.centre[axis]) > 0) == (question.answer == "yes")


def test_adversarial_negatives_share_a_category_with_the_picture(
    asked: tuple[list[Scene], list[Question]],
) -> None:
    evaluation, questions = asked
    by_id = {scene.id: scene for scene in evaluation}
    negatives = [q for q in questions if q.subset == "adversarial"]
    assert {q.subset for q in questions if q.benchmark == "existence"} == {
        "positive", "random", "popular", "adversarial",
    }  # fmt: skip
    hits = [
        LEXICON.category_of(q.text.removesuffix("?").split()[3])
        in {t.category for t in by_id[q.scene].objects}
        for q in negatives
    ]
    assert np.mean(hits) > 0.9


def test_training_questions_are_encodable_and_balanced() -> None:
    vocabulary = build_vocabulary(LEXICON)
    train = scenes("train")
    popular = popular_nouns(train)
    questions = [
        question
        for index, scene in enumerate(train)
        for question in training_questions(scene, LEXICON, popular, np.random.default_rng(index))
    ]
    for question in questions:
        vocabulary.encode(question.text)
        vocabulary.encode(question.answer)
    answers = Counter(q.answer for q in questions if q.benchmark == "existence")
    assert 0.4 < answers["yes"] / sum(answers.values()) < 0.6


def test_box_words_round_trip_within_half_a_bin() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        x0, y0 = rng.uniform(0, 0.6, 2)
        box = (x0, y0, x0 + rng.uniform(0.1, 0.4), y0 + rng.uniform(0.1, 0.4))
        back = parse_box(box_words(box))
        assert back is not None
        assert np.abs(np.subtract(back, np.clip(box, 0, 1))).max() <= 0.5 / BINS + 1e-9
    assert parse_box("<3> <3> <2> <5>") is None
    assert parse_box("yes no <2> <5>") is None


def test_an_unknown_picture_source_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match="tuxpaint_stamps"):
        load_lexicon("clipart")


def test_the_background_window_keeps_the_canvas_aspect() -> None:
    scene = scenes("train", 1)[0]
    bare = Scene(**{**vars(scene), "things": ()})
    assert isinstance(compose(bare, ART), Image.Image)
    assert compose(bare, ART).size == (scene.width, scene.height)
