"""What a design space of so many levels and seeds could find, before it is run."""

from __future__ import annotations

import math
from collections.abc import Sequence

from vlmablate.errors import DataError
from vlmablate.stats.settings import Settings


def detectable_effect(levels: Sequence[int], seeds: int, sd: float, settings: Settings) -> tuple[float, ...]:
    """Per axis, the smallest true difference between two of its levels that is found with the declared power.

    levels: the number of levels of every axis of a full grid of K = product(levels) configurations; sd: the spread of
    runs that differ in their seed only, in the unit of the answer. The standard error is sd sqrt(2 a / (K seeds)) for
    an axis of a levels, with (K - 1)(seeds - 1) degrees of freedom, at the level alpha / m for the m = sum(a - 1) main
    effects of the family (the first step of Holm's correction: what is found there is found in any company). That holds
    where configurations share no trained step; an axis that acts before a shared step needs more, as that step's luck
    is not averaged. nan for an axis of one level, for one seed (no replication), and for a nan sd. Raises DataError for
    no axis, counts below 1, or a negative sd.
    """
    from vlmablate.stats.power import mde  # scipy.stats is slow to import

    if not levels or min(levels) < 1 or seeds < 1 or sd < 0:
        raise DataError(
            f"a design space needs axes with a level or more, a seed and sd >= 0, got levels={list(levels)}, "
            f"seeds={seeds}, sd={sd}"
        )
    size, family = math.prod(levels), sum(count - 1 for count in levels)
    df = (size - 1) * (seeds - 1)
    return tuple(
        mde(
            sd * math.sqrt(2 * count / (size * seeds)) if df else math.nan,
            df,
            alpha=settings.alpha / family,
            power=settings.power,
            alternative=settings.alternative,
        )
        if count > 1
        else math.nan
        for count in levels
    )
