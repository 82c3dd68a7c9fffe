"""Scorers of boxes, yes and no, letters, numbers and rankings."""

from __future__ import annotations

import itertools
import json
import math
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vlmablate.errors import DataError, UserError
from vlmablate.evaluation.scorers import (
    OCID_REF_IOU,
    TALLY_CHOICES,
    auroc,
    auroc_one_vs_one,
    average_precision,
    box_accuracy,
    box_iou,
    gqa_match,
    macro_average_precision,
    parse_box,
    pope_parse,
    pope_summary,
    read_count,
    read_letter,
    tally_summary,
    vizwiz_unanswerability,
)

RANKING = json.loads((Path(__file__).parents[1] / "golden" / "ranking.json").read_text())
HALF = (0.0, 0.0, 0.5, 1.0)


def test_scorers_need_no_torch() -> None:
    code = "import vlmablate.evaluation.scorers, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("prediction", "answer", "right"),
    [
        ("Yes.", "yes", True),
        ("T-shirt", "tshirt", True),
        ("a dog", "dog", False),
        ("two", "2", False),
        ("yes ", "yes", False),
        ("hot dog", "hot dog", True),
        ("", "no", False),
    ],
)
def test_gqa(prediction: str, answer: str, right: bool) -> None:
    assert gqa_match(prediction, answer) is right
    assert gqa_match(prediction, answer, "vlm-evaluation") is right


def test_gqa_answers_with_a_hyphen_tell_the_scorers_apart() -> None:
    assert gqa_match("t-shirt", "t-shirt")
    assert not gqa_match("t-shirt", "t-shirt", "vlm-evaluation")
    assert gqa_match("t-shirt", "tshirt", "vlm-evaluation")
    with pytest.raises(UserError, match="unknown variant 'official'"):
        gqa_match("yes", "yes", "official")


@pytest.mark.parametrize(
    ("text", "box"),
    [
        ("[0.1, 0.2, 0.5, 0.75]", (0.1, 0.2, 0.5, 0.75)),
        (" [0,0,1,1]\n", (0, 0, 1, 1)),
        ("[.1, 2e-1, 0.5, True]", (0.1, 0.2, 0.5, 1)),
        ("[0.1, 0.2, 0.5, 0.75].", None),
        ("(0.1, 0.2, 0.5, 0.75)", None),
        ("[0.1, 0.2, 0.5]", None),
        ("[0.1, 0.2, 0.5, 1.01]", None),
        ("[-0.1, 0.2, 0.5, 1]", None),
        ("[0.5, 0.2, 0.5, 0.75]", None),
        ("[0.1, 0.75, 0.5, 0.2]", None),
        ("[0.1, 0.2, 0.5, 'a']", None),
        ("[0.1, 0.2, 0.5, 1j]", None),
        ("[[0.1, 0.2, 0.5, 0.7]]", None),
        ("[0.1, 0.2, 0.5, 0.75", None),
        ("[" * 5000, None),
        ("[1, 2]\0", None),
        ("the dog", None),
        ("", None),
    ],
)
@pytest.mark.filterwarnings("error")
def test_strict_boxes(text: str, box: tuple[float, ...] | None) -> None:
    assert parse_box(text) == box


@pytest.mark.parametrize(
    ("text", "box"),
    [
        ("at [ 0.1,0.2 , 0.5,0.75 ] or [0,0,1,1]", None),
        ("at [ 0.1,0.2, 0.5,0.75 ] or [0,0,1,1]", (0.1, 0.2, 0.5, 0.75)),
        ("[[12, 30, -1, 400]]", (12, 30, -1, 400)),
        ("[.1, 0.2, 0.5, 0.7]", None),
        ("[1, 2, 3]", None),
    ],
)
def test_boxes_anywhere(text: str, box: tuple[float, ...] | None) -> None:
    # a space before a comma is in the pattern of no scorer: then the next list is read
    assert parse_box(text, "anywhere") == (box or ((0, 0, 1, 1) if "or" in text else None))


def test_box_variants_are_exact() -> None:
    with pytest.raises(UserError, match="anywhere"):
        parse_box("[0, 0, 1, 1]", "lenient")


