"""From an estimate and a declared margin to one of four verdicts."""

from __future__ import annotations

import math
from typing import Literal

from scipy import stats

from vlmablate.stats.estimate import Estimate

Verdict = Literal["better", "worse", "equivalent", "unresolved"]


def equivalence_p(estimate: Estimate, margin: float) -> float:
    """p-value of the two one-sided tests of |true difference| >= margin (points); nan without replication.

    Below alpha exactly when the 1 - 2 alpha interval lies inside +-margin (Schuirmann 1987).
    """
    if math.isnan(estimate.p):
        return math.nan
    if estimate.se == 0:
        return 0.0 if abs(estimate.delta) < margin else 1.0
    distance = (margin - abs(estimate.delta)) / estimate.se
    return float(stats.t.sf(distance, estimate.df))


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
