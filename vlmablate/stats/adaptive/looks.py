"""The design-level t tests of many studies at one look, each study with its own numbers of seeds.

The same numbers as runs.design_test with method "t" and the error pooled over all cells: its tests say so.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import special

from vlmablate.stats.adaptive.rule import Rule
from vlmablate.stats.runs import additive_residuals

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_RELATIVE_ZERO = 1e-12  # a spread this small beside the scores is rounding


@dataclass(frozen=True)
class Look:
    """delta, se [studies, contrasts] in points, df [studies, 1]; se is 0 where the seeds changed nothing."""

    delta: Floats
    se: Floats
    df: Floats

    def tail(self, shift: float, sign: int) -> Floats:
        """One-sided p [studies, contrasts] of "the true difference is -shift or less" (sign 1), "or more" (sign -1).

        Seeds that change nothing are no replication (p = 1), unless the arms do not differ either: then a hypothesis
        that says they do is refuted (p = 0).
        """
        distance = sign * (self.delta + shift)
        with np.errstate(divide="ignore", invalid="ignore"):
            p = special.stdtr(self.df, -distance / self.se)
        without = np.where((self.delta == 0) & (distance > 0), 0.0, 1.0)
        return np.asarray(np.where(self.se > 0, p, without))


def look_at(rule: Rule, baseline: Floats, arms: Floats, baseline_seeds: Ints, arm_seeds: Ints) -> Look:
    """Every contrast of every study at its numbers of seeds.

    baseline [studies, contexts, seeds], arms [studies, contrasts, contexts, seeds]: suite scores of the runs in points,
    by seed; baseline_seeds [studies] and arm_seeds [studies, contrasts]: how many of them count, from seed 0 on. delta
    is the mean over the contexts of arm minus baseline, se^2 = s^2 sum(1 / n + 1 / m) / contexts^2 with s^2 pooled over
    all cells (runs.pooled_error); with paired seeds s^2 / (n contexts) with runs.paired_error.
    """
    contexts = baseline.shape[1]
    base, of_base = _mean_and_squares(baseline, baseline_seeds[:, None])
    mean, of_arms = _mean_and_squares(arms, arm_seeds[:, :, None])
    if rule.settings.paired_seeds:
        matched, _ = _mean_and_squares(
            baseline[:, None], np.minimum(arm_seeds, baseline_seeds[:, None])[:, :, None]
        )
        delta = (mean - matched).mean(axis=2)
        squares, df = _paired_squares(baseline, arms, baseline_seeds, arm_seeds)
        scale = 1 / arm_seeds
    else:
        delta = (mean - base[:, None]).mean(axis=2)
        squares = of_base.sum(axis=1) + of_arms.sum(axis=(1, 2))
        df = contexts * (baseline_seeds - 1 + (arm_seeds - 1).sum(axis=1))
        scale = 1 / arm_seeds + 1 / baseline_seeds[:, None]
    variance = squares / df
    largest = np.maximum(np.abs(base).max(axis=1), np.abs(mean).max(axis=(1, 2)))
    variance = np.where(np.sqrt(variance) <= _RELATIVE_ZERO * largest, 0.0, variance)
    delta = np.where(np.abs(delta) <= _RELATIVE_ZERO * largest[:, None], 0.0, delta)
    se = np.sqrt(variance[:, None] * scale / contexts)
    return Look(delta, se, df[:, None].astype(np.float64))


def _mean_and_squares(scores: Floats, counts: Ints) -> tuple[Floats, Floats]:
    """Mean and sum of squares around it of the first `counts` scores along the last axis; the others may be nan."""
    counted = np.arange(scores.shape[-1]) < counts[..., None]
    mean = np.where(counted, scores, 0.0).sum(axis=-1) / counts
    return mean, (np.where(counted, scores - mean[..., None], 0.0) ** 2).sum(axis=-1)


def _paired_squares(
    baseline: Floats, arms: Floats, baseline_seeds: Ints, arm_seeds: Ints
) -> tuple[Floats, Ints]:
    """Twice the sum of squares [studies] around effects of arm and seed that add up, and its degrees of freedom."""
    counts = np.column_stack([baseline_seeds, arm_seeds])
    tables = np.concatenate([baseline[:, None, :, : arms.shape[-1]], arms], axis=1)
    squares, df = np.empty(len(counts)), np.empty(len(counts), dtype=np.int64)
    patterns, of_study = np.unique(counts, axis=0, return_inverse=True)
    for number, pattern in enumerate(patterns):
        here = np.flatnonzero(of_study.reshape(-1) == number)
        maker, free = _residuals(tuple(pattern.tolist()))
        present = np.arange(tables.shape[-1]) < pattern[:, None]
        scores = np.moveaxis(tables[here], 2, 1)[:, :, present]
        squares[here] = 2 * ((scores @ maker) ** 2).sum(axis=(1, 2))
        df[here] = baseline.shape[1] * free
    return squares, df


@lru_cache(maxsize=512)
def _residuals(seeds: tuple[int, ...]) -> tuple[Floats, int]:
    """runs.additive_residuals of arms that have the first seeds[i] seeds each."""
    return additive_residuals(np.arange(max(seeds)) < np.array(seeds)[:, None])