@pytest.mark.parametrize(
    ("a", "b", "iou"),
    [
        ((0, 0, 1, 1), (0, 0, 1, 1), 1),
        ((0, 0, 1, 1), HALF, 0.5),
        ((0, 0, 2, 2), (1, 1, 3, 3), 1 / 7),
        ((0, 0, 1, 1), (1, 0, 2, 1), 0),
        ((0, 0, 0, 0), (0, 0, 0, 0), 0),
        ((0.5, 0, 0.5, 1), (0, 0, 1, 1), 0),
        ((1, 1, 0, 0), (0, 0, 1, 1), 0),
        ((1, 1, 0, 0), (1, 1, 0, 0), 0),
    ],
)
def test_box_iou_by_hand(a: Any, b: Any, iou: float) -> None:
    assert box_iou(a, b) == pytest.approx(iou, abs=1e-15)
    assert box_iou(b, a) == box_iou(a, b)


def test_box_iou_counts_pixels_of_whole_boxes() -> None:
    rng = random.Random(0)

    def pixels(box: tuple[int, ...]) -> set[tuple[int, int]]:
        return set(itertools.product(range(box[0], box[2]), range(box[1], box[3])))

    def drawn() -> tuple[int, int, int, int]:
        x, y = rng.randrange(9), rng.randrange(9)
        return x, y, x + rng.randint(1, 6), y + rng.randint(1, 6)

    for _ in range(100):
        a, b = drawn(), drawn()
        assert box_iou(a, b) == len(pixels(a) & pixels(b)) / len(pixels(a) | pixels(b))


def test_box_accuracy_includes_the_threshold() -> None:
    assert box_accuracy(HALF, (0, 0, 1, 1)) == 1.0
    assert box_accuracy((0, 0, 0.499, 1), (0, 0, 1, 1)) == 0.0
    assert box_accuracy((0, 0, 0.25, 1), (0, 0, 1, 1), OCID_REF_IOU) == 1.0
    assert box_accuracy(None, (0, 0, 1, 1)) == 0.0


@pytest.mark.parametrize(
    ("text", "official", "first"),
    [
        ("No", "no", "no"),
        ("no, there is none", "no", "no"),
        ("No.", "no", "no"),
        ("It is not. Yes", "no", "neither"),
        ("Yes. No", "yes", "yes"),
        ("NO", "yes", "no"),
        ("No\n", "yes", "no"),
        ("no,thanks", "yes", "no"),
        ("", "yes", "neither"),
        ("No!", "yes", "no"),
        ("nothing", "yes", "neither"),
        ("There is no dog", "no", "neither"),
        (" **Yes**, there is", "yes", "yes"),
        ("know\tno", "yes", "neither"),
    ],
)
def test_pope_reading(text: str, official: str, first: str) -> None:
    """The second column is what the script of POPE makes of the text."""
    assert (pope_parse(text), pope_parse(text, "first-word")) == (official, first)


def test_pope_summary() -> None:
    said = ["yes", "yes", "no", "no", "yes", "neither"]
    true = ["yes", "no", "no", "yes", "yes", "yes"]
    figures = pope_summary(said, true)
    assert figures == pytest.approx(
        {"accuracy": 3 / 6, "precision": 2 / 3, "recall": 2 / 4, "f1": 4 / 7, "yes_ratio": 3 / 6}
    )
    nobody = pope_summary(["no", "no"], ["no", "no"])
    assert nobody == {"accuracy": 1.0, "precision": 0.0, "recall": 0.0, "f1": 0.0, "yes_ratio": 0.0}


@pytest.mark.parametrize(("said", "true"), [([], []), (["yes"], []), (["yes"], ["Yes"])])
def test_pope_summary_refuses(said: list[str], true: list[str]) -> None:
    with pytest.raises(DataError):
        pope_summary(said, true)


@pytest.mark.parametrize("case", RANKING["two_classes"])
def test_ranking_of_two_classes_is_that_of_scikit_learn(case: dict[str, Any]) -> None:
    assert auroc(case["labels"], case["scores"]) == pytest.approx(case["auroc"], abs=1e-12)
    found = average_precision(case["labels"], case["scores"])
    assert found == pytest.approx(case["average_precision"], abs=1e-12)


