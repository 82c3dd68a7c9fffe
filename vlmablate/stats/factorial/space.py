"""What a design space is: its axes, their levels, and which levels every configuration stands for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, product
from math import prod
from typing import Any

from vlmablate.errors import UserError, unknown_name

Term = tuple[int, ...]
"""The axes, by their place, that an effect belongs to: one for a main effect, two for the interaction of a pair."""


@dataclass(frozen=True)
class Factor:
    """One axis of the space: the name, the level that the others are compared with, and all levels in order."""

    name: str
    baseline: str
    levels: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.baseline not in self.levels:
            raise unknown_name("baseline", self.baseline, self.levels, f"the levels of {self.name}")
        if len(set(self.levels)) != len(self.levels):
            raise UserError(f"axis {self.name} names one level twice: {', '.join(self.levels)}")

    @property
    def others(self) -> tuple[str, ...]:
        """The levels that are compared with the baseline."""
        return tuple(level for level in self.levels if level != self.baseline)


@dataclass(frozen=True)
class Space:
    """The axes, the configurations that were run, and whether a search chose them.

    levels: arm -> its level on every axis, in the order of `axes`. searched: the configurations were proposed one after
    the other in the light of earlier scores (or drawn), so they are no balanced grid. Raises UserError for no axis, one
    axis twice, a configuration with unknown levels, or two arms that are the same configuration.
    """

    axes: tuple[Factor, ...]
    levels: Mapping[str, tuple[str, ...]]
    searched: bool = False

    def __post_init__(self) -> None:
        names = [axis.name for axis in self.axes]
        if not names or len(set(names)) != len(names):
            raise UserError(f"a design space needs different axes, got {', '.join(names) or 'none'}")
        seen: dict[tuple[str, ...], str] = {}
        for arm, levels in self.levels.items():
            if len(levels) != len(self.axes):
                raise UserError(f"arm {arm} needs a level on each of {', '.join(names)}, got {levels}")
            for axis, level in zip(self.axes, levels, strict=True):
                if level not in axis.levels:
                    raise unknown_name("level", level, axis.levels, f"arm {arm}, axis {axis.name}")
            other = seen.setdefault(tuple(levels), arm)
            if other != arm:
                raise UserError(f"the arms {other} and {arm} are the same configuration of the space")

    @classmethod
    def read(cls, exploration: Mapping[str, Any]) -> Space:
        """The space that the entry "exploration" of a study.json declares."""
        axes = tuple(
            Factor(axis["name"], axis["baseline"], tuple(level["name"] for level in axis["levels"]))
            for axis in exploration["axes"]
        )
        levels = {
            arm: tuple(chosen[axis.name] for axis in axes) for arm, chosen in exploration["levels"].items()
        }
        return cls(axes, levels, bool(exploration["search"]))

    @property
    def sizes(self) -> tuple[int, ...]:
        """The number of levels of every axis."""
        return tuple(len(axis.levels) for axis in self.axes)

    @property
    def size(self) -> int:
        """The number of configurations that the axes span, whether they were run or not."""
        return prod(self.sizes)

    @property
    def grid(self) -> tuple[tuple[str, ...], ...]:
        """Every configuration, the last axis fastest."""
        return tuple(product(*(axis.levels for axis in self.axes)))

    @cached_property
    def arm_of(self) -> Mapping[tuple[str, ...], str]:
        """Configuration -> arm, for those that were run."""
        return {tuple(levels): arm for arm, levels in self.levels.items()}

    @property
    def baseline(self) -> tuple[str, ...]:
        """The configuration of every axis' baseline."""
        return tuple(axis.baseline for axis in self.axes)

    @property
    def terms(self) -> tuple[Term, ...]:
        """Main effects, then pairs, in the order of the axes; axes with a single level have no effect."""
        vary = [i for i, axis in enumerate(self.axes) if len(axis.levels) > 1]
        return (*((i,) for i in vary), *combinations(vary, 2))

    def name(self, term: Term) -> str:
        """What a term is called in tables: "image_resize" or "image_resize × stages"."""
        return " × ".join(self.axes[i].name for i in term)
