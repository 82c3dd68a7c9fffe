"""Several axes as one: its arms are the combinations of their levels, and a level keeps its own overrides. Pure."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

from vlmablate.design.catalogue import Arm, Axis, Context
from vlmablate.errors import UserError

JOIN = "+"
"""Between the levels in the name of a combination; names of arms never hold it."""
MOST = 4096
"""Combinations of a space: every one of them is composed and checked before anything is trained."""

Sets = list[tuple[str, ...]]
"""Sets of overrides, as :meth:`vlmablate.design.patches.Patches.compose` takes them."""


@dataclass(frozen=True)
class CrossedAxis(Axis):
    """A design space: ``axes`` span it, in the order they were named, and ``arms`` are their combinations."""

    axes: tuple[Axis, ...]

    def levels(self, arm: str) -> dict[str, Arm]:
        """Axis -> the level that a combination has of it."""
        return {axis.name: axis.arm(level) for axis, level in zip(self.axes, arm.split(JOIN), strict=True)}

    def named(self, levels: Mapping[str, str]) -> str:
        """The combination of these levels (axis -> level)."""
        return JOIN.join(levels[axis.name] for axis in self.axes)

    def sets(self, levels: Mapping[str, Arm]) -> Sets:
        """The overrides of some levels (axis -> level), as sets.

        Axes that speak of the same part of the configuration share a set: Hydra is then asked for each of their
        combinations, and not for every combination of the space that holds one.
        """
        return [
            tuple(text for name in together if name in levels for text in levels[name].overrides)
            for together in self._together
        ]

    @cached_property
    def _together(self) -> list[list[str]]:
        """Names of the axes, those together that speak of one part of the configuration."""
        groups: list[tuple[set[str], list[str]]] = []
        for axis in self.axes:
            parts = {key_of(text).partition(".")[0] for arm in axis.arms for text in arm.overrides}
            meeting = [group for group in groups if group[0] & parts]
            names = [name for _, members in meeting for name in members]
            groups = [group for group in groups if group not in meeting]
            groups.append((parts.union(*(known for known, _ in meeting)), [*names, axis.name]))
        return [names for _, names in groups]


def key_of(override: str) -> str:
    """What an override sets: a dotted key, or a config group."""
    return override.lstrip("+~").partition("=")[0].partition("@")[0]


def cross(axes: Sequence[Axis]) -> CrossedAxis:
    """The space that the axes span: the combination of all baselines first, then the others, the last axis fastest.

    Limits of the axes are limits of the space. What the paper says is about one choice at a time, and left out.

    Raises:
        UserError: for an axis with several contexts, and for more than :data:`MOST` combinations.
    """
    size = math.prod(len(axis.arms) for axis in axes)
    if size > MOST:
        levels = " x ".join(f"{len(axis.arms)} {axis.name}" for axis in axes)
        raise UserError(
            f"{levels} are {size:,} combinations, and a design space has {MOST:,} at most: leave out an axis"
        )
    names = [axis.name for axis in axes]
    baseline = JOIN.join(axis.baseline for axis in axes)
    arms = [_combination(levels) for levels in itertools.product(*(axis.arms for axis in axes))]
    return CrossedAxis(
        name="-".join(names),
        question=f"Which combination of {_listed(names)} is best, and does what one does depend on another?",
        baseline=baseline,
        arms=tuple(sorted(arms, key=lambda arm: arm.name != baseline)),
        contexts=(_context(axes),),
        affects=tuple(dict.fromkeys(kind for axis in axes for kind in axis.affects)),
        paper=MappingProxyType({}),
        limits=tuple(dict.fromkeys(text for axis in axes for text in axis.limits)),
        axes=tuple(axes),
    )


def _combination(levels: Sequence[Arm]) -> Arm:
    return Arm(
        name=JOIN.join(level.name for level in levels),
        overrides=tuple(text for level in levels for text in level.overrides),
        label=f" {JOIN} ".join(level.label for level in levels),
    )


def _context(axes: Sequence[Axis]) -> Context:
    """The one setting in which all axes are asked; an override that several of them have is there once."""
    for axis in axes:
        if len(axis.contexts) > 1:
            raise UserError(
                f"axis {axis.name} repeats its contrast in {len(axis.contexts)} contexts "
                f"({', '.join(context.name for context in axis.contexts)}), and a design space has one: ask "
                f"axis={axis.name} by itself"
            )
    settings = [axis.contexts[0] for axis in axes if axis.contexts[0].overrides]
    return Context(
        JOIN.join(dict.fromkeys(context.name for context in settings)) or axes[0].contexts[0].name,
        tuple(dict.fromkeys(text for context in settings for text in context.overrides)),
    )


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"


def excluded(axis: CrossedAxis, arm: str, compose: Callable[[Sets], object], error: UserError) -> UserError:
    """The error for a combination that cannot be: names those of its levels without which it could.

    Args:
        axis, arm: the space and the combination.
        compose: composes and checks the sets of some levels; raises UserError.
        error: what it said of the combination.
    """
    levels = axis.levels(arm)

    def possible(name: str, other: Arm) -> bool:
        try:
            compose(axis.sets({**levels, name: other}))
        except UserError:
            return False
        return True

    guilty = [
        of.name
        for of in axis.axes
        if any(possible(of.name, other) for other in of.arms if other != levels[of.name])
    ]
    return _exclude({name: levels[name] for name in guilty or levels}, error)


def _exclude(levels: Mapping[str, Arm], error: UserError) -> UserError:
    names = [f"{axis}={level.name}" for axis, level in levels.items()]
    if len(names) == 1:
        return UserError(f"{names[0]} cannot be composed: {error}")
    return UserError(
        f"{_listed(names)} exclude each other: {error}\n"
        f"Every combination of a design space must be possible: leave out one of the axes {_listed(list(levels))}."
    )
