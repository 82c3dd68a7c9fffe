"""A design space at `scale=smoke` with the real steps: explored, chosen from, compared, reported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from vlmablate.files import read_json

pytestmark = pytest.mark.slow

COMMAND = (
    sys.executable, "-m", "vlmablate.sweep", "axis=[image_resize,stages]", "scale=smoke", "seeds=2", "confirm=2",
    "data.train_scenes=24", "data.evaluation_scenes=12", "llm.pretrain.scenes=32", "llm.pretrain.steps=4",
    "launcher=debug",
)  # fmt: skip
DEADLINE_S = 600


def sweep(home: Path, *more: str) -> str:
    done = subprocess.run(
        [*COMMAND, *more],
        env={**os.environ, "VLMABLATE_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_space_is_explored_and_its_best_is_compared(tmp_path: Path) -> None:
    output = sweep(tmp_path)
    (folder,) = (tmp_path / "studies").glob("image_resize-stages-smoke-*")
    study = read_json(folder / "study.json")
    found = study["exploration"]
    results = pd.read_parquet(folder / "results.parquet")
    assert results.groupby(["arm", "seed"]).ngroups == 6 * 2 + 2 * 2
    fresh = results[results["seed"] >= 1000]
    assert set(fresh["run_id"]) == set(found["confirmed"])
    assert set(fresh["arm"]) == {found["baseline"], found["best"]} == {"letterbox+two_stage", found["best"]}
    assert found["order"][0] == found["best"] or found["baseline_leads"]
    assert f"{found['best']} and the baseline are compared on 2 fresh seeds" in output
    # The verdict is about the fresh runs of two configurations.
    claims = pd.read_csv(folder / "significance.csv")
    assert set(claims["arm"]) == {found["best"]}
    assert set(claims[claims["level"] == "design"]["n_seeds"]) == {2}
    assert (folder / "report.html").is_file()

    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("steps/*/*/result.json")}
    assert "nothing to submit" in sweep(tmp_path)
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.glob("steps/*/*/result.json")}
