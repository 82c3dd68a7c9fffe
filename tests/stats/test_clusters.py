"""The items level against statsmodels' cluster-robust regression."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm

from vlmablate.errors import UserError
from vlmablate.stats.clusters import cluster_mean, paired_differences


def table(seed: int, scenes: int = 12, per_scene: int = 4, runs: int = 2) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    frames = []
    for run in range(runs):
        n = scenes * per_scene
        frame = pd.DataFrame({"example_id": [f"e{i:03d}" for i in range(n)], "score": rng.random(n)})
        frame["cluster_id"] = [f"s{i // per_scene}" for i in range(n)]
        frames.append(frame.assign(benchmark="vqa", split="test", metric="exact", run_id=f"r{seed}-{run}"))
    return pd.concat(frames, ignore_index=True)


def test_standard_error_is_cr1_with_t_on_clusters_minus_one() -> None:
    rng = np.random.default_rng(0)
    clusters = np.repeat(np.arange(15), rng.integers(1, 7, 15))
    values = rng.normal(size=len(clusters)) + rng.normal(size=15)[clusters]
    model = sm.OLS(values, np.ones(len(values)))
    oracle = model.fit(cov_type="cluster", cov_kwds={"groups": clusters}, use_t=True)
    estimate = cluster_mean(values, clusters.astype(str).astype(object), 0.05)
    assert estimate.delta == pytest.approx(oracle.params[0])
    assert estimate.se == pytest.approx(oracle.bse[0])
    assert estimate.p == pytest.approx(oracle.pvalues[0])
    assert [estimate.ci_low, estimate.ci_high] == pytest.approx(oracle.conf_int()[0].tolist())


def test_pairs_are_formed_by_identity_not_by_row_order() -> None:
    alternate, baseline = table(1), table(2)
    shuffled = alternate.sample(frac=1, random_state=0, ignore_index=True)
    expected = paired_differences(alternate, baseline)
    pd.testing.assert_frame_equal(paired_differences(shuffled, baseline), expected)
    means = [side.groupby("example_id")["score"].mean() for side in (alternate, baseline)]
    assert expected["difference"].to_numpy() == pytest.approx(100 * (means[0] - means[1]).to_numpy())


def test_an_example_on_one_side_only_is_an_error_that_names_it() -> None:
    baseline = table(2)
    baseline = baseline[baseline["example_id"] != "e007"]
    with pytest.raises(UserError, match="vqa/e007"):
        paired_differences(table(1), baseline)


def test_identical_systems_do_not_differ() -> None:
    estimate = cluster_mean(np.zeros(20), np.repeat(np.arange(5), 4).astype(object), 0.05)
    assert (estimate.delta, estimate.p, estimate.ci_low, estimate.ci_high) == (0.0, 1.0, 0.0, 0.0)


def test_a_difference_without_spread_gets_the_sign_flip_bound_not_zero() -> None:
    estimate = cluster_mean(np.full(20, 100.0), np.repeat(np.arange(5), 4).astype(object), 0.05)
    assert estimate.p == 2 / 2**5


def test_one_cluster_is_no_replication() -> None:
    estimate = cluster_mean(np.array([1.0, 2.0]), np.array(["s", "s"], dtype=object), 0.05)
    assert np.isnan(estimate.p)
