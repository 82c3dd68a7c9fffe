"""Questions that share a picture are not independent: cluster sums, and the cluster-robust mean.

Everything here is one pass over the data (np.bincount on integer codes): no loop over clusters, no resampling.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vlmablate.errors import DataError


@dataclass(frozen=True, eq=False)
class Clusters:
    """Integer codes [n] in 0..count-1 of the cluster of every example."""

    codes: NDArray[np.int64]
    count: int

    def sums(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sum of `values` [n] in every cluster: [count]. Exact for integers below 2^53."""
        if self.count == len(self.codes):
            return np.asarray(np.asarray(values, dtype=np.float64)[self._order])
        return np.bincount(self.codes, weights=values, minlength=self.count).astype(np.float64, copy=False)

    @cached_property
    def _order(self) -> NDArray[np.int64]:
        order = np.empty(self.count, dtype=np.int64)
        order[self.codes] = np.arange(self.count)
        return order

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """Number of examples in every cluster: [count]."""
        return np.bincount(self.codes, minlength=self.count).astype(np.int64)


def as_clusters(labels: ArrayLike | Clusters | None, n: int) -> Clusters:
    """Cluster codes of `labels` [n] (any comparable labels); None makes every example its own cluster.

    Raises DataError for another length and for missing labels.
    """
    if isinstance(labels, Clusters):
        if len(labels.codes) != n:
            raise DataError(f"{len(labels.codes)} cluster labels were given for {n} scores")
        return labels
    if labels is None:
        return Clusters(np.arange(n), n)
    array = np.asarray(labels)
    if array.shape != (n,):
        raise DataError(f"cluster labels have shape {array.shape}, expected ({n},): one label per score")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise DataError(f"{int((~np.isfinite(array)).sum())} of {n} cluster labels are missing")
    if array.dtype.kind == "O":
        missing = sum(label is None or label != label for label in array)
        if missing:
            raise DataError(f"{missing} of {n} cluster labels are missing")
        array = array.astype(str)
    if array.dtype.kind in "iu" and n:
        low, high = int(array.min()), int(array.max())
        if high - low < 4 * n + 1024:  # counting is ten times faster than sorting
            present = np.bincount(array - low) > 0
            numbers = np.cumsum(present) - 1
            return Clusters(numbers[array - low].astype(np.int64), int(present.sum()))
    values, codes = np.unique(array, return_inverse=True)
    return Clusters(codes.reshape(-1).astype(np.int64), len(values))


def finite(values: ArrayLike, what: str) -> NDArray[np.float64]:
    """`values` [n] as float64. Raises DataError for an empty array, another shape, and nan or infinite values."""
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{what}: not numbers ({error})") from None
    if array.ndim != 1 or not len(array):
        raise DataError(f"{what}: expected a non-empty vector, got shape {array.shape}")
    good = np.isfinite(array)
    if not good.all():
        where = np.flatnonzero(~good)
        raise DataError(
            f"{what}: {len(where)} of {len(array)} values are not finite, the first at position {where[0]}; "
            "score or drop these examples in every system that is compared"
        )
    return array


@dataclass(frozen=True)
class ClusterMean:
    """Mean of paired differences with its cluster-robust error.

    delta, se in the unit of the input; df = n_clusters - 1. se is nan with one cluster. design_effect: variance
    of the mean relative to independent examples; icc: intra-cluster correlation of the differences (both nan
    where they do not exist: one example per cluster, or no spread).
    """

    delta: float
    se: float
    df: float
    n: int
    n_clusters: int
    design_effect: float
    icc: float


def stratum_weights(strata: Clusters) -> NDArray[np.float64]:
    """Weights [n] under which a weighted sum is the unweighted mean of the strata's means."""
    return 1.0 / (strata.count * strata.sizes[strata.codes])


def cluster_mean(
    values: ArrayLike,
    clusters: ArrayLike | Clusters | None = None,
    strata: ArrayLike | Clusters | None = None,
) -> ClusterMean:
    """Mean of `values` [n] with the standard error CR1 over `clusters` [n] and n_clusters - 1 degrees.

    With the weights w_i (1/n; with `strata`, e.g. benchmarks, 1 / (strata x size of the stratum), so that every
    stratum counts the same) and residuals r_i from the stratum's mean: V = G/(G-1) sum_g (sum_{i in g} w_i r_i)^2.
    Without strata that is the CR1 variance of an intercept-only regression (Cameron and Miller, J. Human
    Resources 50 (2015) 317-372). The intra-cluster correlation is the one-way analysis-of-variance estimate.
    """
    array = finite(values, "differences")
    n = len(array)
    groups = as_clusters(clusters, n)
    if strata is None:
        weights: Any = 1.0 / n
        delta = float(array.mean())
        residuals = array - delta
    else:
        parts = as_clusters(strata, n)
        weights = stratum_weights(parts)
        means = parts.sums(array) / parts.sizes if parts.count < n else parts.sums(array)
        delta = float(means.mean())
        residuals = array - means[parts.codes]
    flat = float(np.abs(residuals).max()) <= 1e-12 * max(1.0, float(np.abs(array).max()))
    if groups.count < 2:
        return ClusterMean(delta, math.nan, 0, n, groups.count, math.nan, math.nan)
    if flat:
        return ClusterMean(delta, 0.0, groups.count - 1, n, groups.count, math.nan, math.nan)
    weighted = residuals * weights
    sums = groups.sums(weighted)
    if float(np.abs(sums).max()) <= 1e-12 * float(np.abs(weighted).max()):
        # The residuals cancel in every cluster; what is left is rounding, not a standard error.
        return ClusterMean(delta, 0.0, groups.count - 1, n, groups.count, 0.0, _icc(residuals, groups))
    variance = groups.count / (groups.count - 1) * float(sums @ sums)
    independent = n / (n - 1) * float(weighted @ weighted)
    return ClusterMean(
        delta=delta,
        se=math.sqrt(variance),
        df=groups.count - 1,
        n=n,
        n_clusters=groups.count,
        design_effect=variance / independent,
        icc=_icc(residuals, groups),
    )


def _icc(residuals: NDArray[np.float64], groups: Clusters) -> float:
    n, count = len(residuals), groups.count
    if count == n:
        return math.nan
    sizes = groups.sizes
    sums = groups.sums(residuals)
    between_squares = float(np.sum(sums**2 / sizes) - residuals.sum() ** 2 / n)
    within_squares = max(float(residuals @ residuals) - float(np.sum(sums**2 / sizes)), 0.0)
    between, within = between_squares / (count - 1), within_squares / (n - count)
    typical = (n - float(np.sum(sizes.astype(np.float64) ** 2)) / n) / (count - 1)
    total = between + (typical - 1) * within
    return (between - within) / total if total > 0 else math.nan
