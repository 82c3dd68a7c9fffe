"""Where pictures stand in a text, and how their projected patches get there.

A text holds a mark for each of its pictures. `expand` turns every mark into as many cells as the picture has tokens
and says which cell shows which patch (its slot); `place` puts the projected patches into their cells. Two layouts:

* at the mark: the patches stand where the text names the picture (LLaVA's ``<image>``);
* after BOS: ``[BOS][patches][text]``, which is a mark behind the first token (Prismatic, paper section 2).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vlmablate.errors import UserError

# Stands for one whole picture among token ids; negative, so it can be no token of any vocabulary.
IMAGE_MARK = -200
IGNORED = -100
TEXT = -1


@dataclass(frozen=True)
class Sample:
    """One training sequence with its pictures' cells in place; all arrays are int64 [L].

    tokens: ids, 0 in the cells of pictures. targets: the token that follows, IGNORED where nothing is asked.
    slots: patch number in the sample's pictures, counted through all of them, TEXT elsewhere.
    pictures: the name of each picture, in the order of its cells.
    """

    tokens: np.ndarray
    targets: np.ndarray
    slots: np.ndarray
    pictures: tuple[Hashable, ...] = ()

    def __len__(self) -> int:
        return len(self.tokens)


def mark_after_first(tokens: Sequence[int], asked: Sequence[bool]) -> tuple[list[int], list[bool]]:
    """A picture behind the first token (BOS), which is itself never asked for: the layout [BOS][patches][text]."""
    return [tokens[0], IMAGE_MARK, *tokens[1:]], [False, False, *asked[1:]]


def expand(
    tokens: Sequence[int], asked: Sequence[bool], pictures: Sequence[Hashable], patches: int
) -> Sample:
    """The sample of a text with one IMAGE_MARK for each of its pictures, `patches` cells each.

    asked: whether a token is to be predicted; never so for cells, but the cell in front of a token predicts it.
    Raises UserError where marks and pictures differ in number.
    """
    ids, wanted = np.asarray(tokens, np.int64), np.asarray(asked, bool)
    if len(ids) != len(wanted):
        raise ValueError(f"{len(ids)} tokens, but {len(wanted)} flags of what is asked")
    marks = ids == IMAGE_MARK
    if marks.sum() != len(pictures):
        raise UserError(
            f"a text names {marks.sum()} pictures, but {len(pictures)} come with it ({list(pictures)}); "
            "every picture needs one <image> mark in the text"
        )
    counts = np.where(marks, patches, 1)
    cells = np.repeat(marks, counts)
    slots = np.where(cells, np.cumsum(cells) - 1, TEXT)
    ids, wanted = np.repeat(ids, counts), np.repeat(wanted, counts) & ~cells
    targets = np.full(len(ids), IGNORED, np.int64)
    targets[:-1] = np.where(wanted[1:], ids[1:], IGNORED)
    return Sample(np.where(cells, 0, ids), targets, slots, tuple(pictures))


def place(embeddings: Tensor, patches: Tensor, slots: Tensor) -> Tensor:
    """embeddings [B, T, W] with the cells of pictures filled from patches [I, P, W].

    slots: [B, T], patch number in the I * P of the batch, TEXT elsewhere. No picture at all (I = 0) changes nothing,
    but keeps the patches in the graph: their gradient is zero, not missing.
    """
    batch, length, width = embeddings.shape
    where = (slots.flatten() != TEXT).nonzero().flatten()
    shown = patches.reshape(-1, width).to(embeddings.dtype)[slots.flatten()[where]]
    return torch.index_copy(embeddings.reshape(-1, width), 0, where, shown).view(batch, length, width)
