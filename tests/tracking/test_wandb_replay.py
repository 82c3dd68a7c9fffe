from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tracking.offline import of_kind, rows, run_folders, sent
from vlmablate.files import read_json
from vlmablate.tracking.settings import MARK, Tracking
from vlmablate.tracking.wandb_replay import replay

pytestmark = pytest.mark.slow  # every W&B run starts a process of its own

RUNS = ("evaluatesmall0", "evaluatelarge1")
MODULE = [sys.executable, "-m", "vlmablate.tracking.wandb_replay"]


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*MODULE, *words], capture_output=True, text=True, check=False)


def killed_at(study: Path, patch: str) -> None:
    """A replay that kills itself; ``patch`` arranges where, with ``wandb``, ``replay`` and ``die``."""
    program = (
        "import os, signal, sys, wandb\n"
        "from vlmablate.tracking import wandb_replay as replay\n"
        "def die(*_, **__): os.kill(os.getpid(), signal.SIGKILL)\n"
        f"{patch}\n"
        "sys.exit(replay.main(sys.argv[1:]))"
    )
    done = subprocess.run([sys.executable, "-c", program, str(study)], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done


def marked(study: Path) -> list[str]:
    return sorted(path.parent.name.rpartition("-")[2] for path in study.parents[1].rglob(MARK))


def check_once(study: Path) -> None:
    """One folder to send for every finished run, whole, and nothing else."""
    target = study.parents[1] / "wandb"
    folders = run_folders(target)
    assert sorted(path.name.rpartition("-")[2] for path in folders) == sorted(RUNS)
    assert sorted(target.iterdir()) == folders
    assert marked(study) == sorted(RUNS)
    for folder in folders:
        assert of_kind(folder, "exit").exit_code == 0


def test_a_run_is_told_with_its_place_its_curves_in_order_and_its_numbers(study: Path):
    done = run(str(study), "project=lab", "entity=team")
    assert done.returncode == 0, done.stdout
    check_once(study)
    target = study.parents[1] / "wandb"
    assert "send them: vlmablate track sync\n" in done.stdout
    (folder,) = target.glob("*-evaluatelarge1")
    told = of_kind(folder, "run")
    assert (told.run_id, told.project, told.entity) == ("evaluatelarge1", "lab", "team")
    assert (told.run_group, told.job_type, told.display_name) == ("mine", "size", "large s1")
    assert set(told.tags) == {"large", "default", "seed-1", "size", "tiny"}
    config = {item.key: json.loads(item.value_json) for item in told.config.update}
    assert (config["arm"], config["context"], config["seed"], config["baseline"]) == (
        "large",
        "default",
        1,
        False,
    )
    assert config["steps"]["finetune"] == {"kind": "finetune", "seed": {"init": 1}}
    assert config["provenance"]["git"]["sha"] == "0123"
    logged = rows(folder)
    assert [row["align/step"] for row in logged if "align/step" in row] == [1, 10, 20]
    # The step that was computed twice is there once, and the line that was cut off is not.
    assert [row["finetune/step"] for row in logged if "finetune/step" in row] == [1, 10, 20, 30, 40]
    assert [row["_step"] for row in logged] == list(range(8))
    assert logged[-1]["finetune/loss"] == 0.025
    summary = {
        item.key or "/".join(item.nested_key): json.loads(item.value_json)
        for record in sent(folder)
        if record.WhichOneof("record_type") == "summary"
        for item in record.summary.update
    }
    assert summary["evaluate/benchmarks/colour/mean"] == 0.75
    assert summary["finetune/final_loss"] == 0.25
    assert summary["finetune/wall_s"] == 2.5
    mark = read_json(study.parents[1] / "steps/evaluate/evaluate-evaluatelarge1" / MARK)
    assert mark["folder"] == folder.name
    assert mark["study"] == "mine"


@pytest.mark.parametrize(
    "patches",
    [
        ("replay.history = die", "wandb.Run.log = die"),
        ("wandb.Run.finish = die", "replay.os.replace = die"),
        ("replay.write_json = die", "replay.write_json = die"),
    ],
    ids=["before it is told, while it is", "before its end, its name", "before its mark"],
)
def test_three_attempts_are_one_run_to_send(study: Path, patches: tuple[str, ...]):
    for patch in patches:
        killed_at(study, patch)
        assert marked(study) == []
    assert run(str(study)).returncode == 0
    check_once(study)


def test_what_was_told_is_not_told_again(study: Path):
    assert run(str(study)).returncode == 0
    before = {path: path.stat().st_mtime_ns for path in (study.parents[1] / "wandb").rglob("*.wandb")}
    again = run(str(study), "mode=online")
    assert (again.returncode, again.stdout) == (0, "")
    assert {path: path.stat().st_mtime_ns for path in before} == before
    check_once(study)


def test_two_at_once_tell_every_run_once(study: Path):
    both = [
        subprocess.Popen([*MODULE, str(study)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(2)
    ]
    said = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    check_once(study)


def test_variables_that_name_one_run_do_not_make_one_of_all(study: Path, monkeypatch: pytest.MonkeyPatch):
    for name, value in {
        "RUN_ID": "all",
        "RUN_GROUP": "all",
        "MODE": "disabled",
        "RESUME": "must",
        "DIR": "/",
    }.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    assert run(str(study)).returncode == 0
    check_once(study)


def test_another_folder_may_take_the_runs(study: Path, tmp_path: Path):
    assert run(str(study), f"dir={tmp_path / 'else where'}").returncode == 0
    assert len(run_folders(tmp_path / "else where")) == 2
    assert not (study.parents[1] / "wandb").exists()


def test_online_without_a_login_says_so_and_tells_later(study: Path):
    done = run(str(study), "mode=online")
    assert done.returncode == 1
    assert "W&B: " in done.stdout
    assert "Traceback" not in done.stdout
    assert marked(study) == []
    assert run(str(study)).returncode == 0
    check_once(study)


def test_a_replay_in_this_process_leaves_its_turn_to_others(study: Path):
    said: list[str] = []
    assert replay(study, [study], Tracking(), said.append, heartbeat_s=0.05) == 2
    assert replay(study, [study], Tracking(), said.append) == 0
    assert [text for text in said if "2 runs tracked" in text]
    (attempt,) = (study.parents[1] / "tracking").glob("*.json")
    assert read_json(attempt)["state"] == "ended"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "usage"),
        (["nowhere"], "holds no study.json"),
        (["nowhere", "mode"], "mode holds no study.json"),
        (["nowhere", "mod=x"], "did you mean 'mode'"),
    ],
)
def test_mistakes_are_one_message(tmp_path: Path, words: list[str], says: str):
    words = [str(tmp_path / "studies" / word) if word == "nowhere" else word for word in words]
    done = run(*words)
    assert done.returncode == 2
    assert says in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
