"""Simulated studies of known truth, and the design test as the table makes it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import pandas as pd

from vlmablate.stats.calibration.batch import DesignBatch, design_batch, paired_batch, pooled_batch
from vlmablate.stats.calibration.shape import Cell, Floats, Shape
from vlmablate.stats.contrasts import compare
from vlmablate.stats.data import Data
from vlmablate.stats.declaration import Design
from vlmablate.stats.panel import Panels, Run
from vlmablate.stats.runs import declared_method
from vlmablate.stats.settings import Settings


def declared(shape: Shape, arm: int, alpha: float) -> Literal["exact", "t"]:
    """The method that the table uses for an arm's primary contrast."""
    contexts = shape.apart(arm)
    # Contrasts that share runs with the baseline are chosen as if they were alone, see contrasts.compare.
    family = len(shape.contrasts()) if len(contexts) == len(shape.contrasts()[arm]) else 1
    counts = [shape.seeds[arm][c] for c in contexts], [shape.seeds[0][c] for c in contexts]
    if shape.paired_seeds:
        common = [min(pair) for pair in zip(*counts, strict=True)]
        counts = common, common
    return declared_method(*counts, family=family, paired=shape.paired_seeds, alpha=alpha)


@dataclass(frozen=True)
class Studies:
    """Simulated studies of equal arms. runs: cell -> scores in points [repetitions, runs, benchmarks] of every cell
    that has runs of its own."""

    shape: Shape
    runs: dict[Cell, Floats]
    alpha: float

    @cached_property
    def _suites(self) -> dict[Cell, Floats]:
        return {cell: scores.mean(axis=2) for cell, scores in self.runs.items()}

    def _side(self, arm: int, context: int) -> Floats:
        return self._suites[self.shape.origin((arm, context))]

    def _sides(self, arm: int) -> tuple[list[Floats], list[Floats]]:
        """Suite scores [repetitions, runs] of the arm and of the baseline, per context in which they differ."""
        contexts = self.shape.apart(arm)
        alternate, baseline = [self._side(arm, c) for c in contexts], [self._side(0, c) for c in contexts]
        if self.shape.paired_seeds:  # only seeds that both arms have make a pair
            common = [min(a.shape[1], b.shape[1]) for a, b in zip(alternate, baseline, strict=True)]
            alternate = [a[:, :n] for a, n in zip(alternate, common, strict=True)]
            baseline = [b[:, :n] for b, n in zip(baseline, common, strict=True)]
        return alternate, baseline

    @cached_property
    def _error(self) -> tuple[Floats, int]:
        """Spread pooled over all cells; with paired seeds that of differences between runs of one seed."""
        if not self.shape.paired_seeds:
            return pooled_batch(list(self._suites.values()))
        contexts = sorted({context for _, context in self._suites})
        return paired_batch(
            [[self._suites[cell] for cell in self._suites if cell[1] == context] for context in contexts]
        )

    def test(self, arm: int, shift: float = 0.0) -> DesignBatch:
        """The primary contrast of an arm whose difference to the baseline is truly `shift` points."""
        alternate, baseline = self._sides(arm)
        if not alternate:  # the baseline's own runs
            zeros = np.zeros(len(self._error[0]))
            return DesignBatch(zeros, zeros, zeros + 1.0, 1, self.alpha, False)
        share = len(alternate) / len(self.shape.contrasts()[arm])
        batch = design_batch(
            [scores + shift / share for scores in alternate],
            baseline,
            self._error,
            method=declared(self.shape, arm, self.alpha),
            paired=self.shape.paired_seeds,
            alternative=self.shape.alternative,
            alpha=self.alpha,
        )
        if share == 1:
            return batch
        # Contexts in which both arms have the same runs do not differ, and that is known without error.
        return DesignBatch(
            batch.delta * share, batch.se * share, batch.p, batch.df, batch.attainable, batch.exact
        )


def table_p(studies: Studies, arm: int, repetition: int) -> float:
    """p of an arm's primary contrast in one study, from the very function that fills the table."""
    shape = studies.shape
    cells = [(a, c) for a, row in enumerate(shape.seeds) for c, count in enumerate(row) if count]
    runs: list[Run] = []
    points: list[Floats] = []
    for cell in cells:
        origin = shape.origin(cell)
        for seed, scores in enumerate(studies.runs[origin][repetition]):
            runs.append(Run(f"arm {cell[0]}", f"context {cell[1]}", seed, f"{origin} {seed}"))
            points.append(scores)
    names = tuple(benchmark.name for benchmark in shape.benchmarks)
    design = Design(
        "simulated",
        "arm 0",
        tuple(f"arm {a}" for a in range(shape.arms)),
        tuple(f"context {c}" for c in range(len(shape.seeds[0]))),
        dict.fromkeys(names, "score"),
        settings=Settings(
            alpha=studies.alpha,
            alternative=shape.alternative,
            correction=shape.correction,
            paired_seeds=shape.paired_seeds,
        ),
    )
    empty = pd.DataFrame()
    data = Data(design, Panels(tuple(runs), {}, empty), empty, {}, names, np.stack(points))
    contrasts = shape.contrasts()
    pairs = [((f"arm {arm}", f"context {c}"), ("arm 0", f"context {c}")) for c in contrasts[arm]]
    return float(compare(data, pairs, names, data.error(names), len(contrasts)).p)


def enumerated(shape: Shape, alpha: float) -> int:
    """Arrangements of the largest exact permutation among the contrasts; 1 where none is exact."""
    largest = 1
    for arm in shape.contrasts():
        contexts = shape.apart(arm)
        if contexts and declared(shape, arm, alpha) == "exact":
            counts = [(shape.seeds[arm][c], shape.seeds[0][c]) for c in contexts]
            ways = [2 ** min(a, b) if shape.paired_seeds else math.comb(a + b, a) for a, b in counts]
            largest = max(largest, math.prod(ways))
    return largest
