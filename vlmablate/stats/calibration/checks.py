"""A promise of a test, how often it was kept in simulated studies, and the sentence that says so."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlmablate.stats.calibration.shape import Floats

Progress = Callable[[str, int, int], None]
"""Called with (name of the check, repetitions done, repetitions in all)."""

COLUMNS = [
    *("check", "estimates", "value", "mc_se", "target_low", "target_high", "ok", "repetitions", "note"),
]
"""Columns of the calibration table. All values are probabilities; ok is missing where nothing is promised."""

DESIGN_SIZE = "design test, equal arms"
DESIGN_UNEQUAL = "design test, one arm with twice the seed SD"
FAMILY = "primary family, equal arms"
EQUIVALENCE_SIZE = "equivalence, true difference at the margin"
POWER = "power, true difference of one margin"
EQUIVALENCE_POWER = "power of equivalence, equal arms"
POOLED_RULE = "pooled rule of the literature, equal arms"
ITEMS_SIZE = "items test, equally good checkpoints"
ITEMS_SINGLE = "items test of single benchmarks"
ITEMS_INTERVAL = "items interval"
ITEMS_NAIVE = "items test without clusters"
ITEMS_AS_DESIGN = "items test taken for a design claim"
MAX_T = "all pairs of arms, max-T"
TWO_COMPONENT = "interval for new examples and new seeds"


@dataclass(frozen=True)
class Check:
    """One promise and how it was kept in the simulated studies.

    value: a probability, estimated from `repetitions` studies with Monte-Carlo standard error mc_se. target: where
    it has to lie; None where nothing is promised (ok is then None). sentence: what it means, made from the numbers.
    """

    name: str
    estimates: str
    value: float
    mc_se: float
    target: tuple[float, float] | None
    ok: bool | None
    repetitions: int
    note: str
    sentence: str


def judge(
    name: str,
    estimates: str,
    hits: NDArray[np.bool_] | Floats,
    sentence: str,
    *,
    nominal: float | None = None,
    at_most: bool = False,
    tolerance: float = 0.0,
    note: str = "",
) -> Check:
    """Compare the share of `hits` [repetitions] (a share per repetition, or whether it happened) with a promise.

    nominal: the promised probability; None promises nothing. The target is the nominal value +- (tolerance + 3
    Monte-Carlo standard errors at the nominal value); with `at_most` it begins at 0. In `sentence`, {value} is
    replaced by the share as a percentage, {kept} by what the comparison came to.
    """
    values = np.asarray(hits, dtype=np.float64)
    n = len(values)
    value = float(values.mean())
    mc_se = float(values.std(ddof=1)) / math.sqrt(n)
    target: tuple[float, float] | None = None
    ok: bool | None = None
    kept = "nothing is promised here"
    if nominal is not None:
        width = tolerance + 3 * math.sqrt(nominal * (1 - nominal) / n)
        low = 0.0 if at_most else max(nominal - width, 0.0)
        target = (low, min(nominal + width, 1.0))
        ok = target[0] <= value <= target[1]
        share = f"{'at most ' if at_most else ''}{100 * nominal:.3g} %"
        kept = f"as promised ({share} up to simulation error)" if ok else f"NOT as promised ({share})"
    text = sentence.format(value=f"{100 * value:.1f} %", kept=kept)
    return Check(name, estimates, value, mc_se, target, ok, n, note, text)


def join(*notes: str) -> str:
    """The notes that are not empty, in one."""
    return "; ".join(note for note in notes if note)
