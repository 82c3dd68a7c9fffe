"""Secondary metrics in the report: the tests of the primary ones in families of their own, and what the page shows."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from synthetic_study import design, long_table

from vlmablate.evaluation.behaviour import EMBEDDED
from vlmablate.evaluation.behaviour.verbosity import verbosity
from vlmablate.evaluation.protocol import Answer, Example
from vlmablate.evaluation.tasks.coco_objects import TASK
from vlmablate.report.behaviour import MEASURES, TABLE, behaviour, measure_of, verdict, write_secondary
from vlmablate.report.behaviour_tests import COLUMNS, FAMILY, measures, secondary
from vlmablate.stats.declaration import Design
from vlmablate.stats.multiplicity import adjust
from vlmablate.stats.table import analyse
from vlmablate.stats.units import ALL_CONTEXTS


def with_secondary(effect: float = 0.0, **shape: Any) -> tuple[pd.DataFrame, Design]:
    """Scores of a study whose counting questions also hold `refused_benign` (0 or 1) and `extra_words` (whole words);
    of resize_naive both are higher by `effect` of their range of 10 words, or of 1."""
    table = long_table(**shape)
    parts = [table]
    for number, (metric, spread) in enumerate((("refused_benign", 1), ("extra_words", 10))):
        part = (
            table[table["benchmark"] == "counting"]
            .sort_values(["arm", "context", "seed", "example_id"])
            .copy()
        )
        rng = np.random.default_rng([3, number])
        shifted = rng.random(len(part)) + effect * (part["arm"] == "resize_naive")
        part["score"] = (
            np.floor(np.clip(shifted, 0, 1) * 2).clip(0, 1) if spread == 1 else np.floor(shifted * 10) - 4
        )
        parts.append(part.assign(metric=metric))
    return pd.concat(parts, ignore_index=True), design(table)


def test_only_metrics_that_are_not_declared_are_secondary() -> None:
    table, declared = with_secondary()
    assert measures(table, declared) == [("counting", "extra_words"), ("counting", "refused_benign")]
    without = {name: metric for name, metric in declared.metrics.items() if name != "existence"}
    assert ("existence", "exact_match") in measures(table, replace(declared, metrics=without))


def test_secondary_metrics_change_no_verdict() -> None:
    table, declared = with_secondary(effect=0.4)
    plain = table[table["metric"].isin(set(declared.metrics.values()))]
    pd.testing.assert_frame_equal(
        analyse(table, declared).significance, analyse(plain, declared).significance
    )


def test_a_table_without_secondary_metrics_has_no_section_and_an_empty_file(tmp_path: Path) -> None:
    table = long_table()
    found = secondary(table, design(table))
    assert list(found.columns) == COLUMNS
    assert behaviour(table, found, design(table)) is None
    write_secondary(found, tmp_path)
    assert (tmp_path / TABLE).read_text() == ",".join(COLUMNS) + "\n"


@pytest.mark.parametrize("shape", [{}, {"seeds": range(6)}, {"seeds": (0,)}, {"contexts": ("a", "b")}])
def test_the_contrasts_are_those_of_a_primary_metric(shape: dict[str, Any]) -> None:
    """Declared as the only metric of its benchmark, a metric has the same differences, intervals and p."""
    table, declared = with_secondary(effect=0.2, **shape)
    found = secondary(table, declared)
    alone = replace(
        declared, metrics={"counting": "refused_benign"}, majority={}, settings=replace(declared.settings)
    )
    reference = analyse(table, alone).significance
    reference = reference[reference["benchmark"] == "counting"]
    compared = 0
    for row in found[found["metric"] == "refused_benign"].itertuples():
        (other,) = reference[
            (reference["level"] == row.level)
            & (reference["context"] == row.context)
            & (reference["arm"] == row.arm)
        ].itertuples()
        if str(other.method).split()[0] != str(row.method).split()[0]:
            continue  # a larger family may decide for another method
        for name in ("delta", "ci_low", "ci_high"):
            assert getattr(other, name) == pytest.approx(100 * getattr(row, name), nan_ok=True), name
        assert other.p == pytest.approx(row.p, nan_ok=True)
        compared += 1
    assert compared >= 2


def test_words_are_tested_in_words() -> None:
    table, declared = with_secondary(effect=0.3)
    found = secondary(table, declared)
    words = table[table["metric"] == "extra_words"].groupby("arm")["score"].mean()
    for row in found[found["metric"] == "extra_words"].itertuples():
        assert row.mean_baseline == pytest.approx(words["letterbox"])
        assert row.mean_arm == pytest.approx(words["resize_naive"])
        assert row.delta == pytest.approx(words["resize_naive"] - words["letterbox"])
        assert row.ci_low < row.delta < row.ci_high
    items = found[(found["metric"] == "extra_words") & (found["level"] == "items")]
    assert items["delta"].iloc[0] == pytest.approx(3.0, abs=0.6)
    assert items["method"].str.startswith("exact").all()  # words are whole, so the law is counted


def test_the_unit_of_a_metric_changes_no_p() -> None:
    table, declared = with_secondary(effect=0.1, seeds=range(4))
    scaled = table.copy()
    longer = scaled["metric"] == "extra_words"
    scaled.loc[longer, "score"] = 4 * scaled.loc[longer, "score"] + 100
    one, other = secondary(table, declared), secondary(scaled, declared)
    np.testing.assert_allclose(one["p"], other["p"], rtol=1e-9)
    words = one["metric"] == "extra_words"
    np.testing.assert_allclose(4 * one.loc[words, "ci_low"], other.loc[words, "ci_low"], rtol=1e-9)


def test_families_are_adjusted_on_their_own() -> None:
    table, declared = with_secondary(
        effect=0.3, arms=("letterbox", "resize_naive", "resize_crop"), contexts=("a", "b")
    )
    found = secondary(table, declared)
    sizes = found.groupby("family").size().to_dict()
    assert sizes == {FAMILY: 4, f"{FAMILY}:contexts": 8, f"{FAMILY}:items": 8}
    for _, members in found.groupby("family"):
        np.testing.assert_allclose(members["p_adjusted"], adjust(members["p"].to_numpy(), "holm"))
    assert set(found.loc[found["family"] == FAMILY, "context"]) == {ALL_CONTEXTS}


def test_tests_are_two_sided_whatever_was_declared() -> None:
    table, declared = with_secondary(effect=0.3)
    one_sided = replace(declared, settings=replace(declared.settings, alternative="less"))
    pd.testing.assert_frame_equal(secondary(table, declared), secondary(table, one_sided))


@pytest.mark.parametrize(
    ("metric", "delta", "p", "said"),
    [
        ("refused_benign", 0.1, 0.01, "worse"),
        ("refused_benign", -0.1, 0.01, "better"),
        ("object_f1:chair-synonyms", 0.1, 0.05, "better"),
        ("chair_i", 0.1, 0.06, "unresolved"),
        ("extra_words", 2.0, 0.01, "more"),
        ("extra_words", -2.0, 0.01, "less"),
        ("never_heard_of", -2.0, 0.01, "less"),
        ("chair_s", 0.1, math.nan, "unresolved"),
        ("chair_s", 0.0, 0.01, "unresolved"),
    ],
)
def test_a_verdict_knows_which_way_is_better(metric: str, delta: float, p: float, said: str) -> None:
    assert verdict({"metric": metric, "delta": delta, "p_adjusted": p}, 0.05) == said


def test_the_section_shows_means_differences_and_both_levels() -> None:
    table, declared = with_secondary(effect=0.45, seeds=range(4))
    found = secondary(table, declared)
    shown = behaviour(table, found, declared)
    assert shown is not None
    words, refused = shown["rows"]
    assert (words["metric"], words["unit"], words["verdict"]) == ("extra_words", "words", "more")
    assert (refused["says"], refused["direction"]) == ("refuses harmless requests", "less is better")
    assert refused["verdict"] == "worse"
    mean = (
        100 * table.loc[(table["metric"] == "refused_benign") & (table["arm"] == "letterbox"), "score"].mean()
    )
    assert refused["baseline"] == f"{mean:.1f}"
    assert refused["delta"].startswith("+")
    assert refused["items"]["p"].startswith("<") or float(refused["items"]["p"]) < 0.05
    assert shown["sentence"].startswith("2 of the 2 tests over retraining find a difference")
    assert shown["tests"] == 2
    assert [row["name"] for row in shown["subsets"]] == ["counting: kind 0", "counting: kind 1"] * 2
    assert len(shown["subsets"][0]["means"]) == len(shown["arms"]) == 2


def test_one_seed_has_no_test_of_retraining_and_still_new_pictures() -> None:
    table, declared = with_secondary(effect=0.45, seeds=(0,))
    shown = behaviour(table, secondary(table, declared), declared)
    assert shown is not None
    assert {row["verdict"] for row in shown["rows"]} == {"unresolved"}
    assert {row["p"] for row in shown["rows"]} == {"–"}
    assert shown["rows"][0]["items"]["verdict"] == "more"
    assert shown["sentence"] == "No secondary metric could be tested over retraining."


def test_every_metric_that_an_evaluation_writes_has_a_sentence() -> None:
    benchmarks = [*EMBEDDED.values(), TASK()]
    known = {benchmark.metric.partition(":")[0] for benchmark in benchmarks}
    example = Example("b", "s", "b/1", "p", None, "?", ("a",), facts={"negative": True, "harmful": False})
    for benchmark in (EMBEDDED["negative_instructions"], EMBEDDED["safety_probes"]):
        for role in (True, False):
            facts = {"negative": role, "harmful": role}
            known |= set(benchmark.score(replace(example, facts=facts), Answer("no"), None).further)
    known |= set(TASK().score(replace(example, facts={"objects": ("dog",)}), Answer("a dog"), None).further)
    known |= set(verbosity(example, Answer("a")))
    assert known <= set(MEASURES)
    assert measure_of("never_heard_of").better == 0
