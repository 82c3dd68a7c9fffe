"""`make bench`: how many of the tokens that training processes are real, counted without any model.

Peer: the batches that Prismatic and LLaVA train on (one modality a batch, grouped by length, dealt to ranks).

The lengths are of a mixture like LLaVA-1.5's 665K: the rows of every source are counted, how long they are is assumed
(log-normal, see SOURCES).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from vlmablate.training.balance import DataOrder, efficiency, place_rows, row_tokens, straggler

# source: rows (counted), median and log-standard deviation of its text tokens (assumed), a picture?
SOURCES = {
    "llava-instruct": (157_712, 220, 0.55, True),
    "sharegpt": (40_688, 900, 0.80, False),
    "vqav2": (82_783, 110, 0.35, True),
    "gqa": (72_140, 150, 0.35, True),
    "okvqa": (8_998, 60, 0.25, True),
    "ocrvqa": (80_000, 110, 0.25, True),
    "aokvqa": (66_160, 90, 0.20, True),
    "textcaps": (21_953, 55, 0.25, True),
    "refcoco": (48_447, 250, 0.60, True),
    "vg": (86_417, 300, 0.50, True),
}
CUT, PATCHES, RANKS, BATCH = 2048, 576, 8, 128
STEPS_COUNTED = 200
Rows = list[list[list[int]]]


def drawn_lengths(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Text tokens [N] of all rows of the mixture, and which have a picture."""
    text = [rng.lognormal(np.log(median), sd, rows) for rows, median, sd, _ in SOURCES.values()]
    pictured = [np.full(rows, picture) for rows, _, _, picture in SOURCES.values()]
    return np.clip(np.rint(np.concatenate(text)), 2, CUT).astype(int), np.concatenate(pictured)


def grouped(text: np.ndarray, pictured: np.ndarray, seed: int) -> Iterator[Rows]:
    """[rank][one micro-batch] of the policy of LLaVA and Prismatic, one global batch after the other.

    Every global batch is of one modality. Its samples, longest text first, go one by one to the rank with the fewest
    text tokens that still has room; each rank pads to its own longest.
    """
    rng = np.random.default_rng(seed)
    batches = []
    for modality in (True, False):
        order = rng.permutation(np.flatnonzero(pictured == modality))
        for start in range(0, len(order) - BATCH + 1, BATCH):
            chosen = order[start : start + BATCH]
            ranks: list[list[int]] = [[] for _ in range(RANKS)]
            totals = [0] * RANKS
            for sample in chosen[np.argsort(-text[chosen], kind="stable")].tolist():
                open_ranks = [r for r in range(RANKS) if len(ranks[r]) < BATCH // RANKS]
                rank = min(open_ranks, key=lambda r: totals[r])
                ranks[rank].append(sample)
                totals[rank] += int(text[sample])
            batches.append([[rank] for rank in ranks])
    yield from (batches[index] for index in rng.permutation(len(batches)))


def balanced(lengths: np.ndarray, seed: int, budget: int | None) -> Iterator[Rows]:
    """Ours."""
    order = DataOrder(len(lengths), BATCH, 1, seed)
    for step in range(order.steps):
        chosen = order.at(step)
        placed = place_rows(lengths[chosen].tolist(), RANKS, budget)
        yield [[chosen[row].tolist() for row in rank] for rank in placed]


def first(batches: Iterator[Rows], count: int) -> list[Rows]:
    return [rows for rows, _ in zip(batches, range(count), strict=False)]


def count_tokens() -> None:
    """Real tokens per processed token and the busiest rank, without any model."""
    text, pictured = drawn_lengths(np.random.default_rng(0))
    for patches in (256, PATCHES, 729):
        lengths = text + patches * pictured
        counted = {}
        for name, batches in (
            ("grouped, padded", grouped(text, pictured, 1)),
            ("packed, one row a rank", balanced(lengths, 1, None)),
            ("packed, rows of <= 8192", balanced(lengths, 1, 8192)),
            ("packed, rows of <= 4096", balanced(lengths, 1, 4096)),
        ):
            real = processed = waited = 0
            worst = []
            for rows in first(batches, STEPS_COUNTED):
                tokens = row_tokens(rows, lengths.tolist())
                if name.startswith("grouped"):
                    cost = np.array(
                        [[len(row) * max(lengths[i] for i in row) for row in rank] for rank in rows]
                    )
                else:
                    cost = tokens
                real += tokens.sum()
                processed += cost.sum()
                waited += cost.sum() / efficiency(cost)
                worst.append(straggler(cost))
            counted[name] = real / waited
            print(
                f"{patches} patches, {name:<24} real/processed {real / processed:.3f}   with the wait for the slowest "
                f"rank {real / waited:.4f} ({counted[name] / counted['grouped, padded']:.2f} x)   "
                f"busiest rank/mean {np.mean(worst):.4f} (worst {max(worst):.4f})",
                flush=True,
            )


if __name__ == "__main__":
    count_tokens()
