"""Suite level: would the difference hold on other benchmarks like these? The unit is the benchmark family."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vlmablate.errors import DataError
from vlmablate.stats.estimate import SMALLEST_P
from vlmablate.stats.power import check_alpha
from vlmablate.stats.runs import DesignTest, design_test, pooled_error, run_matrix
from vlmablate.stats.student import t_critical, t_tail


@dataclass(frozen=True)
class RandomEffects:
    """Mean difference over a population of benchmarks of which k (families of) benchmarks are a sample.

    delta, se, ci, prediction in the unit of the input; tau2 in its square: variance of the true differences
    between benchmarks; i2: share of it in the spread of the deltas; q: Cochran's heterogeneity statistic on
    k - 1 degrees. prediction: 1 - alpha interval of the true difference on one more benchmark. nan where k < 2,
    and tau2, i2, q where the deltas' standard errors are not known. floor: smallest p that is reported.
    """

    delta: float
    se: float
    df: float
    p: float
    ci: tuple[float, float]
    tau2: float
    i2: float
    q: float
    prediction: tuple[float, float]
    k: int
    method: str
    floor: float


def random_effects(
    deltas: ArrayLike, ses: ArrayLike, *, families: Sequence[Any] | None = None, alpha: float = 0.05
) -> RandomEffects:
    """Two-sided test of the mean of `deltas` [k] with standard errors `ses` [k], one per benchmark.

    families [k]: labels of related benchmarks, which are averaged first (unweighted delta, mean se: nothing is
    gained from benchmarks whose errors may be the same), so that k counts families.

    With w = 1 / se^2: q = sum w (d - mean_w)^2 and tau2 = max(0, (q - (k - 1)) / (sum w - sum w^2 / sum w))
    (DerSimonian & Laird, Controlled Clin. Trials 7, 1986, 177-188); i2 = max(0, (q - (k - 1)) / q) (Higgins &
    Thompson 2002). Then w* = 1 / (se^2 + tau2), delta = sum w* d / sum w* and se^2 = sum w* (d - delta)^2 /
    ((k - 1) sum w*) with t on k - 1 degrees (Hartung & Knapp, Statist. Med. 20, 2001, 3875-3889; Sidik &
    Jonkman 2002). prediction = delta +- t_{k-1} sqrt(tau2 + se^2) (Higgins, Thompson & Spiegelhalter, J. R.
    Statist. Soc. A 172, 2009, 137-159, with k - 1 for their k - 2 degrees, as the interval of delta has).

    If a standard error is nan or 0 the weights do not exist: the deltas then count the same, with t on k - 1 and
    prediction = delta +- t_{k-1} sd sqrt(1 + 1/k); the method text says so. p is nan for k < 2 and for deltas
    that are all the same but not 0. Raises DataError for no delta, a delta that is not finite, a negative se,
    arrays of different length, alpha outside (0, 0.5).
    """
    check_alpha(alpha)
    values, errors = _averaged(deltas, ses, families)
    k = len(values)
    units = "benchmarks" if families is None else "benchmark families"
    nan, none = math.nan, (math.nan, math.nan)
    if k < 2:
        method = f"no test: one {'benchmark' if families is None else 'benchmark family'}"
        return RandomEffects(float(values[0]), nan, 0, nan, none, nan, nan, nan, none, k, method, nan)
    df = k - 1
    critical = t_critical(alpha / 2, df)
    # An error that is 0 up to rounding is none: it would take all the weight.
    nothing = 1e-10 * float(np.nanmax(np.append(errors, np.abs(values))))
    unknown = int(np.sum(~(errors > nothing)))
    if unknown:
        delta = float(values.mean())
        se = float(values.std(ddof=1)) / math.sqrt(k)
        tau2 = i2 = q = nan
        reach = critical * se * math.sqrt(k + 1)
        method = f"t over {k} {units}, unweighted as {unknown} standard error(s) are unknown or 0, df = {df}"
    else:
        delta, se, tau2, i2, q = _weighted(values, errors)
        reach = critical * math.sqrt(tau2 + se**2)
        method = (
            f"random effects over {k} {units}, DerSimonian-Laird, Hartung-Knapp-Sidik-Jonkman t, df = {df} "
            f"(prediction too)"
        )
    largest = float(np.abs(values).max())
    if float(np.ptp(values)) <= 1e-12 * largest:
        if largest == 0:
            return RandomEffects(
                0.0, 0.0, df, 1.0, (0.0, 0.0), tau2, i2, q, (0.0, 0.0), k, method, SMALLEST_P
            )
        method = f"no test: the difference is the same on all {k} {units}"
        return RandomEffects(delta, nan, 0, nan, none, tau2, i2, q, none, k, method, nan)
    p = min(1.0, max(2 * t_tail(abs(delta) / se, df), SMALLEST_P))
    ci = (delta - critical * se, delta + critical * se)
    prediction = (delta - reach, delta + reach)
    return RandomEffects(delta, se, df, p, ci, tau2, i2, q, prediction, k, method, SMALLEST_P)


def _averaged(
    deltas: ArrayLike, ses: ArrayLike, families: Sequence[Any] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Checked (deltas, ses), averaged within families in order of first appearance."""
    values, errors = np.asarray(deltas, dtype=np.float64), np.asarray(ses, dtype=np.float64)
    if values.ndim != 1 or not len(values) or errors.shape != values.shape:
        raise DataError(
            f"one delta and one standard error per benchmark are needed, got shapes {values.shape} and {errors.shape}"
        )
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise DataError(f"{len(bad)} of {len(values)} deltas are not finite, the first at position {bad[0]}")
    if (errors < 0).any():
        where = int(np.argmax(errors < 0))
        raise DataError(f"a standard error cannot be negative, got {errors[where]} at position {where}")
    if families is None:
        return values, errors
    if len(families) != len(values):
        raise DataError(f"{len(families)} family labels were given for {len(values)} benchmarks")
    members: dict[Any, list[int]] = {}
    for i, family in enumerate(families):
        members.setdefault(family, []).append(i)
    rows = list(members.values())
    return np.array([values[i].mean() for i in rows]), np.array([errors[i].mean() for i in rows])


