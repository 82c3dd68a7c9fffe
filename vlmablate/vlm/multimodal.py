"""The general vision-language model: a vision tower, a projector, a causal language model reading the merge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor, nn
from torch.nn import functional

from vlmablate.vlm.merge import place

# What a vision tower takes: one tensor of pictures along its first axis, or one for each of several towers.
Seen = Tensor | Mapping[str, Tensor] | Sequence[Tensor]


class MergedBatch(Protocol):
    """What the model reads of a batch; int64 [B, T] each, targets [B, U] with U >= T (see `training.sequences`)."""

    @property
    def tokens(self) -> Tensor: ...
    @property
    def positions(self) -> Tensor: ...
    @property
    def slots(self) -> Tensor: ...
    @property
    def segments(self) -> Tensor: ...
    @property
    def targets(self) -> Tensor: ...


class MultimodalModel(nn.Module):
    """Patches of pictures among the words of their texts.

    vision: pixels -> features [I, N, C], None where features are given; projector: [I, N, C] -> [I, P, W]; language:
    `embed`, `forward`, `logits` of `vlm.llms`. Which parameters train is decided outside (`training.tuning`).
    """

    def __init__(self, vision: nn.Module | None, projector: nn.Module, language: nn.Module) -> None:
        super().__init__()
        self.vision = vision
        self.projector = projector
        self.language: Any = language

    def forward(self, seen: Seen, batch: MergedBatch) -> Tensor:
        """Hidden states of a batch, [*batch.targets.shape, W]; zeros in padding.

        seen: what `vision` takes of the batch's pictures: pixels [I, 3, S, S], or one tensor for each of several
        towers, by name or in order; without `vision`, their features [I, N, C]. A batch of texts alone takes those of
        no picture (I = 0). Tower and projector then look at a blank one that stands nowhere: all ranks gather the same
        sharded parameters, and every trained one has a gradient.
        """
        seen = at_least_one(seen)
        patches = self.projector(seen if self.vision is None else self.vision(seen))
        embeddings = place(self.language.embed(batch.tokens), patches, batch.slots)
        hidden: Tensor = self.language(embeddings, batch.positions, segments=batch.segments)
        missing = batch.targets.shape[1] - hidden.shape[1]
        return functional.pad(hidden, (0, 0, 0, missing)) if missing else hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., W] -> [..., vocabulary]. Ask only where a target is: at 32,000 words this is most of the memory."""
        scores: Tensor = self.language.logits(hidden)
        return scores


def at_least_one(seen: Seen) -> Seen:
    """The same pictures, or a blank one where there are none; towers of other libraries refuse empty batches."""
    if isinstance(seen, Mapping):
        return {name: _or_blank(part) for name, part in seen.items()}
    return _or_blank(seen) if isinstance(seen, Tensor) else [_or_blank(part) for part in seen]


def _or_blank(seen: Tensor) -> Tensor:
    return seen if len(seen) else seen.new_zeros(1, *seen.shape[1:])
