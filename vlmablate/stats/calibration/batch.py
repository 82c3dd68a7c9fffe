"""The design test of many simulated studies at once, in closed form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import Literal

import numpy as np
from scipy import stats

from vlmablate.stats.calibration.shape import Floats
from vlmablate.stats.runs import additive_residuals
from vlmablate.stats.settings import Alternative


@dataclass(frozen=True)
class DesignBatch:
    """The design test of many simulated studies: delta, se, p [repetitions] and the df of se.

    attainable: the largest p not above alpha that the test can give, which is its size (alpha itself for t). exact:
    whether p is that of the exact permutation.
    """

    delta: Floats
    se: Floats
    p: Floats
    df: int
    attainable: float
    exact: bool


def pooled_batch(groups: Sequence[Floats]) -> tuple[Floats, int]:
    """(sd [repetitions], df) of the spread within `groups`, each [repetitions, runs]."""
    squares = sum(((g - g.mean(axis=1, keepdims=True)) ** 2).sum(axis=1) for g in groups)
    df = sum(g.shape[1] - 1 for g in groups)
    return np.sqrt(np.asarray(squares) / max(df, 1)), df


def paired_batch(contexts: Sequence[Sequence[Floats]]) -> tuple[Floats, int]:
    """runs.paired_error on many studies: per context the arms' scores, each [repetitions, runs], seeds from 0 on."""
    squares: Floats | float = 0.0
    df = 0
    for arms in contexts:
        present = np.arange(max(a.shape[1] for a in arms)) < np.array([[a.shape[1]] for a in arms])
        maker, free = additive_residuals(present)
        squares = squares + ((np.concatenate(arms, axis=1) @ maker) ** 2).sum(axis=1)
        df += free
    return np.sqrt(2 * np.asarray(squares) / max(df, 1)), df


def design_batch(
    alternate: Sequence[Floats],
    baseline: Sequence[Floats],
    error: tuple[Floats, int],
    *,
    method: Literal["exact", "t"],
    paired: bool = False,
    alternative: Alternative = "two-sided",
    alpha: float = 0.05,
) -> DesignBatch:
    """runs.design_test on many studies at once.

    alternate, baseline: one array [repetitions, runs] per context; with `paired` the runs correspond by position.
    error: (sd [repetitions], df) of the spread between seeds, of the differences per seed with `paired`.
    """
    delta = np.mean([a.mean(1) - b.mean(1) for a, b in zip(alternate, baseline, strict=True)], axis=0)
    if paired:
        values = [a - b for a, b in zip(alternate, baseline, strict=True)]
        scale = sum(1 / v.shape[1] for v in values)
        patterns = [_sign_patterns(v.shape[1]) for v in values] if method == "exact" else []
    else:
        values = [np.concatenate([a, b], axis=1) for a, b in zip(alternate, baseline, strict=True)]
        sizes = [(a.shape[1], b.shape[1]) for a, b in zip(alternate, baseline, strict=True)]
        scale = sum(1 / n + 1 / m for n, m in sizes)
        patterns = [_label_patterns(n + m, n) for n, m in sizes] if method == "exact" else []
    sd, df = error
    se = sd * math.sqrt(scale / len(values) ** 2)
    se = np.where((se > 0) | (delta == 0), se, np.nan)  # seeds that change nothing are no replication
    if method == "exact":
        sides = 2 if alternative == "two-sided" else 1
        arrangements = math.prod(len(pattern) for pattern in patterns)
        attainable = sides * math.floor(alpha * arrangements / sides + 1e-9) / arrangements
        return DesignBatch(delta, se, _permutation_p(values, patterns, alternative), df, attainable, True)
    with np.errstate(divide="ignore", invalid="ignore"):
        p = np.where((se == 0) & (delta == 0), 1.0, _t_p(delta / se, df, alternative))
    return DesignBatch(delta, se, p, df, alpha, False)


def _t_p(t: Floats, df: float, alternative: Alternative) -> Floats:
    if alternative == "two-sided":
        return np.asarray(2 * stats.t.sf(np.abs(t), df))
    return np.asarray(stats.t.sf(t if alternative == "greater" else -t, df))


@lru_cache(maxsize=8)
def _label_patterns(n: int, k: int) -> Floats:
    """Weights [C(n, k), n] of the difference of means under every assignment of k of n runs to the alternate."""
    chosen = np.array(list(combinations(range(n), k)), dtype=np.int64)
    weights = np.full((len(chosen), n), -1.0 / (n - k))
    np.put_along_axis(weights, chosen, 1.0 / k, axis=1)
    return weights


@lru_cache(maxsize=8)
def _sign_patterns(n: int) -> Floats:
    """Weights [2^n, n] of the mean under every pattern of signs, all positive first."""
    bits = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
    return (1.0 - 2.0 * bits) / n


def _permutation_p(values: Sequence[Floats], patterns: Sequence[Floats], alternative: Alternative) -> Floats:
    """Permutation p [repetitions] of the mean over strata; the first pattern of every stratum is the observed one."""
    repetitions = len(values[0])
    size = math.prod(len(pattern) for pattern in patterns)
    block = max(1, 2**22 // size)
    p = np.empty(repetitions)
    for start in range(0, repetitions, block):
        total = np.zeros((min(block, repetitions - start), 1))
        for v, pattern in zip(values, patterns, strict=True):
            part = v[start : start + block] @ pattern.T
            total = (total[:, :, None] + part[:, None, :]).reshape(len(total), -1)
        observed = total[:, :1]
        slack = 1e-9 * np.maximum(np.abs(total).max(axis=1, keepdims=True), 1e-12)
        greater = (total >= observed - slack).sum(axis=1) / size
        less = (total <= observed + slack).sum(axis=1) / size
        tail = {"greater": greater, "less": less}.get(alternative, 2 * np.minimum(greater, less))
        p[start : start + block] = np.minimum(tail, 1.0)
    return p


def pooled_rule_batch(alternate: Sequence[Floats], baseline: Sequence[Floats]) -> Floats:
    """Two-sided p [repetitions] of the pooled rule: a one-sample t test over all pairs of runs x benchmarks.

    alternate, baseline: scores in points [repetitions, runs, benchmarks], one array per context; the runs of a
    context are paired in their order. d = (alternate - base) / ((alternate + base) / 2), every d counting as one
    independent replication (Karamcheti et al., arXiv 2402.07865; vlmablate.stats.paper replays the published values).
    """
    parts = []
    for a, b in zip(alternate, baseline, strict=True):
        runs = min(a.shape[1], b.shape[1])
        middle = (a[:, :runs] + b[:, :runs]) / 2
        d = np.divide(a[:, :runs] - b[:, :runs], middle, out=np.zeros_like(middle), where=middle > 0)
        parts.append(d.reshape(len(a), -1))
    d = np.concatenate(parts, axis=1)
    n = d.shape[1]
    with np.errstate(divide="ignore", invalid="ignore"):
        t = d.mean(axis=1) / (d.std(axis=1, ddof=1) / math.sqrt(n))
    return np.nan_to_num(_t_p(t, n - 1, "two-sided"), nan=1.0)
