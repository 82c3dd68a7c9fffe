"""All pairs of systems at once: step-down max-T over one group of sign flips.

Every pair's statistic uses the same flips of the same pictures, so the joint law of all of them, with its
correlation, is known exactly; the adjustment (Westfall and Young 1993; Romano and Wolf, J. Am. Stat. Assoc. 100
(2005) 94-108) uses it, where Holm's has to assume the worst. Sums are linear: M systems need M transforms, and
the M (M - 1) / 2 pairs come from differences of them. Nothing of size flips x examples or flips x pairs exists.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vlmablate.errors import DataError
from vlmablate.stats.flips import LOG2_FLIPS, flip_group
from vlmablate.stats.groups import Clusters, as_clusters
from vlmablate.stats.lattice import common_step

_BLOCK = 8192
"""Flips worked on at a time: a block of one pair stays in the processor's first cache."""

_TIE = 1e-6
"""Statistics (studentised, so of size 1) this close are equal: their float32 sums do not tell them apart."""

_EXACT_IN_FLOAT32 = 2.0**24


@dataclass(frozen=True)
class MaxT:
    """All pairs i < j of M systems: pairs [P, 2]; delta = mean of system i minus system j, t [P] (studentised
    by the root of the sum of squared cluster sums, which no flip changes), p and p_adjusted [P]."""

    pairs: NDArray[np.int64]
    delta: NDArray[np.float64]
    t: NDArray[np.float64]
    p: NDArray[np.float64]
    p_adjusted: NDArray[np.float64]
    flips: int
    n: int
    n_clusters: int


def max_t(
    scores: ArrayLike,
    clusters: ArrayLike | Clusters | None = None,
    *,
    weights: ArrayLike | None = None,
    log2_flips: int = LOG2_FLIPS,
    seed: int = 0,
) -> MaxT:
    """Two-sided tests of all pairs of `scores` [M, n] (M systems on the same n examples), clusters [n].

    weights [n], summing to 1, replace the plain mean (a mean over benchmarks). p: sign-flip test of the pair alone,
    which no other system can change; p_adjusted: step-down max-T over all pairs. Neither is below 2^-log2_flips.
    Raises DataError for fewer than two systems and for scores that are not finite.
    """
    table = np.asarray(scores)
    if table.ndim != 2 or table.shape[0] < 2 or not table.shape[1]:
        raise DataError(
            f"max_t compares at least two systems: expected scores [M >= 2, n], got {table.shape}"
        )
    bad = [row for row in range(len(table)) if not np.isfinite(table[row]).all()]
    if bad:
        raise DataError(f"scores of system {bad[0]} (and {len(bad) - 1} more) are not all finite")
    m, n = table.shape
    groups = as_clusters(clusters, n)
    share = np.full(n, 1.0 / n) if weights is None else np.asarray(weights, dtype=np.float64)
    if share.shape != (n,) or not np.isfinite(share).all():
        raise DataError(f"weights must be {n} finite numbers, got shape {share.shape}")
    group = flip_group(groups.count, log2_flips, seed)
    sums, scale = _cluster_sums(table, groups, None if weights is None else share)
    first, second = np.triu_indices(m, 1)
    observed = sums.sum(axis=1, dtype=np.float64)
    totals = observed[first] - observed[second]
    norms = _pair_norms(sums, first, second)
    exact = sums.dtype == np.float32
    transformed = np.empty((m, group.size), dtype=np.float32)
    for row in range(m):
        transformed[row] = group.sums(sums[row], "float32" if exact else "float64")
    del sums
    moving = norms > 0
    t = np.divide(np.abs(totals), norms, out=np.zeros_like(norms), where=moving)
    order = np.flatnonzero(moving)[np.argsort(t[moving], kind="stable")]  # least significant first
    raw, stepped = _exceedances(transformed, first, second, t, norms, order)
    p, adjusted = np.ones(len(first)), np.ones(len(first))
    p[order] = (raw[order] + 1) / group.size  # the identity always reaches the observed value
    falling = order[::-1]
    adjusted[falling] = np.maximum.accumulate((stepped[falling] + 1) / group.size)
    return MaxT(
        pairs=np.stack([first, second], axis=1),
        delta=totals * scale,
        t=np.sign(totals) * t,
        p=p,
        p_adjusted=adjusted,
        flips=group.size,
        n=n,
        n_clusters=groups.count,
    )


