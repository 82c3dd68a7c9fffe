"""Two systems on the same examples: the exact paired test.

Level "checkpoint" (these two systems on these examples) and level "items" (new pictures of the same kind) ask
the same p-value, the exact sign-flip test of cluster sums: under the null hypothesis the two systems are
exchangeable picture by picture.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from vlmablate.errors import DataError, unknown_name
from vlmablate.stats.estimate import SMALLEST_P
from vlmablate.stats.flips import flip_group, flip_interval, flip_p
from vlmablate.stats.groups import Clusters, as_clusters, cluster_mean, finite, stratum_weights
from vlmablate.stats.lattice import common_step, log_tail
from vlmablate.stats.settings import ALTERNATIVES, Alternative
from vlmablate.stats.student import t_critical

Method = Literal["auto", "exact", "flips"]
Interval = Literal["t", "flips"]


@dataclass(frozen=True)
class PairedTest:
    """A paired comparison; delta, se, ci in the unit of the scores.

    se, df, ci: cluster-robust (CR1) with t(n_clusters - 1), or the inverted sign-flip test, as asked for. p:
    exact; floor: the smallest p that these data could have given. identical: the two systems scored the same on
    every example, so p is 1 and the interval [0, 0]. se and ci are nan with one cluster.
    """

    delta: float
    se: float
    df: float
    p: float
    ci: tuple[float, float]
    n: int
    n_clusters: int
    design_effect: float
    icc: float
    method: str
    alternative: Alternative
    floor: float
    identical: bool


def paired_test(
    a: ArrayLike,
    b: ArrayLike,
    clusters: ArrayLike | Clusters | None = None,
    *,
    strata: ArrayLike | Clusters | None = None,
    alternative: Alternative = "two-sided",
    method: Method = "auto",
    interval: Interval = "t",
    alpha: float = 0.05,
    seed: int = 0,
) -> PairedTest:
    """Test the mean of a - b, `a` and `b` [n] being two systems' scores on the same examples.

    clusters [n]: examples with the same label (one picture) are flipped together. strata [n] (benchmarks): the
    mean over strata of the strata's means is tested in place of the mean over examples.

    method: "exact" needs differences with a common step (right/wrong, VQA accuracy, any rounded score) and gives
    the exact sign-flip p; "flips" uses 2^18 flips of a Hadamard subgroup (complete enumeration up to 18
    clusters), whose p is never below 2^-18; "auto" takes exact where it can. interval: "t" (CR1, new pictures) or
    "flips" (inverts the test, these pictures). `seed` chooses the subgroup; the exact method draws nothing.

    Raises DataError for scores that are not finite, unequal lengths, and "exact" on scores without a common step.
    """
    if alternative not in ALTERNATIVES:
        raise unknown_name("alternative", alternative, ALTERNATIVES)
    x, y = finite(a, "scores a"), finite(b, "scores b")
    if len(x) != len(y):
        raise DataError(f"scores a and b have {len(x)} and {len(y)} values; pair them by example id first")
    n = len(x)
    groups = as_clusters(clusters, n)
    parts = None if strata is None else as_clusters(strata, n)
    differences = x - y
    mean = cluster_mean(differences, groups, parts)
    weighted = differences if parts is None else differences * (stratum_weights(parts) * n)
    identical = not differences.any()
    if identical:
        text = "the two systems score the same on every example"
        return _result(mean, 1.0, (0.0, 0.0), text, alternative, 1.0, identical=True)
    p, floor, text = _sign_flip(weighted, groups, alternative, method, seed)
    return _result(
        mean, p, _interval(mean, weighted, groups, interval, alpha, seed), text, alternative, floor
    )


def _result(
    mean: object,
    p: float,
    ci: tuple[float, float],
    method: str,
    alternative: Alternative,
    floor: float,
    identical: bool = False,
) -> PairedTest:
    values = {
        name: getattr(mean, name) for name in ("delta", "se", "df", "n", "n_clusters", "design_effect", "icc")
    }
    return PairedTest(
        **values, p=p, ci=ci, method=method, alternative=alternative, floor=floor, identical=identical
    )


def _sign_flip(
    differences: NDArray[np.float64], groups: Clusters, alternative: Alternative, method: Method, seed: int
) -> tuple[float, float, str]:
    """(p, floor, method text) of the sign-flip test of the cluster sums of `differences`."""
    if method not in ("auto", "exact", "flips"):
        raise unknown_name("method", method, ("auto", "exact", "flips"))
    unit = "examples" if groups.count == len(groups.codes) else "clusters"
    step = None if method == "flips" else common_step(differences)
    if step is not None:
        sums = groups.sums(np.rint(differences / step)).astype(np.int64)
        p = _lattice_p(sums, alternative)
        if p is not None:
            moving = int(np.count_nonzero(sums))
            sides = 1 if alternative == "two-sided" else 0
            floor = max(2.0 ** min(sides - moving, 0), SMALLEST_P)
            text = f"exact sign-flip over {groups.count} {unit}, {moving} of them not tied"
            return p, floor, text
    if method == "exact":
        raise DataError(
            "method 'exact' needs scores with a common step (right/wrong, rounded scores); use method 'auto', which "
            "takes sign flips over a subgroup for other scores"
        )
    group = flip_group(groups.count, seed=seed)
    p = flip_p(groups.sums(differences), group, alternative)
    floor = (2.0 if alternative == "two-sided" and group.complete else 1.0) / group.size
    kind = "all" if group.complete else "a subgroup of"
    return p, floor, f"sign-flip over {groups.count} {unit}, {kind} {group.size:,} flips"


def _lattice_p(sums: NDArray[np.int64], alternative: Alternative) -> float | None:
    observed = int(sums.sum())
    if alternative == "two-sided":
        if observed == 0:
            return 1.0
        tail = log_tail(sums, abs(observed))
        logarithm = None if tail is None else tail + math.log(2.0)
    else:
        logarithm = log_tail(sums, observed if alternative == "greater" else -observed)
    return None if logarithm is None else min(max(math.exp(logarithm), SMALLEST_P), 1.0)


def _interval(
    mean: object, values: NDArray[np.float64], groups: Clusters, interval: Interval, alpha: float, seed: int
) -> tuple[float, float]:
    delta, se, df = (float(getattr(mean, name)) for name in ("delta", "se", "df"))
    if interval not in ("t", "flips"):
        raise unknown_name("interval", interval, ("t", "flips"))
    if se == 0:
        return delta, delta
    if interval == "flips":
        return flip_interval(values, groups, alpha=alpha, seed=seed)
    if df < 1:
        return math.nan, math.nan
    half = t_critical(alpha / 2, df) * se
    return delta - half, delta + half


def mcnemar(b: int, c: int, *, mid_p: bool = False, alternative: Alternative = "two-sided") -> float:
    """McNemar's test from the discordant counts: b examples only the first system got right, c only the second.

    Exact binomial: two-sided P = 2 P(X >= max(b, c)), X binomial(b + c, 1/2), at most 1. mid_p counts half of the
    observed outcome's own probability (Fagerland, Lydersen and Laake, BMC Med. Res. Methodol. 13:91 (2013)): closer to
    the level on average, but not guaranteed below it. "greater": the first system is better. No discordant example
    gives 1. Raises DataError for negative or fractional counts.
    """
    if min(b, c) < 0 or int(b) != b or int(c) != c:
        raise DataError(f"discordant counts must be whole and not negative, got {b} and {c}")
    if alternative not in ALTERNATIVES:
        raise unknown_name("alternative", alternative, ALTERNATIVES)
    n = int(b) + int(c)
    if n == 0:
        return 1.0
    if alternative == "two-sided":
        high = max(b, c)
        p = 2 * stats.binom.sf(high - 1, n, 0.5) - (stats.binom.pmf(high, n, 0.5) if mid_p else 0.0)
        if mid_p and b == c:
            p = 1 - stats.binom.pmf(b, n, 0.5)
    else:
        wins = b if alternative == "greater" else c
        p = stats.binom.sf(wins - 1, n, 0.5) - (0.5 * stats.binom.pmf(wins, n, 0.5) if mid_p else 0.0)
    return float(min(max(p, SMALLEST_P), 1.0))
