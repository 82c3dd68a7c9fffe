"""VQA accuracy against the original programs, whose outputs stand in tests/golden/vqa_accuracy.json.gz."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from vlmablate.errors import UserError
from vlmablate.evaluation.scorers import VQA_VARIANTS, vqa_accuracy, vqa_terms
from vlmablate.evaluation.scorers.contractions import CONTRACTIONS, VIZWIZ_CONTRACTIONS

GOLDEN = Path(__file__).parents[1] / "golden" / "vqa_accuracy.json.gz"


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    with gzip.open(GOLDEN, "rt", encoding="utf-8") as file:
        table: dict[str, Any] = json.load(file)
    return table


@pytest.mark.parametrize("variant", VQA_VARIANTS)
def test_equal_to_the_original_program(golden: dict[str, Any], variant: str) -> None:
    column = golden["scorers"].index(variant)
    differ = [
        (prediction, answers, scores[column])
        for prediction, answers, scores in golden["rows"]
        if round(vqa_accuracy(prediction, answers, variant), 10) != scores[column]
    ]
    assert len(golden["rows"]) > 2500
    assert not differ


def test_the_golden_cases_tell_every_two_scorers_apart(golden: dict[str, Any]) -> None:
    scores = [row[2] for row in golden["rows"]]
    for i in range(len(VQA_VARIANTS)):
        for j in range(i):
            assert any(row[i] != row[j] for row in scores)


@pytest.mark.parametrize("asked", [1, 2, 3, 7, 10, 13])
def test_leave_one_out_over_any_number_of_people(asked: int) -> None:
    """The closed formula against the loop of the definition, in exact fractions."""
    rng = random.Random(asked)
    for _ in range(50):
        answers = rng.choices(["yes", "no", "red"], k=asked)
        others = [answers[:i] + answers[i + 1 :] for i in range(asked)]
        mean = sum((min(Fraction(1), Fraction(o.count("yes"), 3)) for o in others), Fraction()) / asked
        assert vqa_accuracy("yes", answers, "vizwiz") == float(mean)


@pytest.mark.parametrize(
    ("prediction", "answers", "scores"),
    [
        # official-2017, official-2021, vlm-evaluation, lmms-eval, m4c, vizwiz
        ("Yes", ["yes"] * 10, (1, 0, 1, 1, 1, 1)),
        ("a dog", ["a dog"] * 10, (0, 1, 0, 1, 1, 0)),
        ("1,,000", ["1,,000"] * 9 + ["x"], (0, 1, 0, 1, 1, 0)),
        ("mans", ["man's"] * 4 + ["man"] * 6, (0, 0, 0, 0, 0, 0)),
        ("dont", ["don't"] * 4 + ["no"] * 6, (1, 1, 1, 1, 1, 0)),
        ("dont", ["don`t"] * 4 + ["no"] * 6, (0, 0, 0, 0, 0, 1)),
        ("x", ["x."] * 4 + ["no"] * 6, (1, 1, 1, 1, 1, 0)),
        ("." * 33 + "x", ["." + "x"] * 4 + ["no"] * 6, (0, 0, 0, 0, 0, 1)),
    ],
)
def test_what_sets_the_scorers_apart(
    prediction: str, answers: Sequence[str], scores: tuple[float, ...]
) -> None:
    assert tuple(vqa_accuracy(prediction, answers, variant) for variant in VQA_VARIANTS) == scores


def test_terms_are_what_is_compared() -> None:
    assert vqa_terms("The Dog.", ["the dog!", "Two"], "vlm-evaluation") == ("dog", ["the dog ", "Two"])
    assert vqa_terms("The Dog.", ["the dog!", "Two"], "m4c") == ("dog", ["dog", "2"])


def test_mistakes_are_named() -> None:
    with pytest.raises(UserError, match=r"unknown variant 'official'.*VQA accuracy"):
        vqa_accuracy("yes", ["yes"] * 10, "official")
    with pytest.raises(UserError, match="test split"):
        vqa_accuracy("yes", [], "m4c")


def test_tables_of_contractions() -> None:
    assert len(CONTRACTIONS) == len(VIZWIZ_CONTRACTIONS) == 120
    assert CONTRACTIONS["somebody'd"] == "somebodyd"
    assert VIZWIZ_CONTRACTIONS["weve"] == "we've"
    assert VIZWIZ_CONTRACTIONS["youve"] == "you`ve"
    assert VIZWIZ_CONTRACTIONS["couldn'tve"] == "couldn`t`ve"
