"""How often would one more run of the alternate beat one more run of the baseline?"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from vlmablate.errors import DataError
from vlmablate.stats.power import check_alpha
from vlmablate.stats.runs import run_matrix
from vlmablate.stats.student import t_critical


@dataclass(frozen=True)
class Improvement:
    """Probability that a run of the alternate scores above a run of the baseline, averaged over benchmarks.

    0.5 means that neither arm is better more often. ci within [0, 1]; nan with one run in an arm.
    """

    p_improvement: float
    ci: tuple[float, float]
    n_alternate: int
    n_baseline: int
    method: str


def probability_of_improvement(
    alternate: ArrayLike, baseline: ArrayLike, *, alpha: float = 0.05
) -> Improvement:
    """P(alternate > baseline) + P(tie) / 2, averaged over benchmarks, with its 1 - alpha interval.

    alternate [Sa, B], baseline [Sb, B]: scores of every run on every benchmark ([S] for a single one). For a pair
    of runs r, s let u_rs be the share of benchmarks on which r beats s (ties count half); the estimate is the mean
    of u. The unit is the run with its whole row, so correlation between benchmarks is in the interval, not assumed
    away: with the placements u_r. and u_.s, V = var(u_r.) / Sa + var(u_.s) / Sb and t with Satterthwaite's degrees
    of freedom. For one benchmark these are V and df of the test of Brunner & Munzel (Biom. J. 42, 2000, 17-25), and
    V is that of DeLong, DeLong & Clarke-Pearson (Biometrics 44, 1988, 837-845). The interval is taken on the
    log-odds scale, logit p +- t sqrt(V) / (p (1 - p)) (Pepe, The Statistical Evaluation of Medical Tests, 2003,
    sec. 5.2): it stays in [0, 1], and near 0 and 1, where p +- t sqrt(V) is far too short, it covers (simulated
    coverage of the 95 % interval with 3, 5 and 10 runs, 1 and 8 benchmarks, p = .5 to .98: .93 to 1.00).

    If all pairs agree (u_rs = c, as for arms that do not overlap) the placements have no spread. Then, with
    m = min(Sa, Sb) disjoint pairs that all gave c and L = (alpha / 2)^(1/m), the chance of c is at least L with
    confidence 1 - alpha / 2 (Clopper & Pearson 1934), so the interval is [L c, 1 - L (1 - c)]. If pairs differ but all
    placements of an arm agree, the bound of Hoeffding (J. Am. Statist. Assoc. 58, 1963, 13-30, sec. 5) holds:
    estimate +- sqrt(log(2 / alpha) / (2 m)). Raises DataError for
    something empty, different numbers of benchmarks, scores that are not finite, alpha outside (0, 0.5).
    """
    check_alpha(alpha)
    a = run_matrix(_columns(alternate), "alternate")
    b = run_matrix(_columns(baseline), "baseline")
    if a.shape[1] != b.shape[1]:
        raise DataError(
            f"the arms were scored on different benchmarks: {a.shape[1]} and {b.shape[1]} columns"
        )
    wins = np.sign(a[:, None, :] - b[None, :, :]).mean(axis=2) / 2 + 0.5
    estimate = float(wins.mean())
    sizes = len(a), len(b)
    if min(sizes) < 2:
        method = f"no interval: {sizes[0]} and {sizes[1]} runs, fewer than two in an arm"
        return Improvement(estimate, (math.nan, math.nan), *sizes, method)
    if float(np.ptp(wins)) <= 1e-12:
        least = (alpha / 2) ** (1 / min(sizes))
        ci = (least * estimate, 1 - least * (1 - estimate))
        method = (
            f"all pairs of {sizes[0]} and {sizes[1]} runs agree, exact bound from {min(sizes)} disjoint pairs"
        )
        return Improvement(estimate, ci, *sizes, method)
    of_alternate = float(wins.mean(axis=1).var(ddof=1)) / sizes[0]
    of_baseline = float(wins.mean(axis=0).var(ddof=1)) / sizes[1]
    variance = of_alternate + of_baseline
    if variance <= 1e-24:
        reach = math.sqrt(math.log(2 / alpha) / (2 * min(sizes)))
        ci = (max(0.0, estimate - reach), min(1.0, estimate + reach))
        method = f"placements of {sizes[0]} and {sizes[1]} runs do not differ, Hoeffding bound"
        return Improvement(estimate, ci, *sizes, method)
    df = variance**2 / (of_alternate**2 / (sizes[0] - 1) + of_baseline**2 / (sizes[1] - 1))
    reach = t_critical(alpha / 2, df) * math.sqrt(variance) / (estimate * (1 - estimate))
    centre = float(special.logit(estimate))
    ci = (float(special.expit(centre - reach)), float(special.expit(centre + reach)))
    method = f"placements of {sizes[0]} and {sizes[1]} runs over {a.shape[1]} benchmark(s), t, df = {df:.1f}"
    return Improvement(estimate, ci, *sizes, method)


def _columns(values: ArrayLike) -> ArrayLike:
    """A vector of one score per run as a matrix with one column."""
    return np.asarray(values)[:, None] if np.ndim(values) == 1 and np.size(values) else values
