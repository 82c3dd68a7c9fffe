"""Where the loss of a trial is looked at on its way, and what ends it there.

A milestone is a share of the training. The trials before say, through the median of their smoothed losses at that
share, what is still good enough (a median rule, as in Golovin et al. 2017, "Google Vizier"). All that got there count,
also those that were ended there: a median over the survivors falls with every trial that it ends, and soon ends nearly
all. Limits are fixed when a trial is asked for and travel with its job as placement: they decide whether there is a
result, never which one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmablate.errors import Pruned

SHARES = (1 / 3, 2 / 3)
FEWEST = 3
"""So many trials must have got somewhere before their median is a limit there."""

Curve = Sequence[tuple[int, float]]
"""(step, smoothed loss) in order."""


@dataclass(frozen=True)
class Milestone:
    """A share of a training, and the smoothed loss that is still good enough there; None: it is only noted."""

    share: float
    limit: float | None

    def step(self, steps: int) -> int:
        """The training step, counted from 1, at which a training of so many steps gets there."""
        return max(1, math.ceil(round(self.share * steps, 6)))

    def judge(self, loss: float, steps: int) -> None:
        """Let a training of so many steps go on. Raises Pruned when its smoothed loss is above the limit."""
        if self.limit is None or loss <= self.limit:
            return
        step = self.step(steps)
        raise Pruned(
            f"stopped early, at {100 * self.share:.0f} % of its training: its smoothed loss is {loss:.4g}, the median "
            f"of the trials before it was {self.limit:.4g} there",
            share=self.share,
            step=step,
            steps=steps,
            loss=loss,
        )


def limits(trials: Sequence[tuple[int, Curve]]) -> tuple[Milestone, ...]:
    """The milestones of the next trials.

    Args:
        trials: of every trial before, the steps of its whole training, and its curve as far as it got.
    """
    found = []
    for share in SHARES:
        losses = [loss for steps, curve in trials if (loss := _loss_at(share, steps, curve)) is not None]
        found.append(Milestone(share, _median(losses) if len(losses) >= FEWEST else None))
    return tuple(found)


def read_curve(path: Path) -> list[tuple[int, float]]:
    """(step, smoothed loss) of the curve that a training left; empty without one. Torn lines are passed over."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    points = []
    for line in lines:
        with suppress(ValueError, KeyError, TypeError):
            record = json.loads(line)
            points.append((int(record["step"]), float(record["smoothed_loss"])))
    return points


def to_json(milestones: Mapping[str, Sequence[Milestone]]) -> dict[str, list[list[float | None]]]:
    """Step id -> milestones, as a job's manifest has them."""
    return {step_id: [[m.share, m.limit] for m in listed] for step_id, listed in milestones.items()}


def of_step(manifest: Mapping[str, Any], step_id: str) -> tuple[Milestone, ...]:
    """The milestones of a step in a job's manifest."""
    listed = (manifest.get("milestones") or {}).get(step_id) or ()
    return tuple(Milestone(share, limit) for share, limit in listed)


def _loss_at(share: float, steps: int, curve: Curve) -> float | None:
    """The smoothed loss at a share of a training, else the last one noted before it; None before it got there."""
    due = Milestone(share, None).step(steps)
    if not curve or curve[-1][0] < due:
        return None
    return next((loss for step, loss in reversed(curve) if step <= due), None)


def _median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
