"""Simulated scores of single examples, for the claims about new examples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlmablate.stats.calibration.latent import score_correlation
from vlmablate.stats.calibration.shape import BenchmarkShape, Floats, Shape

EXAMPLES_CAP = 300
"""Examples per benchmark in the simulation; whole clusters are kept until it is reached."""


@dataclass(frozen=True)
class Layout:
    """The examples that are simulated: at most `cap` per benchmark, whole clusters, ordered by benchmark.

    clusters, benchmarks: codes [n]. shift_sd: SD [benchmarks] of the latent seed effect. A simulated benchmark is
    smaller than the real one, so its examples weigh more; shift_sd is enlarged by the root of that factor, which
    keeps the ratio of seed noise to example noise what it is in the full data. shift_correlation: between
    benchmarks, of these effects; larger than that of the runs' scores, which hold the noise of their answers too.
    """

    clusters: NDArray[np.int64]
    benchmarks: NDArray[np.int64]
    slices: tuple[slice, ...]
    shift_sd: Floats
    shift_correlation: float
    capped: bool

    @property
    def weights(self) -> Floats:
        """Weights [n] of the unweighted mean over benchmarks."""
        counts = np.bincount(self.benchmarks)
        return 1.0 / (len(counts) * counts[self.benchmarks])


def lay_out(shape: Shape, cap: int = EXAMPLES_CAP) -> Layout:
    """Choose the examples to simulate; the same shape gives the same layout."""
    sizes = np.array([benchmark.cluster_sizes for benchmark in shape.benchmarks])
    order = np.random.default_rng(0).permutation(sizes.shape[1])
    ordered = sizes[:, order]
    before = np.cumsum(ordered, axis=1) - ordered
    kept_clusters = np.cumsum(ordered > 0, axis=1)
    kept = np.where((before + ordered <= cap) | ((kept_clusters <= 2) & (ordered > 0)), ordered, 0)
    clusters, slices, start = [], [], 0
    shifts, free_sds = [], []
    for benchmark, row in zip(shape.benchmarks, kept, strict=True):
        clusters.append(np.repeat(order, row))
        n = int(row.sum())
        slices.append(slice(start, start + n))
        start += n
        factor = benchmark.n / n
        answers = _answer_variance(benchmark)
        free = max(benchmark.seed_sd**2 - answers, 0.0)
        slope = benchmark.slope()
        shifts.append(math.sqrt(free * factor) / slope if slope > 0 else 0.0)
        free_sds.append(math.sqrt(free))
    codes = np.unique(np.concatenate(clusters), return_inverse=True)[1].astype(np.int64)
    return Layout(
        clusters=codes,
        benchmarks=np.repeat(np.arange(len(slices)), [part.stop - part.start for part in slices]),
        slices=tuple(slices),
        shift_sd=np.array(shifts),
        shift_correlation=_shift_correlation(shape, np.array(free_sds)),
        capped=bool((kept.sum(axis=1) < sizes.sum(axis=1)).any()),
    )


def _shift_correlation(shape: Shape, free: Floats) -> float:
    """Correlation of seed effects of SD `free` [benchmarks] that gives the runs' scores their covariance."""
    sds = np.array([benchmark.seed_sd for benchmark in shape.benchmarks])
    products, free_products = (float(x.sum() ** 2 - (x**2).sum()) for x in (sds, free))
    return min(shape.correlation * products / free_products, 0.99) if free_products > 0 else 0.0


def _answer_variance(benchmark: BenchmarkShape) -> float:
    """Variance in squared points of a run's score that its own answers to single examples make, on fixed examples."""
    part = benchmark.parts
    latent, scores = score_correlation(benchmark)
    same_item = 1 - part.run_cluster - part.run_item
    run_cluster = part.difficulty_cluster + part.arm_cluster + part.run_cluster
    at = np.interp([same_item, run_cluster, run_cluster - part.run_cluster], latent, scores)
    sizes = np.array(benchmark.cluster_sizes, dtype=np.float64)
    pairs = float((sizes**2).sum()) - benchmark.n
    return 1e4 * benchmark.variance * (benchmark.n * (1 - at[0]) + pairs * (at[1] - at[2])) / benchmark.n**2


def simulate_examples(
    shape: Shape,
    layout: Layout,
    runs: Sequence[int],
    repetitions: int,
    rng: np.random.Generator,
    *,
    seed_effects: bool,
) -> list[NDArray[np.float32]]:
    """Scores (fractions) of equally good arms on new examples: per arm [repetitions, runs, n].

    runs: training runs of every arm. Without seed effects all runs are equally good on the population of examples
    (the claim "these checkpoints, new pictures"); with them every run has its own quality (the claim "retraining").
    """
    roots = np.sqrt(np.array([b.parts.as_array() for b in shape.benchmarks]))[layout.benchmarks].astype(
        np.float32
    )
    groups, n = int(layout.clusters.max()) + 1, len(layout.clusters)

    def part(of_cluster: int, of_item: int) -> NDArray[np.float32]:
        shared = rng.standard_normal((repetitions, groups), dtype=np.float32)[:, layout.clusters]
        own = rng.standard_normal((repetitions, n), dtype=np.float32)
        shared *= roots[:, of_cluster]
        own *= roots[:, of_item]
        shared += own
        return shared

    difficulty = part(0, 1)
    scores = []
    for count in runs:
        arm = difficulty + part(2, 3)
        of_arm = np.empty((repetitions, count, n), dtype=np.float32)
        for run in range(count):
            latent = arm + part(4, 5)
            if seed_effects:
                latent += _latent_shifts(shape, layout, repetitions, rng)[:, layout.benchmarks]
            for benchmark, where in zip(shape.benchmarks, layout.slices, strict=True):
                of_arm[:, run, where] = _as_scores(benchmark, latent[:, where])
        scores.append(of_arm)
    return scores


def _latent_shifts(
    shape: Shape, layout: Layout, repetitions: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    common = rng.standard_normal((repetitions, 1)) * math.sqrt(layout.shift_correlation)
    own = rng.standard_normal((repetitions, len(shape.benchmarks))) * math.sqrt(1 - layout.shift_correlation)
    return np.asarray((common + own) * layout.shift_sd, dtype=np.float32)


def _as_scores(benchmark: BenchmarkShape, latent: NDArray[np.float32]) -> NDArray[np.float32]:
    """The benchmark's own quantile of standard normal `latent`."""
    values, cuts = np.array(benchmark.values, dtype=np.float32), benchmark.thresholds().astype(np.float32)
    if len(cuts) == 0:
        return np.full(latent.shape, values[0], dtype=np.float32)
    if len(cuts) == 1:
        return np.where(latent > cuts[0], values[1], values[0])
    return values[np.searchsorted(cuts, latent)]
