"""What a report must never do, one test per rule."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from reported import SHAPES, Built
from synthetic_study import design, long_table

import vlmablate
from vlmablate.errors import DataError
from vlmablate.report import formatting as fmt
from vlmablate.report import notes
from vlmablate.report.pairs import pairs
from vlmablate.report.sections import outlook, primary_rows
from vlmablate.report.sentences import suite_sentence, verdict_sentence, verdict_sentences
from vlmablate.stats.flips import LOG2_FLIPS
from vlmablate.stats.improvement import probability_of_improvement
from vlmablate.stats.maxt import max_t
from vlmablate.stats.paired import paired_test
from vlmablate.stats.table import Analysis, analyse


@lru_cache
def three_arms() -> tuple[pd.DataFrame, Analysis]:
    """A table of three arms, analysed once for all tests that only read it."""
    table = long_table(("letterbox", "resize_naive", "resize_crop"), effects={"resize_naive": -0.35})
    return table, analyse(table, design(table))


def sentences(analysis: Analysis) -> list[str]:
    return verdict_sentences(primary_rows(analysis), outlook(analysis, "sweep", True))


def test_01_no_p_is_zero_or_below_what_its_resamples_can_give() -> None:
    """A p-value is never 0, and m resamples never give less than 1 / m."""
    rng = np.random.default_rng(0)
    a, b = rng.uniform(0.6, 1.0, 400), rng.uniform(0.0, 0.4, 400)  # every picture speaks for a
    flipped = paired_test(a, b)
    assert "subgroup" in flipped.method
    assert flipped.p >= flipped.floor >= 2.0**-LOG2_FLIPS
    found = max_t(np.stack([a, b, rng.uniform(size=400)]))
    assert (found.p >= 1 / found.flips).all()
    assert (found.p_adjusted >= found.p).all()
    exact = paired_test(np.ones(5000), np.zeros(5000))
    assert exact.p > 0
    assert fmt.p_value(exact.p) == "<0.0001"
    _, analysis = three_arms()
    for table in (analysis.significance, analysis.sensitivity, analysis.pairwise):
        assert (table["p"].dropna() > 0).all()
    assert (analysis.significance["p"].dropna() >= analysis.significance["floor"].dropna()).all()


def test_02_identical_outputs_are_not_different() -> None:
    """Two arms with the same answers get p = 1 at every level: not significant, and not nan."""
    table = long_table(("letterbox",))
    copy = table.assign(arm="copy", run_id="c" + table["run_id"])
    analysis = analyse(pd.concat([table, copy]), design(pd.concat([table, copy])))
    rows = analysis.significance
    assert set(rows["level"]) == {"design", "items", "checkpoint", "suite"}
    assert (rows["p"] == 1).all()
    assert (rows["delta"] == 0).all()
    assert ((rows["ci_low"] <= 0) & (rows["ci_high"] >= 0)).all()
    assert set(rows["verdict"]) <= {"equivalent", "unresolved"}
    assert (analysis.pairwise["p"] == 1).all()
    assert (analysis.improvement["p_improvement"] == 0.5).all()


def test_03_benchmarks_of_one_run_are_not_repetitions() -> None:
    """The same benchmark eight times is no more evidence than once: a run is one unit however often it is scored."""
    table = long_table(effects={"resize_naive": -0.1})
    one = table[table["benchmark"] == "counting"]
    many = pd.concat([one.assign(benchmark=f"counting_{i}") for i in range(8)])
    single, pooled = (
        analyse(part, design(part)).significance.query("family == 'primary'").iloc[0] for part in (one, many)
    )
    for column in ("delta", "ci_low", "ci_high", "p", "df", "new_low", "new_high"):
        assert pooled[column] == pytest.approx(single[column], rel=1e-9)
    assert pooled["df"] == 2 * (3 - 1)  # runs minus cells


def test_04_no_claim_from_one_seed_without_its_tipping_sd(shape: Callable[[str], Built]) -> None:
    """With one training per arm no claim about the design is made; the seed SD that would overturn it is told."""
    table = shape("one seed").table()
    rows = table[table["level"] == "design"]
    assert rows["p"].isna().all()
    assert set(rows["verdict"]) == {"unresolved"}
    told = [
        re.search(r"SD of more than ([\d.]+) points \(tipping seed SD\)", s)
        for s in shape("one seed").answer["verdicts"]
    ]
    expected = [fmt.points(value) for value in table.loc[table["family"] == "primary", "tipping_sd"]]
    assert [found[1] for found in told if found] == expected
    several = long_table(("letterbox",), seeds=range(4))
    once = long_table(("resize_naive",), seeds=(0,), effects={"resize_naive": -0.4})
    (claim,) = sentences(analyse(pd.concat([several, once]), design(pd.concat([several, once]))))
    assert "falls short" in claim
    assert "was trained once" in claim
    assert "tipping seed SD" in claim


def test_05_no_test_is_chosen_by_the_scores() -> None:
    """Method, direction and family follow from the declaration and the numbers of runs, whatever the scores are."""
    table, analysis = three_arms()
    rng = np.random.default_rng(1)
    other = table.assign(score=(rng.random(len(table)) < 0.9 * rng.random(len(table))).astype(float))
    # The baseline's scores stay: they say which benchmarks carry signal.
    other.loc[table["arm"] == "letterbox", "score"] = table.loc[table["arm"] == "letterbox", "score"]
    redone = analyse(other, design(other))
    for one, two in ((analysis.significance, redone.significance), (analysis.pairwise, redone.pairwise)):
        columns = [
            name for name in ("level", "arm", "benchmark", "family", "alternative", "n_seeds") if name in one
        ]
        assert one[columns].equals(two[columns])
        rule = [table["method"].str.replace(r"\d+ of them not tied", "", regex=True) for table in (one, two)]
        assert rule[0].tolist() == rule[1].tolist()
    assert set(analysis.significance["alternative"]) == {"two-sided"}
    greater = analyse(table, design(table, alternative="greater")).significance
    two_sided, one_sided = (
        rows.query("family == 'primary'").iloc[0] for rows in (analysis.significance, greater)
    )
    assert two_sided["delta"] < 0
    assert one_sided["p"] == pytest.approx(1 - two_sided["p"] / 2)  # the declared side, not the better one


@pytest.mark.parametrize("name", SHAPES)
def test_06_not_significant_is_never_called_no_difference(name: str, shape: Callable[[str], Built]) -> None:
    """A large p is unresolved unless a test of equivalence says more."""
    text = shape(name).reader.text.lower()
    assert not re.search(
        r"no (significant )?(difference|effect)\b|does not matter|are the same\b|makes no difference", text
    )
    for sentence in shape(name).answer["verdicts"]:
        if sentence.startswith("Unresolved") and "without a p-value" not in sentence:
            assert "neither a difference nor equivalence" in sentence
    table = shape(name).table()
    claimed = table[table["verdict"] == "equivalent"]
    assert (claimed["p_equivalence"] <= 0.1).all()
    assert (claimed["delta"].abs() < claimed["margin"]).all()


def test_06_arms_that_share_a_letter_are_not_called_equal() -> None:
    """Arms that cannot be told apart are said to be just that."""
    _, analysis = three_arms()
    for found in pairs(analysis):
        sentence = notes.groups_sentence(found, 1)
        assert "not evidence of equality" in sentence or "all arms are told apart" in sentence


@pytest.mark.parametrize("name", SHAPES)
def test_07_no_p_stands_alone(name: str, shape: Callable[[str], Built]) -> None:
    """Every p comes with the difference, its interval, the unit and its number, the family and the adjusted p."""
    built = shape(name)
    columns: dict[str, set[str]] = {}
    for key, column, _ in built.reader.cells:
        columns.setdefault(key, set()).add(column)
    for key, named in columns.items():
        if "p" in named:
            assert named >= {"delta", "interval", "p_adjusted"}, key
    table = built.table()
    tested = table[table["p"].notna()]
    assert (
        tested[["delta", "unit", "n_examples", "n_clusters", "n_seeds", "family", "method", "correction"]]
        .notna()
        .all(axis=None)
    )
    assert tested[["ci_low", "ci_high"]].notna().all(axis=None)
    assert (tested["p_adjusted"].notna() | tested["family"].str.startswith("no-signal")).all()
    for sentence in built.answer["verdicts"]:
        if " p = " in sentence or " p < " in sentence:
            assert re.search(
                r"[+−]?\d+\.\d+ (points )?\[[^\]]+\].* p [=<] \S+ \((Holm|Benjamini–Hochberg) \S+\)", sentence
            )
            assert re.search(r"over \d+ seeds? per arm \(.+\)", sentence)


def test_08_an_added_arm_changes_no_other_pair() -> None:
    """What is known about two arms does not depend on which other arms were tried."""
    table, more = three_arms()
    fewer_arms = table[table["arm"] != "resize_crop"]
    fewer = analyse(fewer_arms, design(fewer_arms))

    def of_pair(analysis: Analysis) -> pd.DataFrame:
        rows = analysis.significance
        return rows[(rows["arm"] == "resize_naive") & rows["level"].isin(["items", "checkpoint"])]

    raw = ["level", "benchmark", "delta", "ci_low", "ci_high", "p"]
    assert of_pair(more)[raw].reset_index(drop=True).equals(of_pair(fewer)[raw].reset_index(drop=True))
    pair = "arm_a == 'letterbox' and arm_b == 'resize_naive' and level == 'items'"
    assert more.pairwise.query(pair)["p"].tolist() == fewer.pairwise.query(pair)["p"].tolist()
    # Retraining: the estimate stays, and so does an exact p; t shares the variance between seeds by declaration.
    seven = long_table(("letterbox", "resize_naive", "resize_crop"), seeds=range(7))
    part = seven[seven["arm"] != "resize_crop"]
    exact = [
        analyse(rows, design(rows))
        .significance.query("family == 'primary' and arm == 'resize_naive'")
        .iloc[0]
        for rows in (seven, part)
    ]
    assert exact[0]["method"].startswith("exact")
    for column in ("method", "delta", "ci_low", "ci_high", "p"):
        assert exact[0][column] == exact[1][column]


def test_09_failed_runs_are_not_hidden(built: Built) -> None:
    """Runs without scores are listed with the reason, seeds that some cells lack are named, and a score that is not a
    number stops the analysis."""
    (missing,) = built.answer["missing"]
    assert missing["run_id"] in built.reader.text
    assert "1 run of the study has no scores and enters no number of this page" in built.reader.text
    table, _ = three_arms()
    gap = table[~((table["arm"] == "resize_crop") & (table["seed"] == 1))]
    listed = notes.missing_seeds(analyse(gap, design(gap)))
    assert listed == ["resize_crop: seed 1"]
    assert "none is left out" in notes.missing_seeds_sentence(listed)
    table = table.reset_index(drop=True)
    broken = table.assign(score=table["score"].where(table.index != 5))
    with pytest.raises(DataError, match=re.escape(str(table.loc[5, "example_id"]))):
        analyse(broken, design(broken))


def test_10_different_metrics_are_not_averaged_in_silence(built: Built) -> None:
    """A mean over benchmarks with different metrics says so and names them."""
    text = built.reader.text
    assert "It averages 2 different metrics, each in points from 0 to 100: box_iou_50 (localisation)" in text
    one = long_table()
    one = one[one["metric"] == "exact_match"]
    analysis = analyse(one, design(one))
    assert "different metrics" not in suite_sentence(outlook(analysis, "", True))


def test_11_examples_are_paired_by_id_not_by_row() -> None:
    """The order of the rows means nothing, and ids that do not match are an error."""
    table, analysis = three_arms()
    shuffled = table.sample(frac=1.0, random_state=3).reset_index(drop=True)
    again = analyse(shuffled, analysis.design)
    pd.testing.assert_frame_equal(again.significance, analysis.significance)
    pd.testing.assert_frame_equal(again.pairwise, analysis.pairwise)
    renamed = table.copy()
    one = (renamed["arm"] == "resize_crop") & (renamed["example_id"] == "counting-0003")
    renamed.loc[one, "example_id"] = "counting-9999"
    with pytest.raises(DataError, match=r"counting-9999|counting-0003"):
        analyse(renamed, analysis.design)


def test_12_few_seeds_are_not_bootstrapped() -> None:
    """Intervals over seeds are those of a test with its degrees of freedom, wider than resampling three runs gives."""
    table, analysis = three_arms()
    rng = np.random.default_rng(2)
    scores = {arm: part["points"].to_numpy() for arm, part in analysis.suite_scores.groupby("arm")}
    for row in primary_rows(analysis):
        a, b = scores[row["arm"]], scores["letterbox"]
        drawn = [rng.choice(a, len(a)).mean() - rng.choice(b, len(b)).mean() for _ in range(2000)]
        low, high = np.quantile(drawn, [0.025, 0.975])
        assert row["ci_high"] - row["ci_low"] > high - low
        assert f"df = {len(table['run_id'].unique()) - 3}" in row["method"]
    always = probability_of_improvement([[3.0], [4.0], [5.0]], [[0.0], [1.0], [2.0]])
    assert always.p_improvement == 1
    assert always.ci[0] < 0.75  # resampling would give [1, 1]
    sources = [path.read_text() for path in Path(vlmablate.__file__).parent.rglob("stats/*.py")]
    assert not any("np.percentile" in source for source in sources)


def test_13_no_run_is_selected_by_its_score(built: Built) -> None:
    """An arm's score is the mean over all of its runs; none is left out and no best one stands for it."""
    results = pd.read_parquet(built.folder / "results.parquet")
    assert results["run_id"].nunique() == 8
    wide = 100 * results.groupby(["arm", "run_id", "benchmark"])["score"].mean().unstack()
    suite = wide.drop(columns="text_reading").mean(axis=1).groupby("arm").mean()
    for row in built.table().query("family == 'primary'").itertuples():
        assert row.delta == pytest.approx(suite[str(row.arm)] - suite["letterbox"])
    for mean in suite:
        assert fmt.points(mean) in built.reader.text
    assert "No checkpoint or seed is selected by its score" in built.reader.text


