"""A whole sweep around a language model of the registry, from the command line to an exported model."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

pytestmark = pytest.mark.slow

SWEEP = (
    "-m", "vlmablate.sweep", "axis=stages", "scale=smoke", "seeds=1", "study=causal", "llm=random_llama",
    "position=rope_1d", "projector=paper_gelu_mlp", "data.train_scenes=22", "data.evaluation_scenes=12",
)  # fmt: skip
DEADLINE_S = 600


def run(home: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, *words],
        env={**os.environ, "VLMABLATE_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_arms_are_trained_scored_and_exported(tmp_path: Path) -> None:
    run(tmp_path, *SWEEP)
    study = tmp_path / "studies" / "causal"
    results = pd.read_parquet(study / "results.parquet")
    assert results.groupby(["arm", "seed"]).ngroups == 2
    assert (study / "report.html").is_file()
    assert not list(tmp_path.glob("steps/pretrain"))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("steps/*/*/result.json")}
    run(tmp_path, *SWEEP)
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.glob("steps/*/*/result.json")}

    cli = ("-m", "vlmablate.cli", "export", "causal/two_stage/s0", "--layout")
    run(tmp_path, *cli, "mm_projector", "--out", str(tmp_path / "projector"))
    exported = torch.load(tmp_path / "projector" / "mm_projector.bin", weights_only=True)
    assert set(exported) == {
        f"model.mm_projector.{layer}.{part}" for layer in (0, 2) for part in ("weight", "bias")
    }
    run(tmp_path, *cli, "prismatic", "--out", str(tmp_path / "prismatic"))
    state = torch.load(tmp_path / "prismatic" / "checkpoints" / "latest-checkpoint.pt", weights_only=True)
    assert {"projector", "llm_backbone"} <= set(state["model"])
