"""The whole table on simulated scores."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from example_scores import plain, run, scores
from scipy import stats
from statsmodels.stats.multitest import multipletests

from vlmablate.errors import DataError, UserError
from vlmablate.stats.settings import Settings
from vlmablate.stats.table import Analysis


def suite_of(analysis: Analysis, arm: str, context: str = "default") -> pd.Series:
    table = analysis.significance
    row = table[(table["level"] == "design") & (table["benchmark"] == "suite") & (table["arm"] == arm)]
    return row[row["context"] == context].iloc[0]


def test_columns_are_the_contract() -> None:
    expected = (
        "axis arm baseline context level benchmark metric n_examples n_clusters n_seeds delta ci_low ci_high "
        "p p_adjusted family method verdict margin mde unit se df alternative p_equivalence correction floor "
        "new_low new_high design_effect icc tipping_sd"
    )
    assert list(plain().significance.columns) == expected.split()


def test_every_level_is_there_and_every_verdict_is_one_of_four() -> None:
    table = plain().significance
    assert set(table["level"]) == {"design", "items", "checkpoint", "suite"}
    assert set(table["verdict"]) <= {"better", "worse", "equivalent", "unresolved"}
    checkpoints = table[table["level"] == "checkpoint"]
    assert len(checkpoints) == 2 * 3 * 3  # arms x seeds x benchmarks
    assert (checkpoints["n_seeds"] == 1).all()


def test_a_benchmark_without_signal_decides_nothing() -> None:
    loud = scores()
    of_reading = (loud["benchmark"] == "reading") & (loud["arm"] == "other")
    loud.loc[of_reading, "score"] = 1.0
    before, after = plain(), run(loud)
    assert not after.signal["reading"].carries
    pd.testing.assert_series_equal(suite_of(before, "other"), suite_of(after, "other"))
    rows = after.significance[after.significance["benchmark"] == "reading"]
    assert set(rows["verdict"]) == {"unresolved"}
    assert rows["p_adjusted"].isna().all()
    assert rows["family"].str.startswith("no-signal:").all()


def test_without_any_signal_there_is_no_suite() -> None:
    analysis = run(scores(), settings=Settings(signal_margin=60))
    assert analysis.suite_scores.empty
    assert "suite" not in set(analysis.significance["benchmark"])
    assert set(analysis.significance["verdict"]) == {"unresolved"}


def test_suite_contrast_from_first_principles() -> None:
    table = scores(effect=0.1)
    row = suite_of(plain(0.1), "other")
    with_signal = table[table["benchmark"] != "reading"]
    per_run = (
        with_signal.groupby(["arm", "run_id", "benchmark"])["score"].mean().groupby(["arm", "run_id"]).mean()
    )
    groups = {arm: 100 * part for arm, part in per_run.groupby("arm")}
    sd = np.sqrt(np.mean([group.var(ddof=1) for group in groups.values()]))
    delta = groups["other"].mean() - groups["base"].mean()
    assert row["delta"] == pytest.approx(delta)
    assert row["p"] == pytest.approx(2 * stats.t.sf(abs(delta) / (sd * np.sqrt(2 / 3)), 6))
    assert (row["n_examples"], row["n_clusters"], row["n_seeds"]) == (180, 30, 3)


def test_p_values_are_adjusted_within_their_family() -> None:
    table = plain(0.1).significance
    for family, members in table[~table["family"].str.startswith("no-signal")].groupby("family"):
        expected = multipletests(members["p"], method="holm")[1]
        assert members["p_adjusted"].to_numpy() == pytest.approx(expected), family


def test_contexts_are_averaged_for_the_primary_contrast() -> None:
    analysis = run(scores(contexts=("clip", "siglip"), effect=0.1))
    parts = [suite_of(analysis, "other", context) for context in ("clip", "siglip")]
    whole = suite_of(analysis, "other", "(all)")
    assert whole["delta"] == pytest.approx(np.mean([part["delta"] for part in parts]))
    assert whole["family"] == "primary"
    assert {part["family"] for part in parts} == {"contexts"}
    assert whole["ci_high"] - whole["ci_low"] < parts[0]["ci_high"] - parts[0]["ci_low"]


def test_row_order_changes_nothing() -> None:
    table = scores()
    shuffled = table.sample(frac=1, random_state=1, ignore_index=True)
    again = run(shuffled, arms=["base", "other", "third"])
    pd.testing.assert_frame_equal(plain().significance, again.significance)


def test_an_arm_that_is_the_baseline_is_equivalent_at_every_level() -> None:
    table = scores(arms=("base", "third"))
    twin = table[table["arm"] == "base"].assign(arm="twin")
    rows = run(pd.concat([table, twin], ignore_index=True)).significance
    rows = rows[(rows["arm"] == "twin") & ~rows["family"].str.startswith("no-signal")]
    assert (rows["p"] == 1.0).all()
    assert (rows[["delta", "ci_low", "ci_high"]] == 0.0).all(axis=None)
    assert set(rows["verdict"]) == {"equivalent"}


def test_sensitivity_leaves_each_benchmark_out_once() -> None:
    names = set(plain().sensitivity["benchmark"])
    assert names == {"suite of all benchmarks", "suite without counting", "suite without existence"}


def test_a_missing_baseline_leaves_no_contrast() -> None:
    assert run(scores(arms=("other", "third")), arms=("base", "other", "third")).significance.empty


def test_points_instead_of_fractions_are_refused() -> None:
    table = scores()
    table["score"] *= 100
    with pytest.raises(UserError, match="fractions"):
        run(table)


def test_a_benchmark_without_majority_score_counts_as_carrying_signal() -> None:
    signal = run(scores(), majority={"counting": 0.3, "existence": 0.5}).signal["reading"]
    assert signal.carries
    assert np.isnan(signal.majority)


def test_arms_and_contexts_that_were_not_declared_are_refused() -> None:
    with pytest.raises(DataError, match=r"arm\(s\) that axis x does not declare: third"):
        run(scores(), arms=("base", "other"))
    with pytest.raises(DataError, match=r"context\(s\) that axis x does not declare: default"):
        run(scores(), contexts=("clip",))


def test_names_of_the_table_itself_are_refused() -> None:
    table = scores()
    table["benchmark"] = table["benchmark"].replace("reading", "suite")
    with pytest.raises(DataError, match="'suite' is a name of vlmablate's own tables"):
        run(table, metrics=dict.fromkeys(table["benchmark"].unique(), "exact"))


def test_two_runs_of_one_seed_are_refused() -> None:
    table = scores()
    again = table[(table["arm"] == "base") & (table["seed"] == 0)].assign(run_id="again")
    with pytest.raises(DataError, match="same seed 0: again, base-default-0"):
        run(pd.concat([table, again]))


def test_neither_stats_nor_report_import_torch() -> None:
    modules = ["stats.table", "stats.settings"]
    modules += [
        f"report.{name}" for name in ("build", "collect", "page", "figures", "html", "notebook", "caveats")
    ]
    code = "".join(f"import vlmablate.{name}; " for name in modules) + "import sys; "
    code += "assert not {'torch', 'statsmodels'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
