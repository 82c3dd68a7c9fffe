"""Many configurations from few compositions.

Hydra composes each set of overrides once, beside the base. What it changes there is a patch, and a combination is the
base with the patches of its sets. That is what Hydra would have made as long as the sets do not meet:

* none writes a place that another one writes, or one above or below it. A set writes what its overrides name and what
  the files of the options it exchanges hold, whether or not that shows in the outcome: a later file may hide it;
* none chooses, or has an option that mentions, a group that another one chooses or mentions;
* what it changes is covered by what it is known to write (a check of the two rules above against Hydra itself).

Combinations that break a rule, and all of them where a defaults list depends on another choice, are composed by Hydra.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlmablate.design.compose import Composer, Composition
from vlmablate.errors import UserError

Place = tuple[str, ...]
"""Keys from the root of a configuration."""

_GONE = object()
_HEADER = re.compile(r"^#\s*@package\s+(\S+)\s*$", re.MULTILINE)
_EVERYWHERE: Place = ()
_WORDS_OF_A_DEFAULT = ("override", "optional")


@dataclass(frozen=True)
class _Patch:
    """What one set of overrides does to the base.

    Attributes:
        changes: place -> new value, or ``_GONE``; no place lies above another one.
        writes: every place it may write.
        groups: every config group it chooses or mentions.
        sound: whether ``writes`` covers ``changes``.
    """

    changes: Mapping[Place, Any] = field(hash=False)
    writes: frozenset[Place]
    groups: frozenset[str]
    sound: bool


class Patches:
    """Composes combinations of override sets.

    Args:
        composer: composes the base and every set.
        first, last: overrides before and after the sets of every combination.
    """

    def __init__(self, composer: Composer, first: Sequence[str], last: Sequence[str] = ()) -> None:
        self._composer = composer
        self._first = tuple(first)
        self._last = tuple(last)
        self._patches: dict[tuple[str, ...], _Patch | None] = {}
        self._apart: dict[tuple[tuple[str, ...], tuple[str, ...]], bool] = {}
        self._mergeable: bool | None = None

    def compose(self, sets: Sequence[Sequence[str]]) -> dict[str, Any]:
        """The configuration under ``first``, every set in order, and ``last``; equal to :meth:`Composer.compose`.

        Raises:
            UserError: for a combination that cannot be composed.
        """
        wanted = [tuple(overrides) for overrides in sets if overrides]
        overrides = [*self._first, *(text for part in wanted for text in part), *self._last]
        patches = self._independent(wanted) if len(wanted) > 1 else None
        if patches is None:
            return self._composer.compose(overrides)
        raw = self._base.raw
        for patch in patches:
            for place, value in patch.changes.items():
                raw = _with(raw, place, value)
        return self._composer.resolved(raw, overrides)

    @property
    def _base(self) -> Composition:
        return self._composer.composition([*self._first, *self._last])

    def _independent(self, sets: Sequence[tuple[str, ...]]) -> list[_Patch] | None:
        """The patches of the sets when they do not meet, else None."""
        if self._mergeable is None:
            self._mergeable = not defaults_depend_on_choices(self._composer.conf)
        if not self._mergeable:
            return None
        patches = []
        for part in sets:
            patch = self._patch(part)
            if patch is None or not patch.sound:
                return None
            patches.append(patch)
        for i, one in enumerate(sets):
            for j in range(i):
                pair = (sets[j], one)
                if pair not in self._apart:
                    self._apart[pair] = not _meet(patches[j], patches[i])
                if not self._apart[pair]:
                    return None
        return patches

    def _patch(self, part: tuple[str, ...]) -> _Patch | None:
        """The patch of a set; None when the set alone cannot be composed, though it might be in company."""
        if part not in self._patches:
            try:
                base = self._base
                made = self._composer.composition([*self._first, *part, *self._last])
            except UserError:
                self._patches[part] = None
            else:
                self._patches[part] = _make_patch(self._composer.conf, base, made, part)
        return self._patches[part]


def _make_patch(conf: Path, base: Composition, made: Composition, overrides: Iterable[str]) -> _Patch:
    writes: set[Place] = set()
    groups: set[str] = set()
    for text in overrides:
        key = text.lstrip("+~").partition("=")[0]
        group = key.partition("@")[0]
        if (conf / group).is_dir():
            groups.add(group)
        else:
            writes.add(tuple(key.split(".")))
    for key in {*base.choices, *made.choices}:
        before, after = base.choices.get(key), made.choices.get(key)
        chosen = key.partition("@")[0] in groups
        if before == after and not chosen:
            continue
        for option in (before, after):
            touched = _touched(conf, key, option)
            writes |= touched.writes
            groups |= touched.groups
    changes = dict(_differences(base.raw, made.raw, ()))
    covered = all(any(_related(place, written) for written in writes) for place in changes)
    return _Patch(changes, frozenset(writes), frozenset(groups), covered)


def _differences(before: Any, after: Any, place: Place) -> Iterator[tuple[Place, Any]]:
    if isinstance(before, dict) and isinstance(after, dict):
        for key in before.keys() - after.keys():
            yield (*place, key), _GONE
        for key, value in after.items():
            if key not in before:
                yield (*place, key), value
            else:
                yield from _differences(before[key], value, (*place, key))
    elif type(before) is not type(after) or before != after:
        yield place, after


def _related(one: Place, other: Place) -> bool:
    """Whether the places are the same, or one lies above the other."""
    length = min(len(one), len(other))
    return one[:length] == other[:length]


def _meet(one: _Patch, other: _Patch) -> bool:
    if one.groups & other.groups:
        return True
    return any(_related(a, b) for a in one.writes for b in other.writes)


def _with(node: dict[str, Any], place: Place, value: Any) -> dict[str, Any]:
    """A copy of ``node`` with one place changed; what lies beside the way there is shared."""
    copied = dict(node)
    key, *rest = place
    if rest:
        copied[key] = _with(copied[key], tuple(rest), value)
    elif value is _GONE:
        del copied[key]
    else:
        copied[key] = value
    return copied


# What the file of an option writes and mentions


@dataclass(frozen=True)
class _Touched:
    writes: frozenset[Place]
    groups: frozenset[str]


_NOTHING = _Touched(frozenset(), frozenset())


def _touched(conf: Path, choice: str, option: Any) -> _Touched:
    """What one option of a group touches; ``choice`` is the group, or ``group@package``."""
    group, _, package = choice.partition("@")
    named = frozenset({group})
    if option is None:
        return _Touched(frozenset(), named)
    listed = option if isinstance(option, list) else [option]
    found = [_file(conf / group / f"{name}.yaml", conf, group, package) for name in listed]
    return _Touched(
        frozenset().union(*(touched.writes for touched in found)),
        named.union(*(touched.groups for touched in found)),
    )


def _file(path: Path, conf: Path, group: str, package: str) -> _Touched:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError:
        return _Touched(frozenset({_EVERYWHERE}), frozenset())
    content = _load(text)
    where = _place(package or _header(text) or group.replace("/", "."))
    writes = {(*where, *leaf) for leaf in _leaves(content, ())} if where is not None else {_EVERYWHERE}
    groups: set[str] = set()
    for entry in content.get("defaults") or []:
        touched = _default(entry, path, conf, group, package, _header(text))
        writes |= touched.writes
        groups |= touched.groups
    return _Touched(frozenset(writes), frozenset(groups))


def _header(text: str) -> str:
    """The package that a file declares for itself; empty when it declares none."""
    found = _HEADER.search(text)
    return found[1] if found else ""


def _default(entry: Any, path: Path, conf: Path, group: str, package: str, header: str) -> _Touched:
    """What an entry of the defaults list of a file touches: another group, or another file of the same one."""
    if entry == "_self_":
        return _NOTHING
    if isinstance(entry, Mapping):
        words = str(next(iter(entry))).split()
        name = next(word for word in words if word not in _WORDS_OF_A_DEFAULT).partition("@")[0]
        nested = name[1:] if name.startswith("/") else f"{group}/{name}"
        return _Touched(frozenset(), frozenset({nested, name.lstrip("/")}))
    name, at, _ = str(entry).partition("@")
    other = path.parent / f"{name.removesuffix('.yaml')}.yaml"
    if (
        at
        or name.startswith("/")
        or not other.is_file()
        or _header(other.read_text(encoding="utf-8")) != header
    ):
        return _Touched(frozenset({_EVERYWHERE}), frozenset())
    return _file(other, conf, group, package)


def _place(package: str) -> Place | None:
    """The place of a package; None for one that depends on where it is used from."""
    if package == "_global_":
        return ()
    parts = tuple(package.removeprefix("_global_.").split("."))
    return None if any(part.startswith("_") and part.endswith("_") for part in parts) else parts


def _leaves(node: Any, place: Place) -> Iterator[Place]:
    """The places of the values of a file; its defaults list is none of them."""
    if not isinstance(node, dict) or not node:
        yield place
        return
    for key, value in node.items():
        if place or key != "defaults":
            yield from _leaves(value, (*place, key))


def defaults_depend_on_choices(conf: Path) -> bool:
    """Whether a defaults list anywhere in the tree holds an interpolation, so that one choice may make another."""
    for path in sorted(conf.rglob("*.yaml")):
        text = path.read_text(encoding="utf-8")
        if "defaults:" in text and "${" in text and "${" in repr(_load(text).get("defaults")):
            return True
    return False


def _load(text: str) -> dict[str, Any]:
    import yaml

    # libyaml, where it is there, reads ten times as fast.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    content = yaml.load(text, Loader=loader)
    return content if isinstance(content, dict) else {}
