"""Simulated scores of training runs, for the claims whose unit is the run."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from vlmablate.stats.calibration.shape import Cell, Floats, Shape


def simulate_runs(
    shape: Shape, repetitions: int, rng: np.random.Generator, *, spread: Sequence[float] | None = None
) -> dict[Cell, Floats]:
    """Scores in points of equally good arms: cell -> [repetitions, runs, benchmarks], copies left out.

    spread: factor on the seed SD of every arm; None is 1 for all. Scores of binary benchmarks are rounded to what n
    examples can give, and no score leaves the range of its benchmark.
    """
    count = len(shape.benchmarks)
    sds = np.array([benchmark.seed_sd for benchmark in shape.benchmarks])
    levels = np.array([100.0 * benchmark.mean for benchmark in shape.benchmarks])
    lows = np.array([100.0 * benchmark.values[0] for benchmark in shape.benchmarks])
    highs = np.array([100.0 * benchmark.values[-1] for benchmark in shape.benchmarks])
    steps = [
        (high - low) / b.n if b.binary else 0.0
        for b, low, high in zip(shape.benchmarks, lows, highs, strict=True)
    ]

    def effects(runs: int) -> Floats:
        common = rng.standard_normal((repetitions, runs, 1)) * math.sqrt(shape.correlation)
        own = rng.standard_normal((repetitions, runs, count)) * math.sqrt(1 - shape.correlation)
        return np.asarray((common + own) * sds)

    pairing = shape.seed_pairing if shape.paired_seeds else 0.0
    longest = [max(row[context] for row in shape.seeds) for context in range(len(shape.seeds[0]))]
    shared = [effects(runs) for runs in longest] if pairing else []
    scores = {}
    for arm, context in shape.cells:
        runs = shape.seeds[arm][context]
        moved = effects(runs)
        if pairing:
            moved = math.sqrt(pairing) * shared[context][:, :runs] + math.sqrt(1 - pairing) * moved
        moved = levels + moved * (1.0 if spread is None else spread[arm])
        for b, step in enumerate(steps):
            if step:
                moved[..., b] = lows[b] + np.rint((moved[..., b] - lows[b]) / step) * step
        scores[(arm, context)] = np.clip(moved, lows, highs)
    return scores
