"""Whole samples side by side in one row: block-diagonal attention, positions that restart, one loss for all layouts.

Attention is allowed within a segment and backwards only, so a packed sample gets the same logits as one alone. The
loss is a sum over targets divided by the targets of the *global* batch: how samples are cut into rows, micro-batches
and ranks changes nothing but the order of sums.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from vlmablate.errors import unknown_name
from vlmablate.vlm.merge import IGNORED, TEXT, Sample

PADDING = -1
REDUCTIONS = ("global", "prismatic")
READ = ("tokens", "segments", "positions", "slots")


@dataclass(frozen=True)
class Sequences:
    """Packed samples; int64 [B, T] each.

    tokens: ids, 0 in cells of pictures and in padding. segments: number of the sample in its row, PADDING behind the
    last. positions: offset inside the sample. slots: patch number in the pictures of the batch, TEXT elsewhere (see
    `vlm.merge.place`). targets: the token that follows, IGNORED where nothing is asked; [B, U], where U may be more
    than T: some rows of a batch (see `rows`) are read only as far as they go, but are asked as wide as the batch is.
    pictures: names of the batch's pictures, each once, in the order in which the model gets their pixels.
    patches: tokens of one picture.
    """

    tokens: Tensor
    segments: Tensor
    positions: Tensor
    targets: Tensor
    slots: Tensor
    pictures: tuple[Hashable, ...]
    patches: int

    @property
    def asked(self) -> Tensor:
        """[B, U] booleans: where a target is."""
        return self.targets != IGNORED

    @property
    def target_count(self) -> int:
        return int(self.asked.sum())

    def to(self, device: torch.device) -> Sequences:
        """The same on a device."""
        return replace(self, **{name: getattr(self, name).to(device) for name in (*READ, "targets")})

    def rows(self, chosen: slice) -> Sequences:
        """Some rows with only the pictures that they show, and no wider than the longest of them.

        Targets stay as wide as they are, and `vlm.multimodal.MultimodalModel` gives hidden states of their shape: a
        caller may select with the targets of the part or with those rows of the whole batch's, which are the same.
        """
        real = (self.segments[chosen] != PADDING).any(dim=0).nonzero()
        width = int(real.max()) + 1 if len(real) else 1
        read = {name: getattr(self, name)[chosen, :width] for name in READ}
        part = replace(self, **read, targets=self.targets[chosen])
        cells = part.slots != TEXT
        used, renumbered = torch.unique(part.slots[cells] // self.patches, return_inverse=True)
        slots = part.slots.clone()
        slots[cells] = renumbered * self.patches + part.slots[cells] % self.patches
        return replace(part, slots=slots, pictures=tuple(self.pictures[i] for i in used.tolist()))


def pack(samples: Sequence[Sample], rows: Sequence[Sequence[int]], patches: int) -> Sequences:
    """Rows of samples, named by their numbers, one behind the other; padded on the right to the longest row.

    A picture shown by several samples of the batch appears once in `pictures`: the tower reads it once. A row without
    samples is all padding. patches: tokens of one picture.
    """
    width = max(1, max((sum(len(samples[i]) for i in row) for row in rows), default=1))
    shape = (len(rows), width)
    tokens, positions = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    segments, targets = np.full(shape, PADDING, np.int64), np.full(shape, IGNORED, np.int64)
    slots = np.full(shape, TEXT, np.int64)
    numbers: dict[Hashable, int] = {}
    for index, row in enumerate(rows):
        start = 0
        for segment, chosen in enumerate(row):
            sample = samples[chosen]
            place = np.s_[index, start : start + len(sample)]
            tokens[place], targets[place] = sample.tokens, sample.targets
            positions[place], segments[place] = np.arange(len(sample)), segment
            if sample.pictures:
                first = np.array([numbers.setdefault(name, len(numbers)) for name in sample.pictures])
                picture, patch = np.divmod(np.maximum(sample.slots, 0), patches)
                slots[place] = np.where(sample.slots == TEXT, TEXT, first[picture] * patches + patch)
            start += len(sample)
    whole = torch.from_numpy
    return Sequences(
        tokens=whole(tokens),
        segments=whole(segments),
        positions=whole(positions),
        targets=whole(targets),
        slots=whole(slots),
        pictures=tuple(numbers),
        patches=patches,
    )


def padded(samples: Sequence[Sample], patches: int) -> Sequences:
    """One sample a row, as models are trained without packing: the mode to compare with."""
    return pack(samples, [[index] for index in range(len(samples))], patches)


def dense_mask(segments: Tensor) -> Tensor:
    """[B, 1, T, T] booleans, True where a row may look: the same segment, not ahead.

    What attention by segments must equal, for models that take a mask. Padding is a segment of its own: a place that
    may look nowhere would get NaN from a softmax.
    """
    length = segments.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=segments.device).tril()
    return ((segments[:, :, None] == segments[:, None, :]) & causal)[:, None]


def divisors(counts: Sequence[int], reduction: str = "global") -> list[float]:
    """What the summed loss of each micro-batch is divided by, given the target tokens of all (over all ranks).

    global: the targets of the global batch; every target weighs the same. prismatic: mean of each micro-batch's mean,
    as the published models were trained; a target weighs more in a micro-batch with few. Raises UserError.
    """
    if reduction == "global":
        return [float(sum(counts))] * len(counts)
    if reduction == "prismatic":
        return [float(max(1, count) * len(counts)) for count in counts]
    raise unknown_name("reduction of the loss", reduction, REDUCTIONS)


def summed_loss(logits: Tensor, targets: Tensor, divisor: float) -> Tensor:
    """Summed cross entropy in float32 of logits [N, vocabulary] at N targets, divided (see `divisors`)."""
    return functional.cross_entropy(logits.float(), targets, reduction="sum") / divisor
