"""Several questions behind one picture: block-diagonal packing.

A packed row is [cells of the picture][question 1 + answer 1][question 2 + answer 2]... Every text token sees all cells
and the earlier tokens of its own segment, never another question; cells see each other. Positions restart in every
segment, so a packed question gets the same logits as one asked alone.

The text of a row without a picture sees no cells. What stands in their place is then without effect, and no gradient
reaches it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

IGNORED = -100


@dataclass(frozen=True)
class Segment:
    """Token ids of one question and of its answer."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]


@dataclass(frozen=True)
class Packed:
    """tokens, positions, segments: [B, T] int64 (segment -1 is padding); targets: [B, T], the next token to predict
    at each position, IGNORED where nothing is asked."""

    tokens: Tensor
    positions: Tensor
    segments: Tensor
    targets: Tensor

    @property
    def target_count(self) -> int:
        return int((self.targets != IGNORED).sum())

    def to(self, device: torch.device) -> Packed:
        """The same on a device."""
        return Packed(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))


def pack(rows: Sequence[Sequence[Segment]]) -> Packed:
    """One row of segments per picture, padded on the right to the longest row.

    The last answer token is not fed (nothing follows it), so a segment takes len(prompt) + len(answer) - 1 places.
    """
    lengths = [sum(len(s.prompt) + len(s.answer) - 1 for s in row) for row in rows]
    shape = (len(rows), max(lengths))
    tokens, positions = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    segments, targets = np.full(shape, -1, np.int64), np.full(shape, IGNORED, np.int64)
    for index, row in enumerate(rows):
        start = 0
        for number, segment in enumerate(row):
            ids = (segment.prompt + segment.answer)[:-1]
            end = start + len(ids)
            tokens[index, start:end] = ids
            positions[index, start:end] = range(len(ids))
            segments[index, start:end] = number
            targets[index, start + len(segment.prompt) - 1 : end] = segment.answer
            start = end
    return Packed(*(torch.from_numpy(array) for array in (tokens, positions, segments, targets)))


def attention_mask(segments: Tensor, cells: int, pictured: Tensor | None = None) -> Tensor:
    """[B, 1, cells + T, cells + T] booleans, True where a row may look; padding looks at the cells only.

    pictured: [B] booleans, False for a row without a picture; None when all have one.
    """
    batch, length = segments.shape
    mask = torch.zeros(batch, cells + length, cells + length, dtype=torch.bool, device=segments.device)
    mask[:, :, :cells] = True
    if pictured is not None:
        # Padding keeps looking at the cells: a row of the mask that allows nothing has no softmax.
        mask[:, cells:, :cells] = (pictured[:, None] | (segments < 0))[:, :, None]
    same = segments[:, :, None] == segments[:, None, :]
    causal = torch.ones(length, length, dtype=torch.bool, device=segments.device).tril()
    mask[:, cells:, cells:] = same & causal & (segments >= 0)[:, :, None]
    return mask[:, None]
