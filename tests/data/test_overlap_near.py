"""Pairs of near hashes: exactly those that comparing every pair finds."""

from __future__ import annotations

import numpy as np
import pytest

from vlmablate.data import overlap_near
from vlmablate.data.overlap_near import distances, near_pairs


def by_comparing_all(first: np.ndarray, second: np.ndarray, most: int) -> list[tuple[int, int, int]]:
    found = [(i, (int(a) ^ int(b)).bit_count(), j) for i, a in enumerate(first) for j, b in enumerate(second)]
    return [(i, j, far) for i, far, j in sorted(found) if far <= most]


def some_hashes(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Random ones; copies with 0 to 8 bits changed anywhere; and values that occur several times."""
    rng = np.random.default_rng(seed)
    first = rng.integers(0, 2**64, 60, dtype=np.uint64)
    second = rng.integers(0, 2**64, 80, dtype=np.uint64)
    for place in range(60):
        changed = int(first[rng.integers(len(first))])
        for bit in rng.choice(64, rng.integers(0, 9), replace=False):
            changed ^= 1 << int(bit)
        second[place] = changed
    first[7] = first[8] = second[70] = second[71] = second[0]
    return first, second


@pytest.mark.parametrize("most", range(7))
def test_all_near_pairs_and_no_other(most: int) -> None:
    for seed in range(4):
        first, second = some_hashes(seed)
        found = list(zip(*(part.tolist() for part in near_pairs(first, second, most)), strict=True))
        assert found == by_comparing_all(first, second, most)
        assert len(found) >= 4


def test_small_portions_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = np.zeros(30, dtype=np.uint64), np.arange(64, dtype=np.uint64)
    whole = [part.tolist() for part in near_pairs(first, second, 4)]
    monkeypatch.setattr(overlap_near, "_CANDIDATES", 7)
    assert [part.tolist() for part in near_pairs(first, second, 4)] == whole


def test_nothing_is_near_to_nothing() -> None:
    first, second = some_hashes(0)
    for empty in (near_pairs(first[:0], second, 4), near_pairs(first, second[:0], 4)):
        assert [len(part) for part in empty] == [0, 0, 0]


def test_distances_count_bits() -> None:
    values = np.array([0, 1, 2**63, 2**64 - 1], dtype=np.uint64)
    assert distances(values, np.zeros(4, dtype=np.uint64)).tolist() == [0, 1, 1, 64]
