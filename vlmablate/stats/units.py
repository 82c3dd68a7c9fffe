"""From the long table of example scores to the numbers that a run stands for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from vlmablate.errors import DataError

SUITE = "suite"
"""Name of the pseudo-benchmark that stands for the mean over the benchmarks with signal."""

SUITE_METRIC = "mean_points"
"""Metric name of suite rows: the unweighted mean of the benchmarks' scores in points."""

ALL_CONTEXTS = "(all)"
"""Context of a contrast that is averaged over the contexts of a study."""


@dataclass(frozen=True)
class Signal:
    """Whether one benchmark can tell anything at this scale (all in points).

    baseline: lowest baseline mean over the contexts; majority: score of the always-majority answer;
    weakest_seed: lowest score of a single baseline run.
    """

    benchmark: str
    baseline: float
    majority: float
    weakest_seed: float
    carries: bool


def find_signal(
    scores: pd.DataFrame, baseline: str, majority: Mapping[str, float], signal_margin: float
) -> dict[str, Signal]:
    """Decide for every benchmark whether it carries signal; `majority` maps benchmark -> fraction in [0, 1].

    A benchmark carries signal when the baseline arm's mean over seeds is at least `signal_margin` points
    above the majority answer in every context. Only the baseline is looked at, so no arm can choose its own
    benchmarks; one answer holds for the whole study, so every run's suite score has the same terms. Without a
    baseline run nothing carries signal. A benchmark without a majority score is taken to carry signal.
    """
    found: dict[str, Signal] = {}
    of_baseline = scores[scores["arm"] == baseline]
    for benchmark in sorted(scores["benchmark"].unique()):
        floor = 100.0 * majority.get(benchmark, float("nan"))
        rows = of_baseline[of_baseline["benchmark"] == benchmark]
        means = rows.groupby("context", observed=True)["points"].mean()
        lowest = float(means.min()) if len(means) else float("nan")
        carries = bool(lowest - floor >= signal_margin - 1e-9) or (
            benchmark not in majority and len(means) > 0
        )
        found[benchmark] = Signal(benchmark, lowest, floor, float(rows["points"].min()), carries)
    return found


def suite_scores(scores: pd.DataFrame, benchmarks: Sequence[str]) -> pd.DataFrame:
    """One row per run: its mean over `benchmarks` in points (columns arm, context, seed, run_id, points).

    Empty when `benchmarks` is. Raises DataError for a run that lacks one of them: a suite score over other
    terms would not be comparable.
    """
    keys = ["arm", "context", "seed", "run_id"]
    wide = scores[scores["benchmark"].isin(list(benchmarks))].pivot(
        index=keys, columns="benchmark", values="points"
    )
    if wide.isna().to_numpy().any():
        run = wide.index[wide.isna().any(axis=1)][0]
        raise DataError(f"run {run[3]} (arm {run[0]}, seed {run[2]}) lacks a benchmark that other runs have")
    return (
        wide.mean(axis=1).rename("points").reset_index() if len(wide) else scores[[*keys, "points"]].iloc[:0]
    )
