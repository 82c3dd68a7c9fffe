"""The design level against ANOVA by statsmodels, its size under correlated benchmarks, and its honest
refusals."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from scipy import stats

from vlmablate.stats.runs import tipping_sd
from vlmablate.stats.seeds import (
    cell_error,
    contrast,
)


def cells(rng: np.random.Generator, sizes: dict[str, int], sd: float = 1.0) -> dict[str, dict[str, float]]:
    return {
        cell: {f"{cell}-{run}": float(rng.normal(50, sd)) for run in range(n)} for cell, n in sizes.items()
    }


def test_contrast_equals_the_one_way_anova_contrast() -> None:
    data = cells(np.random.default_rng(1), {"a": 3, "b": 4, "c": 2, "d": 3})
    rows = [(cell, score) for cell, runs in data.items() for score in runs.values()]
    model = smf.ols("score ~ C(cell) - 1", pd.DataFrame(rows, columns=["cell", "score"])).fit()
    oracle = model.t_test(np.array([[-0.5, 1.0, -0.5, 0.0]]))
    estimate = contrast(data, {"a": -0.5, "b": 1.0, "c": -0.5}, alpha=0.05)
    assert estimate.delta == pytest.approx(oracle.effect[0])
    assert estimate.se == pytest.approx(oracle.sd[0, 0])
    assert estimate.p == pytest.approx(float(oracle.pvalue))
    assert [estimate.ci_low, estimate.ci_high] == pytest.approx(oracle.conf_int()[0].tolist())
    assert estimate.df == sum(len(runs) - 1 for runs in data.values())


def test_two_cells_alone_are_student_s_t() -> None:
    data = cells(np.random.default_rng(2), {"a": 3, "b": 5})
    oracle = stats.ttest_ind(list(data["b"].values()), list(data["a"].values()))
    assert contrast(data, {"b": 1, "a": -1}, 0.05).p == pytest.approx(oracle.pvalue)


def test_runs_that_cells_share_are_counted_once() -> None:
    data = cells(np.random.default_rng(3), {"a": 3, "b": 3})
    shared = {**data, "a again": data["a"]}
    assert cell_error(shared) == cell_error(data)
    averaged = contrast(shared, {"b": 1.0, "a": -0.5, "a again": -0.5}, 0.05)
    assert averaged == contrast(data, {"b": 1.0, "a": -1.0}, 0.05)


def test_the_same_runs_in_both_arms_do_not_differ() -> None:
    data = cells(np.random.default_rng(4), {"a": 3, "b": 3})
    estimate = contrast({**data, "alias": data["a"]}, {"alias": 1, "a": -1}, 0.05)
    assert (estimate.delta, estimate.p, estimate.ci_low, estimate.ci_high) == (0.0, 1.0, 0.0, 0.0)


def test_one_seed_gives_the_tipping_sd_and_no_p() -> None:
    estimate = contrast({"a": {"r1": 50.0}, "b": {"r2": 53.0}}, {"b": 1, "a": -1}, 0.05)
    assert estimate.delta == 3.0
    assert math.isnan(estimate.p)
    assert math.isnan(estimate.ci_low)
    tipping = 3.0 / (1.959964 * math.sqrt(2))
    assert tipping_sd(3.0, 2.0, 0.05) == pytest.approx(tipping, rel=1e-6)
    assert f"tipping seed SD {tipping:.2f} points" in estimate.method


def test_seeds_that_change_nothing_are_no_replication() -> None:
    data = {"a": {"r1": 50.0, "r2": 50.0}, "b": {"r3": 53.0, "r4": 53.0}}
    estimate = contrast(data, {"b": 1, "a": -1}, 0.05)
    assert math.isnan(estimate.p)
    assert "no replication" in estimate.method


def test_a_cell_without_runs_is_refused() -> None:
    with pytest.raises(ValueError, match="no finished run"):
        contrast({"a": {}, "b": {"r": 1.0}}, {"b": 1, "a": -1}, 0.05)


def test_size_holds_however_benchmarks_correlate_where_pooling_pairs_fails() -> None:
    """Nothing works; seeds move all benchmarks together. The test of suite scores keeps its level, the test
    of (pair x benchmark) differences taken as independent does not."""
    rng, trials, benchmarks, seeds, rho = np.random.default_rng(5), 2000, 6, 3, 0.5
    common = rng.normal(size=(trials, 3, seeds, 1)) * math.sqrt(rho)
    scores = 50 + common + rng.normal(size=(trials, 3, seeds, benchmarks)) * math.sqrt(1 - rho)
    rejected = 0
    for trial in scores.mean(axis=3):
        data = {arm: {f"{arm}{s}": float(trial[arm, s]) for s in range(seeds)} for arm in range(3)}
        rejected += contrast(data, {1: 1, 0: -1}, 0.05).p <= 0.05
    pooled = (scores[:, 1] - scores[:, 0]).reshape(trials, -1)
    naive = float(np.mean(stats.ttest_1samp(pooled, 0, axis=1).pvalue <= 0.05))
    error = 3 * math.sqrt(0.05 * 0.95 / trials)
    assert abs(rejected / trials - 0.05) < error
    assert naive > 0.15
