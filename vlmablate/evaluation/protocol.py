"""What a benchmark is: examples, how each is asked, how an answer is read and scored, and what is said of all of them.

One protocol for the embedded benchmarks, whose examples come out of scenes, and for the published ones, whose examples
come out of a folder in the format in which their authors publish it. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlmablate.vlm.image import Box, Frame


@dataclass(frozen=True)
class Example:
    """One question.

    Attributes:
        benchmark, split: whose it is, and which part of it (a subset that has a score of its own).
        example_id: ``benchmark/…`` from official ids, or from what is asked where these do not last, so that results
            join over machines and versions.
        cluster_id: what questions share: the picture, by the id of its data set (`data.picture_ids`).
        picture: where it is, relative to the folder of the benchmark's pictures; of embedded benchmarks the scene.
            None for a question without a picture.
        question: in the words of the benchmark, without the prompt around it.
        answers: what people said, or the one right answer.
        choices: the options of a closed question, in order; the right one is in `answers`.
        box: the region that is asked for, in pixels of the original picture.
        facts: what else the scorer or the tables need, by name (answer type, tokens of an OCR system, …).
    """

    benchmark: str
    split: str
    example_id: str
    cluster_id: str
    picture: str | None
    question: str
    answers: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    box: Box | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """What a model said: text that it wrote, or the probabilities of the options that it was given, which sum to 1."""

    text: str = ""
    probabilities: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """score in [0, 1]; prediction and target as text, in the terms in which they were compared.

    further: other metrics of this example by name, each a number per example, so that the same tests apply to them.
    """

    score: float
    prediction: str
    target: str
    further: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Benchmark:
    """A benchmark of the suite.

    Attributes:
        metric: the name of `Verdict.score` with its variant and its frame, such as ``vqa_accuracy:official-2017`` or
            ``acc@0.5:square``: it stands in every result and every report.
        answer_tokens: how many tokens of text an answer has at most; of embedded benchmarks, how many words.
        score: (example, answer, frame) -> verdict. The frame is that of the picture as the model saw it; None for a
            question without a picture.
        majority: the score in [0, 1] of the best constant answer to these examples.
        prompt: what a model that reads natural text is asked.
        options: the answers whose probabilities are compared; none for a benchmark whose answers are written.
        summary: figures of all examples that are no mean of a score (F1, AUROC, …), by name, as fractions.
        examples: reads the benchmark out of a folder in its published format, in the official order. None for the
            embedded ones.
        pictured: False for questions that are asked without a picture, and scored without a frame.
        folder: what its folder is called under a root that holds many; benchmarks that are published together share it.
            Empty for one whose questions travel with the package.
        sizes: how many examples the published evaluation has, in each of its releases.
        in_suite: False for a benchmark of behaviour beyond accuracy: all its metrics are secondary, and none is part of
            the suite score.
    """

    name: str
    metric: str
    answer_tokens: int
    score: Callable[[Example, Answer, Frame | None], Verdict]
    majority: Callable[[Sequence[Example]], float]
    prompt: Callable[[Example], str]
    options: Callable[[Example], tuple[str, ...]] = lambda example: ()
    summary: Callable[[Sequence[Example], Sequence[Answer], Sequence[Verdict]], Mapping[str, float]] = field(
        default=lambda examples, answers, verdicts: {}
    )
    examples: Callable[[Path], Iterator[Example]] | None = None
    pictured: bool = True
    folder: str = ""
    sizes: tuple[int, ...] = ()
    in_suite: bool = True