def test_14_direction_words_follow_the_sign() -> None:
    """No sentence states a direction against its numbers; a row that would is refused."""
    _, analysis = three_arms()
    view = outlook(analysis, "sweep", True)
    for row in primary_rows(analysis):
        for sign in (1, -1):
            flipped = {**row, "delta": sign * row["delta"], "verdict": row["verdict"]}
            flipped |= {"ci_low": min(sign * row["ci_low"], sign * row["ci_high"])}
            flipped |= {"ci_high": max(sign * row["ci_low"], sign * row["ci_high"])}
            if sign == -1 and row["verdict"] in ("better", "worse"):
                with pytest.raises(ValueError, match="contradicts"):
                    verdict_sentence(flipped, view)
            else:
                text = verdict_sentence(flipped, view)
                assert ("beats" in text) <= (flipped["delta"] > 0)
                assert ("falls short" in text) <= (flipped["delta"] < 0)
    assert any("falls short" in sentence for sentence in sentences(analysis))
    outside: dict[str, Any] = {"arm": "a", "p_improvement": 0.2, "ci_low": 0.8, "ci_high": 0.9}
    with pytest.raises(ValueError, match="outside its interval"):
        notes.improvement_sentence({**outside, "n_alternate": 3, "n_baseline": 3, "method": ""}, "b")
    unknown = {
        **outside,
        "ci_low": math.nan,
        "ci_high": math.nan,
        "n_alternate": 1,
        "n_baseline": 1,
        "method": "one run",
    }
    assert "clearly" not in notes.improvement_sentence(unknown, "b")


def test_15_nothing_depends_on_the_global_random_numbers() -> None:
    """Equal inputs give equal tables whatever was drawn before, and nothing is drawn from the global generator."""
    table = long_table(scenes=8, soft=True)  # scores without a common step: sign flips are drawn
    found = []
    for seed in (1, 2):
        np.random.seed(seed)
        before = np.random.get_state()[1].tolist()  # type: ignore[index]
        found.append(analyse(table, design(table)))
        assert np.random.get_state()[1].tolist() == before  # type: ignore[index]
    pd.testing.assert_frame_equal(found[0].significance, found[1].significance)
    pd.testing.assert_frame_equal(found[0].pairwise, found[1].pairwise)
    for path in [
        *Path(vlmablate.__file__).parent.glob("stats/**/*.py"),
        *Path(vlmablate.__file__).parent.glob("report/*.py"),
    ]:
        assert not re.search(
            r"np\.random\.(?!default_rng|Generator|SeedSequence)\w+|^import random", path.read_text(), re.M
        )
