"""Whether the axes of a design space leave each other alone.

A combination means what it says only where no level undoes another one: whichever override comes last would win, and a
table would show an effect of the other that was never tried. So axes are refused

* that choose the same config group, or set the same value (or one what the other's value lies in);
* of which one decides about something that the levels of the other differ in, in their texts or as they are composed.

Setting a value inside a group that another axis chooses is fine as long as the options of that axis agree about it:
``stages=single`` with ``stages.finetune.epochs=4``.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vlmablate.design.catalogue import Axis
from vlmablate.design.compose import Composer
from vlmablate.design.crossing import CrossedAxis, key_of
from vlmablate.errors import UserError

Place = tuple[str, ...]
"""Keys from the root of a configuration."""


@dataclass(frozen=True)
class _Reach:
    """What an axis, or the context of one, decides.

    Attributes:
        who: words for it.
        groups: config group that its overrides choose -> the override that does.
        values: place of a value that they set -> the override that does.
        differs: places in which its composed levels differ.
        choices: config groups whose choice differs between them, whether an override names them or not.
    """

    who: str
    groups: Mapping[str, str]
    values: Mapping[Place, str]
    differs: frozenset[Place] = frozenset()
    choices: frozenset[str] = frozenset()


def check_apart(axis: CrossedAxis, composer: Composer, first: Sequence[str], last: Sequence[str]) -> None:
    """Refuse a space whose axes undo each other (see the module).

    Args:
        axis: the space.
        composer: composes every level once, by itself.
        first, last: overrides before and after those of a level; its context is among the first.

    Raises:
        UserError: which axes, overrides and key.
    """
    contexts = _contexts(axis, composer.conf)
    texts = [
        _read(f"axis {of.name}", [(f"{arm.name}: ", arm.overrides) for arm in of.arms], composer.conf)
        for of in axis.axes
    ]
    for one, other in itertools.combinations([*contexts, *texts], 2):
        _refuse_same(one, other)
    reaches = [
        _composed(reach, of, composer, first, last) for reach, of in zip(texts, axis.axes, strict=True)
    ]
    for one, other in itertools.permutations(reaches, 2):
        _refuse_hidden(one, other)


def _contexts(axis: CrossedAxis, conf: Path) -> list[_Reach]:
    """What the contexts of the axes say; what one of them said before is not repeated."""
    found: list[_Reach] = []
    said: set[str] = set()
    for of in axis.axes:
        context = of.contexts[0]
        new = [text for text in context.overrides if text not in said]
        said.update(new)
        found.append(_read(f"the context {context.name} of axis {of.name}", [("", new)], conf))
    return found


def _read(who: str, overrides: Sequence[tuple[str, Sequence[str]]], conf: Path) -> _Reach:
    """What the texts of some levels say. overrides: (words before each of them, texts) of every level."""
    groups: dict[str, str] = {}
    values: dict[Place, str] = {}
    for level, texts in overrides:
        for text in texts:
            key = key_of(text)
            if (conf / key).is_dir():
                groups.setdefault(key, level + text)
            else:
                values.setdefault(tuple(key.split(".")), level + text)
    return _Reach(who, groups, values)


def _composed(
    reach: _Reach, axis: Axis, composer: Composer, first: Sequence[str], last: Sequence[str]
) -> _Reach:
    """The same, with that in which the composed levels differ."""
    made = [composer.composition([*first, *arm.overrides, *last]) for arm in axis.arms]
    differs = _unequal([dict(_leaves(composition.raw, ())) for composition in made])
    choices = _unequal([composition.choices for composition in made])
    return replace(reach, differs=differs, choices=frozenset(key.partition("@")[0] for key in choices))


def _unequal(levels: Sequence[Mapping[Any, Any]]) -> frozenset[Any]:
    """The keys that not all of the mappings have with the same value."""
    keys = set().union(*levels)
    return frozenset(
        key for key in keys if len({repr(level[key]) if key in level else "" for level in levels}) > 1
    )


def _leaves(node: Any, place: Place) -> Iterator[tuple[Place, Any]]:
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from _leaves(value, (*place, str(key)))
    else:
        yield place, node


def _refuse_same(one: _Reach, other: _Reach) -> None:
    """When both choose one group, or set one value."""
    for group in sorted(one.groups.keys() & other.groups.keys()):
        raise _both(one, one.groups[group], other, other.groups[group], group)
    for place, text in one.values.items():
        for its_place, its_text in other.values.items():
            if _related(place, its_place):
                raise _both(one, text, other, its_text, ".".join(min(place, its_place)))


def _refuse_hidden(one: _Reach, other: _Reach) -> None:
    """When ``other`` decides about what the levels of ``one`` differ in."""
    for group in sorted(one.choices & (other.groups.keys() | other.choices)):
        raise _both(one, one.groups.get(group, ""), other, other.groups.get(group, ""), group)
    decided = other.differs | other.values.keys()
    for place in sorted(one.differs):
        for its_place in decided:
            if _related(place, its_place):
                raise _both(one, _text(one, place), other, _text(other, its_place), ".".join(place))


def _text(reach: _Reach, place: Place) -> str:
    """The override that sets a value there; empty where none does, as it comes with an option."""
    return next((text for known, text in reach.values.items() if _related(known, place)), "")


def _related(one: Place, other: Place) -> bool:
    """Whether the places are the same, or one lies above the other."""
    length = min(len(one), len(other))
    return one[:length] == other[:length]


def _both(one: _Reach, text: str, other: _Reach, its_text: str, key: str) -> UserError:
    first, second = (
        f"{reach.who} ({said})" if said else reach.who for reach, said in ((one, text), (other, its_text))
    )
    return UserError(
        f"{first} and {second} both decide about {key}, and one would undo the other: leave out an axis"
    )
