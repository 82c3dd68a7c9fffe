"""Alignment by id: order never matters, and whatever is wrong with the ids is named."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from vlmablate.errors import DataError, UserError
from vlmablate.stats.declaration import Design
from vlmablate.stats.panel import align

METRICS = {"counting": "exact", "reading": "exact"}


def table() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = [
        {
            "arm": arm,
            "context": "default",
            "seed": seed,
            "run_id": f"{arm}{seed}",
            "benchmark": benchmark,
            "split": "test",
            "example_id": f"q{i}",
            "cluster_id": f"scene{i // 2}",
            "metric": "exact",
            "target": str(i),
            "question": f"what {i}?",
            "score": float(rng.random() < 0.5),
        }
        for arm in ("base", "other")
        for seed in (0, 1)
        for benchmark in METRICS
        for i in range(6)
    ]
    return pd.DataFrame(rows)


def test_scores_land_at_their_ids_in_whatever_order_the_rows_come() -> None:
    results = table()
    shuffled = align(results.sample(frac=1, random_state=1), METRICS)
    plain = align(results, METRICS)
    assert plain.runs == shuffled.runs
    for name, panel in plain.by_benchmark.items():
        assert np.array_equal(panel.scores, shuffled.by_benchmark[name].scores)
        for row, run in enumerate(plain.runs):
            mine = results[(results["run_id"] == run.run_id) & (results["benchmark"] == name)]
            expected = mine.set_index("example_id")["score"].loc[list(panel.example_ids)]
            assert panel.scores[row].tolist() == expected.tolist()
    assert plain.rows("other", "default") == [2, 3]


def test_a_picture_that_two_benchmarks_share_is_one_cluster() -> None:
    panels = align(table(), METRICS).by_benchmark
    assert panels["counting"].cluster_codes.tolist() == panels["reading"].cluster_codes.tolist()
    assert panels["counting"].clusters.count == 3


def test_missing_doubled_and_disagreeing_examples_are_named() -> None:
    results = table()
    last = results.index[-1]
    with pytest.raises(DataError, match=r"missing in arm other, context default, seed 1: reading/q5"):
        align(results.drop(index=last), METRICS)
    with pytest.raises(DataError, match=r"more than once by one run \(arm other.*reading/q5"):
        align(pd.concat([results, results.loc[[last]]]), METRICS)
    for column in ("cluster_id", "target"):
        with pytest.raises(DataError, match=rf"disagree about the {column} of 1 example\(s\): reading/q5"):
            align(results.assign(**{column: results[column].where(results.index != last, "x")}), METRICS)


@pytest.mark.parametrize(
    ("value", "words"), [(np.nan, "not finite"), (1.5, r"outside \[0, 1\]"), (-0.1, r"outside \[0, 1\]")]
)
def test_scores_that_are_no_fractions_are_named(value: float, words: str) -> None:
    results = table()
    results.loc[3, "score"] = value
    with pytest.raises(DataError, match=rf"1 score\(s\) .*{words}.*counting/q3 of arm base seed 0"):
        align(results, METRICS)


def test_missing_columns_labels_and_metrics_are_named() -> None:
    results = table()
    with pytest.raises(DataError, match=r"lacks the column\(s\) cluster_id"):
        align(results.drop(columns="cluster_id"), METRICS)
    with pytest.raises(DataError, match=r"1 row\(s\) have no cluster_id"):
        align(results.assign(cluster_id=results["cluster_id"].where(results.index != 4)), METRICS)
    with pytest.raises(DataError, match="counting has no score of its primary metric f1"):
        align(results, {**METRICS, "counting": "f1"})


def test_questions_asked_twice_about_one_picture_are_reported() -> None:
    results = table()
    assert align(results, METRICS).duplicates.empty
    doubled = (results["benchmark"] == "counting") & results["example_id"].isin(["q0", "q1"])
    results.loc[doubled, "question"] = "the same?"
    found = align(results, METRICS).duplicates
    assert found.to_dict("records") == [
        {"benchmark": "counting", "n_examples": 6, "n_distinct": 5, "most_copies": 2, "example_ids": "q0, q1"}
    ]


def test_unknown_questions_are_no_copies_of_each_other() -> None:
    results = table()
    results["question"] = results["question"].where(results["benchmark"] == "reading")
    assert align(results, METRICS).duplicates.empty


def test_text_columns_may_be_categories_and_other_metrics_are_left_out() -> None:
    results = table()
    texts = [name for name in results if results[name].dtype == object or name == "metric"]
    more = pd.concat([results, results.assign(metric="f1", score=0.25)], ignore_index=True)
    plain, coded = align(results, METRICS), align(more.astype(dict.fromkeys(texts, "category")), METRICS)
    assert plain.runs == coded.runs
    for name, panel in plain.by_benchmark.items():
        assert np.array_equal(panel.scores, coded.by_benchmark[name].scores)
        assert np.array_equal(panel.cluster_codes, coded.by_benchmark[name].cluster_codes)
        assert list(panel.example_ids) == list(coded.by_benchmark[name].example_ids)


def test_a_design_names_its_baseline_among_its_arms_once() -> None:
    Design("fusion", "a", ("a", "b"), ("default",), METRICS)
    with pytest.raises(UserError, match="unknown baseline 'c'"):
        Design("fusion", "c", ("a", "b"), ("default",), METRICS)
    with pytest.raises(UserError, match="names one arm twice"):
        Design("fusion", "a", ("a", "a"), ("default",), METRICS)
