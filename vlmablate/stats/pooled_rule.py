"""The rule behind the published p-values, and how often it is wrong.

For every pair of models and every benchmark d = (alternate - base) / ((alternate + base) / 2); all d of a comparison
are pooled as if they were independent; a one-sample t-test against 0; its two-sided p. One training run is scored on
all benchmarks at once, so these are not independent replications, and the rule's error rate grows with the
correlation between benchmarks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlmablate.errors import DataError
from vlmablate.stats.reference import BENCHMARKS, load_reference
from vlmablate.stats.rounding import two_sided_p
from vlmablate.stats.student import t_critical

Array = NDArray[np.float64]

ALPHA = 0.05
PAPER_ALPHA = 0.01
"""The paper's own threshold (section B.2)."""

LEVEL_MODEL = "one-stage+7b"
"""The model at whose printed scores noise is simulated."""


@dataclass(frozen=True)
class OneSample:
    """A one-sample t-test against 0: p is two-sided; t, df, p are nan where fewer than two values are there."""

    t: float
    df: int
    p: float
    mean: float
    n: int


def one_sample_t(values: Array) -> OneSample:
    """t = mean / (sd / sqrt n) on n - 1 degrees of freedom, nan left out.

    Values that are all 0 give t = 0 and p = 1 (identical systems); values that are all equal otherwise have no
    spread to be judged by and give nan.
    """
    values = np.asarray(values, dtype=np.float64).ravel()
    values = values[np.isfinite(values)]
    n = len(values)
    mean = float(values.mean()) if n else math.nan
    if n < 2:
        return OneSample(math.nan, max(n - 1, 0), math.nan, mean, n)
    error = float(values.std(ddof=1)) / math.sqrt(n)
    if error <= 1e-15:
        same = abs(mean) <= 1e-15
        return OneSample(0.0 if same else math.nan, n - 1, 1.0 if same else math.nan, mean, n)
    t = mean / error
    return OneSample(t, n - 1, two_sided_p(t, n - 1), mean, n)


def relative_difference(alternate: Array, base: Array) -> Array:
    """(alternate - base) / ((alternate + base) / 2), elementwise; nan where either score is missing."""
    return np.asarray(2 * (alternate - base) / (alternate + base))


@dataclass(frozen=True)
class TypeOneError:
    """Share of studies without any effect that the pooled rule calls significant, at .05 and at .01."""

    correlation: float
    pairs: int
    crossed: bool
    at_05: float
    at_01: float
    repetitions: int


def pooled_rule_type_one_error(
    correlation: float,
    *,
    pairs: int = 2,
    crossed: bool = False,
    repetitions: int = 20_000,
    seed: int = 0,
    seed_sd: float = 0.5,
) -> TypeOneError:
    """Simulate the rule where nothing works: all models have the same true scores, those of LEVEL_MODEL.

    Each training run moves every benchmark by normal noise of SD `seed_sd` (points), with the same
    `correlation` in [0, 1] between any two benchmarks of a run. `pairs` independent pairs of runs; with `crossed`,
    the pairs are all pairs of sqrt(pairs) base and sqrt(pairs) alternate runs (4: two against two), as in the
    paper's comparison of encoders.

    Raises:
        DataError: for a correlation outside [0, 1], and for crossed pairs whose number is not a square.
    """
    if not 0 <= correlation <= 1:
        raise DataError(f"the correlation between benchmarks must lie in [0, 1], got {correlation}")
    side = math.isqrt(pairs) if crossed else pairs
    if pairs < 1 or repetitions < 1 or (crossed and side**2 != pairs):
        raise DataError(
            "pairs and repetitions must be positive, and crossed pairs a square number (2 x 2 = 4); got "
            f"pairs={pairs}, repetitions={repetitions}"
        )
    rng = np.random.default_rng(seed)
    levels = load_reference().scores.loc[LEVEL_MODEL, list(BENCHMARKS)].to_numpy(np.float64)

    def runs() -> Array:
        shared = rng.standard_normal((repetitions, side, 1))
        own = rng.standard_normal((repetitions, side, len(levels)))
        return levels + seed_sd * (math.sqrt(correlation) * shared + math.sqrt(1 - correlation) * own)

    base, alternate = runs(), runs()
    if crossed:
        base, alternate = base[:, :, None], alternate[:, None, :]
    d = relative_difference(alternate, base).reshape(repetitions, -1)
    n = d.shape[1]
    t = np.abs(d.mean(axis=1)) / (d.std(axis=1, ddof=1) / math.sqrt(n))
    at_05, at_01 = (float(np.mean(t > t_critical(alpha / 2, n - 1))) for alpha in (ALPHA, PAPER_ALPHA))
    return TypeOneError(correlation, pairs, crossed, at_05, at_01, repetitions)
