"""The general model: what it may be shown, and the shape of what comes back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vlmablate.training.sequences import PADDING, Sequences, pack
from vlmablate.vlm.llms.load import load_llm
from vlmablate.vlm.merge import Sample, expand, mark_after_first
from vlmablate.vlm.multimodal import MultimodalModel

WIDTH, CHANNELS, PATCHES = 32, 6, 4


class TwoTowers(nn.Module):
    """Joins what two towers are shown, given in order or by name; like those of other libraries, of some picture."""

    def forward(self, seen: list[Tensor] | dict[str, Tensor]) -> Tensor:
        first, second = seen.values() if isinstance(seen, dict) else seen
        assert len(first) == len(second) > 0
        return torch.cat([first, second], dim=2)


def sample(words: int, picture: str | None) -> Sample:
    ids, asked = [1, *range(5, 5 + words)], [False] + [True] * words
    if picture is None:
        return expand(ids, asked, [], PATCHES)
    return expand(*mark_after_first(ids, asked), [picture], PATCHES)


SAMPLES = [sample(7, "a"), sample(3, None), sample(2, "b"), sample(5, None)]


def model(vision: nn.Module | None) -> MultimodalModel:
    torch.manual_seed(0)
    return MultimodalModel(vision, nn.Linear(CHANNELS, WIDTH), load_llm("test_llama")[0])


def features(count: int) -> Tensor:
    return torch.randn(count, PATCHES, CHANNELS, generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("form", ["in order", "by name"])
@pytest.mark.parametrize("pictures", [2, 0])
def test_features_and_what_towers_see_give_the_same(form: str, pictures: int) -> None:
    """Without a tower its features are read; several towers get one tensor each (`vlm.seen.LiveVision`)."""
    batch = pack(SAMPLES if pictures else [SAMPLES[1], SAMPLES[3]], [[0, 1]], PATCHES)
    whole = features(pictures)
    parts = [whole[..., :2], whole[..., 2:]]
    seen = parts if form == "in order" else dict(zip(("left", "right"), parts, strict=True))
    with torch.no_grad():
        assert torch.equal(model(TwoTowers())(seen, batch), model(None)(whole, batch))


def test_a_batch_without_pictures_leaves_no_parameter_of_the_projector_without_a_gradient() -> None:
    made = model(None)
    made(features(0), pack([SAMPLES[1]], [[0]], PATCHES)).sum().backward()
    for parameter in made.projector.parameters():
        assert parameter.grad is not None
        assert not parameter.grad.any()


def test_hidden_states_have_the_shape_of_the_targets_and_padding_is_zero() -> None:
    batch = pack(SAMPLES, [[0, 1], [2], []], PATCHES)
    made, seen = model(None), features(2)
    with torch.no_grad():
        hidden = made(seen, batch)
        short = batch.rows(slice(1, 3))
        part = made(seen[1:], short)
    assert hidden.shape == (*batch.targets.shape, WIDTH)
    assert part.shape == (*short.targets.shape, WIDTH)
    assert part.shape[1] > short.tokens.shape[1]
    assert not hidden[:2][batch.segments[:2] == PADDING].any()
    real = batch.segments[1] != PADDING
    assert torch.allclose(part[0, real], hidden[1, real], atol=1e-6)
    assert hidden[1, real].abs().amax(-1).min() > 0


def test_rows_of_a_batch_train_like_the_whole_batch() -> None:
    """As a training step uses it: rows by rows, asked where the targets of the whole batch are."""

    def gradients(pieces: list[slice], batch: Sequences) -> tuple[float, list[Tensor]]:
        made, loss = model(None), 0.0
        names = {name: index for index, name in enumerate(batch.pictures)}
        for rows in pieces:
            part, targets = batch.rows(rows), batch.targets[rows]
            seen = features(2)[[names[name] for name in part.pictures]]
            logits = made.logits(made(seen, part)[targets >= 0])
            share = nn.functional.cross_entropy(logits, targets[targets >= 0], reduction="sum")
            share.backward()
            loss += float(share.detach())
        return loss, [p.grad for p in made.parameters() if p.grad is not None]

    batch = pack(SAMPLES, [[0, 1], [2], [3]], PATCHES)
    loss, whole = gradients([slice(0, 3)], batch)
    other, cut = gradients([slice(0, 1), slice(1, 2), slice(2, 3)], batch)
    assert np.isclose(loss, other, rtol=1e-6)
    for one, two in zip(whole, cut, strict=True):
        assert torch.allclose(one, two, atol=1e-5)
