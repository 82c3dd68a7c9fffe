"""The shape of a study, estimated from its scores by the method of moments."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd

from vlmablate.stats.calibration.moments import benchmark_shape
from vlmablate.stats.calibration.shape import Cell, Floats, Shape
from vlmablate.stats.data import Data
from vlmablate.stats.declaration import Design
from vlmablate.stats.panel import Run, align


def shape_of(results: pd.DataFrame, design: Design) -> Shape:
    """Estimate the shape of a study from its long table of example scores.

    results: one row per run, example and metric (columns of :mod:`vlmablate.stats.panel`); scores are fractions.
    design: names the arms, contexts, primary metrics and settings; benchmarks whose baseline does not exceed the
    majority answer by settings.signal_margin are left out, as they are left out of the suite score.

    Raises:
        DataError: for whatever is wrong with the table (missing columns, scores outside [0, 1], runs with other
            examples), fewer than two arms, one seed in every cell, or a benchmark with fewer than two clusters.
    """
    data = Data.of(align(results, design.metrics), design)
    present = {arm for arm, _ in data.cells} - {design.baseline}
    arms = (design.baseline, *(arm for arm in design.arms if arm in present))
    cells, copies, notes = _cells(data, arms, design.contexts)
    names = data.with_signal
    if len(names) < len(data.names):
        silent = ", ".join(name for name in data.names if name not in names)
        notes.append(f"left out because they carry no signal: {silent}")
    if not names:
        names = data.names
        notes[-1] = (
            "no benchmark carries signal (baseline above the majority answer), so all of them were used"
        )
    rows = np.array([row for members in cells.values() for row in members], dtype=np.int64)
    codes = np.array([code for code, members in enumerate(cells.values()) for _ in members], dtype=np.int64)
    points = data.points[rows][:, [data.names.index(name) for name in names]]
    counts = np.bincount(codes)
    means = np.stack([np.bincount(codes, column) / counts for column in points.T], axis=1)
    residuals, df = points - means[codes], int((counts - 1).sum())
    sds = np.sqrt((residuals**2).sum(axis=0) / max(df, 1))
    sds[sds < 1e-9] = 0.0
    chosen = [data.panels.by_benchmark[name] for name in names]
    clusters = np.unique(np.concatenate([panel.cluster_codes for panel in chosen]))
    benchmarks = tuple(
        benchmark_shape(
            panel, np.searchsorted(clusters, panel.cluster_codes), len(clusters), float(sd), cells
        )
        for panel, sd in zip(chosen, sds, strict=True)
    )
    seeds = tuple(
        tuple(len(data.cells.get((arm, context), ())) for context in design.contexts) for arm in arms
    )
    settings = design.settings
    runs = [data.panels.runs[row] for row in rows]
    return Shape(
        seeds=seeds,
        benchmarks=benchmarks,
        correlation=_mean_correlation(residuals, sds, df),
        alternative=settings.alternative,
        correction=settings.correction,
        paired_seeds=settings.paired_seeds,
        seed_pairing=_seed_pairing(residuals.mean(axis=1), runs) if settings.paired_seeds else 0.0,
        copies=tuple(copies.items()),
        notes=tuple(notes),
    )


def _cells(
    data: Data, arms: tuple[str, ...], contexts: tuple[str, ...]
) -> tuple[dict[Cell, list[int]], dict[Cell, Cell], list[str]]:
    """(cell -> rows of its runs, cell -> the earlier cell whose very runs it holds, sentences about these)."""
    cells: dict[Cell, list[int]] = {}
    copies: dict[Cell, Cell] = {}
    notes: list[str] = []
    known: dict[frozenset[str], Cell] = {}
    for a, arm in enumerate(arms):
        for c, context in enumerate(contexts):
            if (arm, context) not in data.cells:
                continue
            ids = data.ids((arm, context))
            if ids in known:
                copies[(a, c)] = known[ids]
                other = arms[known[ids][0]], contexts[known[ids][1]]
                notes.append(f"{arm} in {context} has the same runs as {other[0]} in {other[1]}")
            else:
                known[ids] = (a, c)
                cells[(a, c)] = data.cells[(arm, context)]
    return cells, copies, notes


def _mean_correlation(residuals: Floats, sds: Floats, df: int) -> float:
    """Mean correlation of the residuals between benchmarks, limited to [0, .99]; 0 for a single benchmark."""
    moving = sds > 0
    k = int(moving.sum())
    if k < 2 or df == 0:
        return 0.0
    scaled = residuals[:, moving] / sds[moving]
    total = float((scaled.sum(axis=1) ** 2).sum()) / df
    return float(np.clip((total - k) / (k * (k - 1)), 0.0, 0.99))


def _seed_pairing(residuals: Floats, runs: list[Run]) -> float:
    """Correlation between arms of the residuals of runs with the same seed and context, limited to [0, .99]."""
    groups: dict[tuple[str, int], list[float]] = {}
    for run, residual in zip(runs, residuals, strict=True):
        groups.setdefault((run.context, run.seed), []).append(float(residual))
    products, squares = 0.0, 0.0
    for values in groups.values():
        for left, right in combinations(values, 2):
            products += left * right
            squares += (left**2 + right**2) / 2
    return float(np.clip(products / squares, 0.0, 0.99)) if squares > 0 else 0.0
