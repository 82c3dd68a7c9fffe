from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from tests.orchestration.conftest import Sweeps, control, results, sweeps  # noqa: E402, F401
from vlmablate.files import write_json  # noqa: E402

STEPS = ("scenes", "align", "finetune", "evaluate")


@pytest.fixture(autouse=True)
def own_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """W&B without the settings, the login and the cache of whoever runs the tests."""
    for name in list(os.environ):
        if name.startswith("WANDB_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    for name in ("CACHE", "CONFIG", "DATA"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / "user" / name.lower()))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def curve(*steps: int, torn: str = "") -> str:
    lines = [json.dumps({"step": step, "loss": round(1 / step, 5), "lr": 1e-3}) for step in steps]
    return "\n".join([*lines, torn]) + "\n"


def write_step(
    home: Path, kind: str, name: str, payload: dict[str, Any], metrics: str = ""
) -> dict[str, Any]:
    """A finished step as the store keeps it; returns its entry in study.json."""
    folder = home / "steps" / kind / name
    step_id = name.rpartition("-")[2]
    write_json(folder / "spec.json", {"id": step_id, "config": {"kind": kind, "seed": {"init": 1}}})
    if metrics:
        (folder / "metrics.jsonl").write_text(metrics)
    write_json(
        folder / "result.json", {"id": step_id, "payload": payload, "files": {}, "wall_s": 2.5, "ranks": 1}
    )
    return {"kind": kind, "slug": kind, "dir": folder.relative_to(home).as_posix()}


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """The folder of a study of two finished runs, which share a step, and one that is not finished."""
    home = tmp_path / "home"
    steps: dict[str, Any] = {}
    runs = []
    for arm, seed, done in (("small", 0, True), ("large", 1, True), ("large", 2, False)):
        ids = {role: f"{role}{arm}{seed}" if role != "scenes" else "scenes0" for role in STEPS}
        for role, step_id in ids.items():
            payload: dict[str, Any] = {"final_loss": 0.25, "precision": "fp32"}
            metrics = ""
            if role == "align":
                metrics = curve(1, 10, 20)
            if role == "finetune":
                # It was killed after step 30 and went on from step 20; the last line was cut off.
                metrics = curve(1, 10, 20, 30) + curve(30, 40, torn='{"step": 50, "lo')
            if role == "evaluate":
                payload = {"benchmarks": {"colour": {"metric": "exact", "n": 4, "mean": 0.75}}}
            steps[step_id] = write_step(home, role, f"{role}-{step_id}", payload, metrics)
            if role == "evaluate" and not done:
                (home / steps[step_id]["dir"] / "result.json").unlink()
        runs.append({"arm": arm, "context": "default", "seed": seed, "run_id": ids["evaluate"], "steps": ids})
    folder = home / "studies" / "mine"
    facts = {
        "name": "mine",
        "axis": {"name": "size", "baseline": "small", "arms": {"small": {}, "large": {}}},
        "scale": "tiny",
        "seeds": [0, 1, 2],
        "baseline": "small",
        "contexts": ["default"],
        "overrides": [],
        "runs": runs,
        "steps": steps,
        "provenance": {"git": {"sha": "0123", "dirty": False}},
    }
    write_json(folder / "study.json", facts)
    return folder


CONTRAST = {
    "axis": "size",
    "arm": "large",
    "baseline": "small",
    "context": "default",
    "level": "design",
    "benchmark": "suite",
    "n_seeds": "2",
    "delta": "-3.5",
    "ci_low": "-5.0",
    "ci_high": "-2.0",
    "p_adjusted": "0.01",
    "correction": "holm",
    "family": "primary",
    "verdict": "worse",
    "margin": "2",
}


def write_report(study: Path, text: str = "large is worse") -> None:
    """A report of the study, as far as a tracker reads it."""
    rows = [CONTRAST, {**CONTRAST, "benchmark": "colour", "family": "colour"}]
    table = [",".join(CONTRAST), *(",".join(row.values()) for row in rows)]
    (study / "significance.csv").write_text("\n".join(table) + "\n")
    (study / "report.html").write_text(f"<p>{text}</p>")
    (study / "report.ipynb").write_text("{}")
    (study / "results.parquet").write_bytes(b"PAR1")
    write_json(study / "report.json", {"verdicts": [f"{text}."], "missing": []})


@pytest.fixture
def reported(study: Path) -> Path:
    """The same study with a report."""
    write_report(study)
    return study


def tune(study: Path) -> None:
    """Give the study two trials, of which the first was evaluated."""
    home, facts = study.parents[1], json.loads((study / "study.json").read_text())
    trials = []
    for number, state in enumerate(("finished", "running")):
        ids = {"finetune": f"tuned{number}", "evaluate": f"tried{number}"}
        for role, step_id in ids.items():
            payload = {"benchmarks": {"colour": {"metric": "exact", "n": 4, "mean": 0.5}}}
            step = write_step(home, role, f"{role}-{step_id}", payload if role == "evaluate" else {})
            if state == "running":
                (home / step["dir"] / "result.json").unlink()
            facts["steps"][step_id] = step
        trial = {"number": number, "values": {"rate": 0.1 * (number + 1)}, "state": state, "score": None}
        trials.append({**trial, "share": 1.0, "why": "", "run_id": ids["evaluate"], "steps": ids})
    cell = {"arm": "large", "context": "default", "trials": trials}
    facts["tuning"] = {"seed": 2000, "split": "validation", "cells": [cell]}
    write_json(study / "study.json", facts)
