"""Every level of the table says what its own test says, on the right runs and examples."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from example_scores import declared, plain, run, scores
from scipy import stats

from vlmablate.errors import DataError
from vlmablate.stats.components import two_component_interval, variance_components
from vlmablate.stats.meta import random_effects
from vlmablate.stats.paired import paired_test
from vlmablate.stats.runs import PooledError, pooled_error
from vlmablate.stats.settings import Settings
from vlmablate.stats.table import Analysis, significance


def row(analysis: Analysis, level: str, arm: str, benchmark: str = "suite", **more: Any) -> pd.Series:
    table = analysis.significance
    wanted = {"level": level, "arm": arm, "benchmark": benchmark, **more}
    found = table[np.logical_and.reduce([table[name] == value for name, value in wanted.items()])]
    assert len(found) == 1, (wanted, len(found))
    return found.iloc[0]


def matrix(table: pd.DataFrame, arm: str, benchmark: str) -> tuple[np.ndarray, np.ndarray]:
    """Scores of the arm's runs in points [runs, n] and the cluster of each example [n]."""
    part = table[(table["arm"] == arm) & (table["benchmark"] == benchmark)]
    wide = part.pivot(index="seed", columns="example_id", values="score")
    clusters = part.drop_duplicates("example_id").set_index("example_id")["cluster_id"]
    return 100 * wide.to_numpy(), clusters.loc[wide.columns].to_numpy()


def run_means(
    table: pd.DataFrame, names: tuple[str, ...] = ("counting", "existence")
) -> dict[str, np.ndarray]:
    arms = dict.fromkeys(table["arm"])
    return {
        arm: np.mean([matrix(table, arm, name)[0].mean(axis=1) for name in names], axis=0) for arm in arms
    }


def cells_error(table: pd.DataFrame, names: tuple[str, ...]) -> PooledError:
    return pooled_error(run_means(table, names).values())


def test_items_are_the_exact_paired_test_of_seed_averaged_scores() -> None:
    table, analysis = scores(effect=0.1), plain(0.1)
    a, clusters = matrix(table, "other", "counting")
    b, _ = matrix(table, "base", "counting")
    test = paired_test(a.mean(axis=0), b.mean(axis=0), clusters)
    found = row(analysis, "items", "other", "counting")
    assert (found["p"], found["delta"]) == (pytest.approx(test.p), pytest.approx(test.delta))
    assert (found["ci_low"], found["ci_high"]) == pytest.approx(test.ci)
    assert (found["design_effect"], found["icc"]) == pytest.approx((test.design_effect, test.icc))
    assert found["unit"] == "cluster of examples"


def test_items_of_the_suite_weigh_benchmarks_equally() -> None:
    table, analysis = scores(effect=0.1), plain(0.1)
    found = row(analysis, "items", "other")
    means = run_means(table)
    assert found["delta"] == pytest.approx(means["other"].mean() - means["base"].mean())
    assert (found["family"], found["n_examples"], found["n_clusters"]) == ("items:suite:default", 180, 30)


def test_a_checkpoint_row_compares_two_runs_of_one_seed() -> None:
    table, analysis = scores(effect=0.1), plain(0.1)
    a, clusters = matrix(table, "other", "existence")
    b, _ = matrix(table, "base", "existence")
    test = paired_test(a[1], b[1], clusters, interval="flips")
    found = row(analysis, "checkpoint", "other", "existence", family="checkpoint:other:default:seed=1")
    assert (found["p"], found["ci_low"], found["ci_high"]) == pytest.approx((test.p, *test.ci))


def test_the_suite_level_is_random_effects_over_benchmarks() -> None:
    table, analysis = scores(effect=0.1), plain(0.1)
    deltas, ses = [], []
    for name in ("counting", "existence"):
        (a, clusters), (b, _) = matrix(table, "other", name), matrix(table, "base", name)
        both = two_component_interval(a, b, clusters, error=cells_error(table, (name,)))
        deltas.append(both.delta)
        ses.append(both.se)
        of_benchmark = row(analysis, "design", "other", name)
        assert (of_benchmark["new_low"], of_benchmark["new_high"]) == pytest.approx(both.ci)
    effect = random_effects(deltas, ses)
    found = row(analysis, "suite", "other")
    assert (found["delta"], found["p"], found["se"]) == pytest.approx((effect.delta, effect.p, effect.se))
    assert (found["new_low"], found["new_high"]) == pytest.approx(effect.prediction)


def test_related_benchmarks_count_as_one_at_the_suite_level() -> None:
    families = {"counting": "relatives", "existence": "relatives"}
    found = row(run(scores(), families=families), "suite", "other")
    assert math.isnan(found["p"])
    assert "one benchmark family" in found["method"]


