"""What stands beside the significance table: variance components, probability of improvement, runs of one design
compared with each other, and what more seeds would detect."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import combinations

import numpy as np
import pandas as pd

from vlmablate.stats.components import TwoComponent, variance_components
from vlmablate.stats.data import Data
from vlmablate.stats.improvement import probability_of_improvement
from vlmablate.stats.levels import Both
from vlmablate.stats.paired import paired_test
from vlmablate.stats.power import mde_curve
from vlmablate.stats.runs import PooledError
from vlmablate.stats.units import SUITE

CURVE_SEEDS = (2, 3, 4, 5, 7, 10, 15, 20, 30, 50)


def components(data: Data, both: Both) -> pd.DataFrame:
    """Spread of seeds, clusters and single answers (points) per context and benchmark, and what seeds and items
    contribute to the standard error of a contrast (se_seed, se_item: root of the mean variance over the arms).

    The first row of a context is the suite score, which has no spread of single answers.
    """
    columns = ["context", "benchmark", "seed_sd", "item_sd", "residual_sd", "icc", "design_effect"]
    records = []
    names = [SUITE, *data.names] if data.suite is not None else list(data.names)
    for context in data.design.contexts:
        cells = [cell for cell in data.cells if cell[1] == context]
        arms = [arm for arm, place in data.pairs if place == context]
        for benchmark in names if arms else ():
            found = [both[arm, context, benchmark] for arm in arms if (arm, context, benchmark) in both]
            seed = [interval.seed_variance for interval in found]
            item = [interval.item_variance for interval in found]
            record: dict[str, object] = {
                "context": context,
                "benchmark": benchmark,
                "se_seed": math.sqrt(np.mean(seed)) if seed else math.nan,
                "se_item": math.sqrt(np.mean(item)) if item else math.nan,
            }
            stacked = data.suite if benchmark == SUITE else data.of_benchmark[benchmark]
            assert stacked is not None
            if benchmark == SUITE:
                record["seed_sd"] = _seed_sd(
                    data, context, {arm: both.get((arm, context, SUITE)) for arm in arms}
                )
            elif stacked.clusters.count > 1:
                parted = variance_components(
                    [stacked.scores(data.cells[cell]) for cell in cells], stacked.clusters
                )
                size = stacked.n / stacked.clusters.count
                record |= {
                    "seed_sd": parted.seed_sd,
                    "item_sd": parted.item_sd,
                    "residual_sd": parted.residual_sd,
                    "icc": parted.icc,
                    "design_effect": 1 + (size - 1) * parted.icc,
                }
            records.append(record)
    return pd.DataFrame(records, columns=[*columns, "se_seed", "se_item"])


def _seed_sd(data: Data, context: str, intervals: Mapping[str, TwoComponent | None]) -> float:
    """Spread between runs of the mean over infinitely many examples, from the parts of the contrasts' variances."""
    baseline = len(data.cells[(data.design.baseline, context)])
    parts = [
        (interval.seed_variance - interval.interaction_variance)
        / (1 / baseline + 1 / len(data.cells[(arm, context)]))
        for arm, interval in intervals.items()
        if interval is not None
    ]
    return math.sqrt(max(float(np.mean(parts)), 0.0)) if parts else math.nan


def improvement(data: Data) -> pd.DataFrame:
    """Probability that a run of an arm scores above a run of the baseline, over the benchmarks with signal."""
    columns = ["arm", "context", "p_improvement", "ci_low", "ci_high", "n_alternate", "n_baseline", "method"]
    places = [data.names.index(name) for name in data.with_signal]
    records = []
    for arm, context in data.pairs if places else ():
        a, b = (arm, context), (data.design.baseline, context)
        if data.ids(a) & data.ids(b):
            continue
        found = probability_of_improvement(
            data.points[np.ix_(data.cells[a], places)],
            data.points[np.ix_(data.cells[b], places)],
            alpha=data.design.settings.alpha,
        )
        counts = (found.n_alternate, found.n_baseline)
        records.append((arm, context, found.p_improvement, *found.ci, *counts, found.method))
    return pd.DataFrame(records, columns=columns)


def null_p(data: Data) -> pd.DataFrame:
    """Pairs of the baseline's runs compared example by example, as if a seed were a design."""
    records = []
    for context in data.design.contexts:
        rows = data.cells.get((data.design.baseline, context), [])
        for first, second in combinations(rows, 2):
            seeds = data.panels.runs[first].seed, data.panels.runs[second].seed
            for name in data.with_signal:
                stacked = data.of_benchmark[name]
                test = paired_test(stacked.mean([first]), stacked.mean([second]), stacked.clusters)
                records.append((context, name, *seeds, "items", test.p))
    return pd.DataFrame(records, columns=["context", "benchmark", "seed_a", "seed_b", "level", "p"])


def detectable(data: Data, error: PooledError) -> pd.DataFrame:
    """Minimal detectable effect and half-width of the interval of the suite contrast by seeds per cell; empty where
    the spread between seeds is not known, and for paired seeds, whose `error` is that of differences."""
    columns = ["seeds", "mde", "half_width"]
    if not math.isfinite(error.sd) or data.design.settings.paired_seeds:
        return pd.DataFrame(columns=columns)
    settings, contexts = data.design.settings, len(data.design.contexts)
    points = mde_curve(
        error.sd,
        CURVE_SEEDS,
        cells=max(error.cells, 2 * contexts),
        contexts=contexts,
        alpha=settings.alpha,
        power=settings.power,
    )
    return pd.DataFrame([tuple(point) for point in points], columns=columns)
