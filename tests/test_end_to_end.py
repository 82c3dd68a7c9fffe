"""Whole sweeps at `scale=smoke` with the real steps: results, what is computed again. Run by `make test-slow`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from vlmablate.files import read_json

pytestmark = pytest.mark.slow

COMMAND = (sys.executable, "-m", "vlmablate.sweep", "axis=stages", "scale=smoke", "seeds=2")
RESULTS = [
    "study", "axis", "arm", "context", "seed", "run_id", "benchmark", "split", "example_id", "cluster_id",
    "metric", "score", "prediction", "target",
]  # fmt: skip
SIGNIFICANCE = [
    "axis", "arm", "baseline", "context", "level", "benchmark", "metric", "n_examples", "n_clusters",
    "n_seeds", "delta", "ci_low", "ci_high", "p", "p_adjusted", "family", "method", "verdict", "margin", "mde",
    "unit", "se", "df", "alternative", "p_equivalence", "correction", "floor", "new_low", "new_high",
    "design_effect", "icc", "tipping_sd",
]  # fmt: skip
DEADLINE_S = 300


def sweep(home: Path) -> str:
    done = subprocess.run(
        COMMAND,
        env={**os.environ, "VLMABLATE_HOME": str(home)},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def study(home: Path) -> Path:
    return home / "studies" / "stages-smoke"


def finished(home: Path) -> dict[str, int]:
    """result file -> time of its last change in ns."""
    return {str(p.relative_to(home)): p.stat().st_mtime_ns for p in home.glob("steps/*/*/result.json")}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results folder of a sweep that nothing disturbed."""
    home = tmp_path_factory.mktemp("home")
    sweep(home)
    return home


def scores(home: Path) -> bytes:
    return (study(home) / "results.parquet").read_bytes()


def test_tables_have_the_declared_columns_and_every_run(done: Path) -> None:
    results = pd.read_parquet(study(done) / "results.parquet")
    assert list(results.columns) == RESULTS
    assert len(results.groupby(["arm", "seed"])) == 4
    assert results.groupby(["run_id"])["example_id"].nunique().nunique() == 1
    assert list(pd.read_csv(study(done) / "significance.csv").columns) == SIGNIFICANCE
    page = (study(done) / "report.html").read_text(encoding="utf-8")
    assert 'src="http' not in page
    assert (study(done) / "report.ipynb").is_file()


def test_the_same_command_again_computes_nothing(done: Path) -> None:
    before = finished(done)
    sweep(done)
    assert finished(done) == before


def test_a_deleted_result_redoes_exactly_that_run(done: Path) -> None:
    before, table = finished(done), scores(done)
    victim = sorted(done.glob("steps/evaluate/*/result.json"))[0]
    victim.unlink()
    sweep(done)
    after = finished(done)
    assert after.keys() == before.keys()
    assert [name for name in after if after[name] != before[name]] == [str(victim.relative_to(done))]
    assert scores(done) == table


def test_a_truncated_feature_file_is_noticed_and_made_again(done: Path) -> None:
    table, declared = scores(done), read_json(study(done) / "study.json")
    run = declared["runs"][0]
    places = {role: done / declared["steps"][step]["dir"] for role, step in run["steps"].items()}
    damaged = places["features0"] / "train.features.npy"
    with damaged.open("rb+") as file:
        file.truncate(damaged.stat().st_size // 2)
    (places["evaluate"] / "result.json").unlink()
    output = sweep(done)
    assert "CORRUPT" in output, output
    assert scores(done) == table
