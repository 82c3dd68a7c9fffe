"""One benchmark's scores as parts of a latent normal value: moments of pairs of scores, turned into variances."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from vlmablate.stats.calibration.latent import latent_correlation
from vlmablate.stats.calibration.shape import BenchmarkShape, Cell, Floats, Parts
from vlmablate.stats.panel import Panel

MOST_VALUES = 48
"""Distinct scores of one benchmark that are kept; beyond that the marginal is described by its quantiles."""


def benchmark_shape(
    panel: Panel,
    clusters: NDArray[np.int64],
    groups: int,
    seed_sd: float,
    cells: Mapping[Cell, list[int]],
) -> BenchmarkShape:
    """The shape of one benchmark.

    clusters [n]: codes below `groups`, shared by all benchmarks. seed_sd: points. cells: rows of the panel in every
    cell that has runs of its own. The distribution of single scores is that of the baseline.
    """
    baseline = [row for (arm, _), members in cells.items() if arm == 0 for row in members]
    values, probabilities = _marginal(panel.scores[baseline or slice(None)].astype(np.float64))
    sums, counts = np.zeros(6), np.zeros(6)
    for context in sorted({context for _, context in cells}):
        here = [(arm, row) for (arm, c), members in cells.items() if c == context for row in members]
        arms = np.unique([arm for arm, _ in here], return_inverse=True)[1]
        scores = panel.scores[[row for _, row in here]].astype(np.float64)
        more = _pair_products(scores, arms, clusters, groups)
        sums, counts = sums + more[0], counts + more[1]
    sizes = tuple(np.bincount(clusters, minlength=groups).tolist())
    draft = BenchmarkShape(panel.benchmark, values, probabilities, sizes, seed_sd)
    return replace(draft, parts=_parts(draft, sums, counts))


def _marginal(scores: Floats) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Distinct scores and their shares; more than MOST_VALUES of them are replaced by as many quantiles."""
    values, counts = np.unique(scores, return_counts=True)
    if len(values) > MOST_VALUES:
        levels = (np.arange(MOST_VALUES) + 0.5) / MOST_VALUES
        values, counts = np.unique(np.quantile(scores, levels), return_counts=True)
    return tuple(values.tolist()), tuple((counts / counts.sum()).tolist())


def _pair_products(
    scores: Floats, arms: NDArray[np.int64], clusters: NDArray[np.int64], groups: int
) -> tuple[Floats, Floats]:
    """(sums of products of centred scores, numbers of pairs), each [6] by kind of pair.

    scores [runs, n]; arms [runs] and clusters [n] are codes. Kinds: the same example in the same run, in two runs of
    an arm, in two arms; then two examples of one cluster in the same three relations of runs.
    """
    centred = scores - scores.mean(axis=1, keepdims=True)
    runs, n = centred.shape
    indicator = np.zeros((int(arms.max()) + 1, runs))
    indicator[arms, np.arange(runs)] = 1.0
    by_cluster = np.stack([np.bincount(clusters, row, minlength=groups) for row in centred])
    items = [float((x**2).sum()) for x in (centred, indicator @ centred, centred.sum(axis=0))]
    sums = [float((x**2).sum()) for x in (by_cluster, indicator @ by_cluster, by_cluster.sum(axis=0))]
    sizes = np.bincount(clusters, minlength=groups).astype(np.float64)
    pairs = float((sizes**2).sum()) - n  # ordered pairs of two examples of one cluster
    per_arm = indicator.sum(axis=1)
    run_pairs = [runs, float((per_arm**2).sum()) - runs, runs**2 - float((per_arm**2).sum())]
    item_sums = [items[0], items[1] - items[0], items[2] - items[1]]
    all_sums = [sums[0], sums[1] - sums[0], sums[2] - sums[1]]
    return (
        np.array([*item_sums, *(a - b for a, b in zip(all_sums, item_sums, strict=True))]),
        np.array([*(n * count for count in run_pairs), *(pairs * count for count in run_pairs)]),
    )


def _parts(benchmark: BenchmarkShape, sums: Floats, counts: Floats) -> Parts:
    """Variances of the latent parts whose scores have these moments; negative estimates become 0."""
    mean = np.divide(sums, counts, out=np.full(6, np.nan), where=counts > 0)
    if not mean[0] > 0:
        return Parts()
    # Without two runs of an arm, or without a second arm, the next kind of pair stands in.
    for target, source in ((2, 1), (1, 2), (4, 3), (5, 4)):
        if np.isnan(mean[target]):
            mean[target] = mean[source]
    latent = latent_correlation(benchmark, np.nan_to_num(mean[1:]) / mean[0])
    same_item, cross_item, run_cluster, same_cluster, cross_cluster = np.clip(latent, 0.0, 1.0)
    cross_cluster = min(cross_cluster, cross_item)
    same_cluster = max(same_cluster, cross_cluster)
    same_item = max(same_item, cross_item)
    run_cluster = max(run_cluster, same_cluster)
    arm_cluster = min(same_cluster - cross_cluster, same_item - cross_item)
    own_cluster = min(run_cluster - same_cluster, 1 - same_item)
    values = np.array(
        [
            *(cross_cluster, cross_item - cross_cluster, arm_cluster),
            *(same_item - cross_item - arm_cluster, own_cluster, 1 - same_item - own_cluster),
        ]
    )
    values = np.clip(values, 0.0, None)
    return Parts(*(values / values.sum()).tolist())