@pytest.mark.parametrize("case", RANKING["several_classes"])
def test_ranking_of_several_classes_is_that_of_scikit_learn(case: dict[str, Any]) -> None:
    assert auroc_one_vs_one(case["labels"], case["scores"]) == pytest.approx(case["auroc"], abs=1e-12)
    found = macro_average_precision(case["labels"], case["scores"])
    assert found == pytest.approx(case["average_precision"], abs=1e-12)


def test_auroc_counts_pairs() -> None:
    rng = np.random.default_rng(0)
    labels, scores = rng.integers(0, 2, 60), rng.integers(0, 8, 60)
    pairs = [(p > n) + (p == n) / 2 for p, n in itertools.product(scores[labels == 1], scores[labels == 0])]
    assert auroc(labels, scores) == pytest.approx(sum(pairs) / len(pairs))


def test_rankings_without_a_class() -> None:
    assert auroc([1, 1], [0.1, 0.2]) is None
    assert auroc([], []) is None
    assert average_precision([0, 0], [0.1, 0.2]) is None
    assert average_precision([1, 1], [0.1, 0.2]) == 1.0
    assert auroc_one_vs_one([2, 2], np.eye(3)[[0, 1]]) is None
    # class 1 has no example: only the pair 0, 2 counts
    scores = np.array([[0.8, 0.1, 0.1], [0.1, 0.1, 0.8], [0.5, 0.1, 0.4]])
    assert auroc_one_vs_one([0, 2, 0], scores) == 1.0
    assert macro_average_precision([0, 2, 0], scores) == 1.0


@pytest.mark.parametrize(
    ("labels", "scores"), [([1], [0.1, 0.2]), ([1, 0], [math.nan, 0.2]), ([[1]], [[0.1]])]
)
def test_rankings_refuse(labels: Any, scores: Any) -> None:
    for figure in (auroc, average_precision):
        with pytest.raises(DataError):
            figure(labels, scores)


def test_classes_without_a_column_are_refused() -> None:
    for figure in (auroc_one_vs_one, macro_average_precision):
        with pytest.raises(DataError, match="number the 2 columns"):
            figure([0, 2], [[0.5, 0.5], [0.2, 0.8]])


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("3", 3),
        ("There are Twelve of them", 12),
        ("20", 20),
        ("0", 0),
        ("21", None),
        ("100", None),
        ("someone", None),
        ("1.5", 1),
        ("2x", None),
        ("one or 2", 1),
        ("", None),
    ],
)
def test_counts(text: str, count: int | None) -> None:
    assert read_count(text) == count


def test_tally_summary() -> None:
    figures = tally_summary([1, None, 3, 4], [1, 2, 3, 5], [True, True, True, False])
    assert figures == {"simple": 2 / 3, "complex": 0.0, "all": 0.5}
    assert tally_summary([1], [1], [True]) == {"simple": 1.0, "all": 1.0}
    assert (TALLY_CHOICES[0], TALLY_CHOICES[-1], len(TALLY_CHOICES)) == ("A", "P", 16)
    with pytest.raises(DataError):
        tally_summary([1], [1, 2], [True])


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        (" (b). ", "B"),
        ("**C**", "C"),
        ("B. a dog", "B"),
        ("B) a dog", "B"),
        ("(B) a dog", "B"),
        ("Answer: C", "C"),
        ("The answer is (B) because it barks.", "B"),
        ("option A", "A"),
        ("D", None),
        ("D. horse", None),
        ("A dog.", "B"),
        ("A horse", None),
        ("The answer is a horse", None),
        ("the cow", "C"),
        ("", None),
    ],
)
def test_letters(text: str, letter: str | None) -> None:
    assert read_letter(text, ["cat", "dog", "cow"]) == letter


def test_a_text_that_two_options_share_names_none() -> None:
    assert read_letter("dog", ["dog", "Dog."]) is None


def test_unanswerable() -> None:
    predictions = ["unanswerable", "Unanswerable.", "dog", "unanswerable"]
    figures = vizwiz_unanswerability(predictions, [False, True, False, False])
    # three say it, two of them rightly; the fourth unanswerable question is found last
    assert figures == pytest.approx({"average_precision": 2 / 3 * 2 / 3 + 1 / 3 * 3 / 4, "f1": 4 / 6})
    assert vizwiz_unanswerability(["dog"], [True]) == {"f1": 0.0}
    with pytest.raises(DataError):
        vizwiz_unanswerability(["dog"], [])
