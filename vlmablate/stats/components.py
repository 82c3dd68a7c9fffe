"""Both sources of chance at once: other training runs and other examples of the same kind.

A difference between arms that is to hold for new seeds and new pictures varies with both. Their variances are
estimated apart, from the runs' total scores and from the clusters' sums, and added; what both count (a run that
is lucky on a picture) is taken off once. Everything is one pass over the scores: no resampling, no loop over
clusters or examples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vlmablate.errors import DataError
from vlmablate.stats.groups import Clusters, as_clusters, stratum_weights
from vlmablate.stats.power import check_alpha
from vlmablate.stats.runs import PooledError, run_matrix
from vlmablate.stats.student import t_critical

Array = NDArray[np.float64]


@dataclass(frozen=True)
class TwoComponent:
    """Difference of two arms with an interval that holds for new seeds and new clusters of examples.

    delta, se, ci in the unit of the scores; the variances, in its square, are parts of the variance of delta:
    seed_variance (runs; includes the interaction), item_variance (clusters; includes the interaction) and
    interaction_variance (runs x clusters). nan where there is nothing to estimate them from.
    """

    delta: float
    se: float
    df: float
    ci: tuple[float, float]
    seed_variance: float
    item_variance: float
    interaction_variance: float
    method: str


def two_component_interval(
    alternate: ArrayLike | Sequence[ArrayLike],
    baseline: ArrayLike | Sequence[ArrayLike],
    clusters: ArrayLike | Clusters | None = None,
    *,
    benchmarks: ArrayLike | Clusters | None = None,
    error: PooledError | None = None,
    alpha: float = 0.05,
) -> TwoComponent:
    """Estimate the difference alternate - baseline for new training runs and new examples at once.

    alternate [Sa, n], baseline [Sb, n]: scores of every run on the same n examples; or a sequence of such matrices
    each, one pair per context, whose differences are then averaged. clusters [n]: the picture (or other origin) of
    each example, None if every example has its own; benchmarks that share pictures share their
    labels. benchmarks [n]: delta is the unweighted mean over them, w_i = 1 / (benchmarks x size of its own).
    Integer labels are fastest. error: spread of the runs' weighted scores pooled over more cells than these two.

    With x_ri the scores, x_i. the mean over an arm's runs, r_i the difference of the arms' x_i. minus its
    benchmark's mean, and G clusters:

    * seed part  s^2 (1/Sa + 1/Sb), s^2 the pooled variance of the runs' scores sum_i w_i x_ri; df = Sa + Sb - 2
    * item part  G/(G-1) sum_g (sum_{i in g} w_i r_i)^2; df = G - 1 (CR1, as in groups.cluster_mean)
    * interaction  v (1/Sa + 1/Sb), v = G/(G-1) sum_r sum_g (sum_{i in g} w_i e_ri)^2 / (Sa + Sb - 2), where e_ri is
      x_ri - x_i. minus its mean over the run's benchmark: what a run does to a cluster beyond its own mean

    V = item + max(seed - interaction, 0), the variance of a difference of means in a model with crossed random runs
    and clusters (Cameron, Gelbach & Miller, J. Bus. Econ. Statist. 29, 2011, 238-249: two-way clustering adds the
    one-way variances and takes off their intersection). Degrees of freedom: V^2 / (seed^2 / df_seed + item^2 /
    df_item) (Satterthwaite, Biometrics Bull. 2, 1946, 110-114), at least the smaller of the two; df_item where
    seed <= interaction, as then only the item part is in V. With C contexts, r_i is averaged over them, deviations
    are from the mean of the run's own cell (df: runs minus cells), and sum_c (1/Sa_c + 1/Sb_c) / C^2 takes the
    place of 1/Sa + 1/Sb. Simulated coverage of the 95 % interval with 200 clusters, one context and 3 or 5 runs per
    arm: .945-.962; up to .971 where runs have no effect of their own beside the interaction, because an estimated
    variance is not let below 0; .934-.970 with 2 runs.

    Without replication of either kind (one run per arm and no `error`, one cluster, or no spread at all behind a
    difference) se and ci are nan and df is 0. If both arms have one run but there is an `error`, the interaction
    stays inside (wider interval). Raises DataError for matrices of unequal width or number, scores that are not
    finite, labels of another length, alpha outside (0, 0.5).
    """
    check_alpha(alpha)
    a, b = _contexts(alternate, "alternate"), _contexts(baseline, "baseline")
    if len(a) != len(b):
        raise DataError(
            f"every context needs both arms, got {len(a)} of the alternate and {len(b)} of the baseline"
        )
    n = a[0].shape[1]
    widths = {cell.shape[1] for cell in (*a, *b)}
    if widths != {n}:
        counts = " and ".join(str(width) for width in sorted(widths))
        raise DataError(f"the arms were scored on different examples: {counts} columns")
    groups = as_clusters(clusters, n)
    parts = as_clusters(np.zeros(n, dtype=np.int64) if benchmarks is None else benchmarks, n)
    weights, sizes = stratum_weights(parts), parts.sizes.astype(np.float64)
    means = [cell.mean(axis=0) for cell in (*a, *b)]
    difference = np.asarray(sum(means[: len(a)]) - sum(means[len(a) :])) / len(a)
    delta = float(weights @ difference)
    inverse = sum(1 / len(cell) for cell in (*a, *b)) / len(a) ** 2
    runs_df = sum(len(cell) - 1 for cell in (*a, *b))

    many = groups.count > 1
    correction = groups.count / (groups.count - 1) if many else math.nan
    item = correction * _squared_sums(difference, weights, groups, parts, sizes)
    seed_squares = interaction_squares = 0.0
    for cell, mean in zip((*a, *b), means, strict=True):
        for run in cell if len(cell) > 1 else ():
            deviation = run - mean
            seed_squares += float(weights @ deviation) ** 2
            interaction_squares += _squared_sums(deviation, weights, groups, parts, sizes)
    interaction = correction * interaction_squares / runs_df * inverse if runs_df else math.nan
    if error is None:
        seed, seed_df = (seed_squares / runs_df * inverse if runs_df else math.nan), float(runs_df)
    else:
        seed, seed_df = error.sd**2 * inverse, float(error.df)

    largest = max(float(max(cell.max(), -cell.min())) for cell in (*a, *b))
    nothing = (1e-12 * largest) ** 2  # a variance this small is rounding
    seed, item, interaction = (0.0 if value <= nothing else value for value in (seed, item, interaction))
    known = math.isfinite(seed) and math.isfinite(item) and seed_df > 0
    shared = interaction if math.isfinite(interaction) else 0.0
    variance = item + max(seed - shared, 0.0) if known else math.nan
    if known and variance == 0 and abs(delta) <= 1e-12 * largest:
        df = min(seed_df, groups.count - 1.0)
        return TwoComponent(0.0, 0.0, df, (0.0, 0.0), 0.0, 0.0, 0.0, "equal scores in all runs")
    if not known or variance == 0:
        why = "one run per arm" if many else "one cluster of examples"
        why = "neither runs nor clusters change the difference" if known else why
        none = (math.nan, math.nan)
        return TwoComponent(delta, math.nan, 0.0, none, seed, item, interaction, f"no interval: {why}")
    df = item_df = groups.count - 1.0
    if seed > shared * (1 + 1e-9):  # at a tie rounding would decide
        df = max(variance**2 / (seed**2 / seed_df + item**2 / item_df), min(seed_df, item_df))
    se = math.sqrt(variance)
    half_width = t_critical(alpha / 2, df) * se
    counts = " and ".join(str(sum(len(cell) for cell in arm)) for arm in (a, b))
    method = f"{counts} runs x {groups.count} clusters, Satterthwaite df = {df:.1f}"
    if error is not None:
        method += f", run error pooled over {error.cells} cells"
    return TwoComponent(
        delta, se, df, (delta - half_width, delta + half_width), seed, item, interaction, method
    )


def _contexts(values: ArrayLike | Sequence[ArrayLike], what: str) -> list[Array]:
    """One [S, n] matrix per context; a single matrix is one context."""
    if isinstance(values, list | tuple) and values and np.ndim(values[0]) == 2:
        return [run_matrix(cell, f"{what}, context {i}") for i, cell in enumerate(values)]
    return [run_matrix(values, what)]  # type: ignore[arg-type]


def _squared_sums(values: Array, weights: Array, groups: Clusters, parts: Clusters, sizes: Array) -> float:
    """Sum over clusters of (sum of w_i (x_i - mean of its part))^2; sizes: examples of every part."""
    if parts.count == 1:
        residuals = values - values.mean()
    else:
        residuals = values - (parts.sums(values) / sizes)[parts.codes]
    residuals *= weights
    sums = groups.sums(residuals)
    return float(sums @ sums)


@dataclass(frozen=True)
class VarianceComponents:
    """Where the scores of one cell's runs vary, as standard deviations in the unit of the scores.

    seed_sd: between runs, of the mean over infinitely many examples. item_sd: between clusters, of a cluster's
    expected score. residual_sd: of a single answer around its run and cluster. icc: share of the clusters in the
    variance of a single answer, item_sd^2 / (item_sd^2 + residual_sd^2). nan where the data cannot tell:
    seed_sd with one run, residual_sd and item_sd with one run and clusters of one example each.
    """

    seed_sd: float
    item_sd: float
    residual_sd: float
    icc: float


def variance_components(
    scores: ArrayLike | Sequence[ArrayLike], clusters: ArrayLike | Clusters | None = None
) -> VarianceComponents:
    """Variance components of the runs [R, n] of one cell, or of a list of cells on the same n examples.

    Analysis of variance for runs crossed with clusters of unequal size and examples nested in clusters
    (Searle, Casella & McCulloch, Variance Components, 1992, ch. 4-5), with the mean squares MS_C between clusters
    and MS_I between examples within clusters, both of scores averaged over the runs and multiplied by R, and
    MS_RI of runs x examples:

    * item^2 = (MS_C - MS_I) / (R m), m = (n - sum m_g^2 / n) / (G - 1) the typical cluster size; with one
      example per cluster (MS_C - MS_RI) / R
    * residual^2 = (MS_I - MS_RI) / R + MS_RI; MS_I with one run; MS_RI with one example per cluster
    * seed^2 = variance of the runs' means minus the part of it that comes from the finite examples, estimated
      from the runs' deviations per cluster as in two_component_interval

    Negative estimates are 0. Several cells: components are averaged, the seed part by degrees of freedom.
    Raises DataError for something empty, different widths, scores that are not finite, a single example.
    """
    given: list[Any] = list(scores)  # type: ignore[arg-type]
    if not given:
        raise DataError("variance components need the scores of at least one run")
    cells = [given] if np.ndim(given[0]) == 1 else given
    n = run_matrix(cells[0], "scores of cell 0").shape[1]
    groups = as_clusters(clusters, n)
    if groups.count < 2:
        raise DataError(f"variance between examples needs at least two clusters, got {groups.count}")
    parts = [_anova(run_matrix(cell, f"scores of cell {i}", n), groups) for i, cell in enumerate(cells)]
    df = sum(part[3] for part in parts)
    seed = sum(part[0] * part[3] for part in parts if part[3]) / df if df else math.nan
    item = float(np.mean([part[1] for part in parts]))
    residual = float(np.mean([part[2] for part in parts]))
    seed, item, residual = (
        value if math.isnan(value) else max(value, 0.0) for value in (seed, item, residual)
    )
    icc = item / (item + residual) if item + residual > 0 else math.nan
    return VarianceComponents(math.sqrt(seed), math.sqrt(item), math.sqrt(residual), icc)


def _anova(scores: Array, groups: Clusters) -> tuple[float, float, float, int]:
    """(seed^2, item^2, residual^2, degrees of freedom of the runs) of one cell, before truncation at 0."""
    runs, n = scores.shape
    count, sizes = groups.count, groups.sizes
    mean = scores.mean(axis=0)
    centred = mean - mean.mean()
    cluster_means = groups.sums(centred) / sizes
    between = runs * float(sizes @ cluster_means**2) / (count - 1)
    typical = (n - float(np.sum(sizes.astype(np.float64) ** 2)) / n) / (count - 1)
    nested = n > count
    within = math.nan
    if nested:
        within = runs * float(np.sum((centred - cluster_means[groups.codes]) ** 2)) / (n - count)
    if runs == 1:
        return math.nan, (between - within) / typical, within, 0
    run_squares = interaction_squares = cluster_squares = 0.0
    for run in scores:
        deviation = run - mean
        own = float(deviation.mean())
        deviation -= own
        run_squares += own**2
        interaction_squares += float(deviation @ deviation)
        sums = groups.sums(deviation) / n
        cluster_squares += float(sums @ sums)
    crossed = interaction_squares / ((runs - 1) * (n - 1))
    seed = (run_squares - count / (count - 1) * cluster_squares) / (runs - 1)
    if nested:
        return seed, (between - within) / (runs * typical), (within - crossed) / runs + crossed, runs - 1
    return seed, (between - crossed) / runs, crossed, runs - 1
