"""Tracking as a part of a sweep."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.orchestration.conftest import Sweeps
from tests.orchestration.fakes import calls
from tests.tracking.offline import run_folders
from vlmablate.errors import UserError
from vlmablate.orchestration.controller import EXIT_FAILED, EXIT_OK
from vlmablate.tracking import settings
from vlmablate.tracking.settings import MARK

pytestmark = pytest.mark.slow  # every W&B run starts a process of its own

TRACKED = ("execution.workers=2", "tracking=wandb")


def marks(results: Path) -> list[Path]:
    return sorted(results.glob(f"steps/evaluate/*/{MARK}"))


def test_a_sweep_tracks_every_run_once_and_the_same_command_again_none(sweeps: Sweeps, results: Path):
    assert sweeps.run(overrides=TRACKED) == EXIT_OK
    assert "W&B: 2 runs tracked" in sweeps.text
    assert len(run_folders(results / "wandb")) == len(marks(results)) == 2
    before = calls()
    assert sweeps.run(overrides=TRACKED) == EXIT_OK
    assert "W&B" not in sweeps.text
    assert len(run_folders(results / "wandb")) == 2
    # A mark that is missing is made good although there is nothing to compute, and by the same command.
    marks(results)[0].unlink()
    assert sweeps.run(overrides=TRACKED) == EXIT_OK
    assert "nothing to submit" in sweeps.text
    assert "W&B: 1 runs tracked" in sweeps.text
    assert len(run_folders(results / "wandb")) == len(marks(results)) == 2
    assert calls() == before


def test_runs_that_are_done_are_tracked_although_others_failed(sweeps: Sweeps, results: Path, control: Path):
    assert sweeps.run(overrides=TRACKED) == EXIT_OK
    (control / "fail-evaluate").touch()
    marks(results)[0].unlink()
    assert sweeps.run(seeds=2, overrides=TRACKED) == EXIT_FAILED
    assert "W&B: 1 runs tracked" in sweeps.text
    assert len(run_folders(results / "wandb")) == len(marks(results)) == 2


def test_without_wandb_the_sweep_says_what_to_install_before_it_computes(
    sweeps: Sweeps, results: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(settings, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'vlmablate\[track\]'"):
        sweeps.run(overrides=TRACKED)
    assert calls() == []
    assert not (results / "studies").exists()


def test_a_tracker_that_fails_fails_no_sweep(sweeps: Sweeps, results: Path):
    # Online, without a login.
    assert sweeps.run(overrides=(*TRACKED, "tracking.mode=online")) == EXIT_OK
    assert "2 runs were not told to W&B" in sweeps.text
    assert "2 runs compared" in sweeps.text
    assert marks(results) == []
    assert sweeps.run(overrides=TRACKED, study="study") == EXIT_OK
    assert len(marks(results)) == 2


def test_the_controller_never_loads_wandb_or_optuna(tmp_path: Path):
    program = (
        "from vlmablate.sweep import main\n"
        "main(['axis=stages', 'scale=smoke', 'mode=plan', 'tracking=wandb'])\n"
        "import sys; print(sorted({'wandb', 'optuna'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={"VLMABLATE_HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_tracking_does_not_change_the_name_of_a_study(sweeps: Sweeps):
    named: dict[str, Any] = {"study": "", "overrides": ("execution.workers=2",)}
    plain = sweeps.request(**named)
    tracked = sweeps.request(**{**named, "overrides": (*TRACKED, "tracking.project=other")})
    assert tracked.name == plain.name
