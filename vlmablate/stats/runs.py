"""Design level: retraining is what is repeated, so the training run (its seed) is the unit.

Every run enters with one number: its suite score, or its score on one benchmark. Two tests answer whether the
arms differ. The t test takes its error from all cells (arm x context) of a study, because a cell of three runs
alone knows its variance too badly: s^2 = sum of squares within cells / sum(n_i - 1), and a contrast
sum(w_i mean_i) has the standard error s sqrt(sum(w_i^2 / n_i)) with t on sum(n_i - 1) degrees of freedom. The
exact test permutes runs between the arms and needs no law of the errors, but cannot give a p-value below
2 / (number of arrangements).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from vlmablate.errors import DataError, unknown_name
from vlmablate.stats.estimate import SMALLEST_P
from vlmablate.stats.power import check_alpha
from vlmablate.stats.settings import ALTERNATIVES, Alternative
from vlmablate.stats.student import t_critical, t_tail

Method = Literal["auto", "exact", "t"]
METHODS = ("auto", "exact", "t")

MOST_ARRANGEMENTS = 2**22
"""The exact test enumerates at most this many arrangements (a few hundred MB and less than a second)."""

_RELATIVE_ZERO = 1e-12  # a spread this small beside the scores is rounding
_TIE = 1e-9  # statistics this close, relative to the spread of the scores, are equal

Array = NDArray[np.float64]


@dataclass(frozen=True)
class PooledError:
    """Spread between seeds within a cell: sd in the unit of the scores (nan if df = 0), degrees of freedom,
    number of cells."""

    sd: float
    df: int
    cells: int


@dataclass(frozen=True)
class DesignTest:
    """Difference between two arms with the training run as the unit; delta, se, ci in the unit of the scores.

    se and df are those of the t test, whichever method gave p and ci, so that equivalence and power can be
    stated beside an exact p. p, ci and se are nan and df is 0 without replication. ci is two-sided at 1 - alpha
    for every alternative; the exact one is infinite where no arrangement of so few runs can reach alpha.
    n_alternate and n_baseline count the runs over all strata. floor: smallest p that the method can give (nan
    where there is no test). tipping_sd: the run-to-run SD above which a difference of this size would not be
    significant.
    """

    delta: float
    se: float
    df: float
    p: float
    ci: tuple[float, float]
    n_alternate: int
    n_baseline: int
    method: str
    floor: float
    tipping_sd: float
    alternative: Alternative


def _numbers(values: ArrayLike, what: str, ndim: int) -> Array:
    """`values` as a non-empty float64 array of finite numbers with the runs along its first axis."""
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{what}: not an array of numbers ({error})") from None
    if array.ndim != ndim or not array.size:
        wanted = "a score per run" if ndim == 1 else "a row per run"
        raise DataError(f"{what}: expected {wanted} and at least one run, got shape {array.shape}")
    bad = ~np.isfinite(array)
    if bad.any():
        where = np.argwhere(bad)[0].tolist()
        place = f"run {where[0]}" + (f", column {where[1]}" if ndim == 2 else "")
        raise DataError(
            f"{what}: {int(bad.sum())} of {array.size} values are not finite, the first in {place}"
        )
    return array


def run_matrix(values: ArrayLike, what: str, columns: int | None = None) -> Array:
    """`values` [runs, columns] as float64. Raises DataError for something empty or of another shape, and for
    values that are not finite, naming how many there are and where the first one is."""
    array = _numbers(values, what, 2)
    if columns is not None and array.shape[1] != columns:
        raise DataError(f"{what}: expected {columns} columns, got shape {array.shape}")
    return array


def pooled_error(groups: Iterable[ArrayLike]) -> PooledError:
    """Pool the variance within `groups`, each the scores of one cell's runs: s^2 = SS_within / sum(n_i - 1).

    Every training run may occur in one group only: a run that two cells share is not two runs. A spread that is
    rounding beside the scores counts as 0. Raises DataError for no group, an empty one, and scores that are
    not finite.
    """
    scores = [_numbers(group, f"scores of cell {i}", 1) for i, group in enumerate(groups)]
    if not scores:
        raise DataError("no cell was given to pool the error over")
    df = sum(len(group) - 1 for group in scores)
    if not df:
        return PooledError(math.nan, 0, len(scores))
    squares = sum(float(np.sum((group - group.mean()) ** 2)) for group in scores)
    largest = max(float(np.abs(group).max()) for group in scores)
    sd = math.sqrt(squares / df)
    return PooledError(0.0 if sd <= _RELATIVE_ZERO * largest else sd, df, len(scores))


def additive_residuals(present: NDArray[np.bool_]) -> tuple[Array, int]:
    """(M [N, N], df): M y are the residuals of the N scores y, in the order of np.nonzero(`present`), from effects of
    arm and seed that add up; present [arms, seeds] says which runs there are."""
    arms, seeds = np.nonzero(present)
    effects = np.concatenate([np.eye(present.shape[0])[arms], np.eye(present.shape[1])[seeds]], axis=1)
    maker = np.eye(len(arms)) - effects @ np.linalg.pinv(effects)
    return maker, len(arms) - int(np.linalg.matrix_rank(effects))


def paired_error(tables: Iterable[ArrayLike]) -> PooledError:
    """Spread of the difference between two arms' runs of the same seed, pooled over all arms.

    tables: the scores [arms, seeds] of every context, nan where an arm lacks a seed; runs that two arms share count
    once. s^2 = 2 SS / df, with SS and df of the residuals from effects of arm and seed that add up (randomised
    blocks with the seed as the block; for two arms s^2 is the variance of the differences). Pooling the differences
    to the baseline as if they were independent would count the baseline's own noise once for every arm. Raises
    DataError for infinite scores.
    """
    squares, df, cells, largest = 0.0, 0, 0, 0.0
    for number, table in enumerate(tables):
        scores = np.asarray(table, dtype=np.float64)
        if scores.ndim != 2 or np.isinf(scores).any():
            raise DataError(
                f"context {number}: expected finite scores [arms, seeds], got shape {scores.shape}"
            )
        present = ~np.isnan(scores)
        maker, free = additive_residuals(present)
        squares += float(np.sum((maker @ scores[present]) ** 2))
        df, cells = df + free, cells + int(present.any(axis=1).sum())
        largest = max(largest, float(np.abs(scores[present]).max(initial=0.0)))
    if not df:
        return PooledError(math.nan, 0, cells)
    sd = math.sqrt(2 * squares / df)
    return PooledError(0.0 if sd <= _RELATIVE_ZERO * largest else sd, df, cells)


def tipping_sd(delta: float, scale: float, alpha: float = 0.05) -> float:
    """Run-to-run SD above which a difference of this size stops being significant.

    |delta| / (z_{1-alpha/2} sqrt(scale)) with scale = sum(w^2 / n) over the contrast's cells (2 for one run
    against one). It is what a single run per arm can honestly offer in the place of a p-value: the reader may
    know whether retraining moves the score by more than that.
    """
    return abs(delta) / (-float(special.ndtri(alpha / 2)) * math.sqrt(scale))


def permutation_floor(
    n_alternate: int | Sequence[int], n_baseline: int | Sequence[int] | None = None, *, paired: bool = False
) -> float:
    """Smallest two-sided p-value of an exact permutation of runs: min(1, 2 / arrangements).

    Arrangements: C(n_alternate + n_baseline, n_alternate), or 2^n_alternate sign flips of `paired` seeds;
    sequences (one count per stratum) multiply. n_baseline is n_alternate unless given. 1 for no run at all.
    """
    first = [n_alternate] if isinstance(n_alternate, int | np.integer) else list(n_alternate)
    other = first if n_baseline is None else n_baseline
    second = [other] if isinstance(other, int | np.integer) else list(other)
    return min(1.0, max(2 / _arrangements(first, second, paired), SMALLEST_P))


def declared_method(
    n_alternate: Sequence[int],
    n_baseline: Sequence[int],
    *,
    family: int = 1,
    paired: bool = False,
    alpha: float = 0.05,
) -> Literal["exact", "t"]:
    """The method of a contrast in a family of `family` tests, from the counts of runs per stratum alone.

    "exact" where the smallest p that it can give is at most alpha / (5 family), so that it can still decide after
    the adjustment and its discreteness costs little, and where there are at most MOST_ARRANGEMENTS; "t" otherwise.
    No score is looked at, so the choice cannot favour a result.
    """
    floor = permutation_floor(n_alternate, n_baseline, paired=paired)
    return "exact" if 2 / MOST_ARRANGEMENTS <= floor <= alpha / (5 * max(family, 1)) else "t"


def _arrangements(n_alternate: Sequence[int], n_baseline: Sequence[int], paired: bool) -> int:
    counts = zip(n_alternate, n_baseline, strict=True)
    return math.prod(2 ** int(a) if paired else math.comb(int(a + b), int(a)) for a, b in counts)


def _strata(values: ArrayLike | Sequence[ArrayLike], what: str) -> list[Array]:
    """One array per stratum: [S] scores are one stratum, a sequence of arrays is one each."""
    try:
        items: list[Any] = list(values)  # type: ignore[arg-type]
    except TypeError:
        items = []
    if not items:
        raise DataError(f"{what}: expected the scores of at least one run, got {values!r}")
    if all(np.ndim(item) == 0 for item in items):
        return [_numbers(items, what, 1)]
    return [_numbers(item, f"{what}, stratum {i}", 1) for i, item in enumerate(items)]


def design_test(
    alternate: ArrayLike | Sequence[ArrayLike],
    baseline: ArrayLike | Sequence[ArrayLike],
    *,
    paired: bool = False,
    error: PooledError | None = None,
    alternative: Alternative = "two-sided",
    method: Method = "auto",
    alpha: float = 0.05,
) -> DesignTest:
    """Test whether retraining with the alternate design changes the score: delta = mean alternate - baseline.

    alternate, baseline: [S] scores, one per training run, or sequences of such arrays, one pair per context
    (stratum); delta is then the unweighted mean of the strata's differences. paired: the runs of both arms
    correspond by position (same seed), so the unit is the difference per seed.

    method "t": se = s sqrt(sum(w^2 / n)) with s from `error` (of differences per seed if paired), or pooled
    within the given arrays. method "exact": all permutations of runs between the arms within the strata (paired:
    all sign flips of the differences) (Fisher 1935; Pitman 1937); two-sided p = twice the smaller one-sided p.
    Its ci inverts the same test under a shift of the alternate arm: an arrangement that swaps alternate runs
    R for baseline runs A is at least as extreme as the observed one exactly when the shift is at least
    (sum_R f x - sum_A f x) / sum_R f, f = (1/n_a + 1/n_b) / strata, so the limits are order statistics of
    these pivots (Hodges & Lehmann 1963; Maritz 1979). method "auto": exact if its floor is at most alpha / 5
    (so that discreteness costs little: from 5 against 5 seeds) and at most MOST_ARRANGEMENTS are needed, else t.

    One run per arm and no `error`: nothing to judge by, p is nan. Arms without any spread: p = 1 if equal; if
    not, t has no p (seeds that change nothing are no replication) and exact has its own. Raises DataError for
    empty or non-finite scores, different numbers of strata, pairs of different length, alpha outside
    (0, 0.5), too many arrangements for "exact"; UserError for an unknown method or alternative.
    """
    check_alpha(alpha)
    if method not in METHODS:
        raise unknown_name("method", str(method), METHODS)
    if alternative not in ALTERNATIVES:
        raise unknown_name("alternative", str(alternative), ALTERNATIVES)
    a, b = _strata(alternate, "alternate"), _strata(baseline, "baseline")
    if len(a) != len(b):
        raise DataError(
            f"the alternate arm has {len(a)} strata and the baseline {len(b)}; give one pair for each"
        )
    for i, (x, y) in enumerate(zip(a, b, strict=True)):
        if paired and len(x) != len(y):
            raise DataError(
                f"paired seeds need as many runs in both arms; stratum {i} has {len(x)} and {len(y)}"
            )
    sizes = [len(x) for x in a], [len(y) for y in b]
    total = _arrangements(*sizes, paired)
    floor = min(1.0, max((2 if alternative == "two-sided" else 1) / total, SMALLEST_P))
    if method == "exact" and total > MOST_ARRANGEMENTS:
        raise DataError(
            f"an exact permutation of these runs has {total:,} arrangements, more than {MOST_ARRANGEMENTS:,}; "
            "use method 't' or 'auto'"
        )
    exact = method == "exact" or (method == "auto" and floor <= alpha / 5 and total <= MOST_ARRANGEMENTS)

    if error is not None and error.df > 0 and not (error.sd >= 0 and math.isfinite(error.sd)):
        raise DataError(f"the pooled error has {error.df} degrees of freedom but the sd {error.sd}")
    if error is None:
        error = pooled_error([x - y for x, y in zip(a, b, strict=True)] if paired else [*a, *b])
    largest = max(float(np.abs(x).max()) for x in [*a, *b])
    delta = float(np.mean([x.mean() - y.mean() for x, y in zip(a, b, strict=True)]))
    delta = 0.0 if abs(delta) <= _RELATIVE_ZERO * largest else delta
    scale = sum(1 / n + 1 / m for n, m in zip(*sizes, strict=True)) / len(a) ** 2
    tipping = tipping_sd(delta, scale, alpha)
    scale_of_error = sum(1 / n for n in sizes[0]) / len(a) ** 2 if paired else scale
    spread = error.df > 0 and error.sd > 0
    se, df = (error.sd * math.sqrt(scale_of_error), error.df) if spread else (math.nan, 0)
    if error.df > 0 and error.sd == 0 and delta == 0:
        se, df = 0.0, error.df

    if exact:
        p, ci = _exact(a, b, paired, alternative, alpha)
        text = _exact_text(sizes, paired, total)
    else:
        p, ci, floor = _t(delta, se, df, alternative, alpha)
        text = "equal scores in all runs" if se == 0 else _t_text(error, sizes, paired, tipping)
    return DesignTest(delta, se, df, p, ci, sum(sizes[0]), sum(sizes[1]), text, floor, tipping, alternative)


def _t(
    delta: float, se: float, df: float, alternative: Alternative, alpha: float
) -> tuple[float, tuple[float, float], float]:
    if df == 0:
        return math.nan, (math.nan, math.nan), math.nan
    if se == 0:
        return 1.0, (0.0, 0.0), SMALLEST_P
    t = {"two-sided": abs(delta), "greater": delta, "less": -delta}[alternative] / se
    p = t_tail(t, df) * (2 if alternative == "two-sided" else 1)
    half_width = t_critical(alpha / 2, df) * se
    return min(max(p, SMALLEST_P), 1.0), (delta - half_width, delta + half_width), SMALLEST_P


def _t_text(error: PooledError, sizes: tuple[list[int], list[int]], paired: bool, tipping: float) -> str:
    if error.df == 0:
        return f"no test: one seed per cell; tipping seed SD {tipping:.2f}"
    if error.sd == 0:
        return "no test: the seeds changed nothing, so they are no replication"
    if not paired:
        return f"t over seeds, error pooled over {error.cells} cells, df = {error.df}"
    pool = f", error pooled over {error.cells} cells" if error.cells > 2 else ""
    return f"t over {sum(sizes[0])} paired seeds{pool}, df = {error.df}"


def _exact_text(sizes: tuple[list[int], list[int]], paired: bool, total: int) -> str:
    within = f" within {len(sizes[0])} contexts" if len(sizes[0]) > 1 else ""
    if paired:
        return f"exact sign flips of {sum(sizes[0])} paired seeds{within}, {total:,} arrangements"
    return f"exact permutation of {sum(sizes[0])} and {sum(sizes[1])} seeds{within}, {total:,} arrangements"


def _subset_sums(values: Array, largest: int) -> list[Array]:
    """Sums of all subsets of `values` with j elements, for j = 0..largest: element j is [C(n, j)].

    Built by adding one value at a time, so the work is one addition per subset.
    """
    sums = [np.zeros(math.comb(len(values), j)) for j in range(largest + 1)]
    filled = [1] + [0] * largest
    for value in values:
        for j in range(largest, 0, -1):
            new = filled[j - 1]
            sums[j][filled[j] : filled[j] + new] = sums[j - 1][:new] + value
            filled[j] += new
    return sums


def _rearranged(a: Array, b: Array, paired: bool) -> tuple[Array, Array]:
    """All arrangements of one stratum: how far each lowers the observed difference, and how much of a shift of
    the alternate arm it takes with it. Both [arrangements]; the observed arrangement is (0, 0)."""
    if paired:
        d = (a - b) * (2 / len(a))
        by_size = _subset_sums(d, len(d))
        moved = [np.full(len(sums), 2 * j / len(d)) for j, sums in enumerate(by_size)]
        return np.concatenate(by_size), np.concatenate(moved)
    f = 1 / len(a) + 1 / len(b)
    centre = (a.sum() + b.sum()) / (len(a) + len(b))  # keeps the sums small, so that ties survive rounding
    most = min(len(a), len(b))
    removed, added = _subset_sums((a - centre) * f, most), _subset_sums((b - centre) * f, most)
    falls = [np.subtract.outer(out, new).ravel() for out, new in zip(removed, added, strict=True)]
    return np.concatenate(falls), np.concatenate([np.full(len(fall), f * j) for j, fall in enumerate(falls)])


def _exact(
    a: Sequence[Array], b: Sequence[Array], paired: bool, alternative: Alternative, alpha: float
) -> tuple[float, tuple[float, float]]:
    """p and the 1 - alpha interval from the complete enumeration."""
    strata = [_rearranged(x, y, paired) for x, y in zip(a, b, strict=True)]
    fall, moved = (
        reduce(lambda left, right: np.add.outer(left, right).ravel(), parts) / len(strata)
        for parts in zip(*strata, strict=True)
    )
    spread = max(
        float(np.ptp(x - y if paired else np.concatenate([x, y]))) for x, y in zip(a, b, strict=True)
    )
    largest = max(float(np.abs(x).max()) for x in [*a, *b])
    tolerance = max(_TIE * max(spread, float(np.abs(fall).max())), _RELATIVE_ZERO * largest)
    fall[np.abs(fall) <= tolerance] = 0.0
    total = len(fall)
    if not fall.any():
        return 1.0, (0.0, 0.0)
    greater, less = int(np.count_nonzero(fall <= 0)) / total, int(np.count_nonzero(fall >= 0)) / total
    p = {"two-sided": min(1.0, 2 * min(greater, less)), "greater": greater, "less": less}[alternative]
    # 2 min(p_greater, p_less) > alpha needs more than total alpha / 2 arrangements on either side, of which the
    # observed one is always one: the limits are the k-th pivots from below and above.
    k = math.floor(total * alpha / 2 * (1 + 1e-12))
    if k == 0:
        return p, (-math.inf, math.inf)
    pivots = fall[moved > 0] / moved[moved > 0]
    limits = np.partition(pivots, [k - 1, len(pivots) - k])
    return p, (float(limits[k - 1]), float(limits[len(pivots) - k]))
