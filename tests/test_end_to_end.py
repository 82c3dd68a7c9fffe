"""Whole sweeps at `scale=smoke` with the real steps: results, resume, faults. Run by `make test-slow`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

pytestmark = pytest.mark.slow

COMMAND = (sys.executable, "-m", "vlmablate.sweep", "axis=image_resize", "scale=smoke", "seeds=2")
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


def start(home: Path, *more: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "VLMABLATE_HOME": str(home)}
    return subprocess.Popen(
        [*COMMAND, *more],
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def sweep(home: Path, *more: str) -> str:
    process = start(home, *more)
    output, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, output
    return output


def study(home: Path) -> Path:
    return home / "studies" / "image_resize-smoke"


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
    assert len(results.groupby(["arm", "seed"])) == 6
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
    table = scores(done)
    damaged = sorted(done.glob("steps/features/*/train.features.npy"))[0]
    with damaged.open("rb+") as file:
        file.truncate(damaged.stat().st_size // 2)
    for result in done.glob("steps/evaluate/*/result.json"):
        result.unlink()
    output = sweep(done)
    assert "CORRUPT" in output, output
    assert scores(done) == table


def test_the_same_seeds_give_the_same_bytes_in_process(done: Path, tmp_path: Path) -> None:
    sweep(tmp_path, "launcher=debug")
    assert scores(tmp_path) == scores(done)


@pytest.mark.parametrize("victim", ["controller", "workers"])
def test_kill_minus_nine_in_training_changes_no_number(done: Path, tmp_path: Path, victim: str) -> None:
    process = start(tmp_path)
    deadline = time.monotonic() + DEADLINE_S
    while not list(tmp_path.glob("steps/finetune/*/progress.json")):
        assert process.poll() is None
        assert time.monotonic() < deadline
    if victim == "controller":
        process.kill()
    else:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        for child in children:
            os.kill(int(child), signal.SIGKILL)
    process.communicate(timeout=DEADLINE_S)
    sweep(tmp_path)
    assert scores(tmp_path) == scores(done)


def test_two_controllers_together_compute_nothing_twice(done: Path, tmp_path: Path) -> None:
    both = [start(tmp_path), start(tmp_path)]
    for process in both:
        output, _ = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 0, output
    attempts = [len(list(folder.glob("attempts/*.json"))) for folder in tmp_path.glob("steps/*/*")]
    assert set(attempts) == {1}
    assert scores(tmp_path) == scores(done)
