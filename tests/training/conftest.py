"""For the tests of training: pairs of ranks, started once for all modules that ask for the same."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from tests.training.pairs import Pair  # noqa: E402


@pytest.fixture(scope="session")
def pairs() -> Iterator[Callable[[str], Pair]]:
    """The module of a rank -> a pair that serves it. Starting one takes longer than most of what it is asked for."""
    made: dict[str, Pair] = {}

    def serving(module: str) -> Pair:
        if module not in made or not made[module].alive:
            made[module] = Pair(module)
        return made[module]

    yield serving
    for pair in made.values():
        pair.close()
