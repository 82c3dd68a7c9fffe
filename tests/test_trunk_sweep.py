"""The axis `epochs_trunk` at `scale=smoke` with the real steps, against separate trainings."""

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
    *(sys.executable, "-m", "vlmablate.sweep"),
    *("axis=epochs_trunk", "scale=smoke", "seeds=1", "launcher=debug"),
)
APART = "stages.finetune.branches=null"
DEADLINE_S = 300
RUN = ["arm", "seed", "benchmark", "metric", "example_id"]


def sweep(home: Path, *more: str) -> None:
    done = subprocess.run(
        [*COMMAND, *more],
        env={**os.environ, "VLMABLATE_HOME": str(home)},
        text=True,
        capture_output=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of the axis on trunks, and of the same arms apart."""
    folder = tmp_path_factory.mktemp("home")
    sweep(folder)
    sweep(folder, APART)
    return folder


def table(home: Path, *, apart: bool) -> pd.DataFrame:
    (folder,) = (path for path in home.glob("studies/*") if (path.name != "epochs_trunk-smoke") == apart)
    found = pd.read_parquet(folder / "results.parquet").set_index(RUN).sort_index()
    assert found.index.is_unique
    return found


def optimiser_steps(home: Path, *, apart: bool) -> int:
    """Steps that were done in all finetunings on a trunk, or apart."""
    results = [*home.glob("steps/trunk/*/result.json"), *home.glob("steps/finetune/*/result.json")]
    payloads = [read_json(path)["payload"] for path in results]
    return sum(p["steps"] - p.get("from_step", 0) for p in payloads if ("from_step" not in p) == apart)


def test_every_answer_is_that_of_a_training_of_its_own(home: Path) -> None:
    on_trunk, apart = table(home, apart=False), table(home, apart=True)
    assert len(on_trunk.groupby(["arm", "seed"])) == 5
    assert not set(on_trunk["run_id"]) & set(apart["run_id"])
    for column in ("score", "prediction"):
        pd.testing.assert_series_equal(on_trunk[column], apart[column])


def test_trunks_take_forty_percent_of_the_optimiser_steps(home: Path) -> None:
    """8 steps an epoch, 2 to 6 epochs: 43 of trunk and 2 + 2 + 2 + 3 + 5 of decays, against 16 + 20 + 24 + 32 + 48."""
    assert optimiser_steps(home, apart=False) == 43 + 14
    assert optimiser_steps(home, apart=True) == 140


def test_the_report_says_what_the_arms_share(home: Path) -> None:
    page = (home / "studies" / "epochs_trunk-smoke" / "report.html").read_text(encoding="utf-8")
    assert "branches of one trunk" in page
    assert (
        read_json(home / "studies" / "epochs_trunk-smoke" / "study.json")["analysis"]["paired_seeds"] is True
    )
