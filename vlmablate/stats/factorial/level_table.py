"""The mean score of every pair of levels of two axes, for drawing how they interact."""

from __future__ import annotations

import math
from collections.abc import Collection
from itertools import product

import numpy as np
import pandas as pd

from vlmablate.errors import unknown_name
from vlmablate.stats.factorial.runs import adjusted_means, read_runs, replication, suite_of
from vlmablate.stats.factorial.space import Space
from vlmablate.stats.runs import pooled_error
from vlmablate.stats.settings import Settings
from vlmablate.stats.student import t_critical

COLUMNS = ["level", "level_b", "mean", "ci_low", "ci_high", "n_seeds"]


def level_means(
    scores: pd.DataFrame,
    space: Space,
    settings: Settings,
    axis: str,
    axis_b: str,
    with_signal: Collection[str] | None = None,
) -> pd.DataFrame:
    """Suite means (COLUMNS, points) over all other axes, one row per level of `axis` and level of `axis_b`.

    Replicated grids: mean +- t s / sqrt(n) with s the spread between seeds of such means, pooled over the pairs of
    levels. That is for reading a figure: what the seeds have in common cancels in differences (`effects`) but not here.
    Otherwise means are those of the configurations that were run, without interval, and nan for a pair of levels that
    none has. Empty without a benchmark with signal. Errors: those of the package, and UserError for an unknown axis.
    """
    names = [each.name for each in space.axes]
    for name in (axis, axis_b):
        if name not in names:
            raise unknown_name("axis", name, names, "the design space")
    runs = read_runs(scores, space)
    suite = suite_of(runs, with_signal)
    if not suite:
        return pd.DataFrame(columns=COLUMNS)
    points, kept = runs.mean(suite), replication(runs, space)
    means, _, _ = adjusted_means(points)
    first, second = names.index(axis), names.index(axis_b)
    pairs = list(product(space.axes[first].levels, space.axes[second].levels))
    columns: dict[tuple[str, str], list[int]] = {pair: [] for pair in pairs}
    for column, arm in enumerate(runs.arms):
        levels = space.levels[arm]
        if not math.isnan(means[column]):
            columns[levels[first], levels[second]].append(column)
    half_width, by_seed = math.nan, {pair: means[None, of_pair] for pair, of_pair in columns.items()}
    if kept:
        by_seed = {pair: points[np.ix_(kept.rows, of_pair)] for pair, of_pair in columns.items()}
        error = pooled_error([of_pair.mean(axis=1) for of_pair in by_seed.values()])
        half_width = t_critical(settings.alpha / 2, error.df) * error.sd / math.sqrt(len(kept.rows))
    records = []
    for pair in pairs:
        mean = float(by_seed[pair].mean()) if columns[pair] else math.nan
        seeds = int(runs.present[:, columns[pair]].any(axis=1).sum())
        records.append((*pair, mean, mean - half_width, mean + half_width, len(kept.rows) if kept else seeds))
    return pd.DataFrame(records, columns=COLUMNS)
