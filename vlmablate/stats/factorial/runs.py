"""The explored runs of a space as one table, and what they allow to be said."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vlmablate.errors import DataError, unknown_name
from vlmablate.stats.factorial.space import Space
from vlmablate.stats.runs import additive_residuals

Array = NDArray[np.float64]

COLUMNS = ["arm", "seed", "run_id", "benchmark", "points"]
_SHOWN = 3


@dataclass(frozen=True)
class Runs:
    """points [benchmarks, seeds, arms], nan where an arm has no run of a seed; run_ids: (arm, seed) -> run.

    arms are those that the space declares, in its order, whether they have runs or not; seeds in order.
    """

    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    benchmarks: tuple[str, ...]
    points: Array
    run_ids: Mapping[tuple[str, int], str]

    def mean(self, names: Sequence[str]) -> Array:
        """Points [seeds, arms] averaged over the benchmarks `names`."""
        return np.asarray(self.points[[self.benchmarks.index(name) for name in names]].mean(axis=0))

    @property
    def present(self) -> NDArray[np.bool_]:
        """[seeds, arms]: which runs there are."""
        return np.asarray(~np.isnan(self.points).any(axis=0))

    def ids(self, kept: Replication) -> list[list[str]]:
        """The run ids [seeds][configurations] that are kept."""
        return [
            [self.run_ids[self.arms[column], self.seeds[row]] for column in kept.columns] for row in kept.rows
        ]


def read_runs(scores: pd.DataFrame, space: Space) -> Runs:
    """The scores, one row per (run, benchmark) with COLUMNS, as an array.

    Raises DataError for missing columns, no row, points that are not finite, a benchmark or an arm and seed that occur
    twice, a run under two arms or seeds, and a run that lacks a benchmark; UserError for arms that the space does not
    have.
    """
    missing = [name for name in COLUMNS if name not in scores.columns]
    if missing or not len(scores):
        what = f"lack the column(s) {', '.join(missing)}" if missing else "hold no run"
        raise DataError(f"the scores of a design space {what}; needed are {', '.join(COLUMNS)}")
    arms = tuple(space.levels)
    benchmarks = tuple(sorted(str(name) for name in scores["benchmark"].unique()))
    seeds = tuple(sorted(int(seed) for seed in scores["seed"].unique()))
    for arm in scores["arm"].unique():
        if arm not in space.levels:
            raise unknown_name("arm", str(arm), arms, "the scores of a design space")
    points = np.full((len(benchmarks), len(seeds), len(arms)), math.nan)
    run_ids: dict[tuple[str, int], str] = {}
    of_run: dict[str, tuple[str, int]] = {}
    for arm, seed, run, name, value in scores[COLUMNS].itertuples(index=False):
        where = benchmarks.index(name), seeds.index(int(seed)), arms.index(arm)
        cell = (str(arm), int(seed))
        if not math.isfinite(value):
            raise DataError(f"run {run} (arm {arm}, seed {seed}) has the score {value} on {name}")
        if run_ids.setdefault(cell, str(run)) != run or of_run.setdefault(str(run), cell) != cell:
            raise DataError(f"run {run}: arm {arm} and seed {seed} belong to another run, or it to others")
        if not math.isnan(points[where]):
            raise DataError(f"run {run} (arm {arm}, seed {seed}) has two scores on {name}")
        points[where] = value
    there = ~np.isnan(points)
    holes = np.argwhere(there.any(axis=0) & ~there.all(axis=0))
    if len(holes):
        seed, arm = seeds[holes[0][0]], arms[holes[0][1]]
        raise DataError(
            f"run {run_ids[arm, seed]} (arm {arm}, seed {seed}) lacks a benchmark that other runs have"
        )
    return Runs(arms, seeds, benchmarks, points, run_ids)


def suite_of(runs: Runs, with_signal: Collection[str] | None) -> tuple[str, ...]:
    """The benchmarks that make up the suite score, in order; None: all. Raises UserError for unknown ones."""
    if with_signal is None:
        return runs.benchmarks
    for name in with_signal:
        if name not in runs.benchmarks:
            raise unknown_name("benchmark", name, runs.benchmarks, "with_signal")
    return tuple(name for name in runs.benchmarks if name in with_signal)


@dataclass(frozen=True)
class Replication:
    """Whether effects can be tested against seeds; true if they can.

    rows: the seeds (their place) with a run of every configuration; columns: the arms (their place) in the order of
    `Space.grid`. Both are empty where effects cannot be tested, and `reason` then says why; otherwise it names the
    seeds that are left out, if any.
    """

    rows: tuple[int, ...]
    columns: tuple[int, ...]
    reason: str

    def __bool__(self) -> bool:
        return bool(self.rows)


def replication(runs: Runs, space: Space) -> Replication:
    """What the runs allow, from which of them there are; no score is looked at."""
    if space.searched:
        seeds = ", with one seed" if len(runs.seeds) < 2 else ""
        return Replication(
            (), (), f"a search chose the configurations{seeds}: explored runs suggest, they decide nothing"
        )
    present = runs.present
    place = {arm: i for i, arm in enumerate(runs.arms)}
    columns = [place.get(space.arm_of.get(levels, ""), -1) for levels in space.grid]
    ran = [column >= 0 and bool(present[:, column].any()) for column in columns]
    if not all(ran):
        lacking = ["+".join(levels) for levels, there in zip(space.grid, ran, strict=True) if not there]
        reason = f"{len(lacking)} of {space.size} configurations have no run: {_some(lacking)}"
        return Replication((), (), reason)
    if len(runs.seeds) < 2:
        return Replication((), (), "one seed: nothing tells an effect from the luck of that seed")
    rows = [row for row in range(len(runs.seeds)) if present[row, columns].all()]
    left_out = [
        f"seed {seed} (no run of {_some([runs.arms[c] for c in columns if not present[row, c]])})"
        for row, seed in enumerate(runs.seeds)
        if row not in rows
    ]
    if len(rows) < 2:
        return Replication((), (), f"fewer than two complete seeds; incomplete: {_some(left_out)}")
    return Replication(tuple(rows), tuple(columns), f"left out: {_some(left_out)}" if left_out else "")


def _some(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def adjusted_means(points: Array) -> tuple[Array, float, int]:
    """(means [arms], variance of a run around them, its degrees of freedom) from points [seeds, arms].

    Effects of arm and seed add up, so an arm that lacks a lucky seed does not look worse for it; with all runs there,
    the means are the plain ones. nan for an arm without runs, and as the variance without degrees of freedom.
    """
    present = ~np.isnan(points.T)
    ran = np.asarray(present.any(axis=1))
    arms, seeds = np.nonzero(present[ran])
    values = points.T[ran][present[ran]]
    effects = np.concatenate([np.eye(int(ran.sum()))[arms], np.eye(points.shape[0])[seeds]], axis=1)
    solved = np.linalg.pinv(effects) @ values
    means = np.full(len(ran), math.nan)
    means[ran] = solved[: int(ran.sum())] + solved[int(ran.sum()) :][np.unique(seeds)].mean()
    maker, df = additive_residuals(present[ran])
    variance = float(np.sum((maker @ values) ** 2)) / df if df else math.nan
    return means, variance, df


def counts(runs: Runs) -> Counter[str]:
    """Runs of every arm."""
    return Counter(arm for arm, _ in runs.run_ids)
