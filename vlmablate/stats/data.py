"""A design with its scores: which runs stand in which cell, and what follows from the baseline alone."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vlmablate.errors import DataError
from vlmablate.stats.declaration import Design
from vlmablate.stats.groups import Clusters, stratum_weights
from vlmablate.stats.panel import Panel, Panels
from vlmablate.stats.runs import PooledError, paired_error, pooled_error
from vlmablate.stats.units import ALL_CONTEXTS, SUITE, Signal, find_signal

Array = NDArray[np.float64]
Cell = tuple[str, str]
"""(arm, context)."""

POINTS = 100.0


@dataclass(frozen=True)
class Stacked:
    """Examples of one or several benchmarks side by side, as columns [n]; a picture that two benchmarks share is
    one cluster. strata: the benchmark of every example. Scores are put together for the runs that are asked
    for only: all runs of a large study side by side would be the study's memory once more."""

    parts: tuple[Panel, ...]
    clusters: Clusters
    strata: Clusters

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(part.benchmark for part in self.parts)

    @property
    def n(self) -> int:
        return sum(part.n for part in self.parts)

    @cached_property
    def weights(self) -> Array:
        """Under these weights [n] a sum over examples is the mean over benchmarks of their means."""
        return stratum_weights(self.strata)

    def scores(self, rows: Sequence[int]) -> Array:
        """Scores of the runs `rows` in points: [len(rows), n]."""
        made = np.empty((len(rows), self.n))
        start = 0
        for part in self.parts:
            np.multiply(part.scores[list(rows)], POINTS, out=made[:, start : start + part.n])
            start += part.n
        return made

    def mean(self, rows: Sequence[int]) -> Array:
        """Score of every example averaged over the runs `rows`, in points: [n]."""
        if len(rows) == 1:
            return self.scores(rows)[0]
        return np.asarray(self.scores(rows).mean(axis=0))


def stack(panels: Panels, names: Sequence[str]) -> Stacked:
    """The benchmarks `names` of `panels` side by side."""
    parts = tuple(panels.by_benchmark[name] for name in names)
    if len(parts) == 1:
        strata = Clusters(np.zeros(parts[0].n, dtype=np.int64), 1)
        return Stacked(parts, parts[0].clusters, strata)
    codes, found = np.unique(np.concatenate([part.cluster_codes for part in parts]), return_inverse=True)
    strata = Clusters(np.repeat(np.arange(len(parts)), [part.n for part in parts]), len(parts))
    return Stacked(parts, Clusters(found.reshape(-1).astype(np.int64), len(codes)), strata)


def run_table(panels: Panels) -> pd.DataFrame:
    """One row per (run, benchmark): arm, context, seed, run_id, benchmark, points."""
    records = [
        (run.arm, run.context, run.seed, run.run_id, name, POINTS * float(panel.scores[row].mean()))
        for name, panel in panels.by_benchmark.items()
        for row, run in enumerate(panels.runs)
    ]
    keys = ["arm", "context", "seed", "run_id", "benchmark"]
    table = pd.DataFrame(records, columns=[*keys, "points"])
    return table.sort_values(keys, kind="stable", ignore_index=True)


