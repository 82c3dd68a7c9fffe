"""What the best constant answer scores: the line that a model without sight can reach."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from vlmablate.evaluation.protocol import Example
from vlmablate.vlm.image import Box

_CONSTANT_BOXES = 100
_LIKELY_ANSWERS = 3
# What k of ten people who said it are worth, nearly: the rule of VQA accuracy.
_ENOUGH = 4


def majority_answer(examples: Sequence[Example]) -> float:
    """Share of the most frequent answer, of questions with one right answer each."""
    answers = Counter(example.answers[0] for example in examples)
    return max(answers.values()) / len(examples)


def majority_vote(examples: Sequence[Example], score: Callable[[str, Sequence[str]], float]) -> float:
    """Mean score of the best constant answer to questions that several people answered.

    Tried are the answers that most people gave to most questions, counted up to four at a question.
    """
    votes: Counter[str] = Counter()
    for example in examples:
        for answer, count in Counter(example.answers).items():
            votes[answer] += min(count, _ENOUGH)
    likely = [answer for answer, _ in votes.most_common(_LIKELY_ANSWERS)]
    return max(sum(score(answer, example.answers) for example in examples) for answer in likely) / len(
        examples
    )


def majority_box(examples: Sequence[Example], threshold: float) -> float:
    """Score of the best constant box among the targets themselves, compared in pixels (an upper bound on guessing)."""
    boxes = np.array([example.box for example in examples if example.box is not None], dtype=np.float64)
    candidates = boxes[:: max(1, len(boxes) // _CONSTANT_BOXES)]
    return max(int((_overlaps(tuple(box), boxes) >= threshold).sum()) for box in candidates) / len(boxes)


def most_frequent(values: Sequence[str]) -> str:
    """The value that is there most often, the first of those. For few values: all are compared with all."""
    return max(values, key=values.count)


def _overlaps(box: Box, boxes: np.ndarray) -> np.ndarray:
    """Intersection over union of one box with each row of boxes [N, 4]; 0 for an empty union."""
    width = np.minimum(box[2], boxes[:, 2]) - np.maximum(box[0], boxes[:, 0])
    height = np.minimum(box[3], boxes[:, 3]) - np.maximum(box[1], boxes[:, 1])
    shared = np.maximum(0.0, width) * np.maximum(0.0, height)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    union = (box[2] - box[0]) * (box[3] - box[1]) + areas - shared
    return np.divide(shared, union, out=np.zeros_like(union), where=union > 0)
