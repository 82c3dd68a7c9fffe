"""Simulated scores of three benchmarks for the tests of the tables."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd

from vlmablate.stats.declaration import Design
from vlmablate.stats.settings import Settings
from vlmablate.stats.table import Analysis, analyse

MAJORITY = {"counting": 0.3, "existence": 0.5, "reading": 0.5}
SUCCESS = {"counting": 0.6, "existence": 0.8, "reading": 0.52}


@lru_cache
def _scores(
    arms: tuple[str, ...], seeds: tuple[int, ...], contexts: tuple[str, ...], effect: float
) -> pd.DataFrame:
    rows = []
    for a, arm in enumerate(arms):
        for c, context in enumerate(contexts):
            for seed in seeds:
                rng = np.random.default_rng((a, c, seed))
                for name, success in SUCCESS.items():
                    chance = success + (effect if arm == "other" else 0) + rng.normal(0, 0.01)
                    for i in range(90):
                        rows.append(
                            {
                                "arm": arm,
                                "context": context,
                                "seed": seed,
                                "run_id": f"{arm}-{context}-{seed}",
                                "benchmark": name,
                                "split": "test",
                                "example_id": f"{name}{i}",
                                "cluster_id": f"scene{i // 3}",
                                "metric": "exact",
                                "score": float(rng.random() < chance),
                            }
                        )
    return pd.DataFrame(rows)


def scores(
    arms: Sequence[str] = ("base", "other", "third"),
    seeds: Sequence[int] = (0, 1, 2),
    contexts: Sequence[str] = ("default",),
    effect: float = 0.0,
) -> pd.DataFrame:
    """Scores of three benchmarks, 30 scenes of three questions each; `effect` is added to the arm "other"."""
    return _scores(tuple(arms), tuple(seeds), tuple(contexts), effect).copy()


def declared(table: pd.DataFrame, **changes: Any) -> Design:
    given: dict[str, Any] = {
        "axis": "x",
        "baseline": "base",
        "arms": tuple(dict.fromkeys(table["arm"])),
        "contexts": tuple(dict.fromkeys(table["context"])),
        "metrics": dict.fromkeys(MAJORITY, "exact"),
        "majority": MAJORITY,
        "settings": Settings(),
    }
    return Design(**{**given, **changes})


def run(table: pd.DataFrame, **changes: Any) -> Analysis:
    return analyse(table, declared(table, **changes))


@lru_cache
def plain(effect: float = 0.0) -> Analysis:
    """The analysis that several tests read."""
    return run(scores(effect=effect))
