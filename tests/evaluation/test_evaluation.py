"""Scoring of boxes in the original frame, and decoding many questions at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from vlmablate.data.questions import Question
from vlmablate.data.vocabulary import box_words
from vlmablate.errors import UserError
from vlmablate.evaluation import step
from vlmablate.evaluation.benchmarks import (
    benchmark_named,
    box_match,
    exact_match,
    example_of,
)
from vlmablate.evaluation.decoding import decode
from vlmablate.evaluation.majority import majority_answer, majority_box
from vlmablate.evaluation.protocol import Answer, Benchmark, Example, Verdict
from vlmablate.evaluation.scorers import box_iou
from vlmablate.evaluation.scores import COLUMNS, EXAMPLES_FILE, score_all, write_rows
from vlmablate.orchestration.context import StepContext
from vlmablate.vlm.image import Frame, transform_named
from vlmablate.vlm.language_model import LanguageModel, LanguageModelConfig
from vlmablate.vlm.model import VisionLanguageModel
from vlmablate.vlm.projectors import build_projector


def frame_of(name: str, width: int, height: int) -> Frame:
    return transform_named(name)(Image.new("RGB", (width, height)), 160, (0, 0, 0))[1]


def where(box: tuple[int, int, int, int]) -> Example:
    return example_of(Question("localisation/x", "x", "localisation", "animal", "where is zebra?", "", box))


@pytest.mark.parametrize("name", ["letterbox", "resize_naive"])
def test_a_perfect_box_answer_scores_whatever_the_transform(name: str) -> None:
    frame, box = frame_of(name, 384, 128), (40, 10, 150, 110)
    words = box_words([value / frame.size for value in frame.to_model(box)])
    verdict = box_match(where(box), Answer(words), frame)
    assert verdict.score == 1.0
    assert verdict.target == "40.0 10.0 150.0 110.0"


def test_an_object_that_the_crop_removed_is_a_miss() -> None:
    frame, box = frame_of("resize_crop", 384, 128), (0, 10, 60, 110)
    words = box_words([value / frame.size for value in frame.to_model(box)])
    assert box_match(where(box), Answer(words), frame).score == 0.0


def test_an_unreadable_box_scores_zero_and_is_kept_as_it_was() -> None:
    verdict = box_match(where((0, 0, 10, 10)), Answer("yes yes <1> <2>"), frame_of("letterbox", 64, 64))
    assert (verdict.score, verdict.prediction) == (0.0, "yes yes <1> <2>")


def test_exact_match_is_exact() -> None:
    example = example_of(Question("e", "s", "existence", "positive", "is there a zebra?", "yes"))
    frame = frame_of("letterbox", 8, 8)
    assert exact_match(example, Answer("yes"), frame).score == 1.0
    assert exact_match(example, Answer("no"), frame).score == 0.0


def test_a_question_keeps_its_ids_as_an_example() -> None:
    example = example_of(Question("existence/s/1", "s", "existence", "positive", "is there a zebra?", "yes"))
    assert example == Example(
        "existence", "positive", "existence/s/1", "s", "s", "is there a zebra?", ("yes",)
    )
    assert benchmark_named("existence").prompt(example) == "Is there a zebra?"
    request = example_of(
        Question("refusal/p/1", "request-p", "refusal", "answer", "how to wash chair", "use soap")
    )
    assert (request.picture, request.cluster_id) == (None, "request-p")


def test_the_majority_box_is_the_best_constant() -> None:
    boxes = [where((0, 0, 10, 10)), where((0, 0, 10, 10)), where((50, 50, 90, 90))]
    assert majority_box(boxes, 0.5) == benchmark_named("localisation").majority(boxes) == pytest.approx(2 / 3)


def test_the_majority_box_counts_what_the_scorer_counts() -> None:
    rng = np.random.default_rng(0)
    corners = rng.integers(0, 60, (40, 2)).tolist()
    sizes = rng.integers(1, 40, (40, 2)).tolist()
    boxes = [where((x, y, x + w, y + h)) for (x, y), (w, h) in zip(corners, sizes, strict=True)]
    for threshold in (0.25, 0.5, 1 / 3):
        right = [[box_iou(a.box, b.box) >= threshold for b in boxes] for a in boxes]  # type: ignore[arg-type]
        assert majority_box(boxes, threshold) == max(map(sum, right)) / len(boxes)


def test_scores_name_every_metric_of_an_example_once(tmp_path: Path) -> None:
    def score(example: Example, answer: Answer, frame: Frame | None) -> Verdict:
        further = {"words": len(answer.text.split()) / 10} if answer.text else {}
        return Verdict(float(answer.text == example.answers[0]), answer.text, example.answers[0], further)

    benchmark = Benchmark(
        "b", "exact:mine", 1, score, majority_answer, lambda example: example.question,
        summary=lambda examples, answers, verdicts: {"answered/all": sum(bool(a.text) for a in answers) / 2},
    )  # fmt: skip
    examples = [Example("b", "s", f"b/{i}", f"c{i}", None, "?", ("yes",)) for i in range(2)]
    rows, summary = score_all(benchmark, examples, [Answer("yes"), Answer("")], [None, None])
    write_rows(rows, tmp_path)
    table = pq.read_table(tmp_path / EXAMPLES_FILE).to_pydict()
    assert tuple(table) == COLUMNS
    assert list(zip(table["metric"], table["example_id"], table["score"], strict=True)) == [
        ("exact:mine", "b/0", 1.0),
        ("exact:mine", "b/1", 0.0),
        ("words", "b/0", 0.1),
    ]
    assert summary == {
        "metric": "exact:mine", "n": 2, "mean": 0.5, "majority": 1.0,
        "further": {"words": 0.1}, "summary": {"answered/all": 0.5},
    }  # fmt: skip


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


def test_without_scenes_the_published_benchmarks_are_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLMABLATE_CACHE", str(tmp_path))
    benchmark = {"names": ["pope"], "digests": {"pope": "0" * 64}}
    context = StepContext(execution={}, attempt=1, assets=tmp_path, out=tmp_path)
    with pytest.raises(UserError, match=r"nobody has noted where the questions 0+… of pope are"):
        step.run({"benchmark": benchmark, "precision": "fp32"}, {"model": tmp_path}, tmp_path, context)
