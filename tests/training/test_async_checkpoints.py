"""Training goes on while a checkpoint is written, and a kill in the middle of it costs time only."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from tests.training import tiny
from vlmablate.training import checkpoints

ROOT = Path(__file__).resolve().parents[2]
DIES = """
import json, os, signal, sys
from pathlib import Path
from tests.training import tiny
from vlmablate.training import checkpoints
write, moment = checkpoints.write, sys.argv[2]
def dies(state, folder, ranks):
    if "checkpoint-8" in folder.name:
        if moment == "written":
            write(state, folder, ranks)
        elif moment == "half":
            (folder / checkpoints.WHOLE).write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)
    return write(state, folder, ranks)
checkpoints.write = dies
tiny.torch.set_num_threads(1)
tiny.run(Path(sys.argv[1]), execution={"save_every": 4})
"""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict:
    torch.set_num_threads(1)
    return tiny.run(tmp_path_factory.mktemp("undisturbed"), execution={"save_every": 4})


def test_steps_are_done_while_a_checkpoint_is_written(tmp_path: Path, undisturbed, monkeypatch):
    write, batch, further = checkpoints.write, tiny.batch, threading.Event()

    def slow(state, folder, ranks):
        if "checkpoint-4" in folder.name:
            assert further.wait(60), "training stood still"
        return write(state, folder, ranks)

    def watched(model, step, rows):
        if step == 6:
            further.set()
        return batch(model, step, rows)

    monkeypatch.setattr(checkpoints, "write", slow)
    monkeypatch.setattr(tiny, "batch", watched)
    answer = tiny.run(tmp_path, execution={"save_every": 4}, signal_at={"rank": 0, "step": 7})
    assert answer["saved"] == [4, 8]
    # What was written two steps late is the state of its own step.
    (tmp_path / "checkpoint-8").rename(tmp_path / "checkpoint-8.tmp-1")
    resumed = tiny.run(tmp_path, attempt=2)
    assert (resumed["resumed_from_step"], resumed["sha"]) == (4, undisturbed["sha"])


@pytest.mark.parametrize(
    "moment", ["half", *(pytest.param(m, marks=pytest.mark.slow) for m in ("begun", "written"))]
)
def test_a_kill_while_saving_goes_on_from_the_checkpoint_before_with_the_same_bits(
    tmp_path: Path, undisturbed, moment: str
):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [sys.executable, "-c", DIES, str(tmp_path), moment], cwd=ROOT, env=environment, check=False
    )
    assert ended.returncode == -9
    assert sorted(p.name for p in tmp_path.glob("checkpoint*")) == ["checkpoint-4", "checkpoint-8.tmp-1"]
    resumed = tiny.run(tmp_path, attempt=2)
    assert (resumed["resumed_from_step"], resumed["sha"]) == (4, undisturbed["sha"])


def test_as_many_checkpoints_stay_as_execution_says(tmp_path: Path):
    tiny.run(tmp_path, execution={"save_every": 4, "keep_checkpoints": 3})
    names = sorted(path.name for path in tmp_path.glob("checkpoint*"))
    assert names == ["checkpoint-12", "checkpoint-16", "checkpoint-8"]


def test_a_checkpoint_that_fails_ends_the_training(tmp_path: Path, monkeypatch):
    def broken(state, folder, ranks):
        raise ValueError("a bug")

    monkeypatch.setattr(checkpoints, "write", broken)
    answer = tiny.run(tmp_path, execution={"save_every": 4})
    assert (answer["error"], answer["message"]) == ("ValueError", "a bug")
    assert not list(tmp_path.glob("checkpoint*"))


def test_the_figures_are_in_the_curve_and_in_the_payload(tmp_path: Path, undisturbed):
    tiny.run(tmp_path, steps=3)
    row = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    figures = {"tokens_per_s", "real_share", "data_wait_share", "saving_share", "peak_memory_mb"}
    assert figures <= set(row)
    assert figures <= set(undisturbed)