def _cluster_sums(
    table: NDArray[np.floating], groups: Clusters, weights: NDArray[np.float64] | None
) -> tuple[NDArray[np.floating], float]:
    """(cluster sums [M, G], what a sum has to be multiplied with to be a mean).

    Scores on a lattice give sums that are whole and small enough to be exact in float32, at half the memory.
    """
    m, n = table.shape
    step = _step(table) if weights is None else None
    largest = float(max(np.abs(row).sum(dtype=np.float64) for row in table))
    exact = step is not None and largest / step < _EXACT_IN_FLOAT32
    sums = np.empty((m, groups.count), dtype=np.float32 if exact else np.float64)
    for row in range(m):
        values = table[row].astype(np.float64)
        if weights is not None:
            values *= weights
        elif exact:
            values = np.rint(values / step)
        sums[row] = groups.sums(values)
    return sums, (1.0 if weights is not None else (float(step) if exact and step else 1.0) / n)


def _step(table: NDArray[np.floating]) -> float | None:
    """Common step of all scores of all systems, or None."""
    steps = []
    for row in table:
        step = common_step(row.astype(np.float64))
        if step is None:
            return None
        steps.append(step)
    return common_step(np.array(steps))


def _pair_norms(
    sums: NDArray[np.floating], first: NDArray[np.int64], second: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Root of the sum of squared differences of cluster sums for every pair; 0 for identical systems."""
    m, count = sums.shape
    gram = np.zeros((m, m))
    width = max(1, 2**18 // m)
    for start in range(0, count, width):
        block = sums[:, start : start + width].astype(np.float64)
        gram += block @ block.T
    own = np.diag(gram)
    squares = own[first] + own[second] - 2 * gram[first, second]
    # Differences that cancellation may have made of nothing are computed directly.
    for pair in np.flatnonzero(squares <= 1e-9 * (own[first] + own[second])):
        difference = sums[first[pair]].astype(np.float64) - sums[second[pair]]
        squares[pair] = float(difference @ difference)
    return np.sqrt(np.maximum(squares, 0.0))


def _exceedances(
    transformed: NDArray[np.float32],
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    t: NDArray[np.float64],
    norms: NDArray[np.float64],
    order: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For every pair, the flips (identity left out) under which its own statistic, and the largest statistic of
    the pairs that are not more significant than it, reach its observed value."""
    raw, stepped = np.zeros(len(t), dtype=np.int64), np.zeros(len(t), dtype=np.int64)
    plan = [
        (
            int(k),
            int(first[k]),
            int(second[k]),
            np.float32(1 / norms[k]),
            np.float32(t[k] - _TIE * max(t[k], 1.0)),
        )
        for k in order
    ]
    for start in range(1, transformed.shape[1], _BLOCK):
        block = np.ascontiguousarray(transformed[:, start : start + _BLOCK])
        running = np.zeros(block.shape[1], dtype=np.float32)
        statistic, hit = np.empty_like(running), np.empty(len(running), dtype=bool)
        for k, i, j, inverse, threshold in plan:
            np.subtract(block[i], block[j], out=statistic)
            np.multiply(statistic, inverse, out=statistic)
            np.abs(statistic, out=statistic)
            raw[k] += np.count_nonzero(np.greater_equal(statistic, threshold, out=hit))
            np.maximum(running, statistic, out=running)
            stepped[k] += np.count_nonzero(np.greater_equal(running, threshold, out=hit))
    return raw, stepped
