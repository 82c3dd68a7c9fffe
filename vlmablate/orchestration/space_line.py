"""One run of a design space without the space: as an arm of one of its axes, with the levels of the others held."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Line:
    """A line through a space.

    Attributes:
        axis: the axis that it follows.
        arm: the level of it that is meant.
        arms: how many levels it has.
        overrides: what holds the other axes where they are.
    """

    axis: str
    arm: str
    arms: int
    overrides: tuple[str, ...]


def line_through(exploration: Mapping[str, Any], arm: str) -> Line:
    """The shortest line through a combination: ``axis=<axis>`` with these overrides has the same run among its arms.

    Args:
        exploration: the entry of study.json.
        arm: a combination that was run.
    """
    axes, chosen = exploration["axes"], exploration["levels"][arm]
    along = min(axes, key=lambda axis: len(axis["levels"]))
    held: dict[str, None] = {}
    for axis in axes:
        if axis is not along:
            (level,) = (level for level in axis["levels"] if level["name"] == chosen[axis["name"]])
            held |= dict.fromkeys([*axis["context"], *level["overrides"]])
    overrides = tuple(text for text in held if text not in along["context"])
    return Line(along["name"], chosen[along["name"]], len(along["levels"]), overrides)
