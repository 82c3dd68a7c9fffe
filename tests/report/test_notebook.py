"""The notebook derives the numbers of the report a second time, with other code, and stops where they differ."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import pytest
from reported import SHAPES, Built

LEVELS = ("design", "items", "checkpoint", "suite")


def outputs(notebook: Any) -> str:
    texts = []
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            texts.append(output.get("text", "") or output.get("data", {}).get("text/plain", ""))
    return "\n".join(texts)


def test_the_notebook_ran_and_derived_the_same_numbers(built: Built) -> None:
    notebook = nbformat.read(built.answer["notebook"], as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code)
    text, table = outputs(notebook), built.table()
    for level, count in table["level"].value_counts().items():
        assert f"{count} {level}-level contrasts agree with significance.csv" in text
    assert f"{len(table)} adjusted p-values agree with significance.csv" in text
    primary = table[table["family"] == "primary"]
    assert len(primary) == 2
    for row in primary.itertuples():
        numbers = r" +(-?\d\S*)" * 5
        line = re.search(rf"^\d+ +{row.arm} +default{numbers}", text, re.MULTILINE)
        assert line is not None
        found = [float(value) for value in line.groups()]
        assert found[:3] == pytest.approx([row.delta, row.ci_low, row.ci_high], abs=6e-4)
        assert found[3:] == pytest.approx([row.p, row.p_adjusted], rel=0.06)
    assert "note" not in [output["output_type"] for cell in code for output in cell["outputs"]]
    assert "stderr" not in [output.get("name") for cell in code for output in cell["outputs"]]


@pytest.mark.parametrize("name", SHAPES)
def test_other_shapes_of_studies_agree_too(
    name: str, shape: Callable[[str], Built], run_cells: Callable[[Path], str]
) -> None:
    built = shape(name)
    text, table = run_cells(built.folder), built.table()
    for level in LEVELS:
        assert f"{(table['level'] == level).sum()} {level}-level contrasts agree" in text
    new = table[(table["level"] == "design") & table["new_low"].notna()]
    assert f"{len(new)} intervals over new runs and new pictures agree" in text
    simulated = int(re.findall(r"p of (\d+) of them checked by simulation", text)[0])
    assert (simulated > 0) == (name == "soft")


ALTERED = {
    "a difference": ("primary", "delta", 0.1),
    "a p-value": ("items:resize_naive:default", "p", 0.001),
    "an adjusted p": ("primary", "p_adjusted", 0.001),
    "an interval over pictures": ("primary", "new_high", 0.01),
    "a mean over benchmarks": ("suite", "delta", 0.01),
}


@pytest.mark.parametrize("what", ALTERED)
def test_the_notebook_stops_if_the_table_was_altered(
    what: str, built: Built, tmp_path: Path, run_cells: Callable[[Path], str]
) -> None:
    for name in ("study.json", "benchmarks.json", "results.parquet"):
        (tmp_path / name).write_bytes((built.folder / name).read_bytes())
    table = built.table()
    family, column, by = ALTERED[what]
    assert (table["family"] == family).any()
    table.loc[table["family"] == family, column] += by
    table.to_csv(tmp_path / "significance.csv", index=False)
    with pytest.raises(AssertionError, match=r"of significance\.csv differ"):
        run_cells(tmp_path)


def test_the_notebook_stops_at_a_verdict_that_does_not_follow(
    built: Built, tmp_path: Path, run_cells: Callable[[Path], str]
) -> None:
    for name in ("study.json", "benchmarks.json", "results.parquet"):
        (tmp_path / name).write_bytes((built.folder / name).read_bytes())
    table: pd.DataFrame = built.table()
    table.loc[table["family"] == "primary", "verdict"] = "better"
    table.to_csv(tmp_path / "significance.csv", index=False)
    with pytest.raises(AssertionError, match="verdict"):
        run_cells(tmp_path)
