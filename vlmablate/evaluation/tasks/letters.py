"""Closed questions whose options have letters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from vlmablate.evaluation.protocol import Answer, Example, Verdict
from vlmablate.evaluation.scorers import read_letter
from vlmablate.evaluation.tasks.closed import most_probable
from vlmablate.evaluation.tasks.figures import ALL, class_ranking, means, places_by_split
from vlmablate.evaluation.tasks.prompts import LETTERS
from vlmablate.vlm.image import Frame

RIGHT = "right_letter"
"""The fact of an example that names the letter of its answer."""


def letters(example: Example) -> tuple[str, ...]:
    """The letters of its options."""
    return tuple(LETTERS[: len(example.choices)])


def score(example: Example, answer: Answer, frame: Frame | None) -> Verdict:
    """1 for the right letter: the most probable one, or the one that was written."""
    if answer.probabilities:
        chosen: str | None = most_probable(answer, letters(example))
    else:
        chosen = read_letter(answer.text.strip(), example.choices)
    target = example.facts[RIGHT]
    return Verdict(float(chosen == target), answer.text.strip() if chosen is None else chosen, target)


def majority(examples: Sequence[Example]) -> float:
    """Share of the most frequent letter."""
    right = [example.facts[RIGHT] for example in examples]
    return max(right.count(letter) for letter in set(right)) / len(right)


def summary(
    examples: Sequence[Example], answers: Sequence[Answer], verdicts: Sequence[Verdict]
) -> Mapping[str, float]:
    """Accuracy of each split; where probabilities are known, how well they rank, for each split and for all."""
    figures = means("accuracy", examples, verdicts)
    if not all(answer.probabilities for answer in answers):
        return figures
    known = LETTERS[: max(len(example.choices) for example in examples)]
    scores = np.array([[answer.probabilities.get(letter, 0.0) for letter in known] for answer in answers])
    right = [known.index(example.facts[RIGHT]) for example in examples]
    for split, places in {**places_by_split(examples), ALL: list(range(len(examples)))}.items():
        figures |= class_ranking([right[place] for place in places], scores[places], split)
    return figures