@dataclass(frozen=True)
class Data:
    """A design with its scores. points [runs, benchmarks]: every run's mean, benchmarks in the order of `names`;
    run_scores: the same as a table; signal: benchmark -> whether it carries signal."""

    design: Design
    panels: Panels
    run_scores: pd.DataFrame
    signal: Mapping[str, Signal]
    names: tuple[str, ...]
    points: Array

    @classmethod
    def of(cls, panels: Panels, design: Design) -> Data:
        """Raises DataError for runs outside the design, two runs of one arm, context and seed, and names that the
        tables give a meaning of their own."""
        _check_runs(panels, design)
        scores = run_table(panels)
        signal = find_signal(scores, design.baseline, design.majority, design.settings.signal_margin)
        names = tuple(panels.by_benchmark)
        points = [POINTS * panels.by_benchmark[name].scores.mean(axis=1, dtype=np.float64) for name in names]
        return cls(design, panels, scores, signal, names, np.stack(points, axis=1))

    @cached_property
    def with_signal(self) -> tuple[str, ...]:
        return tuple(name for name, signal in self.signal.items() if signal.carries)

    @cached_property
    def cells(self) -> dict[Cell, list[int]]:
        """Rows of the runs of every cell, seeds in order."""
        found: dict[Cell, list[int]] = {}
        for row in sorted(range(len(self.panels.runs)), key=lambda row: self.panels.runs[row].seed):
            run = self.panels.runs[row]
            found.setdefault((run.arm, run.context), []).append(row)
        return found

    @cached_property
    def pairs(self) -> list[Cell]:
        """(alternate, context) for which both arms have a finished run."""
        design = self.design
        return [
            (arm, context)
            for arm in design.arms
            for context in design.contexts
            if arm != design.baseline
            and (arm, context) in self.cells
            and (design.baseline, context) in self.cells
        ]

    @cached_property
    def of_benchmark(self) -> dict[str, Stacked]:
        return {name: stack(self.panels, [name]) for name in self.names}

    @cached_property
    def suite(self) -> Stacked | None:
        """The benchmarks with signal side by side; None without one."""
        return stack(self.panels, self.with_signal) if self.with_signal else None

    def by_seed(self, cell: Cell) -> dict[int, int]:
        """Seed -> row of a cell's run."""
        return {self.panels.runs[row].seed: row for row in self.cells[cell]}

    def ids(self, cell: Cell) -> frozenset[str]:
        """The training runs behind a cell; arms that do not differ in a context share theirs."""
        return frozenset(self.panels.runs[row].run_id for row in self.cells[cell])

    def means(self, rows: Sequence[int], names: Sequence[str]) -> Array:
        """Mean points over the benchmarks `names` of the runs `rows`: [len(rows)]."""
        columns = [self.names.index(name) for name in names]
        return np.asarray(self.points[np.ix_(list(rows), columns)].mean(axis=1))

    def values(self, cell: Cell, names: Sequence[str]) -> Array:
        """Mean points over the benchmarks `names` of every run of a cell: [runs]."""
        return self.means(self.cells[cell], names)

    def matched(self, first: Cell, second: Cell) -> tuple[list[int], list[int]]:
        """Rows of the runs of both cells whose seed the other cell has too, in the same order."""
        one, other = self.by_seed(first), self.by_seed(second)
        seeds = sorted(set(one) & set(other))
        return [one[seed] for seed in seeds], [other[seed] for seed in seeds]

    def error(self, names: Sequence[str]) -> PooledError:
        """Spread between seeds of the mean over `names`, pooled over the cells of the study (cells that hold the very
        same runs count once); with paired seeds that of differences between runs of the same seed."""
        distinct = list(
            {(context, self.ids((arm, context))): (arm, context) for arm, context in self.cells}.values()
        )
        if not self.design.settings.paired_seeds:
            once = {self.ids(cell): cell for cell in distinct}
            return pooled_error([self.values(cell, names) for cell in once.values()])
        return paired_error(
            self._by_seed([cell for cell in distinct if cell[1] == context], names)
            for context in self.design.contexts
        )

    def _by_seed(self, cells: Sequence[Cell], names: Sequence[str]) -> Array:
        """Mean points [cells, seeds], nan where a cell lacks a seed."""
        rows = [self.by_seed(cell) for cell in cells]
        seeds = sorted({seed for of_cell in rows for seed in of_cell})
        table = np.full((len(cells), len(seeds)), math.nan)
        for line, of_cell in zip(table, rows, strict=True):
            places = [seeds.index(seed) for seed in of_cell]
            line[places] = self.means(list(of_cell.values()), names)
        return table


def _check_runs(panels: Panels, design: Design) -> None:
    for what, names, taken in (
        ("benchmark", panels.by_benchmark, SUITE),
        ("context", design.contexts, ALL_CONTEXTS),
    ):
        if taken in names:
            raise DataError(
                f"a {what} of the table is called '{taken}', but '{taken}' is a name of vlmablate's own tables "
                f"(the mean over {what}s); rename it"
            )
    for what, known in (("arm", design.arms), ("context", design.contexts)):
        strange = sorted({str(getattr(run, what)) for run in panels.runs} - set(known))
        if strange:
            raise DataError(
                f"the table holds {what}(s) that axis {design.axis} does not declare: {', '.join(strange)}; declared "
                f"are {', '.join(known)}. Declare them or leave their rows out"
            )
    seen: dict[tuple[str, str, int], list[str]] = defaultdict(list)
    for run in panels.runs:
        seen[(run.arm, run.context, run.seed)].append(run.run_id)
    for (arm, context, seed), ids in seen.items():
        if len(ids) > 1:
            raise DataError(
                f"{len(ids)} runs of arm {arm}, context {context} have the same seed {seed}: {', '.join(ids)}; "
                "give every training run its own seed, or leave all but one of them out"
            )
