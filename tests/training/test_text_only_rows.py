"""Rows without a picture: they see no cell, and teach the projector nothing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from vlmablate.evaluation.decoding import NO_PICTURE, decode
from vlmablate.training.packing import IGNORED, Packed, Segment, attention_mask, pack
from vlmablate.vlm.language_model import LanguageModel, LanguageModelConfig
from vlmablate.vlm.model import VisionLanguageModel
from vlmablate.vlm.projectors import build_projector

WORDS, GRID, CHANNELS, WIDTH = 13, 2, 5, 8
CELLS = GRID * GRID
CONFIG = LanguageModelConfig(vocabulary=WORDS, grid=GRID, layers=2, width=WIDTH, heads=2, bins=0, segment=8)
ROWS = [
    [Segment((1, 2, 3), (4,)), Segment((5, 6), (7, 8))],
    [Segment((9, 10, 11), (12, 3))],
    [Segment((2, 4), (6,))],
]
PICTURED = torch.tensor([True, False, True])


@pytest.fixture
def model() -> VisionLanguageModel:
    """Random weights, biases included: what is zero by default would prove nothing."""
    generator = torch.Generator().manual_seed(0)
    projector = build_projector({"name": "gelu_mlp"}, CHANNELS, WIDTH, GRID, generator)
    made = VisionLanguageModel(projector, LanguageModel(CONFIG))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(0.0, 0.5, generator=generator)
    return made


def pixels(seed: int) -> Tensor:
    return torch.randn(3, CELLS, CHANNELS, generator=torch.Generator().manual_seed(seed))


def hidden(model: VisionLanguageModel, seen: Tensor, packed: Packed, pictured: Tensor | None) -> Tensor:
    mask = attention_mask(packed.segments, CELLS, pictured)
    return model(seen, packed.tokens, packed.positions, mask)


def test_the_mask_hides_the_cells_from_the_text_of_a_row_without_a_picture_and_changes_no_other() -> None:
    packed = pack(ROWS)
    all_seen, some = attention_mask(packed.segments, CELLS), attention_mask(packed.segments, CELLS, PICTURED)
    assert torch.equal(all_seen[PICTURED], some[PICTURED])
    text = packed.segments[1] >= 0
    assert not some[1, 0, CELLS:, :CELLS][text].any()
    assert torch.equal(some[1, 0, :, CELLS:], all_seen[1, 0, :, CELLS:])
    assert some.any(dim=-1).all()  # padding too must be allowed something, or its softmax is no number
    assert torch.equal(all_seen, attention_mask(packed.segments, CELLS, torch.ones(3, dtype=torch.bool)))


def test_another_picture_changes_no_bit_of_text_that_sees_none(model: VisionLanguageModel) -> None:
    packed = pack(ROWS)
    first, second = (hidden(model, pixels(seed), packed, PICTURED) for seed in (1, 2))
    text = packed.segments >= 0
    assert torch.equal(first[1][text[1]], second[1][text[1]])
    for row in (0, 2):
        assert not torch.allclose(first[row][text[row]], second[row][text[row]])
    assert not torch.equal(
        hidden(model, pixels(1), packed, None)[1][text[1]], hidden(model, pixels(2), packed, None)[1][text[1]]
    )


def test_text_without_a_picture_reads_like_text_in_a_model_without_cells(model: VisionLanguageModel) -> None:
    alone = pack([ROWS[1]])
    with_cells = hidden(model, pixels(1)[:1], alone, torch.tensor([False]))
    nothing = torch.zeros(1, 0, WIDTH)
    without = model.language(nothing, alone.tokens, alone.positions, attention_mask(alone.segments, 0), None)
    torch.testing.assert_close(with_cells, without, rtol=1e-5, atol=1e-6)


def loss_of(model: VisionLanguageModel, rows: list[int], total: int) -> Tensor:
    packed = pack([ROWS[row] for row in rows])
    asked = packed.targets != IGNORED
    found = hidden(model, pixels(1)[rows], packed, PICTURED[rows])[asked]
    return (
        functional.cross_entropy(model.language.logits(found), packed.targets[asked], reduction="sum") / total
    )


def test_it_adds_nothing_to_the_gradient_of_the_projector_and_something_to_that_of_the_words(
    model: VisionLanguageModel,
) -> None:
    total, projector = pack(ROWS).target_count, tuple(model.projector.parameters())
    alone = torch.autograd.grad(loss_of(model, [1], total), projector)
    assert all(torch.equal(gradient, torch.zeros_like(gradient)) for gradient in alone)
    weights = (*projector, model.language.words.weight)
    with_text = torch.autograd.grad(loss_of(model, [0, 1, 2], total), weights)
    pictures = torch.autograd.grad(loss_of(model, [0, 2], total), weights)
    for ours, theirs in zip(with_text[:-1], pictures[:-1], strict=True):
        assert theirs.abs().max() > 0
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)
    assert not torch.allclose(with_text[-1], pictures[-1])


def test_questions_without_a_picture_are_answered_the_same_behind_any_pictures(
    model: VisionLanguageModel,
) -> None:
    asked = [(NO_PICTURE, [(9, 10, 11), (2, 4)]), (1, [(1, 2, 3)]), (NO_PICTURE, [(5, 6)])]
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.data.zero_()  # or one word wins whatever is seen
        if name.endswith("out.weight"):
            parameter.data.mul_(4.0)
    answers = []
    for seed in range(12):
        seen = pixels(seed)
        answers.append(decode(model.eval(), lambda rows, seen=seen: seen[rows], asked, 2))
    assert len({str([found[0], found[2]]) for found in answers}) == 1
    assert len({str(found[1]) for found in answers}) > 1
