"""Packed batches: nothing leaks between samples, and no layout changes the loss or its gradient."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from vlmablate.errors import UserError
from vlmablate.training.balance import place_rows
from vlmablate.training.sequences import (
    PADDING,
    Sequences,
    dense_mask,
    divisors,
    pack,
    padded,
    summed_loss,
)
from vlmablate.vlm.merge import IGNORED, TEXT, Sample, expand, mark_after_first
from vlmablate.vlm.multimodal import MultimodalModel

WORDS, WIDTH, CHANNELS, PATCHES = 53, 32, 5, 4
SHAPES = [(0, 9), (1, 4), (1, 11), (0, 3), (2, 6), (1, 7), (1, 2), (0, 5)]


class Language(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        config = LlamaConfig(
            vocab_size=WORDS, hidden_size=WIDTH, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2,
        )  # fmt: skip
        self.llama = LlamaForCausalLM(config)

    def embed(self, tokens: Tensor) -> Tensor:
        return self.llama.get_input_embeddings()(tokens)

    def forward(self, embeddings: Tensor, positions: Tensor, segments: Tensor) -> Tensor:
        return self.llama.model(
            inputs_embeds=embeddings,
            position_ids=positions,
            attention_mask=dense_mask(segments),
            use_cache=False,
        ).last_hidden_state

    def logits(self, hidden: Tensor) -> Tensor:
        return self.llama.lm_head(hidden)


@pytest.fixture(scope="module")
def model() -> MultimodalModel:
    """The "tower" is the identity on features, so that pictures are small."""
    torch.manual_seed(0)
    model = MultimodalModel(nn.Identity(), nn.Linear(CHANNELS, WIDTH), Language()).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.3 if parameter.ndim == 1 else 1.5 * parameter.shape[-1] ** -0.5)
    return model


def draw(seed: int, pictures: int, words: int, name: str) -> Sample:
    rng = np.random.default_rng(seed)
    ids, asked = [1, *rng.integers(3, WORDS, words).tolist()], [False, *(rng.random(words) < 0.6).tolist()]
    for _ in range(pictures):
        ids, asked = mark_after_first(ids, asked)
    return expand(ids, asked, [f"{name}.{i}" for i in range(pictures)], PATCHES)


SAMPLES = [draw(i, *shape, str(i)) for i, shape in enumerate(SHAPES)]
FEATURES = {name: torch.randn(PATCHES, CHANNELS, generator=torch.Generator().manual_seed(i)).double()
            for i, name in enumerate(name for sample in SAMPLES for name in sample.pictures)}  # fmt: skip


def pixels_of(batch: Sequences) -> Tensor:
    empty = torch.zeros(0, PATCHES, CHANNELS, dtype=torch.float64)
    return torch.stack([FEATURES[str(n)] for n in batch.pictures]) if batch.pictures else empty


def logits_of(model: MultimodalModel, batch: Sequences) -> Tensor:
    with torch.no_grad():
        return model.logits(model(pixels_of(batch), batch))


def test_positions_restart_and_padding_belongs_to_nobody() -> None:
    batch = pack(SAMPLES, [[0, 3], [1]], PATCHES)
    assert batch.tokens.shape == (2, 14)
    assert batch.positions[0].tolist() == [*range(10), *range(4)]
    assert batch.segments[0].tolist() == [0] * 10 + [1] * 4
    assert batch.segments[1].tolist() == [0] * 9 + [PADDING] * 5
    assert (batch.targets[1, 9:] == IGNORED).all()
    assert (batch.slots[1, 9:] == TEXT).all()


def test_the_mask_is_causal_inside_a_segment_and_never_empty() -> None:
    segments = torch.tensor([[0, 0, 1, 1, PADDING, PADDING]])
    mask = dense_mask(segments)[0, 0]
    for query in range(6):
        for key in range(6):
            expected = key <= query and segments[0, query] == segments[0, key]
            assert mask[query, key] == expected
    assert mask.any(dim=-1).all()


def test_a_packed_sample_gets_the_logits_of_one_alone(model: MultimodalModel) -> None:
    packed = pack(SAMPLES, [[0, 1, 2], [3, 4], [5, 6, 7]], PATCHES)
    together = logits_of(model, packed)
    for row, members in enumerate([[0, 1, 2], [3, 4], [5, 6, 7]]):
        for document, index in enumerate(members):
            alone = logits_of(model, padded([SAMPLES[index]], PATCHES))[0]
            assert (together[row, packed.segments[row] == document] - alone).abs().max() < 1e-9


@pytest.mark.parametrize("changed", [0, 1, 2])
def test_changing_one_sample_leaves_the_others_bits(model: MultimodalModel, changed: int) -> None:
    """Same lengths and other words and pixels: every other sample of the row gets equal logits to the bit."""
    before = pack(SAMPLES, [[0, 1, 2]], PATCHES)
    mine = before.segments == changed
    after = pack(SAMPLES, [[0, 1, 2]], PATCHES)
    after.tokens[mine & (before.slots == TEXT)] = 7
    pixels = pixels_of(before)
    other = pixels.clone()
    for number in set((before.slots[mine & (before.slots != TEXT)] // PATCHES).tolist()):
        other[number] += 1.0
    with torch.no_grad():
        first, second = model.logits(model(pixels, before)), model.logits(model(other, after))
    assert torch.equal(first[~mine], second[~mine])
    assert (first[mine] - second[mine]).abs().max() > 1e-3


def test_a_picture_of_two_samples_is_read_once() -> None:
    shared = [SAMPLES[1], SAMPLES[2], SAMPLES[1]]
    batch = pack(shared, [[0, 1], [2]], PATCHES)
    assert batch.pictures == ("1.0", "2.0")
    assert batch.slots[0][batch.segments[0] == 1].tolist()[1:5] == [4, 5, 6, 7]
    assert batch.slots[1].tolist()[1:5] == [0, 1, 2, 3]


def test_rows_of_a_batch_keep_only_their_pictures(model: MultimodalModel) -> None:
    whole = pack(SAMPLES, [[0, 1], [4, 3], [2, 5]], PATCHES)
    part = whole.rows(slice(1, 3))
    assert part.pictures == ("4.0", "4.1", "2.0", "5.0")
    assert torch.equal(part.targets, whole.targets[1:3])
    for asked in (part.asked, whole.asked[1:3]):
        assert (logits_of(model, part)[asked] - logits_of(model, whole)[1:3][asked]).abs().max() < 1e-9
    texts = whole.rows(slice(0, 0))
    assert texts.pictures == ()
    assert texts.tokens.shape == (0, 1)


def test_rows_are_no_wider_than_the_longest_of_them() -> None:
    """A short piece of a batch must not be padded to the longest row of the whole batch."""
    whole = pack(SAMPLES, [[0, 1], [3], [5], []], PATCHES)
    assert whole.rows(slice(0, 2)).tokens.shape == (2, whole.tokens.shape[1])
    part = whole.rows(slice(1, 3))
    for read in (part.tokens, part.segments, part.positions, part.slots):
        assert read.shape == (2, max(len(SAMPLES[3]), len(SAMPLES[5])))
    assert part.targets.shape == (2, whole.tokens.shape[1])
    assert whole.rows(slice(3, 4)).tokens.shape == (1, 1)


def step(
    model: MultimodalModel, layouts: Sequence[Sequences], reduction: str = "global"
) -> tuple[float, Tensor]:
    """Loss and gradient of a global batch that is cut into micro-batches, on whichever ranks."""
    model.zero_grad()
    loss = 0.0
    for batch, divisor in zip(layouts, divisors([b.target_count for b in layouts], reduction), strict=True):
        hidden = model(pixels_of(batch), batch)
        share = summed_loss(model.logits(hidden[batch.asked]), batch.targets[batch.asked], divisor)
        share.backward()
        loss += share.item()
    return loss, torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


LENGTHS = [len(sample) for sample in SAMPLES]
LAYOUTS = {
    "packed, one row": [pack(SAMPLES, place_rows(LENGTHS, 1)[0], PATCHES)],
    "packed, 2 ranks": [pack(SAMPLES, rows, PATCHES) for rows in place_rows(LENGTHS, 2)],
    "packed, 2 ranks, rounds": [
        pack(SAMPLES, [row], PATCHES) for rows in place_rows(LENGTHS, 2, budget=24) for row in rows
    ],
    "padded, accumulation 4": [padded(SAMPLES[i : i + 2], PATCHES) for i in range(0, 8, 2)],
}


@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_the_loss_and_its_gradient_do_not_depend_on_the_layout(model: MultimodalModel, layout: str) -> None:
    """Packed or padded, accumulated or not, one rank or two: the same global batch, the same step."""
    loss, gradient = step(model, [padded(SAMPLES, PATCHES)])
    other, others = step(model, LAYOUTS[layout])
    assert len(LAYOUTS["packed, 2 ranks, rounds"]) > 2
    assert abs(loss - other) < 1e-6
    assert (gradient - others).abs().max() < 1e-6


def test_the_published_reduction_does_depend_on_the_layout(model: MultimodalModel) -> None:
    """A mean of means: equal to the mean of each micro-batch's loss, and another number for another cut."""
    cut = LAYOUTS["padded, accumulation 4"]
    loss, _ = step(model, cut, "prismatic")
    assert abs(loss - np.mean([step(model, [batch])[0] for batch in cut])) < 1e-9
    assert abs(loss - step(model, cut)[0]) > 1e-3


def test_a_micro_batch_without_targets_adds_nothing() -> None:
    assert summed_loss(torch.zeros(0, WORDS), torch.zeros(0, dtype=torch.long), 3.0).item() == 0.0
    assert divisors([0, 3], "prismatic") == [2.0, 6.0]


def test_an_unknown_reduction_names_the_known_ones() -> None:
    with pytest.raises(UserError, match="prismatic"):
        divisors([1], "prismatc")
