"""Tests on a real Slurm: ``make slurm-test`` brings up two small clusters on this machine and names them here.

``VLMABLATE_SLURM_CONF`` is the configuration of the one with accounting, ``VLMABLATE_SLURM_CONF_BARE`` of the one
without.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from vlmablate.orchestration.lease import Attempt, latest  # noqa: E402
from vlmablate.orchestration.slurm import journal  # noqa: E402

DEADLINE_S = 50.0
CLUSTERS = {"accounting": "VLMABLATE_SLURM_CONF", "bare": "VLMABLATE_SLURM_CONF_BARE"}


def until(condition: Callable[[], Any], what: str, deadline_s: float = DEADLINE_S) -> Any:
    """Wait for something that other processes do; fails after a deadline."""
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.05)
    raise AssertionError(f"waited {deadline_s:.0f} s in vain for: {what}")


def slurm(*arguments: str) -> str:
    """Output of one of Slurm's commands."""
    return subprocess.run(arguments, capture_output=True, text=True, check=True).stdout


class Controller:
    """A controller in a process of its own, whose output can be read while it runs."""

    def __init__(self, command: list[str], output: Path, environment: dict[str, str]) -> None:
        self.output = output
        with open(output, "w") as target:
            self.process = subprocess.Popen(command, stdout=target, stderr=subprocess.STDOUT, env=environment)

    @property
    def said(self) -> str:
        return self.output.read_text()

    def wait(self, deadline_s: float = DEADLINE_S) -> str:
        """Wait for its end; what it said."""
        try:
            self.process.wait(deadline_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the controller did not end:\n{self.said}") from None
        return self.said

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


class Cluster:
    """Sweeps of fake steps on one cluster, with one results folder."""

    def __init__(self, home: Path, control: Path, axis: str = "stages") -> None:
        self.home = home
        self.control = control
        self._count = 0
        self._started: list[Controller] = []

    def start(self, *words: str, tree: Path = ROOT, **environment: str) -> Controller:
        """Start a controller: words are ``seeds=2``, ``launcher=local``, ``detach=true``, ``time_min=1``, …"""
        self._count += 1
        command = [sys.executable, str(tree / "tests" / "slurm" / "run_sweep.py"), str(self.home), *words]
        variables = {**os.environ, "PYTHONPATH": str(tree), **environment}
        started = Controller(command, self.control / f"controller-{self._count}.txt", variables)
        self._started.append(started)
        return started

    def run_in(self, tree: Path, *words: str) -> str:
        """Run a controller whose sources are another tree."""
        return self.start(*words, tree=tree).wait()

    def run(self, *words: str, deadline_s: float = DEADLINE_S, **environment: str) -> str:
        """Run a controller to its end; what it said."""
        return self.start(*words, **environment).wait(deadline_s)

    def verb(self, *words: str) -> str:
        """Run a verb of the command line on the results folder."""
        environment = {**os.environ, "VLMABLATE_HOME": str(self.home), "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "vlmablate.cli", *words]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def set(self, name: str, text: str = "") -> None:
        """Tell the steps something; see :mod:`tests.slurm.toy`."""
        (self.control / name).write_text(text)

    def clear(self, name: str) -> None:
        (self.control / name).unlink(missing_ok=True)

    def events(self, what: str = "") -> list[str]:
        """What the steps wrote down, oldest first."""
        path = self.control / "events"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line for line in lines if line.startswith(what)]

    def submissions(self) -> list[journal.Submission]:
        """All submissions, also the closed ones."""
        found = [journal.read_submission(path.parent) for path in self.home.glob("submissions/*/intent.json")]
        return sorted((s for s in found if s is not None), key=lambda s: (s.intent["created"], s.token))

    def elements(self) -> dict[str, str]:
        """Name of an element -> its state in Slurm, for everything in the journal of this folder."""
        names = {journal.job_name(s.token) for s in self.submissions()}
        rows = slurm(
            "squeue", "--noheader", "--array", "--states=all", "--format=%F_%K|%j|%T|%r"
        ).splitlines()
        parts = [row.split("|") for row in rows]
        return {element: state for element, name, state, _ in parts if name in names}

    def strangers(self) -> list[str]:
        """Jobs in Slurm whose script lies in this folder and that the journal does not know by their id."""
        known = {s.job_id for s in self.submissions()}
        rows = slurm("squeue", "--noheader", "--states=all", "--format=%F|%o").splitlines()
        ours = {row.partition("|")[0] for row in rows if row.partition("|")[2].startswith(f"{self.home}/")}
        return sorted(ours - known)

    def live(self) -> list[str]:
        """Elements that Slurm still has to do with."""
        return [
            name for name, state in self.elements().items() if state in ("PENDING", "RUNNING", "COMPLETING")
        ]

    def attempts(self, kind: str) -> list[Attempt]:
        """The latest attempt of every step of a kind."""
        found = [latest(path) for path in self.home.glob(f"steps/{kind}/*/attempts")]
        return [attempt for attempt in found if attempt is not None]

    def results(self) -> dict[str, dict[str, str]]:
        """Step -> file -> SHA-256, of every finished step; time stamps and speeds left out."""
        found = {}
        for path in self.home.glob("steps/*/*/result.json"):
            files = json.loads(path.read_text())["files"]
            shown = {name: facts["sha256"] for name, facts in files.items() if name != "metrics.jsonl"}
            found[path.parent.name] = shown
        return found

    def close(self) -> None:
        for controller in self._started:
            if controller.process.poll() is None:
                controller.process.send_signal(signal.SIGKILL)
                controller.process.wait()
        live = {name.partition("_")[0] for name in self.live()}
        if live:
            subprocess.run(["scancel", *sorted(live)], check=False)
            until(lambda: not self.live(), "the end of all jobs of the test")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that takes ``cluster`` runs on the bare one; one marked ``both_clusters`` on each."""
    if "profile" in metafunc.fixturenames:
        marked = metafunc.definition.get_closest_marker("both_clusters")
        metafunc.parametrize("profile", ["accounting", "bare"] if marked else ["bare"])


@pytest.fixture(scope="session")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where composed cells are remembered."""
    return tmp_path_factory.mktemp("cells")


@pytest.fixture
def cluster(profile: str, cells: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    conf = os.environ.get(CLUSTERS[profile])
    if not conf:
        pytest.fail(f"{CLUSTERS[profile]} is not set: these tests need  make slurm-test")
    monkeypatch.setenv("SLURM_CONF", conf)
    control = tmp_path / "control"
    control.mkdir()
    monkeypatch.setenv("VLMABLATE_FAKES", str(control))
    monkeypatch.setenv("VLMABLATE_TEST_CELLS", str(cells))
    made = Cluster(tmp_path / "results", control)
    yield made
    made.close()


def numbers(text: str, pattern: str) -> list[int]:
    """All numbers that a pattern's group finds."""
    return [int(found) for found in re.findall(pattern, text)]
