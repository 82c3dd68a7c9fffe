"""A study whose evaluations hold secondary metrics, from the steps to the page."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import unrendered
from synthetic_study import make_study

from vlmablate.errors import DataError, UserError
from vlmablate.report import figures, notebook
from vlmablate.report.build import build_study
from vlmablate.stats.longtable import read_long_table


def change(home: Path, edit: Callable[[pd.DataFrame, str], pd.DataFrame]) -> None:
    """Change the example tables of all evaluations, and what is recorded of them; `captioning` is outside the suite."""
    for result in sorted(home.glob("steps/evaluate/*/result.json")):
        path = result.with_name("examples.parquet")
        edit(pd.read_parquet(path), result.parent.name).to_parquet(path, index=False)
        record = json.loads(result.read_text())
        record["files"][path.name]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
        benchmarks = record["payload"]["benchmarks"]
        benchmarks["captioning"] = {"metric": "object_f1", "mean": 0.5, "majority": 0.2, "suite": False}
        result.write_text(json.dumps(record))


def with_behaviour(table: pd.DataFrame, run: str) -> pd.DataFrame:
    """Counting with the length of its answers, longer for resize_naive; and a benchmark of descriptions."""
    table = table.sort_values(["benchmark", "example_id"], ignore_index=True)
    counted = table[table["benchmark"] == "counting"]
    rng = np.random.default_rng(int(hashlib.sha256(run.encode()).hexdigest()[:8], 16))
    longer = counted.assign(
        metric="extra_words", score=rng.integers(-1, 4, len(counted)) + 2.0 * ("naive" in run)
    )
    described = counted.assign(benchmark="captioning", metric="object_f1", score=rng.random(len(counted)))
    invented = described.assign(metric="chair_i", score=rng.random(len(counted)))
    return pd.concat([table, longer, described, invented], ignore_index=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("behaviour")
    study = make_study(home, seeds=(0, 1), scenes=12, per_scene=2)
    change(home, with_behaviour)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(notebook, "execute", lambda document, folder: 0.0)
        patch.setattr(figures, "save", unrendered)
        build_study(study, home)
    return study


def test_secondary_metrics_have_a_section_and_no_part_in_the_suite(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    assert page.index('id="benchmarks"') < page.index('id="behaviour"') < page.index('id="pairs"')
    assert "counting: extra_words" in page
    secondary = pd.read_csv(folder / "secondary.csv")
    assert set(secondary["metric"]) == {"extra_words", "object_f1", "chair_i"}
    naive = secondary[(secondary["arm"] == "resize_naive") & (secondary["metric"] == "extra_words")]
    assert naive["delta"].between(1.5, 2.5).all()
    for name in ("significance", "components", "pairwise"):
        assert "captioning" not in (folder / f"{name}.csv").read_text()
    assert json.loads((folder / "benchmarks.json").read_text())["benchmarks"]["captioning"]["metric"] is None


def test_the_numbers_of_the_section_are_those_of_the_file(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    section = page[page.index('id="behaviour"') : page.index('id="pairs"')]
    for row in pd.read_csv(folder / "secondary.csv").itertuples():
        scale, decimals = (1, 2) if row.metric == "extra_words" else (100, 1)
        assert f">{scale * row.mean_arm:.{decimals}f}<".replace("-", "\u2212") in section, (
            row.arm,
            row.metric,
        )


def test_a_table_of_scores_may_hold_other_units_beside_the_metric_that_decides(folder: Path) -> None:
    with pytest.raises(DataError, match="outside 0 to 1"):
        read_long_table(folder / "results.parquet")
    table = read_long_table(folder / "results.parquet", metrics={"counting": "exact_match"})
    assert table["score"].max() > 1


@pytest.mark.parametrize(
    ("metric", "score"), [("extra_words", np.nan), ("exact_match", 1.5), ("chair_i", np.inf)]
)
def test_scores_that_cannot_be(tmp_path: Path, metric: str, score: float) -> None:
    study = make_study(tmp_path, seeds=(0,), scenes=3, per_scene=1)

    def spoil(table: pd.DataFrame, run: str) -> pd.DataFrame:
        table = with_behaviour(table, run)
        table.loc[table.index[table["metric"] == metric][0], "score"] = score
        return table

    change(tmp_path, spoil)
    with pytest.raises(UserError, match=r"is not in \[0, 1\]|is no finite number"):
        build_study(study, tmp_path)