def test_many_seeds_are_permuted_and_few_are_not() -> None:
    table = scores(arms=("base", "other"), seeds=range(6))
    found = row(run(table), "design", "other")
    # In right answers the scores are whole, so that scipy sees ties as ties.
    right = {arm: np.rint(1.8 * means) for arm, means in run_means(table).items()}
    oracle = stats.permutation_test(
        (right["other"], right["base"]), lambda x, y: x.sum() - y.sum(), n_resamples=10_000
    )
    assert found["method"] == "exact permutation of 6 and 6 seeds, 924 arrangements"
    assert found["p"] == pytest.approx(oracle.pvalue)
    assert found["floor"] == pytest.approx(2 / 924)
    assert row(plain(), "design", "other")["method"].startswith("t over seeds, error pooled over 3 cells")


def test_paired_seeds_are_compared_pair_by_pair() -> None:
    table = scores(arms=("base", "other"), seeds=(0, 1, 2, 3))
    table = table[~((table["arm"] == "other") & (table["seed"] == 3))]
    found = row(run(table, settings=Settings(paired_seeds=True)), "design", "other")
    means = run_means(table)
    assert found["p"] == pytest.approx(stats.ttest_rel(means["other"], means["base"][:3]).pvalue)
    assert math.isnan(found["new_low"])


def test_paired_seeds_without_a_common_seed_give_no_test() -> None:
    table = scores(arms=("base", "other"), seeds=(0, 1))
    table["seed"] += 10 * (table["arm"] == "other")
    found = row(run(table, settings=Settings(paired_seeds=True)), "design", "other")
    assert math.isnan(found["p"])
    assert "share none" in found["method"]
    assert found["verdict"] == "unresolved"


def test_one_seed_gives_the_tipping_sd_and_items_still_speak() -> None:
    analysis = run(scores(arms=("base", "other"), seeds=(0,), effect=0.2))
    found = row(analysis, "design", "other")
    assert math.isnan(found["p"])
    assert (found["verdict"], found["df"]) == ("unresolved", 0)
    assert found["tipping_sd"] == pytest.approx(abs(found["delta"]) / (1.959964 * math.sqrt(2)))
    assert row(analysis, "items", "other")["p"] < 0.05
    assert analysis.mde_curve.empty


@pytest.mark.parametrize("alternative", ["greater", "less"])
def test_a_declared_direction_holds_at_every_level(alternative: Any) -> None:
    one_sided = run(scores(effect=0.1), settings=Settings(alternative=alternative)).significance
    two_sided = plain(0.1).significance
    assert set(one_sided["alternative"]) == {alternative}
    rows = one_sided["level"] == "design"
    halves = two_sided["p"][rows] / 2
    expected = np.where((two_sided["delta"][rows] > 0) == (alternative == "greater"), halves, 1 - halves)
    assert one_sided["p"][rows].to_numpy() == pytest.approx(expected)
    items = one_sided["level"] == "items"
    favoured = (two_sided["delta"] > 0) == (alternative == "greater")
    assert (one_sided["p"][items & favoured] <= two_sided["p"][items & favoured]).all()


def test_the_declared_correction_is_used_and_named() -> None:
    table = run(scores(effect=0.1), settings=Settings(correction="bh")).significance
    assert set(table["correction"]) == {"bh"}
    family = table[table["family"] == "design:other:default"]
    assert family["p_adjusted"].to_numpy() == pytest.approx(stats.false_discovery_control(family["p"]))


def test_contexts_that_share_their_runs_do_not_differ_there() -> None:
    table = scores(arms=("base", "other"), contexts=("clip", "siglip"), effect=0.1)
    twin = table[(table["arm"] == "base") & (table["context"] == "siglip")].assign(arm="other")
    table = pd.concat([table[~((table["arm"] == "other") & (table["context"] == "siglip"))], twin])
    analysis = run(table)
    same = row(analysis, "design", "other", context="siglip")
    apart = row(analysis, "design", "other", context="clip")
    whole = row(analysis, "design", "other", context="(all)")
    assert (same["delta"], same["p"], same["verdict"]) == (0.0, 1.0, "equivalent")
    assert (whole["delta"], whole["se"]) == pytest.approx((apart["delta"] / 2, apart["se"] / 2))
    assert whole["p"] == pytest.approx(apart["p"])
    assert "1 of 2 contexts have the same runs in both arms" in whole["method"]
    assert analysis.cells == 3


