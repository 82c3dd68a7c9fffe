"""Compact letters: two arms share one exactly when they are not told apart, on any graph."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from vlmablate.errors import DataError
from vlmablate.stats import letters
from vlmablate.stats.letters import compact_letters


def check(size: int, significant: set[tuple[int, int]], shown: dict[str, str]) -> None:
    names = list(shown)
    assert all(shown.values())
    for i, j in combinations(range(size), 2):
        share = bool(set(shown[names[i]]) & set(shown[names[j]]))
        assert share == ((i, j) not in significant), (names[i], names[j], shown)


def draw(rng: np.random.Generator, size: int, density: float) -> tuple[list[str], np.ndarray, np.ndarray]:
    pairs = np.array(list(combinations(range(size), 2))).reshape(-1, 2)
    return [f"arm{i}" for i in range(size)], pairs, rng.random(len(pairs)) < density


@pytest.mark.parametrize("density", [0.0, 0.1, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("size", [1, 2, 3, 6, 10, 16])
@pytest.mark.parametrize("most", [2000, 0])  # 0: the way without all maximal groups
def test_two_arms_share_a_letter_exactly_if_not_significant(
    density: float, size: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(letters, "MOST_GROUPS", most)
    rng = np.random.default_rng((size, int(10 * density)))
    for _ in range(15):
        names, pairs, significant = draw(rng, size, density)
        shown = compact_letters(names, pairs, significant, rng.normal(size=size))
        assert list(shown) == names
        check(size, {tuple(pair) for pair in pairs[significant].tolist()}, shown)


def test_no_letter_is_idle() -> None:
    """Dropping any letter would leave a pair without one (Piepho's sweep)."""
    rng = np.random.default_rng(1)
    for _ in range(40):
        names, pairs, significant = draw(rng, 9, 0.5)
        shown = compact_letters(names, pairs, significant)
        for letter in set("".join(shown.values())):
            without = [set(text) - {letter} for text in shown.values()]
            broken = any(
                not without[i] & without[j]
                for (i, j), differs in zip(pairs, significant, strict=True)
                if not differs
            )
            assert broken or any(not text for text in without)


def test_known_letters() -> None:
    # means 5 > 4 > 3 > 2; only the extremes differ, and the first from the third
    names, pairs = ["v", "w", "x", "y"], list(combinations(range(4), 2))
    differ = [pair in {(0, 3), (0, 2)} for pair in pairs]
    assert compact_letters(names, pairs, differ) == {"v": "a", "w": "ab", "x": "b", "y": "b"}
    reversed_order = compact_letters(names, pairs, differ, [2, 3, 4, 5])
    assert reversed_order == {"v": "b", "w": "ab", "x": "a", "y": "a"}
    assert compact_letters(names, pairs, [False] * 6) == dict.fromkeys(names, "a")
    assert compact_letters(names, pairs, [True] * 6, [1, 9, 5, np.nan]) == {
        "v": "c",
        "w": "a",
        "x": "b",
        "y": "d",
    }
    assert compact_letters(["only"], np.array([]), np.array([])) == {"only": "a"}
    assert compact_letters(["p", "q"], [], []) == {"p": "a", "q": "a"}


def test_many_arms() -> None:
    """42 arms in groups of three that differ within and not between: 3^14 maximal groups, so they are not listed."""
    pairs = list(combinations(range(42), 2))
    differ = [i // 3 == j // 3 for i, j in pairs]
    shown = compact_letters([str(i) for i in range(42)], pairs, differ)
    check(42, {pair for pair, answer in zip(pairs, differ, strict=True) if answer}, shown)
    apart = compact_letters([str(i) for i in range(80)], list(combinations(range(80), 2)), [True] * 3160)
    assert sorted(map(len, apart.values())) == [1] * 80
    assert len(set(apart.values())) == 80
    # a chain, as means that differ beyond a distance make it
    chain = [j - i > 5 for i, j in pairs]
    shown = compact_letters([str(i) for i in range(42)], pairs, chain)
    check(42, {pair for pair, answer in zip(pairs, chain, strict=True) if answer}, shown)
    assert len(set("".join(shown.values()))) == 37


def test_refusals() -> None:
    with pytest.raises(DataError, match="at least one arm"):
        compact_letters([], [], [])
    with pytest.raises(DataError, match="different names"):
        compact_letters(["a", "a"], [], [])
    with pytest.raises(DataError, match=r"got \(1, 3\) and \(1,\)"):
        compact_letters(["a", "b"], [[0, 1, 1]], [True])
    with pytest.raises(DataError, match=r"pair \(0, 2\) does not name two different ones of 2 arms"):
        compact_letters(["a", "b"], [[0, 2]], [True])
    with pytest.raises(DataError, match=r"pair \(1, 1\)"):
        compact_letters(["a", "b"], [[1, 1]], [True])
    with pytest.raises(DataError, match="twice with different answers"):
        compact_letters(["a", "b"], [[0, 1], [1, 0]], [True, False])
    with pytest.raises(DataError, match="significant booleans, got int64 and float64"):
        compact_letters(["a", "b"], [[0, 1]], [0.03])
    with pytest.raises(DataError, match=r"got shape \(1,\) for 2 arms"):
        compact_letters(["a", "b"], [[0, 1]], [True], [1.0])
