"""From an estimate and a declared margin to one of four verdicts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from vlmablate.errors import DataError
from vlmablate.stats.estimate import SMALLEST_P
from vlmablate.stats.student import t_critical, t_tail

Verdict = Literal["better", "worse", "equivalent", "unresolved"]


@dataclass(frozen=True)
class Equivalence:
    """Answer to "is the true difference within +-margin?": p of the two one-sided tests, the 1 - 2 alpha
    interval that belongs to them, and whether p <= alpha. In the unit of the difference."""

    p: float
    ci: tuple[float, float]
    equivalent: bool
    margin: float


def equivalence(delta: float, se: float, df: float, margin: float, alpha: float = 0.05) -> Equivalence:
    """Two one-sided t tests of |true difference| >= `margin`, for an estimate `delta` with `se` on `df`.

    p = P(T_df > (margin - |delta|) / se), the larger of the two one-sided p-values; it is at most alpha
    exactly when the 1 - 2 alpha interval lies within +-margin (Schuirmann, J. Pharmacokin. Biopharm. 15, 1987,
    657-680). df may be infinite (normal law). Without any spread (se = 0) p is SMALLEST_P inside the margin
    and 1 at or beyond it. Without replication (a nan, an infinite se, df <= 0) p and ci are nan and nothing is
    equivalent. Raises DataError for a margin that is not positive and finite (with 0 nothing could ever be
    equivalent), a negative se, or alpha outside (0, 0.5).
    """
    if not (margin > 0 and math.isfinite(margin)):
        raise DataError(f"an equivalence margin must be positive and finite, got {margin}")
    if not 0 < alpha < 0.5:
        raise DataError(f"alpha of an equivalence test must lie in (0, 0.5), got {alpha}")
    if se < 0:
        raise DataError(f"a standard error cannot be negative, got {se}")
    if not (math.isfinite(delta) and math.isfinite(se) and df > 0):
        return Equivalence(math.nan, (math.nan, math.nan), False, margin)
    if se == 0:
        inside = abs(delta) < margin
        return Equivalence(SMALLEST_P if inside else 1.0, (delta, delta), inside, margin)
    p = max(t_tail((margin - abs(delta)) / se, df), SMALLEST_P)
    half_width = t_critical(alpha, df) * se
    return Equivalence(p, (delta - half_width, delta + half_width), p <= alpha, margin)


def verdict(delta: float, p_difference: float, p_equivalence: float, alpha: float) -> Verdict:
    """The four-way verdict from the adjusted p-values of the two questions.

    Equivalence is asked first: a difference that is detectable and still smaller than what was declared to
    matter does not make one arm better. nan p-values decide nothing.
    """
    if p_equivalence <= alpha:
        return "equivalent"
    if p_difference <= alpha:
        return "better" if delta > 0 else "worse"
    return "unresolved"
