"""All pairs of 64-bit hashes that differ in few bits, without comparing every pair."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np

BITS = 64
_CANDIDATES = 1 << 21
"""Pairs that are compared at once; bounds the memory, not the result."""
_ONES = np.array([bin(value).count("1") for value in range(1 << 16)], dtype=np.uint8)


def distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """[n] Hamming distances of two arrays [n] of uint64."""
    halves = np.ascontiguousarray(first ^ second).view(np.uint16).reshape(-1, 4)
    return _ONES[halves].sum(axis=1, dtype=np.uint8)


def near_pairs(first: np.ndarray, second: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(i, j, distance) of all pairs first[i], second[j] of uint64 hashes with a Hamming distance of at most `most`.

    Exact: hashes are cut into most + 2 bands, and hashes that differ in at most `most` bits agree in two of them
    (pigeonhole). Only pairs that agree in two bands are compared. Quickest when `first` is the shorter one. Sorted by
    i, then by distance, then by j.
    """
    a, back_a = np.unique(first, return_inverse=True)
    b, back_b = np.unique(second, return_inverse=True)
    found = [np.empty((0, 2), dtype=np.int64)]
    bands = list(pairwise(np.linspace(0, BITS, most + 3).round().astype(int).tolist()))
    for one, other in combinations(bands, 2):
        keys = _keys(a, one, other)
        order = np.argsort(keys)
        hits, starts, counts = _equal(keys[order], _keys(b, one, other))
        for part in _portions(counts):
            rows, within = _spread(counts[part])
            i, j = order[starts[part][rows] + within], hits[part][rows]
            kept = distances(a[i], b[j]) <= most
            found.append(np.stack([i[kept], j[kept]], axis=1))
    pairs = np.unique(np.concatenate(found), axis=0)
    i, j = _positions(pairs, back_a, back_b)
    far = distances(first[i], second[j])
    sequence = np.lexsort((j, far, i))
    return i[sequence], j[sequence], far[sequence]


def _keys(hashes: np.ndarray, one: tuple[int, int], other: tuple[int, int]) -> np.ndarray:
    """The bits of two bands, each (first, behind the last), as one number."""
    parts = [(hashes >> np.uint64(low)) & np.uint64((1 << (high - low)) - 1) for low, high in (one, other)]
    return parts[0] << np.uint64(other[1] - other[0]) | parts[1]


def _equal(ranked: np.ndarray, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of the keys that occur in the sorted `ranked`: their positions, where their equals start, and how many."""
    if not len(ranked):
        empty = np.empty(0, dtype=np.int64)
        return empty, empty, empty
    starts = np.searchsorted(ranked, keys, side="left")
    hits = np.flatnonzero(ranked[np.minimum(starts, len(ranked) - 1)] == keys)
    starts = starts[hits]
    return hits, starts, np.searchsorted(ranked, keys[hits], side="right") - starts


def _portions(counts: np.ndarray) -> list[np.ndarray]:
    """0 to n - 1 in portions of about `_CANDIDATES` pairs."""
    portion = (np.cumsum(counts) - counts) // _CANDIDATES
    return np.split(np.arange(len(counts)), np.flatnonzero(np.diff(portion)) + 1)


def _spread(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row k is repeated counts[k] times: the rows, and 0 to counts[k] - 1 within each."""
    rows = np.repeat(np.arange(len(counts)), counts)
    return rows, np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)


def _positions(pairs: np.ndarray, back_a: np.ndarray, back_b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of distinct values as pairs of positions: several pictures may have the same hash."""
    if not len(pairs):
        return pairs[:, 0], pairs[:, 1]
    (places_a, starts_a, counts_a), (places_b, starts_b, counts_b) = _groups(back_a), _groups(back_b)
    a, b = pairs[:, 0], pairs[:, 1]
    rows, within = _spread(counts_a[a] * counts_b[b])
    width = counts_b[b][rows]
    return places_a[starts_a[a][rows] + within // width], places_b[starts_b[b][rows] + within % width]


def _groups(back: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions sorted by their value, and of each value where its positions start there, and how many."""
    counts = np.bincount(back)
    return np.argsort(back, kind="stable"), np.cumsum(counts) - counts, counts
