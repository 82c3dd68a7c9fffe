"""Answers in words against those that several people gave (VQA accuracy)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from vlmablate.evaluation.majority import majority_vote, most_frequent
from vlmablate.evaluation.protocol import Answer, Example, Verdict
from vlmablate.evaluation.scorers import VQA_VARIANTS, vqa_accuracy
from vlmablate.vlm.image import Frame


def variants_from(default: str) -> tuple[str, ...]:
    """The names of all ways to compute VQA accuracy, the given one first."""
    return (default, *(name for name in VQA_VARIANTS if name != default))


def score_against_people(variant: str) -> Callable[[Example, Answer, Frame | None], Verdict]:
    """VQA accuracy; the target is what most people said."""

    def score(example: Example, answer: Answer, frame: Frame | None) -> Verdict:
        text = answer.text.strip()
        return Verdict(vqa_accuracy(text, example.answers, variant), text, most_frequent(example.answers))

    return score


def majority_against_people(variant: str) -> Callable[[Sequence[Example]], float]:
    """VQA accuracy of the best constant answer."""

    def majority(examples: Sequence[Example]) -> float:
        return majority_vote(examples, lambda answer, answers: vqa_accuracy(answer, answers, variant))

    return majority
