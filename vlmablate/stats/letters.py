"""Compact letters: arms that share a letter are not told apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count
from string import ascii_letters

import numpy as np
from numpy.typing import ArrayLike

from vlmablate.errors import DataError

MOST_GROUPS = 2000
"""With more groups on the way than this, one is grown per pair that needs it (the exact family of all maximal
groups can be exponential in the number of arms)."""


def compact_letters(
    names: Sequence[str], pairs: ArrayLike, significant: ArrayLike, means: ArrayLike | None = None
) -> dict[str, str]:
    """Letters for every arm such that two arms share a letter if and only if they do not differ significantly.

    names [K]; pairs [P, 2]: indices of the compared arms; significant [P]: whether they differ (pairs that were
    not compared count as not different). means [K]: arms are lettered from the highest mean on (nan last); the
    given order is kept without it. Every letter is one character: a..z, A..Z, then letters of other
    alphabets.

    Insert and absorb (Piepho, J. Comput. Graph. Statist. 13, 2004, 456-466): start from one group of all arms; for
    every significant pair split each group that holds both, and drop groups inside another one; at the end drop
    groups that no pair needs. Raises DataError for repeated names, indices that name no arm or the same arm twice,
    a pair that is given twice with different answers, arrays of other shapes.
    """
    size = len(names)
    if not size or len(set(names)) != size:
        raise DataError(f"letters need different names of at least one arm, got {list(names)}")
    order = list(range(size))
    if means is not None:
        values = np.asarray(means, dtype=np.float64)
        if values.shape != (size,):
            raise DataError(f"one mean per arm is needed, got shape {values.shape} for {size} arms")
        order.sort(
            key=lambda arm: (bool(np.isnan(values[arm])), -values[arm] if values[arm] == values[arm] else 0.0)
        )
    rank = {arm: position for position, arm in enumerate(order)}

    differs = [0] * size  # bit j of differs[i]: the arms of ranks i and j are told apart
    for i, j in _told_apart(pairs, significant, size):
        differs[rank[i]] |= 1 << rank[j]
        differs[rank[j]] |= 1 << rank[i]

    letters = [""] * size
    for group, letter in zip(sorted(_groups(differs), key=_members), _alphabet(), strict=False):
        for position in _members(group):
            letters[position] += letter
    return {name: letters[rank[arm]] for arm, name in enumerate(names)}


def _told_apart(pairs: ArrayLike, significant: ArrayLike, size: int) -> list[tuple[int, int]]:
    """The significant pairs as indices, checked."""
    couples, answers = np.asarray(pairs), np.asarray(significant)
    if not couples.size and not answers.size:
        return []
    if couples.ndim != 2 or couples.shape[1] != 2 or answers.shape != (len(couples),):
        raise DataError(
            f"pairs must have shape [P, 2] and significant [P], got {couples.shape} and {answers.shape}"
        )
    if couples.dtype.kind not in "iu" or answers.dtype.kind != "b":
        raise DataError(
            f"pairs must be integers and significant booleans, got {couples.dtype} and {answers.dtype}"
        )
    seen: dict[tuple[int, int], bool] = {}
    for (i, j), answer in zip(couples.tolist(), answers.tolist(), strict=True):
        if not (0 <= i < size and 0 <= j < size) or i == j:
            raise DataError(f"pair ({i}, {j}) does not name two different ones of {size} arms")
        if seen.setdefault((min(i, j), max(i, j)), answer) != answer:
            raise DataError(f"pair ({i}, {j}) is given twice with different answers")
    return [pair for pair, answer in seen.items() if answer]


def _members(group: int) -> list[int]:
    """Positions of the set bits, ascending."""
    return [position for position in range(group.bit_length()) if group >> position & 1]


def _groups(differs: Sequence[int]) -> list[int]:
    """Sets (bit masks) of arms without a significant pair inside that together hold every other pair."""
    everyone = (1 << len(differs)) - 1
    groups = [everyone]
    for i, others in enumerate(differs):
        for j in _members(others & ~((1 << i) - 1)):
            groups = _split(groups, 1 << i, 1 << j)
            if len(groups) > MOST_GROUPS:
                return _swept(_grown(differs))
    return _swept(groups)


def _split(groups: Sequence[int], first: int, second: int) -> list[int]:
    """Separate two arms in every group that holds both; a part that lies inside another group is absorbed."""
    kept = [group for group in groups if not (group & first and group & second)]
    parts = {group & ~bit for group in groups if group & first and group & second for bit in (first, second)}
    for part in sorted(parts, key=int.bit_count, reverse=True):
        if not any(part & ~group == 0 for group in kept):
            kept.append(part)
    return kept


def _grown(differs: Sequence[int]) -> list[int]:
    """A group around every pair (and arm) that no earlier group holds, filled up in order of rank."""
    size, groups = len(differs), list[int]()
    together = [0] * size
    for i in range(size):
        for j in range(i, size):
            if differs[i] >> j & 1 or together[i] >> j & 1:
                continue
            group = 1 << i | 1 << j
            for k in range(size):
                if not group & differs[k]:
                    group |= 1 << k
            groups.append(group)
            for k in _members(group):
                together[k] |= group
    return groups


def _swept(groups: Sequence[int]) -> list[int]:
    """Drop groups all of whose pairs are held by others (Piepho's sweep), the smallest first."""
    members = {group: _members(group) for group in groups}
    holders: dict[tuple[int, int], int] = {}
    for inside in members.values():
        for i in inside:
            for j in inside:
                if i <= j:  # (i, i): every arm keeps a letter
                    holders[i, j] = holders.get((i, j), 0) + 1
    kept = []
    for group in sorted(groups, key=lambda group: (group.bit_count(), members[group])):
        held = [(i, j) for i in members[group] for j in members[group] if i <= j]
        if all(holders[pair] > 1 for pair in held):
            for pair in held:
                holders[pair] -= 1
        else:
            kept.append(group)
    return kept


def _alphabet() -> Iterator[str]:
    yield from ascii_letters
    yield from (chr(code) for code in count(0x100) if chr(code).isalpha())
