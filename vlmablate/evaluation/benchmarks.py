"""The benchmarks of the embedded data: how an answer is read and scored. One row each.

The questions themselves come from `data.questions`; what they mirror in the paper is in the table there. Those of
`refusal`, which has no pictures, come from `data.text_only`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from vlmablate.data.dialogue_text import read_box
from vlmablate.data.questions import Question
from vlmablate.data.text_only import REFUSAL, REFUSED
from vlmablate.data.vocabulary import parse_box
from vlmablate.errors import unknown_name
from vlmablate.vlm.image import Box, Frame

IOU_THRESHOLD = 0.5


@dataclass(frozen=True)
class Verdict:
    """score in [0, 1]; prediction and target as text, in the terms in which they were compared."""

    score: float
    prediction: str
    target: str


@dataclass(frozen=True)
class Benchmark:
    """answer_tokens: how many words are decoded; score(question, decoded words, frame) -> Verdict;
    majority(questions) -> the score in [0, 1] of the best constant answer. pictured: False for questions that are
    asked without a picture, and scored without a frame."""

    name: str
    metric: str
    answer_tokens: int
    score: Callable[[Question, str, Frame | None], Verdict]
    majority: Callable[[Sequence[Question]], float]
    pictured: bool = True


def exact_match(question: Question, answer: str, frame: Frame | None) -> Verdict:
    """1 if the decoded words are the answer. The frame is unused."""
    return Verdict(float(answer == question.answer), answer, question.answer)


def majority_answer(questions: Sequence[Question]) -> float:
    """Share of the most frequent answer."""
    answers = Counter(question.answer for question in questions)
    return max(answers.values()) / len(questions)


def box_iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes (x0, y0, x1, y1) with continuous edges; 0 for an empty union."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(0.0, width) * max(0.0, height)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return shared / union if union > 0 else 0.0


def box_match(question: Question, answer: str, frame: Frame | None) -> Verdict:
    """1 if IoU >= 0.5 in pixels of the original picture (RefCOCO's Acc@0.5).

    The decoded box is in shares of the model's square, as four bins or as four numbers in brackets (see
    `data.vocabulary` and `data.dialogue_text`); the inverse of the image transform brings it back, clipped to
    the picture. An object that a crop removed is an honest miss.
    """
    assert question.box is not None
    assert frame is not None
    target = _pixels(question.box)
    predicted = parse_box(answer) or read_box(answer)
    if predicted is None:
        return Verdict(0.0, answer, target)
    x0, y0, x1, y1 = (share * frame.size for share in predicted)
    box = frame.to_original((x0, y0, x1, y1))
    return Verdict(float(box_iou(box, question.box) >= IOU_THRESHOLD), _pixels(box), target)


def majority_box(questions: Sequence[Question]) -> float:
    """Score of the best constant box among the targets themselves, compared in pixels (an upper bound on guessing)."""
    boxes = [question.box for question in questions if question.box is not None]
    candidates = boxes[:: max(1, len(boxes) // 100)]
    return max(sum(box_iou(c, box) >= IOU_THRESHOLD for box in boxes) for c in candidates) / len(boxes)


def _pixels(box: Sequence[float]) -> str:
    return " ".join(f"{value:.1f}" for value in box)


BENCHMARKS: Mapping[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        Benchmark("open_vqa", "exact_match", 1, exact_match, majority_answer),
        Benchmark("existence", "exact_match", 1, exact_match, majority_answer),
        Benchmark("counting", "exact_match", 1, exact_match, majority_answer),
        Benchmark("spatial", "exact_match", 1, exact_match, majority_answer),
        Benchmark("localisation", "acc@0.5", 4, box_match, majority_box),
        Benchmark("text_reading", "exact_match", 1, exact_match, majority_answer),
        Benchmark(REFUSAL, "exact_match", len(REFUSED.split()), exact_match, majority_answer, pictured=False),
    )
}


def benchmark_named(name: str) -> Benchmark:
    """The benchmark of that exact name. Raises UserError that lists the benchmarks there are."""
    if name not in BENCHMARKS:
        raise unknown_name("benchmark", name, BENCHMARKS, "benchmark.names")
    return BENCHMARKS[name]
