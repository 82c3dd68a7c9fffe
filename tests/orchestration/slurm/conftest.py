from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))  # the fake steps are imported by name, here and in worker processes

from tests.orchestration.slurm import fake_slurm  # noqa: E402


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fake Slurm on the PATH; returns its memory."""
    memory = tmp_path / "slurm"
    memory.mkdir()
    monkeypatch.setenv("FAKE_SLURM", str(memory))
    fake_slurm.install(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    for name in list(os.environ):
        if name.startswith(("SLURM_", "SBATCH_")):
            monkeypatch.delenv(name)
    return memory


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The results folder."""
    return tmp_path / "results"
