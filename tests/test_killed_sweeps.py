"""Whole sweeps at `scale=smoke` with the real steps, killed or started twice: the numbers of one process that nothing
disturbed. Run by `make test-slow`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

COMMAND = (sys.executable, "-m", "vlmablate.sweep", "axis=stages", "scale=smoke", "seeds=1")
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


def ends_well(process: subprocess.Popen[str]) -> None:
    output, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, output


def scores(home: Path) -> bytes:
    return (home / "studies" / "stages-smoke" / "results.parquet").read_bytes()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The table of a sweep within one process."""
    home = tmp_path_factory.mktemp("home")
    ends_well(start(home, "launcher=debug"))
    return scores(home)


@pytest.mark.parametrize("victim", ["controller", "workers"])
def test_kill_minus_nine_in_training_changes_no_number(
    undisturbed: bytes, tmp_path: Path, victim: str
) -> None:
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
    ends_well(start(tmp_path))
    assert scores(tmp_path) == undisturbed


def test_two_controllers_together_compute_nothing_twice(undisturbed: bytes, tmp_path: Path) -> None:
    for process in [start(tmp_path), start(tmp_path)]:
        ends_well(process)
    attempts = [len(list(folder.glob("attempts/*.json"))) for folder in tmp_path.glob("steps/*/*")]
    assert set(attempts) == {1}
    assert scores(tmp_path) == undisturbed
