"""Scoring of boxes in the original frame, and decoding many questions at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from vlmablate.data.questions import Question
from vlmablate.data.vocabulary import box_words
from vlmablate.errors import UserError
from vlmablate.evaluation.benchmarks import benchmark_named, box_iou, box_match, exact_match, majority_box
from vlmablate.evaluation.decoding import decode
from vlmablate.vlm.image import Frame, transform_named
from vlmablate.vlm.language_model import LanguageModel, LanguageModelConfig
from vlmablate.vlm.model import VisionLanguageModel
from vlmablate.vlm.projectors import build_projector


def frame_of(name: str, width: int, height: int) -> Frame:
    return transform_named(name)(Image.new("RGB", (width, height)), 160, (0, 0, 0))[1]


def where(box: tuple[int, int, int, int]) -> Question:
    return Question("localisation/x", "x", "localisation", "animal", "where is zebra?", "", box)


@pytest.mark.parametrize("name", ["letterbox", "resize_naive"])
def test_a_perfect_box_answer_scores_whatever_the_transform(name: str) -> None:
    frame, box = frame_of(name, 384, 128), (40, 10, 150, 110)
    words = box_words([value / frame.size for value in frame.to_model(box)])
    verdict = box_match(where(box), words, frame)
    assert verdict.score == 1.0
    assert verdict.target == "40.0 10.0 150.0 110.0"


def test_an_object_that_the_crop_removed_is_a_miss() -> None:
    frame, box = frame_of("resize_crop", 384, 128), (0, 10, 60, 110)
    words = box_words([value / frame.size for value in frame.to_model(box)])
    assert box_match(where(box), words, frame).score == 0.0


def test_an_unreadable_box_scores_zero_and_is_kept_as_it_was() -> None:
    verdict = box_match(where((0, 0, 10, 10)), "yes yes <1> <2>", frame_of("letterbox", 64, 64))
    assert (verdict.score, verdict.prediction) == (0.0, "yes yes <1> <2>")


@pytest.mark.parametrize(
    ("a", "b", "iou"),
    [
        ((0, 0, 2, 2), (0, 0, 2, 2), 1.0),
        ((0, 0, 2, 2), (1, 0, 3, 2), 1 / 3),
        ((0, 0, 1, 1), (2, 2, 3, 3), 0.0),
        ((0, 0, 0, 0), (0, 0, 0, 0), 0.0),
    ],
)
def test_box_iou(a: tuple[float, ...], b: tuple[float, ...], iou: float) -> None:
    assert box_iou(a, b) == pytest.approx(iou)  # type: ignore[arg-type]


def test_exact_match_is_exact() -> None:
    question = Question("e", "s", "existence", "positive", "is there a zebra?", "yes")
    frame = frame_of("letterbox", 8, 8)
    assert exact_match(question, "yes", frame).score == 1.0
    assert exact_match(question, "no", frame).score == 0.0


def test_the_majority_box_is_the_best_constant() -> None:
    assert majority_box(
        [where((0, 0, 10, 10)), where((0, 0, 10, 10)), where((50, 50, 90, 90))]
    ) == pytest.approx(2 / 3)


def test_an_unknown_benchmark_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match="localisation"):
        benchmark_named("pope")


@pytest.mark.parametrize("answer_tokens", [1, 4])
def test_decoding_together_equals_one_by_one(answer_tokens: int) -> None:
    generator = torch.Generator().manual_seed(0)
    language = LanguageModel(LanguageModelConfig(vocabulary=30, grid=2, layers=2, width=16, heads=2, bins=5))
    language.initialise(generator)
    with torch.no_grad():
        for parameter in language.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    model = VisionLanguageModel(build_projector({"name": "gelu_mlp"}, 8, 16, 2, generator), language).eval()
    pixels = torch.randn(5, 4, 8, generator=generator)
    rng = np.random.default_rng(0)
    prompts = [
        (
            row,
            [
                tuple(int(t) for t in rng.integers(2, 30, rng.integers(1, 6)))
                for _ in range(rng.integers(1, 5))
            ],
        )
        for row in (3, 0, 4, 1)
    ]

    def features(rows: np.ndarray) -> torch.Tensor:
        return pixels[torch.from_numpy(rows)]

    together = decode(model, features, prompts, answer_tokens, batch_pictures=3)
    alone = [
        [decode(model, features, [(row, [prompt])], answer_tokens)[0][0] for prompt in asked]
        for row, asked in prompts
    ]
    assert together == alone
    assert all(len(answer) == answer_tokens for answers in together for answer in answers)