def _weighted(
    values: NDArray[np.float64], errors: NDArray[np.float64]
) -> tuple[float, float, float, float, float]:
    """(delta, se, tau2, i2, q). Weights are relative to the smallest variance, so tiny errors do not overflow."""
    df, unit = len(values) - 1, float(errors.min()) ** 2
    w = (errors.min() / errors) ** 2
    spread = float(w @ (values - float(w @ values) / w.sum()) ** 2)  # q times the smallest variance
    q = spread / unit
    i2 = max(0.0, 1 - df * unit / spread) if spread > 0 else 0.0
    tau2 = max(0.0, (spread - df * unit) / float(w.sum() - (w @ w) / w.sum()))
    w = 1 / (errors**2 + tau2)
    w /= w.max()
    delta = float(w @ values / w.sum())
    se = math.sqrt(float(w @ (values - delta) ** 2) / (df * float(w.sum())))
    return delta, se, tau2, i2, q


def leave_one_out(
    alternate: ArrayLike,
    baseline: ArrayLike,
    benchmarks: Sequence[str],
    *,
    cells: Sequence[ArrayLike] | None = None,
    **options: Any,
) -> dict[str, DesignTest]:
    """design_test of the suite score without each benchmark in turn: does one benchmark carry the difference?

    alternate [Sa, B], baseline [Sb, B]: scores of every run on every benchmark; the suite score of a run is the
    mean of the remaining columns. cells: the [S, B] scores of all cells of the study, to pool the error over.
    options: those of design_test but for `error`. Raises DataError for fewer than two benchmarks, names that
    repeat or do not match the columns, `cells` together with paired=True, and what design_test refuses.
    """
    names = list(benchmarks)
    if len(names) < 2 or len(set(names)) != len(names):
        raise DataError(
            f"leaving one out needs at least two different benchmarks, got {', '.join(names) or 'none'}"
        )
    if cells is not None and options.get("paired"):
        raise DataError(
            "the spread of cells is not that of paired differences; give either cells or paired=True"
        )
    a = run_matrix(alternate, "alternate", len(names))
    b = run_matrix(baseline, "baseline", len(names))
    every = None if cells is None else [run_matrix(x, f"cell {i}", len(names)) for i, x in enumerate(cells)]
    tests = {}
    for column, name in enumerate(names):
        kept = [i for i in range(len(names)) if i != column]
        error = None if every is None else pooled_error([x[:, kept].mean(axis=1) for x in every])
        tests[name] = design_test(a[:, kept].mean(axis=1), b[:, kept].mean(axis=1), error=error, **options)
    return tests
