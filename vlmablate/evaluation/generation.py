"""Greedy answers and the probabilities of given ones: what the questions of a picture have in common is read once.

The questions about a picture begin alike: with the tokens in front of the picture, the picture, and often what a prompt
template says behind it. A group of them is laid out as one row, a tree: the trunk, a branch for the rest of each
question, and behind a question whose options are compared a twig for each option that is longer than a token. A place
sees what it grows from and its positions go on from there, so it computes what it would compute alone; then all
branches with an answer to write grow by a token at a time. The trunk's keys and values are there once, however many
questions share them. A question alone, with or without a picture, is a group of one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from vlmablate.training.sequences import PADDING, pack
from vlmablate.vlm.llms.cached import TRUNK, TWIGS, Reading
from vlmablate.vlm.merge import IGNORED, TEXT, Sample, place
from vlmablate.vlm.multimodal import MultimodalModel

CELLS_AT_ONCE = 8192
"""Tokens and patches of the rows of a batch, with padding and the longest answers: what bounds the memory."""

LookAt = Callable[[Sequence[Hashable]], Tensor]
"""Names of pictures -> features [I, N, C], what the model's projector takes, on the device of the model."""


@dataclass(frozen=True)
class Asked:
    """A question.

    prompt: what is read before the answer. limit: most tokens of an answer that is written. options: token ids of each
    answer that there may be; with them nothing is written, and their probabilities are compared.
    """

    prompt: Sample
    limit: int = 0
    options: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True)
class Said:
    """tokens: ids of a written answer, without the one that ended it. probabilities: of the options; they sum to 1."""

    tokens: tuple[int, ...] = ()
    probabilities: tuple[float, ...] = ()


@dataclass(frozen=True)
class Tree:
    """Questions about the same pictures as one row of T cells.

    Attributes:
        row: tokens and slots of the trunk, then of every branch with its twigs.
        positions: int64 [T]; a branch goes on from the end of the trunk, a twig from that of its branch.
        branches: int64 [T], TRUNK, the number of the question, or that of a twig (see `vlm.llms.cached`).
        ends: int64 [questions], the cell behind which each answer begins.
        limits: int64 [questions], most tokens of an answer that is written, 0 where options are compared.
        options: int64 [questions], how many are compared.
        cells, tokens, owners: int64 [M] each, for every token of every option the cell that foretells it, its id, and
            the number of the option, counted through all questions.
    """

    row: Sample
    positions: np.ndarray
    branches: np.ndarray
    ends: np.ndarray
    limits: np.ndarray
    options: np.ndarray
    cells: np.ndarray
    tokens: np.ndarray
    owners: np.ndarray

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def grown(self) -> int:
        """Cells of the row when every answer is as long as it may be."""
        return len(self) + int(self.limits.sum())


def tree_of(questions: Sequence[Asked]) -> Tree:
    """One row of questions that show the same pictures, in that order. Raises ValueError where they show others."""
    first = questions[0].prompt
    if any(question.prompt.pictures != first.pictures for question in questions):
        raise ValueError("questions of one group are about the same pictures")
    trunk = _common([question.prompt for question in questions])
    tokens, slots = [first.tokens[:trunk]], [first.slots[:trunk]]
    positions, branches = [np.arange(trunk)], [np.full(trunk, TRUNK)]
    ends: list[int] = []
    foretold: list[tuple[int, int, int]] = []
    length = trunk

    def grow(ids: np.ndarray, shown: np.ndarray, start: int, branch: int) -> None:
        nonlocal length
        tokens.append(ids)
        slots.append(shown)
        positions.append(np.arange(start, start + len(ids)))
        branches.append(np.full(len(ids), branch))
        length += len(ids)

    option = 0
    for number, question in enumerate(questions):
        prompt = question.prompt
        grow(prompt.tokens[trunk:], prompt.slots[trunk:], trunk, number)
        end = length - 1
        ends.append(end)
        for twig, ids in enumerate(question.options, start=1):
            cells = [end, *range(length, length + len(ids) - 1)]
            foretold += zip(cells, ids, [option] * len(ids), strict=True)
            read = np.array(ids[:-1], np.int64)
            grow(read, np.full(len(read), TEXT), len(prompt), number + twig * TWIGS)
            option += 1
    row = Sample(np.concatenate(tokens), np.full(length, IGNORED), np.concatenate(slots), first.pictures)
    return Tree(
        row,
        np.concatenate(positions),
        np.concatenate(branches),
        np.array(ends),
        np.array([0 if question.options else question.limit for question in questions]),
        np.array([len(question.options) for question in questions]),
        *np.array(foretold, np.int64).reshape(-1, 3).T,
    )


def _common(prompts: Sequence[Sample]) -> int:
    """How many cells all begin with; at least the last of each is its own, because an answer is read off there."""
    most = min(len(prompt) for prompt in prompts) - 1
    columns = [np.stack([getattr(prompt, name)[:most] for prompt in prompts]) for name in ("tokens", "slots")]
    same = np.logical_and.reduce([(column == column[:1]).all(axis=0) for column in columns])
    return int(most if same.all() else same.argmin())


