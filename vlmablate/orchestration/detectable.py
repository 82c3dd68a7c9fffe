"""What the planned seeds could find: the minimal detectable effect, before there are scores. Standard library only.

The analysis has the same numbers from scipy (:func:`vlmablate.stats.power.mde`); a plan must not wait for its import.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from vlmablate.files import read_json
from vlmablate.orchestration.store import RESULT

_PANELS = 400
_POINTS = 100.0


@dataclass(frozen=True)
class Spread:
    """SD of the suite score between trainings that differ in their seed only, in points; ``runs`` it was taken from,
    0 when it is assumed.
    """

    sd: float
    runs: int


def measured_spread(home: Path, scale: str) -> Spread | None:
    """The spread within the cells of all studies at a scale, pooled; None while no cell has two finished runs.

    A run's suite score is the mean over its benchmarks, as its evaluation recorded them.
    """
    cells: dict[tuple[str, str, str], dict[str, float]] = defaultdict(dict)
    seen: set[str] = set()
    for path in sorted((home / "studies").glob("*/study.json")):
        try:
            study = read_json(path)
            if study["scale"] != scale:
                continue
            for run in study["runs"]:
                if run["run_id"] in seen:
                    continue
                score = _suite_score(home / study["steps"][run["run_id"]]["dir"])
                if score is not None:
                    seen.add(run["run_id"])
                    cells[study["name"], run["arm"], run["context"]][run["run_id"]] = score
        except (OSError, ValueError, KeyError, TypeError):
            continue  # being replaced, or damaged; it only sharpens an estimate
    groups = [list(scores.values()) for scores in cells.values() if len(scores) > 1]
    df = sum(len(group) - 1 for group in groups)
    if df == 0:
        return None
    pooled = sum(_squares(group) for group in groups) / df
    return Spread(math.sqrt(pooled), sum(map(len, groups)))


def _squares(values: list[float]) -> float:
    mean = sum(values) / len(values)
    return sum((value - mean) ** 2 for value in values)


def _suite_score(directory: Path) -> float | None:
    try:
        payload: Mapping[str, Any] = read_json(directory / RESULT)["payload"]
        means = [float(facts["mean"]) for facts in payload["benchmarks"].values()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return _POINTS * sum(means) / len(means) if means else None


def detectable(
    sd: float, seeds: int, cells: int, contexts: int, alpha: float, power: float, two_sided: bool = True
) -> float:
    """The smallest true difference between an arm and its baseline that the planned runs find with this power.

    Args:
        sd: spread between runs of a cell.
        seeds: runs of every cell; with one there is no replication, and the answer is infinite.
        cells: cells of the study, whose spread is pooled.
        contexts: contexts over which the contrast is averaged.
        alpha, power: level of the test, and the chance to find the difference.
        two_sided: whether the test looks for differences in both directions.

    Returns:
        The difference in the unit of ``sd``.
    """
    df = cells * (seeds - 1)
    if df < 1:
        return math.inf
    return _noncentrality(df, alpha, power, two_sided) * sd * math.sqrt(2 / (seeds * contexts))


@lru_cache(maxsize=256)
def _noncentrality(df: int, alpha: float, power: float, two_sided: bool) -> float:
    """Difference over its standard error at which the level-alpha t test on ``df`` rejects with chance ``power``."""
    grid = _scaled_chi(df)
    critical = _solve(lambda bound: -_rejects(0.0, bound, grid, two_sided), -alpha)
    return _solve(lambda shift: _rejects(shift, critical, grid, two_sided), power)


def _scaled_chi(df: int) -> list[tuple[float, float]]:
    """Simpson nodes and weights of the law of s = estimated / true standard error, that is sqrt(chi2 / df)."""
    high = 1 + 8 / math.sqrt(df)
    step = high / _PANELS
    nodes = []
    for i in range(1, _PANELS + 1):
        s = i * step
        log_density = (df - 1) * math.log(s) - df * (s * s - 1) / 2
        weight = (1 if i == _PANELS else 4 if i % 2 else 2) * math.exp(log_density)
        nodes.append((s, weight))
    if df == 1:  # the only law whose density is not 0 at s = 0
        nodes.append((0.0, math.exp(0.5)))
    total = sum(weight for _, weight in nodes)
    return [(s, weight / total) for s, weight in nodes]


def _rejects(shift: float, critical: float, grid: list[tuple[float, float]], two_sided: bool) -> float:
    """Chance that |T| (T, when one-sided) exceeds ``critical``, T noncentral with this shift."""
    chance = sum(weight * _upper(critical * s - shift) for s, weight in grid)
    if two_sided:
        chance += sum(weight * _upper(critical * s + shift) for s, weight in grid)
    return chance


def _upper(z: float) -> float:
    return 0.5 * math.erfc(z / math.sqrt(2))


def _solve(rising: Callable[[float], float], target: float) -> float:
    """Where a rising function of a positive number reaches its target, by bisection."""
    low, high = 0.0, 1.0
    while rising(high) < target:
        low, high = high, 2 * high
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < target else (low, middle)
    return high
