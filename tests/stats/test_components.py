"""The two-component interval against its formula written out, its parts against their own tests, its coverage;
and the variance components against analysis of variance by hand and simulated truth."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from vlmablate.errors import DataError
from vlmablate.stats.components import TwoComponent, two_component_interval, variance_components
from vlmablate.stats.groups import cluster_mean
from vlmablate.stats.runs import PooledError, design_test


def written_out(a: Any, b: Any, clusters: Any, benchmarks: Any) -> dict[str, float]:
    """The formulas of the docstring with loops over runs, clusters, benchmarks and examples."""
    n, names = a.shape[1], sorted(set(benchmarks))
    members = {name: [i for i in range(n) if benchmarks[i] == name] for name in names}
    w = [1 / (len(names) * len(members[benchmarks[i]])) for i in range(n)]
    groups = {g: [i for i in range(n) if clusters[i] == g] for g in set(clusters)}
    correction = len(groups) / (len(groups) - 1)

    def squared_sums(x: Any) -> float:
        means = {name: np.mean([x[i] for i in members[name]]) for name in names}
        return sum(sum(w[i] * (x[i] - means[benchmarks[i]]) for i in rows) ** 2 for rows in groups.values())

    difference = a.mean(axis=0) - b.mean(axis=0)
    df, inverse = len(a) + len(b) - 2, 1 / len(a) + 1 / len(b)
    seed = interaction = 0.0
    for scores in (a, b):
        totals = scores @ np.array(w)
        seed += float(np.sum((totals - totals.mean()) ** 2)) / df * inverse
        for run in scores:
            interaction += correction * squared_sums(run - scores.mean(axis=0)) / df * inverse
    item = correction * squared_sums(difference)
    return {
        "delta": float(np.mean([difference[members[name]].mean() for name in names])),
        "seed_variance": seed,
        "item_variance": item,
        "interaction_variance": interaction,
    }


def random_case(seed: int, runs: tuple[int, int] = (3, 2), n: int = 40) -> tuple[Any, Any, Any, Any]:
    rng = np.random.default_rng(seed)
    clusters = rng.integers(0, 9, n)
    picture = rng.normal(0, 1, 9)[clusters]
    a = rng.normal(0.2, 1, (runs[0], n)) + rng.normal(0, 0.5, (runs[0], 1)) + picture
    b = rng.normal(0.0, 1, (runs[1], n)) + rng.normal(0, 0.5, (runs[1], 1))
    return a, b, clusters, np.array(["x", "y", "z"])[rng.integers(0, 3, n)]


def test_contexts_are_averaged_and_deviations_stay_within_their_cell() -> None:
    first, second = random_case(1, (3, 3)), random_case(2, (3, 3))
    clusters, benchmarks = first[2], first[3]
    far = second[0] + 20 * np.random.default_rng(9).normal(
        size=40
    )  # a context may score examples quite differently
    found = two_component_interval([first[0], far], [first[1], second[1]], clusters, benchmarks=benchmarks)
    each = [
        two_component_interval(a, b, clusters, benchmarks=benchmarks)
        for a, b in ((first[0], first[1]), (far, second[1]))
    ]
    assert found.delta == pytest.approx(np.mean([one.delta for one in each]))
    # With equally many runs everywhere a pooled variance is the mean of the cells', and 1/S is halved.
    assert found.seed_variance == pytest.approx(np.mean([one.seed_variance for one in each]) / 2)
    assert found.interaction_variance == pytest.approx(
        np.mean([one.interaction_variance for one in each]) / 2
    )
    mean = (first[0].mean(axis=0) - first[1].mean(axis=0) + far.mean(axis=0) - second[1].mean(axis=0)) / 2
    assert found.item_variance == pytest.approx(cluster_mean(mean, clusters, benchmarks).se ** 2)
    assert found.method.startswith("6 and 6 runs x ")
    alone = two_component_interval([first[0]], [first[1]], clusters, benchmarks=benchmarks)
    assert alone == two_component_interval(first[0], first[1], clusters, benchmarks=benchmarks)
    with pytest.raises(DataError, match="every context needs both arms, got 2 of the alternate and 1"):
        two_component_interval([first[0], far], [first[1]], clusters)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("runs", [(3, 2), (1, 4), (5, 5)])
def test_the_formula_written_out(seed: int, runs: tuple[int, int]) -> None:
    a, b, clusters, benchmarks = random_case(seed, runs)
    ours = two_component_interval(a, b, clusters, benchmarks=benchmarks)
    for name, value in written_out(a, b, clusters, benchmarks).items():
        assert getattr(ours, name) == pytest.approx(value), name
    seed_part, item, shared = ours.seed_variance, ours.item_variance, ours.interaction_variance
    assert ours.se**2 == pytest.approx(item + max(seed_part - shared, 0))
    seed_df, item_df = sum(runs) - 2, len(set(clusters)) - 1
    satterthwaite = ours.se**4 / (seed_part**2 / seed_df + item**2 / item_df)
    expected = max(satterthwaite, min(seed_df, item_df)) if seed_part > shared else item_df
    assert ours.df == pytest.approx(expected)
    half_width = stats.t.isf(0.025, ours.df) * ours.se
    assert ours.ci == pytest.approx((ours.delta - half_width, ours.delta + half_width))
    assert f"{runs[0]} and {runs[1]} runs x {len(set(clusters))} clusters" in ours.method


def test_labels_only_group() -> None:
    a, b, clusters, benchmarks = random_case(1)
    reference = two_component_interval(a, b, clusters, benchmarks=benchmarks)
    renamed = np.array([f"picture {c}" for c in clusters])
    assert two_component_interval(a, b, renamed, benchmarks=benchmarks).ci == pytest.approx(reference.ci)
    order = np.random.default_rng(0).permutation(a.shape[1])
    shuffled = two_component_interval(a[:, order], b[:, order], clusters[order], benchmarks=benchmarks[order])
    assert shuffled.ci == pytest.approx(reference.ci)
    points = two_component_interval(100 * a, 100 * b, clusters, benchmarks=benchmarks)
    assert points.ci == pytest.approx(tuple(100 * limit for limit in reference.ci))
    mirrored = two_component_interval(b, a, clusters, benchmarks=benchmarks)
    assert mirrored.ci == pytest.approx((-reference.ci[1], -reference.ci[0]))


def test_the_parts_are_those_of_the_one_way_tests() -> None:
    a, b, clusters, benchmarks = random_case(2, (4, 4))
    ours = two_component_interval(a, b, clusters, benchmarks=benchmarks)
    items = cluster_mean(a.mean(axis=0) - b.mean(axis=0), clusters, benchmarks)
    assert (ours.delta, math.sqrt(ours.item_variance)) == (
        pytest.approx(items.delta),
        pytest.approx(items.se),
    )

    def suite(scores: Any) -> Any:
        return np.mean([scores[:, benchmarks == name].mean(axis=1) for name in "xyz"], axis=0)

    seeds = design_test(suite(a), suite(b), method="t")
    assert (ours.delta, math.sqrt(ours.seed_variance)) == (
        pytest.approx(seeds.delta),
        pytest.approx(seeds.se),
    )
    assert ours.se >= items.se


def test_an_error_pooled_over_more_cells() -> None:
    a, b, clusters, _ = random_case(3, (2, 2))
    error = PooledError(0.7, 12, 8)
    ours = two_component_interval(a, b, clusters, error=error)
    assert ours.seed_variance == pytest.approx(0.49)
    assert "run error pooled over 8 cells" in ours.method
    single = two_component_interval(a[:1], b[:1], clusters, error=error)
    assert math.isnan(single.interaction_variance)
    assert single.se**2 == pytest.approx(single.seed_variance + single.item_variance)


def test_nothing_to_estimate_from() -> None:
    a, b, clusters, _ = random_case(4, (1, 1))
    for ours, why in (
        (two_component_interval(a, b, clusters), "one run per arm"),
        (two_component_interval(a, b, clusters, error=PooledError(math.nan, 0, 2)), "one run per arm"),
        (two_component_interval(a, b, np.zeros(40)), "one cluster"),
        (two_component_interval(np.ones((2, 4)), np.zeros((2, 4))), "neither runs nor clusters"),
    ):
        assert math.isnan(ours.se)
        assert math.isnan(ours.ci[0])
        assert ours.df == 0
        assert ours.method.startswith("no interval")
        assert why in ours.method
    assert two_component_interval(a, b, clusters).item_variance > 0
    same = two_component_interval(np.tile(a, (3, 1)), np.tile(a, (2, 1)), clusters)
    assert (same.delta, same.se, same.ci) == (0.0, 0.0, (0.0, 0.0))


def test_refusals() -> None:
    good = np.ones((2, 3))
    with pytest.raises(DataError, match="different examples: 3 and 4"):
        two_component_interval(good, np.ones((2, 4)))
    bad = good.copy()
    bad[1, 2] = math.nan
    with pytest.raises(
        DataError, match="baseline: 1 of 6 values are not finite, the first in run 1, column 2"
    ):
        two_component_interval(good, bad)
    with pytest.raises(DataError, match="cluster labels have shape"):
        two_component_interval(good, good, [1, 2])
    with pytest.raises(DataError, match="a row per run"):
        two_component_interval([1.0, 2.0], good)
    with pytest.raises(DataError, match="alpha"):
        two_component_interval(good, good, alpha=1.0)
    with pytest.raises(DataError, match="at least two clusters, got 1"):
        variance_components(good, [7, 7, 7])
    with pytest.raises(DataError, match="scores of cell 1: expected 3 columns"):
        variance_components([good, np.ones((2, 4))])
    with pytest.raises(DataError, match="at least one run"):
        variance_components([])


# coverage for new seeds and new pictures


def draws(
    rng: np.random.Generator, runs: int, seed: float, interaction: float, item: float, benchmarks: int
) -> TwoComponent:
    """One study of 200 pictures, two questions on each per benchmark, whose true difference is 0. seed,
    interaction, item: variances of delta from each source, with `runs` runs per arm; single answers have noise
    besides."""
    pictures, questions = 200, 2 * benchmarks
    clusters = np.repeat(np.arange(pictures), questions)
    names = np.tile(np.repeat(np.arange(benchmarks), 2), pictures)
    n, per_run = pictures * questions, runs / 2

    def arm() -> Any:
        own = rng.normal(0, math.sqrt(seed * per_run), (runs, 1))
        lucky = rng.normal(0, math.sqrt(interaction * per_run * pictures), (runs, pictures))[:, clusters]
        return own + lucky + rng.normal(0, 0.3 * math.sqrt(interaction * n), (runs, n))

    liked = rng.normal(0, math.sqrt(item * pictures), pictures)[clusters]
    return two_component_interval(arm() + liked, arm(), clusters, benchmarks=names)


def coverage(runs: int, sources: tuple[float, float, float], benchmarks: int, repetitions: int) -> float:
    rng = np.random.default_rng((runs, benchmarks, repetitions))
    tests = [draws(rng, runs, *sources, benchmarks) for _ in range(repetitions)]
    return float(np.mean([test.ci[0] <= 0 <= test.ci[1] for test in tests]))


def test_coverage_quickly() -> None:
    found = coverage(3, (1.0, 0.3, 1.0), 2, 600)
    assert abs(found - 0.95) < 3.5 * math.sqrt(0.95 * 0.05 / 600)


# (variance from seeds, from runs x pictures, from pictures): the smallest and largest coverage that is right
REGIMES = {
    "seeds alone": ((1.0, 0.02, 0.02), (0.94, 0.96)),
    "pictures alone": ((0.02, 0.02, 1.0), (0.94, 0.96)),
    "both": ((1.0, 0.05, 1.0), (0.94, 0.96)),
    "interaction as large as either": ((1.0, 1.0, 1.0), (0.94, 0.96)),
    "large interaction": ((0.5, 1.0, 0.5), (0.94, 0.962)),
    "large interaction and seeds": ((1.0, 1.0, 0.05), (0.94, 0.96)),
    "large interaction and pictures": ((0.05, 1.0, 3.0), (0.94, 0.965)),
    "interaction alone": ((0.0, 1.0, 0.0), (0.95, 0.98)),  # variances are not let below 0
}


@pytest.mark.slow
@pytest.mark.parametrize("runs", [3, 5])
@pytest.mark.parametrize("benchmarks", [1, 3])
@pytest.mark.parametrize("regime", REGIMES)
def test_coverage_for_new_seeds_and_new_pictures(runs: int, benchmarks: int, regime: str) -> None:
    sources, (lowest, highest) = REGIMES[regime]
    repetitions = 4000
    error = 2.5 * math.sqrt(0.95 * 0.05 / repetitions)
    assert lowest - error < coverage(runs, sources, benchmarks, repetitions) < highest + error


def test_the_interval_of_seeds_alone_does_not_cover_new_pictures() -> None:
    """What the second component is for."""
    rng = np.random.default_rng(7)
    clusters = np.arange(100)
    covered = []
    for _ in range(300):
        liked = rng.normal(0, 1, 100)
        a, b = rng.normal(0, 0.1, (2, 5, 1)) + rng.normal(0, 0.1, (2, 5, 100))
        a = a + liked
        low, high = design_test(a.mean(axis=1), b.mean(axis=1), method="t").ci
        both = two_component_interval(a, b, clusters).ci
        covered.append((low <= 0 <= high, both[0] <= 0 <= both[1]))
    alone, both = np.mean(covered, axis=0)
    assert alone < 0.85
    assert both > 0.91


# variance components


def test_components_of_a_balanced_cell_by_hand() -> None:
    """Runs x clusters x 3 examples: the classical mean squares, written out."""
    rng = np.random.default_rng(11)
    runs, count, size = 4, 12, 3
    x = (
        rng.normal(0, 1, (runs, count, size))
        + rng.normal(0, 1, (1, count, 1))
        + rng.normal(0, 0.5, (runs, 1, 1))
    )
    item_mean, cluster_mean_, run_mean, grand = x.mean(0), x.mean((0, 2)), x.mean((1, 2)), x.mean()
    ms_c = runs * size * np.sum((cluster_mean_ - grand) ** 2) / (count - 1)
    ms_i = runs * np.sum((item_mean - cluster_mean_[:, None]) ** 2) / (count * (size - 1))
    residual = x - run_mean[:, None, None] - item_mean + grand
    ms_ri = np.sum(residual**2) / ((runs - 1) * (count * size - 1))
    per_cluster = np.sum(residual.mean(axis=2) ** 2) / count / (count - 1) / (runs - 1)
    clusters = np.repeat(np.arange(count), size)
    ours = variance_components(x.reshape(runs, -1), clusters)
    assert ours.item_sd**2 == pytest.approx((ms_c - ms_i) / (runs * size))
    assert ours.residual_sd**2 == pytest.approx((ms_i - ms_ri) / runs + ms_ri)
    assert ours.seed_sd**2 == pytest.approx(np.var(run_mean, ddof=1) - per_cluster)
    assert ours.icc == pytest.approx(ours.item_sd**2 / (ours.item_sd**2 + ours.residual_sd**2))


def test_components_recover_the_truth() -> None:
    rng = np.random.default_rng(12)
    runs, count = 40, 1500
    clusters = np.repeat(np.arange(count), rng.integers(1, 6, count))
    n = len(clusters)

    def cell() -> Any:
        picture, question = rng.normal(0, 0.5, count)[clusters], rng.normal(0, 0.6, n)
        return 50 + rng.normal(0, 0.2, (runs, 1)) + picture + question + rng.normal(0, 0.8, (runs, n))

    ours = variance_components([cell(), cell()], clusters)
    assert ours.seed_sd == pytest.approx(0.2, rel=0.25)
    assert ours.item_sd == pytest.approx(0.5, rel=0.06)
    assert ours.residual_sd == pytest.approx(1.0, rel=0.02)
    assert ours.icc == pytest.approx(0.2, rel=0.1)
    one_run = variance_components(cell()[:1], clusters)
    assert math.isnan(one_run.seed_sd)
    assert one_run.item_sd == pytest.approx(0.5, rel=0.15)
    assert one_run.residual_sd == pytest.approx(1.0, rel=0.05)


def test_components_without_clusters_and_without_seed_effect() -> None:
    rng = np.random.default_rng(13)
    scores = rng.normal(0, 0.6, 4000) + rng.normal(0, 0.8, (5, 4000))
    ours = variance_components(scores)
    assert ours.item_sd == pytest.approx(0.6, rel=0.05)
    assert ours.residual_sd == pytest.approx(0.8, rel=0.05)
    assert ours.seed_sd < 0.02  # the spread of the runs' means is their finite number of examples
    alone = variance_components(scores[:1])
    assert all(math.isnan(value) for value in (alone.seed_sd, alone.item_sd, alone.residual_sd, alone.icc))
    flat = variance_components(np.full((3, 10), 0.5), np.repeat(np.arange(5), 2))
    assert (flat.seed_sd, flat.item_sd, flat.residual_sd) == (0.0, 0.0, 0.0)
    assert math.isnan(flat.icc)
