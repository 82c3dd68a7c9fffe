"""Greedy answers of a general model: what the questions of a picture have in common is read once.

The questions about a picture begin alike: with the tokens in front of the picture, the picture, and often what a prompt
template says behind it. A group of them is laid out as one row, a tree of depth one: the trunk, then a branch for the
rest of each question. A branch sees the trunk and itself, and its positions go on from the trunk's, so it computes what
it would compute alone; then all branches grow by a token at a time. The trunk's keys and values are there once, however
many questions share them. A question alone, with or without a picture, is a group of one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vlmablate.training.sequences import PADDING, pack
from vlmablate.vlm.llms.cached import TRUNK, Reading
from vlmablate.vlm.merge import IGNORED, Sample, place
from vlmablate.vlm.multimodal import MultimodalModel

CELLS_AT_ONCE = 8192
"""Tokens and patches of the rows of a batch, with padding and the longest answers: what bounds the memory."""


@dataclass(frozen=True)
class Tree:
    """Questions about the same pictures as one row of T cells.

    Attributes:
        row: tokens and slots of the trunk, then of every branch.
        positions: int64 [T]; every branch goes on from the end of the trunk.
        branches: int64 [T], TRUNK or the number of the question.
        ends: int64 [questions], the cell behind which each answer begins.
    """

    row: Sample
    positions: np.ndarray
    branches: np.ndarray
    ends: np.ndarray

    def __len__(self) -> int:
        return len(self.positions)

    def grown(self, limit: int) -> int:
        """Cells of the row when every answer has so many tokens."""
        return len(self) + limit * len(self.ends)


def tree_of(questions: Sequence[Sample]) -> Tree:
    """One row of prompts that show the same pictures, in that order. Raises ValueError where they show others."""
    first = questions[0]
    if any(question.pictures != first.pictures for question in questions):
        raise ValueError("questions of one group are about the same pictures")
    trunk = _common(questions)
    lengths = [len(question) - trunk for question in questions]
    parts = [np.s_[:trunk], *[np.s_[trunk:]] * len(questions)]

    def joined(name: str) -> np.ndarray:
        return np.concatenate(
            [getattr(q, name)[part] for q, part in zip([first, *questions], parts, strict=True)]
        )

    tokens = joined("tokens")
    row = Sample(tokens, np.full(len(tokens), IGNORED, np.int64), joined("slots"), first.pictures)
    positions = np.concatenate([np.arange(trunk), *(np.arange(trunk, trunk + n) for n in lengths)])
    branches = np.repeat([TRUNK, *range(len(questions))], [trunk, *lengths])
    return Tree(row, positions, branches, trunk + np.cumsum(lengths) - 1)


def _common(questions: Sequence[Sample]) -> int:
    """How many cells all begin with; at least the last of each is its own, because an answer is read off there."""
    most = min(len(question) for question in questions) - 1
    columns = [
        np.stack([getattr(question, name)[:most] for question in questions]) for name in ("tokens", "slots")
    ]
    same = np.logical_and.reduce([(column == column[:1]).all(axis=0) for column in columns])
    return int(most if same.all() else same.argmin())


def generate(
    model: MultimodalModel,
    look: Callable[[Sequence[Hashable]], Tensor],
    groups: Sequence[Sequence[Sample]],
    patches: int,
    *,
    stop: Collection[int],
    limit: int,
    cells_at_once: int = CELLS_AT_ONCE,
    after_batch: Callable[[int], None] = lambda groups: None,
    check: Callable[[], None] = lambda: None,
) -> list[list[tuple[int, ...]]]:
    """Token ids of the answers, in the same nesting and order, without the token that ended them.

    Args:
        look: names of pictures -> features [I, N, C], what the model's projector takes, on the device of the model.
        groups: prompts, each group about the same pictures; see `tree_of`.
        patches: tokens of one picture.
        stop: an answer ends in front of any of these tokens,
        limit: and has so many tokens at most.
        cells_at_once: at least one group is read at once, however long.
        after_batch: called with the number of groups that are done.
        check: called before every token; what it raises ends all.

    The answers do not depend on how prompts are grouped and batched, up to the rounding of sums in another order.
    """
    trees = [tree_of(group) for group in groups]
    found: list[list[tuple[int, ...]]] = [[] for _ in groups]
    done = 0
    for batch in batches([tree.grown(limit) for tree in trees], cells_at_once):
        answers = _grow(model, look, [trees[i] for i in batch], patches, stop, limit, check)
        for index, answer in zip(batch, answers, strict=True):
            found[index] = answer
        done += len(batch)
        after_batch(done)
    return found


def batches(lengths: Sequence[int], cells: int) -> list[list[int]]:
    """Numbers of rows that are read together, padded to the longest of them; the longest come first, so that memory
    that does not suffice is told at once."""
    found: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if found and (len(found[-1]) + 1) * lengths[found[-1][0]] <= cells:
            found[-1].append(index)
        else:
            found.append([index])
    return found


@torch.inference_mode()
def _grow(
    model: MultimodalModel,
    look: Callable[[Sequence[Hashable]], Tensor],
    trees: Sequence[Tree],
    patches: int,
    stop: Collection[int],
    limit: int,
    check: Callable[[], None],
) -> list[list[tuple[int, ...]]]:
    """The answers of one batch."""
    device = next(model.language.parameters()).device
    reading = Reading(model.language, len(trees), device)
    hidden = reading.read(
        _embedded(model, look, trees, patches, device),
        _to(_padded([tree.positions for tree in trees], 0), device),
        _to(_padded([tree.branches for tree in trees], PADDING), device),
    )
    answers: list[list[list[int]]] = [[[] for _ in tree.ends] for tree in trees]
    # Of every question that still grows: its tree, its number, the row that its tree is in now, where in the row its
    # last token is, and the position of the next one. Sorted by row.
    counts = [len(tree.ends) for tree in trees]
    owner = np.repeat(np.arange(len(trees)), counts)
    number = np.concatenate([np.arange(count) for count in counts])
    row, last = owner, np.concatenate([tree.ends for tree in trees])
    position = np.concatenate([tree.positions[tree.ends] + 1 for tree in trees])
    for step in range(limit):
        check()
        best = model.logits(hidden[_to(row, device), _to(last, device)]).argmax(-1).cpu().numpy()
        going = ~np.isin(best, list(stop))
        best, owner, number, row, position = (x[going] for x in (best, owner, number, row, position))
        for tree, question, token in zip(owner, number, best.tolist(), strict=True):
            answers[tree][question].append(token)
        if not len(best) or step + 1 == limit:
            break
        kept, row = np.unique(row, return_inverse=True)
        if len(kept) < len(hidden):
            reading.keep(_to(kept, device))
        # The cell of a question is how many of its row come before.
        last = np.arange(len(row)) - np.searchsorted(row, row)
        tokens, positions, branches = (
            _to(_spread(values, row, last, filling), device)
            for values, filling in ((best, 0), (position, 0), (number, PADDING))
        )
        hidden = reading.read(model.language.embed(tokens), positions, branches)
        position = position + 1
    return [[tuple(tokens) for tokens in tree] for tree in answers]


def _embedded(
    model: MultimodalModel,
    look: Callable[[Sequence[Hashable]], Tensor],
    trees: Sequence[Tree],
    patches: int,
    device: torch.device,
) -> Tensor:
    """[B, T, W] of the rows with their pictures in place."""
    packed = pack([tree.row for tree in trees], [[i] for i in range(len(trees))], patches).to(device)
    embeddings: Tensor = model.language.embed(packed.tokens)
    if not packed.pictures:
        return embeddings
    return place(embeddings, model.projector(look(packed.pictures)), packed.slots)


def _padded(rows: Sequence[np.ndarray], filling: int) -> np.ndarray:
    """int64 [B, T] of rows, filled on the right."""
    found = np.full((len(rows), max(len(row) for row in rows)), filling, np.int64)
    for line, row in zip(found, rows, strict=True):
        line[: len(row)] = row
    return found


def _spread(values: np.ndarray, row: np.ndarray, column: np.ndarray, filling: int) -> np.ndarray:
    """int64 [rows, columns] with the values in their cells."""
    found = np.full((int(row.max()) + 1, int(column.max()) + 1), filling, np.int64)
    found[row, column] = values
    return found


def _to(array: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(array).to(device)
