"""Design level: retraining is what is repeated, so the seed is the unit.

Every training run enters with one number (its suite score, or its score on one benchmark). The error
variance is pooled over all cells (arm x context) of the study, because a cell of three runs alone knows its
variance too badly: s2 = sum of squares within cells / sum(n_i - 1), and a contrast sum(w_i mean_i) has the
standard error s sqrt(sum(w_i^2 / n_i)) with t on sum(n_i - 1) degrees of freedom.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from vlmablate.stats.estimate import Estimate, t_estimate

Cells = Mapping[Any, Mapping[str, float]]
"""cell -> {run id: score in points}; a run id that several cells share is the same training run."""

LARGEST_SEED_COUNT = 200
"""Beyond this many seeds per arm the advice is a larger margin, not more seeds."""


@dataclass(frozen=True)
class PooledError:
    """Spread between seeds within a cell: sd in points (nan if df = 0), degrees of freedom, number of
    cells."""

    sd: float
    df: int
    cells: int


def _distinct(cells: Cells) -> dict[frozenset[str], dict[str, float]]:
    """Cells that hold the very same runs are one cell: a shared run must not be counted twice as
    replication."""
    return {frozenset(runs): dict(runs) for runs in cells.values() if runs}


def pooled_error(cells: Cells) -> PooledError:
    """Pool the within-cell variance over all distinct cells of the study."""
    distinct = _distinct(cells)
    squares, df = 0.0, 0
    for runs in distinct.values():
        scores = np.array(sorted(runs.values()))
        squares += float(np.sum((scores - scores.mean()) ** 2))
        df += len(scores) - 1
    sd = math.sqrt(squares / df) if df else math.nan
    return PooledError(0.0 if sd <= 1e-9 else sd, df, len(distinct))


def contrast(cells: Cells, weights: Mapping[Any, float], alpha: float) -> Estimate:
    """Estimate sum(weight x cell mean) in points; the weights name cells of `cells` and sum to zero.

    With one run per cell there is no error to judge by: df = 0 and no p-value. Raises KeyError for an unknown
    cell and ValueError for a cell without runs.
    """
    error = pooled_error(cells)
    by_runs: dict[frozenset[str], float] = {}
    for cell, weight in weights.items():
        if not cells[cell]:
            raise ValueError(f"cell {cell!r} has no finished run")
        key = frozenset(cells[cell])
        by_runs[key] = by_runs.get(key, 0.0) + weight
    distinct = _distinct(cells)
    delta, scale = 0.0, 0.0
    for key, weight in by_runs.items():
        if weight == 0:
            continue
        delta += weight * float(np.mean(sorted(distinct[key].values())))
        scale += weight**2 / len(key)
    if scale == 0:
        method = "identical runs in both arms"
    elif error.df == 0:
        method = f"no test: one seed per cell; tipping seed SD {tipping_sd(delta, scale, alpha):.2f} points"
    elif error.sd == 0:
        method = "no test: the seeds changed nothing, so they are no replication"
    else:
        method = f"t over seeds, error pooled over {error.cells} cells, df = {error.df}"
    se = error.sd * math.sqrt(scale) if scale else 0.0
    return t_estimate(delta, se, error.df, alpha, method)


def tipping_sd(delta: float, scale: float, alpha: float) -> float:
    """Seed-to-seed SD (points) above which a difference of this size stops being significant.

    |delta| / (z sqrt(sum(w^2/n))), z the normal quantile. It is what a single run per arm can honestly offer
    in the place of a p-value: the reader may know whether retraining moves the score by more than that.
    """
    return abs(delta) / (float(stats.norm.ppf(1 - alpha / 2)) * math.sqrt(scale))


def permutation_floor(seeds: int) -> float:
    """Smallest two-sided p-value that an exact permutation of `seeds` against `seeds` runs can reach."""
    return min(1.0, 2 / math.comb(2 * seeds, seeds)) if seeds else 1.0


def seeds_to_settle(sd: float, cells: int, squared_weights: float, margin: float, alpha: float) -> int | None:
    """Seeds per arm after which a contrast is decided whichever way it falls.

    With half-widths h_d of the 1 - alpha and h_e of the 1 - 2 alpha interval, any estimate is either beyond
    h_d (a difference) or within margin - h_e (equivalent) as soon as h_d + h_e <= margin. `alpha` is already
    divided by the size of the family; `squared_weights` is sum(w^2) over the contrast's cells. Assumes that
    the pooled sd stays what it is. None if more than LARGEST_SEED_COUNT would be needed or sd is unknown.
    """
    if not math.isfinite(sd):
        return None
    for n in range(2, LARGEST_SEED_COUNT + 1):
        df = cells * (n - 1)
        se = sd * math.sqrt(squared_weights / n)
        if (stats.t.ppf(1 - alpha / 2, df) + stats.t.ppf(1 - alpha, df)) * se <= margin:
            return n
    return None
