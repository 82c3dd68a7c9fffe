"""All pairs of arms on the suite score, at the levels items (max-T) and design."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pandas as pd

from vlmablate.stats.contrasts import compare
from vlmablate.stats.data import Data
from vlmablate.stats.maxt import MaxT, max_t
from vlmablate.stats.multiplicity import adjust
from vlmablate.stats.runs import DesignTest
from vlmablate.stats.student import t_critical

COLUMNS = [
    *("context", "level", "arm_a", "arm_b", "delta", "ci_low", "ci_high"),
    *("p", "p_adjusted", "n_clusters", "n_seeds", "method"),
]
"""delta is arm_a minus arm_b in points; ci_* is not adjusted for the number of pairs."""


def pairwise(data: Data) -> pd.DataFrame:
    """One row per context, level and pair of arms (columns COLUMNS); all tests are two-sided, as no pair but those
    with the baseline has a declared direction. Empty without a suite score."""
    settings = data.design.settings
    records: list[tuple[object, ...]] = []
    for context in data.design.contexts if data.suite is not None else ():
        arms = [arm for arm in data.design.arms if (arm, context) in data.cells]
        if len(arms) < 2:
            continue
        pairs = list(combinations(arms, 2))
        seeds = [min(len(data.cells[(arm, context)]) for arm in pair) for pair in pairs]
        tests = _design_tests(data, arms, context)
        found, halves = _items_tests(data, arms, context)
        adjusted = adjust([test.p for test in tests], settings.correction)
        for pair, test, p, n in zip(pairs, tests, adjusted, seeds, strict=True):
            text = f"{test.method}; {settings.correction} over {len(pairs)} pairs"
            counts = (found.n_clusters, n)
            records.append((context, "design", *pair, test.delta, *test.ci, test.p, float(p), *counts, text))
        text = f"step-down max-T over {len(pairs)} pairs, {found.flips:,} sign flips of {found.n_clusters:,} clusters"
        # The mean over examples is the mean over runs: the same differences, without the rounding of float32.
        for pair, test, half, p, stepped, n in zip(
            pairs, tests, halves, found.p.tolist(), found.p_adjusted.tolist(), seeds, strict=True
        ):
            ci = (test.delta - half, test.delta + half)
            records.append((context, "items", *pair, test.delta, *ci, p, stepped, found.n_clusters, n, text))
    return pd.DataFrame(records, columns=COLUMNS)


def _design_tests(data: Data, arms: list[str], context: str) -> list[DesignTest]:
    """The tests of all pairs i < j of `arms` with the training run as the unit."""
    # Pooled over the differences to the baseline, an error of paired seeds is not that of any other pair.
    error = None if data.design.settings.paired_seeds else data.error(data.with_signal)
    # The family of the contrasts with the baseline, so that one pair of arms is not tested in two ways.
    size = len(data.pairs)
    return [
        compare(data, [((a, context), (b, context))], data.with_signal, error, size, alternative="two-sided")
        for a, b in combinations(arms, 2)
    ]


def _items_tests(data: Data, arms: list[str], context: str) -> tuple[MaxT, list[float]]:
    """max-T over all pairs of the arms' seed-averaged scores, pictures as the unit, and for every pair half the
    width of its cluster-robust interval (CR1, as in groups.cluster_mean)."""
    suite = data.suite
    assert suite is not None
    groups, parts, settings = suite.clusters, suite.strata, data.design.settings
    means = np.empty((len(arms), suite.n), dtype=np.float32)
    sums = np.empty((len(arms), groups.count))
    for row, arm in enumerate(arms):
        scores = suite.mean(data.cells[(arm, context)])
        means[row] = scores
        residuals = scores - (parts.sums(scores) / parts.sizes)[parts.codes]
        sums[row] = groups.sums(suite.weights * residuals)
    found = max_t(means, groups, weights=suite.weights, seed=settings.seed)
    if groups.count < 2:
        return found, [math.nan] * len(found.pairs)
    correction = math.sqrt(groups.count / (groups.count - 1)) * t_critical(
        settings.alpha / 2, groups.count - 1
    )
    return found, [correction * float(np.linalg.norm(sums[i] - sums[j])) for i, j in found.pairs]
