"""Design level: retraining is what is repeated, so the seed is the unit.

Every training run enters with one number (its suite score, or its score on one benchmark). The error
variance is pooled over all cells (arm x context) of the study, because a cell of three runs alone knows its
variance too badly: s2 = sum of squares within cells / sum(n_i - 1), and a contrast sum(w_i mean_i) has the
standard error s sqrt(sum(w_i^2 / n_i)) with t on sum(n_i - 1) degrees of freedom.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from vlmablate.stats.estimate import Estimate, t_estimate
from vlmablate.stats.runs import PooledError, pooled_error, tipping_sd

Cells = Mapping[Any, Mapping[str, float]]
"""cell -> {run id: score in points}; a run id that several cells share is the same training run."""


def _distinct(cells: Cells) -> dict[frozenset[str], dict[str, float]]:
    """Cells that hold the very same runs are one cell: a shared run must not be counted twice as
    replication."""
    return {frozenset(runs): dict(runs) for runs in cells.values() if runs}


def cell_error(cells: Cells) -> PooledError:
    """Pool the within-cell variance over all distinct cells of the study."""
    groups = [sorted(runs.values()) for runs in _distinct(cells).values()]
    return pooled_error(groups) if groups else PooledError(math.nan, 0, 0)


def contrast(cells: Cells, weights: Mapping[Any, float], alpha: float) -> Estimate:
    """Estimate sum(weight x cell mean) in points; the weights name cells of `cells` and sum to zero.

    With one run per cell there is no error to judge by: df = 0 and no p-value. Raises KeyError for an unknown
    cell and ValueError for a cell without runs.
    """
    error = cell_error(cells)
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
