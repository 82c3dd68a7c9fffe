"""Joining example tables: exact columns, equal bytes, and refusals that name what disagrees."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
from synthetic_study import make_study

from vlmablate.errors import UserError
from vlmablate.report.collect import collect, write_results
from vlmablate.report.study import Study

COLUMNS = [
    *("study", "axis", "arm", "context", "seed", "run_id", "benchmark", "split", "example_id", "cluster_id"),
    *("metric", "score", "prediction", "target"),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_study(tmp_path, seeds=(0, 1), scenes=10, per_scene=2, picture=False)


def load(folder: Path) -> Study:
    return Study.load(folder, folder.parents[1])


def change(
    folder: Path, run: int, edit: Callable[[pd.DataFrame], pd.DataFrame], keep_digest: bool = False
) -> Path:
    """Rewrite the example table of a run, and the digest in its result.json unless told otherwise."""
    study = load(folder)
    directory = study.directory(study.runs[run].steps["evaluate"])
    path = directory / "examples.parquet"
    edit(pd.read_parquet(path)).to_parquet(path, index=False)
    if not keep_digest:
        result = json.loads((directory / "result.json").read_text())
        result["files"]["examples.parquet"]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
        (directory / "result.json").write_text(json.dumps(result))
    return path


def test_columns_and_order(folder: Path) -> None:
    collected = collect(load(folder))
    write_results(collected, folder)
    assert pq.read_schema(folder / "results.parquet").names == COLUMNS
    keys = collected.results[
        ["arm", "context", "seed", "run_id", "benchmark", "split", "metric", "example_id"]
    ]
    assert keys.equals(keys.sort_values(keys.columns.tolist(), kind="stable"))
    assert len(collected.results) == 6 * 5 * 20
    assert collected.benchmarks["localisation"]["metric"] == "box_iou_50"


def test_equal_scores_give_equal_bytes(folder: Path, tmp_path: Path) -> None:
    """Neither the order of rows in the example tables nor the order of runs in study.json may show."""
    write_results(collect(load(folder)), folder)
    first = (folder / "results.parquet").read_bytes()
    for run in range(6):
        change(folder, run, lambda table: table.sample(frac=1, random_state=3))
    facts = json.loads((folder / "study.json").read_text())
    facts["runs"].reverse()
    (folder / "study.json").write_text(json.dumps(facts))
    write_results(collect(load(folder)), folder)
    assert (folder / "results.parquet").read_bytes() == first


def test_missing_runs_are_listed_with_the_step_they_wait_for(tmp_path: Path) -> None:
    folder = make_study(tmp_path, seeds=(0, 1), scenes=5, per_scene=1, unfinished=[("resize_crop", 1)])
    study = load(folder)
    run = next(run for run in study.runs if run.arm == "resize_crop" and run.seed == 1)
    (study.directory(run.steps["finetune"]) / "result.json").unlink()
    (missing,) = collect(load(folder)).missing
    assert (missing["arm"], missing["seed"], missing["run_id"]) == ("resize_crop", 1, run.run_id)
    assert missing["reason"] == f"finetune step {run.steps['finetune']} has no result"
    write_results(collect(load(folder)), folder)
    assert json.loads((folder / "benchmarks.json").read_text())["missing_runs"] == [missing]


def test_a_study_without_finished_runs_is_refused(tmp_path: Path) -> None:
    arms = ("letterbox", "resize_naive", "resize_crop")
    folder = make_study(tmp_path, seeds=(0,), scenes=5, unfinished=[(arm, 0) for arm in arms])
    with pytest.raises(UserError, match="no finished run yet"):
        collect(load(folder))


def edited(column: str, value: Any) -> Callable[[pd.DataFrame], pd.DataFrame]:
    def edit(table: pd.DataFrame) -> pd.DataFrame:
        table = table.copy()
        table.loc[table["example_id"] == "counting-0003", column] = value
        return table

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (edited("target", "something else"), "other target for counting/counting-0003"),
        (edited("cluster_id", "scene-999"), "other cluster_id for counting/counting-0003"),
        (edited("example_id", "counting-0005"), "more than once: counting/counting-0005"),
        (
            edited("example_id", "counting-new"),
            "scored on one side only: counting/counting-0003, counting/counting-new",
        ),
        (edited("score", 55.0), r"score 55.0 of counting/counting-0003 is not in \[0, 1\]"),
        (edited("score", float("nan")), "score nan of counting/counting-0003"),
        (edited("cluster_id", None), "rows without an id"),
        (lambda table: table.drop(columns="target"), r"lacks the column\(s\) target"),
    ],
)
def test_tables_that_disagree_are_refused(
    folder: Path, edit: Callable[[pd.DataFrame], pd.DataFrame], message: str
) -> None:
    change(folder, 3, edit)
    with pytest.raises(UserError, match=message):
        collect(load(folder))


def test_a_disagreement_names_both_runs(folder: Path) -> None:
    change(folder, 3, edited("target", "something else"))
    study = load(folder)
    with pytest.raises(UserError) as caught:
        collect(study)
    assert study.runs[0].run_id in str(caught.value)
    assert study.runs[3].run_id in str(caught.value)


def test_an_altered_or_absent_table_is_refused(folder: Path) -> None:
    path = change(folder, 0, edited("prediction", "another"), keep_digest=True)
    with pytest.raises(UserError, match=r"not the file that its result\.json recorded"):
        collect(load(folder))
    path.unlink()
    with pytest.raises(UserError, match=r"examples\.parquet is missing"):
        collect(load(folder))


def test_runs_that_state_other_facts_about_a_benchmark_are_refused(folder: Path) -> None:
    study = load(folder)
    path = study.directory(study.runs[2].steps["evaluate"]) / "result.json"
    result = json.loads(path.read_text())
    result["payload"]["benchmarks"]["counting"]["majority"] = 0.9
    path.write_text(json.dumps(result))
    with pytest.raises(UserError, match="states other facts about counting"):
        collect(load(folder))


def test_a_folder_that_is_no_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no study\.json"):
        load(tmp_path)
