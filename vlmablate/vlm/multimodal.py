"""The general vision-language model: a vision tower, a projector, a causal language model reading the merge."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from vlmablate.vlm.merge import place


class MergedBatch(Protocol):
    """What the model reads of a batch; int64 [B, T] each (see `training.sequences`)."""

    @property
    def tokens(self) -> Tensor: ...
    @property
    def positions(self) -> Tensor: ...
    @property
    def slots(self) -> Tensor: ...
    @property
    def mask(self) -> Tensor: ...


class MultimodalModel(nn.Module):
    """Patches of pictures among the words of their texts.

    vision: pixels -> [I, N, C]; projector: [I, N, C] -> [I, P, W]; language: `embed`, `forward`, `logits` of
    `vlm.llms`. Which parameters train is decided outside (`training.tuning`).
    """

    def __init__(self, vision: nn.Module, projector: nn.Module, language: nn.Module) -> None:
        super().__init__()
        self.vision = vision
        self.projector = projector
        self.language: Any = language

    def forward(self, pixels: Tensor | Mapping[str, Tensor], batch: MergedBatch) -> Tensor:
        """Hidden states [B, T, W] of a batch whose pictures are `pixels` [I, 3, S, S] (fused towers: one entry each).

        A batch of texts alone takes the pixels of no picture ([0, 3, S, S]). Tower and projector then look at a blank
        one that stands nowhere: all ranks gather the same sharded parameters, and every trained one has a gradient.
        """
        patches = self.projector(self.vision(at_least_one(pixels)))
        embeddings = place(self.language.embed(batch.tokens), patches, batch.slots)
        hidden: Tensor = self.language(embeddings, batch.positions, batch.mask)
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., W] -> [..., vocabulary]. Ask only where a target is: at 32,000 words this is most of the memory."""
        scores: Tensor = self.language.logits(hidden)
        return scores


def at_least_one(pixels: Tensor | Mapping[str, Tensor]) -> Tensor | Mapping[str, Tensor]:
    """The same pictures, or a blank one where there are none; towers of other libraries refuse empty batches."""
    if not isinstance(pixels, Tensor):
        return {name: one for name, part in pixels.items() if isinstance(one := at_least_one(part), Tensor)}
    return (
        pixels if len(pixels) else torch.zeros(1, *pixels.shape[1:], dtype=pixels.dtype, device=pixels.device)
    )
