"""``vlmablate track sync`` with the real W&B, against a server of the tests."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tracking.offline import run_folders
from tests.tracking.server import server
from tests.tracking.test_wandb_replay import RUNS, run
from vlmablate.tracking.reports import report_id
from vlmablate.tracking.sync import unsent

pytestmark = pytest.mark.slow  # every command starts W&B in a process of its own
KEY = "0" * 40


def track_sync() -> subprocess.CompletedProcess[str]:
    program = "import sys; from vlmablate.tracking.sync import run; sys.exit(run(['sync']))"
    command = [sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)


@pytest.fixture
def told(reported: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The study with a report, told offline."""
    monkeypatch.setenv("VLMABLATE_HOME", str(reported.parents[1]))
    assert run(str(reported)).returncode == 0
    return reported


def test_runs_and_report_are_sent_once_however_often(told: Path, monkeypatch: pytest.MonkeyPatch):
    target, report = told.parents[1] / "wandb", report_id(told)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    with server() as kept:
        monkeypatch.setenv("WANDB_BASE_URL", kept.url)
        done = track_sync()
        assert done.returncode == 0, done.stdout + done.stderr
        assert "W&B: 3 runs sent" in done.stdout
        assert {name: facts["jobType"] for name, facts in kept.runs.items()} == {
            **dict.fromkeys(RUNS, "size"),
            report: "report",
        }
        assert {facts["groupName"] for facts in kept.runs.values()} == {"mine"}
        assert {name: len(rows) for name, rows in kept.history.items()} == dict.fromkeys(RUNS, 8)
        assert [len(versions) for versions in kept.artifacts.values()] == [1]
        assert kept.files["mine/report.html"] == (told / "report.html").read_bytes()
        assert len(kept.files) == 4

        before = copy.deepcopy(kept)
        assert "nothing to send" in track_sync().stdout
        # It was cut off after the last byte and before W&B's own mark: everything is sent again, and nothing is new.
        for mark in target.rglob("*.synced"):
            mark.unlink()
        assert track_sync().returncode == 0
        assert kept == before
    assert unsent(target) == []


def test_a_network_that_is_away_is_given_up_and_keeps_everything(told: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB__GRAPHQL_RETRY_MAX", "1")
    with server() as kept:
        pass  # nobody listens there any more
    monkeypatch.setenv("WANDB_BASE_URL", kept.url)
    done = track_sync()
    assert done.returncode == 1
    assert "W&B: 0 runs sent, 3 not sent" in done.stdout
    assert len(run_folders(told.parents[1] / "wandb")) == 3


def test_without_a_login_it_says_so_and_loses_nothing(told: Path):
    done = track_sync()
    assert done.returncode == 1
    assert "W&B: 0 runs sent, 3 not sent" in done.stdout
    assert len(run_folders(told.parents[1] / "wandb")) == 3
