"""Scores of made-up design spaces, for the tests of vlmablate.stats.factorial."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

import numpy as np
import pandas as pd

from vlmablate.stats.factorial import Factor, Space

NAMES = ("resize", "stages", "epochs", "fusion")


def axes(sizes: Sequence[int]) -> tuple[Factor, ...]:
    """Axes with the levels l0 (the baseline), l1, …"""
    named = zip(NAMES, sizes, strict=False)
    return tuple(Factor(name, "l0", tuple(f"l{j}" for j in range(size))) for name, size in named)


def grid(sizes: Sequence[int]) -> Space:
    """The full factorial of axes of these sizes."""
    found = axes(sizes)
    return Space(found, {"+".join(levels): levels for levels in product(*(axis.levels for axis in found))})


def scores(points: np.ndarray, space: Space, benchmarks: Sequence[str] = ("vqa",)) -> pd.DataFrame:
    """The table of runs from points [seeds, configurations in the order of the grid]; every benchmark has the same."""
    records = [
        ("+".join(levels), seed, f"{'+'.join(levels)}@{seed}", name, float(points[seed, column]))
        for seed in range(len(points))
        for column, levels in enumerate(space.grid)
        for name in benchmarks
    ]
    return pd.DataFrame(records, columns=["arm", "seed", "run_id", "benchmark", "points"])


def trained(space: Space, seeds: int, shared: Sequence[int]) -> dict[str, dict[str, str]]:
    """Steps of runs whose alignment depends on the axes `shared` only, and whose finetuning is their own."""
    return {
        f"{'+'.join(levels)}@{seed}": {
            "features": "the towers",
            "align": f"align {seed} {[levels[i] for i in shared]}",
            "finetune": f"finetune {seed} {levels}",
        }
        for seed in range(seeds)
        for levels in space.grid
    }


def planted(space: Space, value: Callable[..., float]) -> np.ndarray:
    """Points [1, configurations] from a function of the levels' numbers."""
    return np.array([[value(*(int(level[1:]) for level in levels)) for levels in space.grid]], float)