def generate(
    model: MultimodalModel,
    look: LookAt,
    groups: Sequence[Sequence[Sample]],
    patches: int,
    *,
    stop: Collection[int],
    limit: int,
    cells_at_once: int = CELLS_AT_ONCE,
    after_batch: Callable[[int], None] = lambda groups: None,
    check: Callable[[], None] = lambda: None,
) -> list[list[tuple[int, ...]]]:
    """Token ids of written answers, in the same nesting and order, without the token that ended them.

    Args:
        groups: prompts, each group about the same pictures; see `tree_of`.
        patches: tokens of one picture.
        stop: an answer ends in front of any of these tokens,
        limit: and has so many tokens at most.
        cells_at_once: at least one group is read at once, however long.
        after_batch: called with the number of groups that are done.
        check: called before every token; what it raises ends all.

    The answers do not depend on how prompts are grouped and batched, up to the rounding of sums in another order.
    """
    trees = [tree_of([Asked(prompt, limit) for prompt in group]) for group in groups]
    found: list[list[tuple[int, ...]]] = [[] for _ in groups]
    done = 0
    for batch in batches([tree.grown for tree in trees], cells_at_once):
        answers = answer(model, look, [trees[i] for i in batch], patches, stop, check)
        for index, said in zip(batch, answers, strict=True):
            found[index] = [each.tokens for each in said]
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
def answer(
    model: MultimodalModel,
    look: LookAt,
    trees: Sequence[Tree],
    patches: int,
    stop: Collection[int],
    check: Callable[[], None] = lambda: None,
) -> list[list[Said]]:
    """What is said to each question of one batch of rows; see `generate`."""
    check()
    device = next(model.language.parameters()).device
    reading = Reading(model.language, len(trees), device)
    hidden = reading.read(
        _embedded(model, look, trees, patches, device),
        _to(_padded([tree.positions for tree in trees], 0), device),
        _to(_padded([tree.branches for tree in trees], PADDING), device),
    )
    compared = _compare(model, hidden, trees)
    written = _write(model, reading, hidden, trees, stop, check)
    return [
        [Said(tuple(tokens), each) for tokens, each in zip(*pair, strict=True)]
        for pair in zip(written, compared, strict=True)
    ]


def _compare(model: MultimodalModel, hidden: Tensor, trees: Sequence[Tree]) -> list[list[tuple[float, ...]]]:
    """For each question of each tree the probabilities of its options, () without any.

    That of an option is the product over its tokens, renormalised over the options of its question.
    """
    rows = np.repeat(np.arange(len(trees)), [len(tree.cells) for tree in trees])
    if not len(rows):
        return [[()] * len(tree.ends) for tree in trees]
    places, inverse = np.unique(
        np.stack([rows, np.concatenate([tree.cells for tree in trees])]), axis=1, return_inverse=True
    )
    row, cell = (_to(part, hidden.device) for part in places)
    scores = torch.log_softmax(model.logits(hidden[row, cell]).float(), -1)
    tokens = np.concatenate([tree.tokens for tree in trees])
    each = scores[_to(inverse.reshape(-1), hidden.device), _to(tokens, hidden.device)].double().cpu().numpy()
    found = []
    for tree, values in zip(
        trees, np.split(each, np.cumsum([len(t.cells) for t in trees])[:-1]), strict=True
    ):
        whole = np.bincount(tree.owners, values, minlength=int(tree.options.sum()))
        found.append(list(map(_probabilities, np.split(whole, np.cumsum(tree.options)[:-1]))))
    return found


def _probabilities(logs: np.ndarray) -> tuple[float, ...]:
    if not len(logs):
        return ()
    shares = np.exp(logs - logs.max())
    return tuple((shares / shares.sum()).tolist())


def _write(
    model: MultimodalModel,
    reading: Reading,
    hidden: Tensor,
    trees: Sequence[Tree],
    stop: Collection[int],
    check: Callable[[], None],
) -> list[list[list[int]]]:
    """The tokens of each question of each tree, none where its options are compared."""
    device = hidden.device
    answers: list[list[list[int]]] = [[[] for _ in tree.ends] for tree in trees]
    # Of every question that still grows: its tree, its number, the row that its tree is in now, where in the row its
    # last token is, the position of the next one, and how many more it may have. Sorted by row.
    writes = [np.flatnonzero(tree.limits) for tree in trees]
    owner = np.repeat(np.arange(len(trees)), [len(numbers) for numbers in writes])
    number = _joined(writes)
    row, last = owner, _joined(tree.ends[numbers] for tree, numbers in zip(trees, writes, strict=True))
    position = _joined(
        tree.positions[tree.ends[numbers]] + 1 for tree, numbers in zip(trees, writes, strict=True)
    )
    left = _joined(tree.limits[numbers] for tree, numbers in zip(trees, writes, strict=True))
    while len(number):
        best = model.logits(hidden[_to(row, device), _to(last, device)]).argmax(-1).cpu().numpy()
        going = ~np.isin(best, list(stop))
        for tree, question, token in zip(owner[going], number[going], best[going].tolist(), strict=True):
            answers[tree][question].append(token)
        left = left - 1
        going &= left > 0
        best, owner, number, row, position, left = (
            x[going] for x in (best, owner, number, row, position, left)
        )
        if not len(number):
            break
        check()
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
    return answers


def _embedded(
    model: MultimodalModel, look: LookAt, trees: Sequence[Tree], patches: int, device: torch.device
) -> Tensor:
    """[B, T, W] of the rows with their pictures in place."""
    packed = pack([tree.row for tree in trees], [[i] for i in range(len(trees))], patches).to(device)
    embeddings: Tensor = model.language.embed(packed.tokens)
    if not packed.pictures:
        return embeddings
    return place(embeddings, model.projector(look(packed.pictures)), packed.slots)


def _joined(parts: Iterable[np.ndarray]) -> np.ndarray:
    return np.fromiter(chain.from_iterable(parts), np.int64)


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
    return torch.from_numpy(np.ascontiguousarray(array)).to(device)