def test_pairs_of_arms() -> None:
    analysis = plain(0.1)
    pairs, table = analysis.pairwise, analysis.significance
    assert list(pairs["level"]) == ["design"] * 3 + ["items"] * 3
    of_design = pairs[(pairs["level"] == "design") & (pairs["arm_a"] == "base")].set_index("arm_b")
    for arm in ("other", "third"):
        contrast = row(analysis, "design", arm)
        assert of_design.loc[arm, "delta"] == pytest.approx(-contrast["delta"])
        assert of_design.loc[arm, "p"] == pytest.approx(contrast["p"])
        assert of_design.loc[arm, "ci_low"] == pytest.approx(-contrast["ci_high"])
    of_items = pairs[(pairs["level"] == "items") & (pairs["arm_a"] == "base")].set_index("arm_b")
    exact = table[(table["level"] == "items") & (table["benchmark"] == "suite")].set_index("arm")
    for name, end in (("ci_low", "ci_high"), ("ci_high", "ci_low"), ("delta", "delta")):
        assert of_items[name].to_numpy() == pytest.approx(-exact[end].to_numpy()), name
    assert of_items["p"].to_numpy() == pytest.approx(
        exact["p"].to_numpy(), abs=0.01
    )  # flips against the exact law
    assert (pairs["p_adjusted"] >= pairs["p"] - 1e-12).all()


def test_components_of_a_benchmark_are_those_of_its_cells() -> None:
    table, analysis = scores(effect=0.1), plain(0.1)
    cells = [matrix(table, arm, "counting")[0] for arm in ("base", "other", "third")]
    parted = variance_components(cells, matrix(table, "base", "counting")[1])
    found = analysis.components.set_index("benchmark").loc["counting"]
    assert (found["seed_sd"], found["item_sd"]) == pytest.approx((parted.seed_sd, parted.item_sd))
    assert found["design_effect"] == pytest.approx(1 + 2 * parted.icc)  # three examples per cluster
    assert list(analysis.components["benchmark"]) == ["suite", "counting", "existence", "reading"]


def test_the_seed_component_of_the_suite_leaves_out_the_finite_number_of_questions() -> None:
    analysis = plain(0.1)
    suite = analysis.components.set_index("benchmark").loc["suite"]
    assert 0 <= suite["seed_sd"] < analysis.seed_sd


def test_runs_of_the_baseline_are_compared_with_each_other() -> None:
    table, null = scores(), plain().null_p
    base, clusters = matrix(table, "base", "existence")
    found = null[(null["benchmark"] == "existence") & (null["seed_a"] == 0) & (null["seed_b"] == 2)]
    assert found["p"].item() == pytest.approx(paired_test(base[0], base[2], clusters).p)
    assert len(null) == 3 * 2


def test_the_table_alone_is_the_table_of_the_analysis() -> None:
    table = scores()
    pd.testing.assert_frame_equal(significance(table, declared(table)), plain().significance)


def test_missing_examples_are_named() -> None:
    table = scores()
    gone = (table["run_id"] == "other-default-1") & table["example_id"].isin(["counting7", "reading3"])
    with pytest.raises(
        DataError, match=r"missing in arm other, context default, seed 1: counting/counting7, read"
    ):
        run(table[~gone])


def degenerate(change: Any) -> pd.DataFrame:
    return run(scores(arms=("base", "other"), effect=0.1).pipe(change)).significance


def test_one_picture_behind_everything_is_no_replication_of_pictures() -> None:
    table = degenerate(lambda rows: rows.assign(cluster_id="the only one"))
    items = table[table["level"] == "items"]
    assert items["se"].isna().all()
    assert (items["p"] == 1.0).all()  # one sign to flip: both flips are as extreme
    assert table.loc[table["level"] == "design", "p"].notna().all()
    assert table.loc[table["level"] == "design", "new_low"].isna().all()


def test_seeds_that_change_nothing_are_no_replication_of_training() -> None:
    def repeated(rows: pd.DataFrame) -> pd.DataFrame:
        first = rows[rows["seed"] == 0]
        return pd.concat([first.assign(seed=s, run_id=first["run_id"] + f"/{s}") for s in (0, 1, 2)])

    table = degenerate(repeated)
    design = table[(table["level"] == "design") & (table["benchmark"] == "suite")].iloc[0]
    assert math.isnan(design["p"])
    assert design["verdict"] == "unresolved"
    assert "no replication" in design["method"]


def test_arms_with_the_same_scores_everywhere_are_equivalent() -> None:
    table = degenerate(lambda rows: rows.assign(score=0.9))
    deciding = table[~table["family"].str.startswith("no-signal")]
    assert (deciding["p"] == 1.0).all()
    assert set(deciding["verdict"]) == {"equivalent"}


def test_scores_that_are_not_numbers_are_refused() -> None:
    with pytest.raises(DataError, match="not finite"):
        degenerate(lambda rows: rows.assign(score=rows["score"].where(rows.index != 5)))
