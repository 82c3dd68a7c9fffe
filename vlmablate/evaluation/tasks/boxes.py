"""Answers that are boxes: in which frame their numbers are, and how they are compared.

A model says a box in shares of the picture that it saw. What it saw is a square, made of the original by a transform
(`vlm.image`); the transform's inverse brings the box back to pixels of the original, where it is compared with the
truth. Published evaluations take the numbers for shares of the original instead, which for a padded or cropped picture
is another box: a perfect answer then scores about 0.91 Acc@0.5. Both readings are results, each under its name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from vlmablate.errors import UserError
from vlmablate.evaluation.majority import majority_box
from vlmablate.evaluation.protocol import Answer, Benchmark, Example, Verdict
from vlmablate.evaluation.scorers import box_iou, parse_box
from vlmablate.evaluation.tasks.figures import means
from vlmablate.evaluation.tasks.prompts import ANSWER_TOKENS, box_of
from vlmablate.vlm.image import Box, Frame

SQUARE, PICTURE = "square", "picture"
FRAMES = (SQUARE, PICTURE)
VLM_EVALUATION = "vlm-evaluation"
VARIANTS = ("strict", "anywhere", VLM_EVALUATION)
"""How a box is read: nothing but a list of four shares; the first four numbers in brackets; or all as vlm-evaluation
scores, which reads strictly, in the frame `picture`, and rounds the true box to hundredths of the picture."""


def in_pixels(shares: Box, frame: Frame, name: str) -> Box:
    """A box in pixels of the original picture, cut to it. name: what the four numbers are shares of."""
    left, top, right, bottom = shares
    if name == SQUARE:
        return frame.to_original(
            (left * frame.size, top * frame.size, right * frame.size, bottom * frame.size)
        )
    width, height = frame.width, frame.height
    return (
        min(max(left, 0.0), 1.0) * width,
        min(max(top, 0.0), 1.0) * height,
        min(max(right, 0.0), 1.0) * width,
        min(max(bottom, 0.0), 1.0) * height,
    )


def score_box(
    example: Example, answer: Answer, frame: Frame | None, *, threshold: float, variant: str, name: str
) -> Verdict:
    """1 for an overlap of at least the threshold with the true box in pixels, 0 for less and for no box.

    further: `iou`, and the score in the other frame under its own name.
    """
    assert example.box is not None
    assert frame is not None
    target = _pixels(example.box)
    shares = parse_box(answer.text.strip(), variant)
    other = next(one for one in FRAMES if one != name)
    if shares is None:
        nothing = {"iou": 0.0, metric_of(threshold, variant, other): 0.0}
        return Verdict(0.0, answer.text.strip(), target, nothing)
    boxes = {one: in_pixels(shares, frame, one) for one in FRAMES}
    overlaps = {one: box_iou(box, example.box) for one, box in boxes.items()}
    return Verdict(
        float(overlaps[name] >= threshold),
        _pixels(boxes[name]),
        target,
        {"iou": overlaps[name], metric_of(threshold, variant, other): float(overlaps[other] >= threshold)},
    )


def score_as_published(example: Example, answer: Answer, frame: Frame | None, *, threshold: float) -> Verdict:
    """The same as vlm-evaluation computes it: in shares of the picture, the true box rounded to two decimals."""
    assert example.box is not None
    assert frame is not None
    target = _pixels(example.box)
    shares = parse_box(answer.text.strip())
    if shares is None:
        return Verdict(0.0, answer.text.strip(), target, {"iou": 0.0})
    left, top, right, bottom = example.box
    width, height = frame.width, frame.height
    truth = (
        round(left / width, 2), round(top / height, 2), round(right / width, 2), round(bottom / height, 2),
    )  # fmt: skip
    overlap = box_iou(shares, truth)
    return Verdict(
        float(overlap >= threshold), _pixels(in_pixels(shares, frame, PICTURE)), target, {"iou": overlap}
    )


def metric_of(threshold: float, variant: str, frame: str) -> str:
    """``acc@0.5:square``; a variant that is not the strict one is named behind it."""
    return f"acc@{threshold:g}:{frame}" + ("" if variant == VARIANTS[0] else f":{variant}")


def box_benchmark(
    name: str,
    threshold: float,
    examples: Callable[[Path], Iterator[Example]],
    folder: str,
    size: int,
    variant: str,
    frame: str | None,
) -> Benchmark:
    """A benchmark whose answers are boxes.

    Raises UserError for the variant `vlm-evaluation` in another frame than its own.
    """
    score: Callable[[Example, Answer, Frame | None], Verdict]
    if variant == VLM_EVALUATION:
        if frame not in (None, PICTURE):
            raise UserError(
                f"{name}: the variant {variant} takes boxes for shares of the {PICTURE}, not of the {frame}; "
                f"leave the frame out, or choose the variant {VARIANTS[0]}"
            )
        frame, score = PICTURE, partial(score_as_published, threshold=threshold)
    else:
        frame = frame or SQUARE
        score = partial(score_box, threshold=threshold, variant=variant, name=frame)
    reading = "anywhere" if variant == "anywhere" else "strict"
    return Benchmark(
        name=name,
        metric=metric_of(threshold, variant, frame),
        answer_tokens=ANSWER_TOKENS,
        score=score,
        majority=partial(majority_box, threshold=threshold),
        prompt=lambda example: box_of(example.question),
        summary=partial(_summary, f"acc@{threshold:g}", reading),
        examples=examples,
        folder=folder,
        sizes=(size,),
    )


def _summary(
    metric: str,
    reading: str,
    examples: Sequence[Example],
    answers: Sequence[Answer],
    verdicts: Sequence[Verdict],
) -> Mapping[str, float]:
    """Accuracy of each split, mean overlap, and the share of answers without a box."""
    unread = sum(parse_box(answer.text.strip(), reading) is None for answer in answers)
    return {
        **means(metric, examples, verdicts),
        "mean_iou/all": sum(verdict.further["iou"] for verdict in verdicts) / len(verdicts),
        "unreadable/all": unread / len(answers),
    }


def _pixels(box: Sequence[float]) -> str:
    return " ".join(f"{value:.1f}" for value in box)
