"""The page, the notebook's words and the tables tell the same numbers."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any

import nbformat
import pandas as pd
import pytest
from reported import SHAPES, Built, Reader
from synthetic_study import LABELS

from vlmablate.report import formatting as fmt


@pytest.fixture(scope="session")
def reader(built: Built) -> Reader:
    return built.reader


def shown(key: str, row: Any, column: str) -> str:
    """How a number of a table looks on the page."""
    table = key.partition(":")[0] if key.partition(":")[0] in ("pairwise", "improvement") else ""
    if column == "interval":
        text = fmt.probability_interval if table == "improvement" else fmt.interval
        return text(row["ci_low"], row["ci_high"])
    if column == "new":
        return fmt.interval(row["new_low"], row["new_high"])
    value = row[column]
    if column in ("p", "p_adjusted"):
        return fmt.p_value(value)
    if column == "p_improvement":
        return fmt.probability(value)
    if column in ("n_examples", "n_distinct", "most_copies"):
        return f"{int(value):,}"
    if column in ("icc", "design_effect"):
        return fmt.points(value, decimals=2)
    plain = key.startswith(("design|", "items|", "checkpoint|", "suite|"))
    return fmt.points(value, signed=column == "delta", decimals=1 if plain else fmt.decimals_for(value))


def check_cells(built: Built) -> set[str]:
    """Compare every marked number of the page with its table; returns the keys that the page names."""
    rows = built.rows()
    cells = built.reader.cells
    for key, column, text in cells:
        assert text == shown(key, rows[key], column), (key, column)
    return {key for key, _, _ in cells}


def test_every_marked_number_is_the_one_in_the_table(built: Built, reader: Reader) -> None:
    keys = check_cells(built)
    assert keys == set(built.rows()), "a row of the tables is not on the page"
    columns = {column for _, column, _ in reader.cells}
    assert columns >= {
        "delta",
        "interval",
        "new",
        "p",
        "p_adjusted",
        "mde",
        "p_improvement",
        "se_seed",
        "icc",
    }


@pytest.mark.parametrize("name", SHAPES)
def test_other_shapes_of_studies_are_reported(name: str, shape: Callable[[str], Built]) -> None:
    built = shape(name)
    assert not re.search(r"\b(nan|inf|None)\b", built.reader.text)
    assert check_cells(built) == set(built.rows())
    assert not re.search(r"<td[^>]*>\s*(nan|None)\s*<", built.page)


def test_what_other_shapes_say(shape: Callable[[str], Built]) -> None:
    def verdicts(name: str) -> list[str]:
        return list(shape(name).answer["verdicts"])

    assert all("tipping seed SD" in sentence for sentence in verdicts("one seed"))
    assert "The spread between seeds is unknown" in shape("one seed").reader.text
    assert json.loads((shape("contexts").folder / "study.json").read_text())["contexts"] == ["clip", "siglip"]
    assert all("on average over 2 contexts" in sentence for sentence in verdicts("contexts"))
    assert "1 of 2 contexts have the same runs in both arms" in verdicts("contexts")[1]
    assert verdicts("no signal")[0].startswith("No verdict: on no benchmark")
    assert verdicts("no baseline")[0].startswith("No verdict: no run of the baseline is finished")
    assert all("exact permutation of 7 and 7 seeds" in sentence for sentence in verdicts("exact"))
    assert "Related benchmarks count as one at the suite level: scenes (counting and existence)" in (
        shape("exact").reader.text
    )
    assert all("paired seeds" in sentence for sentence in verdicts("paired"))
    assert "No curve: with paired seeds" in shape("paired").reader.text
    assert all("one-sided p" in sentence for sentence in verdicts("soft"))
    assert "expected share of false claims" in shape("soft").reader.text


def test_scores_of_every_arm_and_seed_are_shown(built: Built, reader: Reader) -> None:
    results = pd.read_parquet(built.folder / "results.parquet")
    means = 100 * results.groupby(["arm", "seed", "benchmark"])["score"].mean()
    for value in means:
        assert fmt.points(value) in reader.text
    for value in means.groupby(["arm", "benchmark"]).mean():
        assert fmt.points(value) in reader.text


def test_subsets_of_a_benchmark_are_shown(built: Built, reader: Reader) -> None:
    results = pd.read_parquet(built.folder / "results.parquet")
    part = results[(results["benchmark"] == "counting") & (results["split"] == "kind_0")]
    means = 100 * part.groupby("arm")["score"].mean()
    cells = ["counting: kind 0", "60", *(fmt.points(means[arm]) for arm in LABELS)]
    assert "".join(cells) in re.sub(r"\n", "", reader.text)


def test_the_page_is_in_order_and_stands_alone(built: Built, reader: Reader) -> None:
    order = "forest benchmarks pairs improvement seeds variance calibration power arms examples overlap training cost"
    assert reader.anchors == [*order.split(), *["caveats", "paper", "methods", "provenance", "commands"]]
    assert all(address.startswith(("data:", "#")) for address in reader.addresses)
    assert {f"#{anchor}" for anchor in reader.anchors} >= set(re.findall(r'href="(#[a-z]+)"', built.page)) - {
        "#duplicates"
    }
    assert "<script" not in built.page
    assert not re.search(r"url\(|@import|https?://", built.page)
    assert reader.text.index(built.answer["verdicts"][0].replace("`", "")) < reader.text.index(
        "Differences to letterbox"
    )


def test_what_is_missing_or_silent_is_said(built: Built, reader: Reader) -> None:
    assert "1 run is missing" in reader.text
    (missing,) = built.answer["missing"]
    assert f"resize_crop / default / seed 2 (evaluate step {missing['run_id']} has no result)" in reader.text
    assert "No signal at this scale: text reading" in reader.text
    # 2 runs against 3: 10 arrangements.
    assert "a distribution-free permutation of seeds could not get below p = 0.20" in reader.text
    for note in (
        "All seeds start from the same pretrained language model",
        "cut-outs that were also seen in training",
    ):
        assert note in reader.text
    assert "Scenes reach aspect ratios of 3:1" in reader.text  # the axis's own limit
    assert "reports p = 0.0176 for naive resize vs letterbox" in reader.text


def test_provenance_commands_and_cost(built: Built, reader: Reader) -> None:
    assert "python -m vlmablate.sweep axis=image_resize scale=tiny seeds=3" in reader.text
    assert "vlmablate report resize" in reader.text
    for text in ("0" * 40, "ab" * 32, "git.sha", "results.parquet"):
        assert text in reader.text
    assert "14 min" in reader.text or "saved" in reader.text
    assert "finetune96 min 00 s" in re.sub(r"\s*\n\s*", "", reader.text)  # kind, steps, wall time


def test_verdicts_are_the_sentences_on_the_page_and_in_the_notebook(built: Built, reader: Reader) -> None:
    notebook = nbformat.read(built.answer["notebook"], as_version=4)
    for sentence in built.answer["verdicts"]:
        assert sentence.replace("`", "") in reader.text
        assert sentence in notebook.cells[0].source


def test_spread_calibration_and_families_are_those_of_the_tables(built: Built, reader: Reader) -> None:
    results = pd.read_parquet(built.folder / "results.parquet")
    with_signal = results[results["benchmark"] != "text_reading"]
    by_run = (
        100
        * with_signal.groupby(["arm", "seed", "benchmark"])["score"].mean().groupby(["arm", "seed"]).mean()
    )
    df = len(by_run) - by_run.index.get_level_values("arm").nunique()
    sd = math.sqrt(by_run.groupby("arm").var().mul(by_run.groupby("arm").size() - 1).sum() / df)
    assert f"runs of the same configuration differ by an SD of {sd:.1f} points (df = {df})" in reader.text
    p = built.table("null_p")["p"]
    assert f"{(p <= 0.05).sum()} of {len(p)} (" in reader.text
    sizes = built.table().dropna(subset=["p"]).groupby("family").size()
    for family, size in sizes.items():
        if not str(family).startswith(("no-signal", "checkpoint")):
            assert f"{family} {size}" in reader.text
