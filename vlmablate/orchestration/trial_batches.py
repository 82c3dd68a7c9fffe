"""Trials in batches: each is proposed from all batches before it, once these have ended.

Nothing is remembered between two looks. The history is told again from what the trials came to, as the store knows it,
so the same results lead to the same proposals, whatever else was lost and in whatever order the trials of a batch end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vlmablate.search.proposals import Trial, TrialState, propose
from vlmablate.search.space import Space


def next_batch(
    space: Space, first: Mapping[str, Any], known: Sequence[Trial], trials: int, size: int, seed: int
) -> list[dict[str, Any]]:
    """{number, values} of the trials that follow, with numbers above those of the known ones.

    The first batch holds the configuration ``first`` as trial 0, and what is drawn before there are scores to learn
    from (``space.startup`` in all). A larger number of trials goes on from the same ones.

    Args:
        space: what may be tried.
        first: a configuration of it.
        known: the trials of the batches before, all of them ended.
        trials: how many there are at most.
        size: of every later batch.
        seed: of the draws.

    Returns:
        Nothing when there are enough, or the space has no more.

    Raises:
        UserError: without Optuna where the space needs it.
    """
    if known:
        return propose(space, known, min(size, trials - len(known)), seed)
    configured = Trial(0, dict(first), TrialState.RUNNING)
    count = min(max(1, space.startup), trials) - 1
    return [{"number": 0, "values": dict(first)}, *propose(space, [configured], count, seed)]
