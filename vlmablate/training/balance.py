"""Which samples make a step, and which rank computes them in which row: pure, exact and the same after any restart.

A step is a global batch: the next samples of a shuffled epoch, whatever their lengths and however many ranks there
are. Only then is the batch cut: into rows of whole samples with (nearly) equal numbers of tokens, as many rows as
ranks times rounds. Since attention is block-diagonal, a row may be as long as it needs to be: nothing is cut to a fixed
length and nothing waits for a sample that fits, so the only padding is the small difference between rows.

A token budget bounds the rows (memory), not the batch: more rounds are made until the longest row fits.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from vlmablate.errors import UserError

ORDER_STREAM = 12
# Exchanges between rows; each makes the longest row shorter, and some ten are enough for a hundred samples.
MAX_EXCHANGES = 400


@lru_cache(maxsize=2)
def epoch_order(count: int, seed: int, epoch: int) -> np.ndarray:
    """The permutation of `count` samples in an epoch, drawn from (seed, epoch) alone."""
    order = np.random.default_rng([seed, ORDER_STREAM, epoch]).permutation(count)
    order.flags.writeable = False
    return order


@dataclass(frozen=True)
class DataOrder:
    """`epochs` (which may be a fraction) over `count` samples in global batches of `batch`.

    Epochs follow each other without a seam: a batch may hold the end of one and the start of the next, and only the
    very last batch may be smaller. So in whole epochs every sample is seen exactly that often.
    """

    count: int
    batch: int
    epochs: float
    seed: int

    @property
    def visits(self) -> int:
        """Samples seen in all, with repetition."""
        return max(1, round(self.epochs * self.count))

    @property
    def steps(self) -> int:
        return math.ceil(self.visits / self.batch)

    def at(self, step: int) -> np.ndarray:
        """The samples of step `step`, counted from 0; needs no earlier step (an epoch is permuted once: O(count))."""
        if not 0 <= step < self.steps:
            raise IndexError(f"step {step} of {self.steps}")
        visits = range(step * self.batch, min((step + 1) * self.batch, self.visits))
        parts = []
        for epoch in range(visits[0] // self.count, visits[-1] // self.count + 1):
            first = max(visits[0] - epoch * self.count, 0)
            last = min(visits[-1] - epoch * self.count + 1, self.count)
            parts.append(epoch_order(self.count, self.seed, epoch)[first:last])
        return np.concatenate(parts)


# [rank][round] -> numbers of the samples in that row.
Placement = list[list[list[int]]]


def place_rows(lengths: Sequence[int], ranks: int, budget: int | None = None, rounds: int = 1) -> Placement:
    """Cut a global batch into ranks x rounds rows of whole samples with balanced tokens.

    lengths: tokens of every sample, patches counted. budget: most tokens of a row; None: any number. rounds: rows of a
    rank at least; the fewest are made with which all rows fit. Rows of one round are the most alike (ranks wait for
    each other in every round), and longer rounds alternate in direction, so that ranks end even too. A rank may get
    empty rows when there are fewer samples than rows. Raises UserError when a sample alone is over the budget.
    """
    longest = max(lengths, default=0)
    if budget is not None and longest > budget:
        raise UserError(
            f"a sample of {longest} tokens (patches counted) does not fit into a row of {budget}; raise the token "
            "budget of a row or shorten the texts"
        )
    total = sum(lengths)
    rounds = rounds if budget is None else max(rounds, math.ceil(total / (ranks * budget)))
    rows = even_rows(lengths, ranks * rounds)
    while budget is not None and max(sum(lengths[i] for i in row) for row in rows) > budget:
        rounds += 1
        rows = even_rows(lengths, ranks * rounds)
    rows.sort(key=lambda row: (-sum(lengths[i] for i in row), row))
    placement: Placement = [[] for _ in range(ranks)]
    for number in range(rounds):
        shared = rows[number * ranks : (number + 1) * ranks]
        for rank, row in enumerate(shared if number % 2 == 0 else reversed(shared)):
            placement[rank].append(row)
    return placement


def even_rows(lengths: Sequence[int], count: int) -> list[list[int]]:
    """`count` rows of whole samples with totals as even as simple exchanges make them.

    Longest first, each into the shortest row so far (Graham's LPT); then the longest row hands a sample over, or
    exchanges one for a shorter one, as long as that brings it closer to another row.
    """
    rows: list[list[int]] = [[] for _ in range(count)]
    heap = [(0, index) for index in range(count)]
    for sample in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        total, index = heapq.heappop(heap)
        rows[index].append(sample)
        heapq.heappush(heap, (total + lengths[sample], index))
    totals = np.array([sum(lengths[i] for i in row) for row in rows])
    for _ in range(MAX_EXCHANGES):
        if not _exchange(rows, totals, lengths):
            break
    return [sorted(row) for row in rows]


def _exchange(rows: list[list[int]], totals: np.ndarray, lengths: Sequence[int]) -> bool:
    """Make the longest row shorter by one exchange with the shortest row that allows it; False when none does."""
    longest = int(totals.argmax())
    own = np.array([lengths[i] for i in rows[longest]])
    for other in np.argsort(totals, kind="stable"):
        gap = int(totals[longest] - totals[other])
        if gap <= 1:
            return False
        theirs = np.array([*(lengths[i] for i in rows[other]), 0])  # the last: nothing comes back
        moved = own[:, None] - theirs[None, :]
        left = np.where((moved > 0) & (moved < gap), np.abs(gap - 2 * moved), gap)
        best = int(left.argmin())
        if left.flat[best] < gap:
            mine, back = divmod(best, len(theirs))
            given = rows[longest].pop(mine)
            if back < len(rows[other]):
                rows[longest].append(rows[other].pop(back))
            rows[other].append(given)
            totals[longest] -= moved.flat[best]
            totals[other] += moved.flat[best]
            return True
    return False


def row_tokens(placement: Placement, lengths: Sequence[int]) -> np.ndarray:
    """[ranks, rounds] real tokens of every row."""
    return np.array([[sum(lengths[i] for i in row) for row in rank] for rank in placement])


def efficiency(tokens: np.ndarray) -> float:
    """Real tokens per processed token of [ranks, rounds] rows: in a round all ranks take as long as its longest row."""
    return float(tokens.sum() / (tokens.max(axis=0).sum() * len(tokens)))


def straggler(tokens: np.ndarray) -> float:
    """Tokens of the busiest rank over the mean rank's."""
    per_rank = tokens.sum(axis=1)
    return float(per_rank.max() / per_rank.mean())
