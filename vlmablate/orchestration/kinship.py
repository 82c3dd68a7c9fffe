"""How two steps differ: by their own fields, and by the fields behind the dependencies that differ. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from vlmablate.orchestration.diff import MISSING, Difference, fields

Spec = Mapping[str, Any]
"""A step as ``spec.json`` keeps it: kind, version, id, slug, config, deps."""
Lookup = Callable[[str], Spec | None]


@dataclass(frozen=True)
class DependencyChange:
    """A dependency that is another step: its role, the names of both steps, and how these differ (None: unknown)."""

    role: str
    then: str
    now: str
    inner: Kinship | None


@dataclass(frozen=True)
class Kinship:
    """How two steps of one kind differ."""

    kind: str
    own: tuple[Difference, ...]
    dependencies: tuple[DependencyChange, ...]

    def leaves(self) -> list[tuple[str, str, Difference]]:
        """(kind, path of roles, field) of every field that differs; one that is met on several ways is told once."""
        found: dict[tuple[str, str], tuple[str, str, Difference]] = {}
        self._collect("", found)
        return list(found.values())

    def _collect(self, roles: str, found: dict[tuple[str, str], tuple[str, str, Difference]]) -> None:
        for difference in self.own:
            found.setdefault((self.kind, str(difference)), (self.kind, roles, difference))
        for change in self.dependencies:
            if change.inner is None:
                unknown = Difference(change.role, change.then, change.now)
                found.setdefault((self.kind, str(unknown)), (self.kind, roles, unknown))
        # What is near is told at its own place, before it is met again behind another dependency.
        for change in sorted(
            self.dependencies, key=lambda c: bool(c.inner is not None and c.inner.dependencies)
        ):
            if change.inner is not None:
                change.inner._collect(f"{roles}{change.role} ", found)

    @property
    def distance(self) -> int:
        """How many fields differ, dependencies followed."""
        return len(self.leaves())

    def lines(self) -> list[str]:
        """The differences as texts, for example ``dependency features0: a → b, because image.resize: x → y``."""
        lines = [str(difference) for difference in self.own]
        behind: dict[str, list[str]] = {}
        for _, roles, difference in self.leaves():
            first, _, rest = roles.partition(" ")
            if first:
                behind.setdefault(first, []).append(f"{rest}{difference}")
        for change in self.dependencies:
            because = behind.get(change.role)
            if because or change.inner is None:
                why = f", because {'; '.join(because)}" if because else ""
                lines.append(f"dependency {change.role}: {change.then} → {change.now}{why}")
        return lines


def kinship(then: Spec, now: Spec, lookup: Lookup) -> Kinship:
    """How step ``now`` differs from step ``then``.

    Args:
        then, now: two steps of one kind.
        lookup: step id -> its spec, None for one that is not known any more.
    """
    return _kinship(then, now, lookup, {})


def _kinship(then: Spec, now: Spec, lookup: Lookup, known: dict[tuple[str, str], Kinship | None]) -> Kinship:
    own = fields({"version": then["version"]}, {"version": now["version"]}) + fields(
        then["config"], now["config"]
    )
    changes = []
    for role in sorted({*then["deps"], *now["deps"]}):
        old, new = then["deps"].get(role), now["deps"].get(role)
        if old == new:
            continue
        key = (str(old), str(new))
        if key not in known:
            before, after = (lookup(old) if old else None), (lookup(new) if new else None)
            both = before is not None and after is not None and before["kind"] == after["kind"]
            known[key] = _kinship(before, after, lookup, known) if both and before and after else None
        changes.append(DependencyChange(role, _name(old, lookup), _name(new, lookup), known[key]))
    return Kinship(now["kind"], tuple(own), tuple(changes))


def _name(step_id: str | None, lookup: Lookup) -> str:
    if step_id is None:
        return str(MISSING)
    spec = lookup(step_id)
    return f"{spec['slug']}-{step_id}" if spec is not None else step_id


def nearest(now: Spec, candidates: Iterable[Spec], lookup: Lookup) -> tuple[Spec, Kinship] | None:
    """The candidate of the same kind that differs in the fewest fields, the first of equals; None without any."""
    best: tuple[Spec, Kinship] | None = None
    known: dict[tuple[str, str], Kinship | None] = {}
    for then in candidates:
        if then["id"] == now["id"] or then["kind"] != now["kind"]:
            continue
        found = _kinship(then, now, lookup, known)
        if best is None or found.distance < best[1].distance:
            best = (then, found)
    return best
