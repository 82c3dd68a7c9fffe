"""The small clusters themselves: up and down again, and nothing but their own processes."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.conftest import until

SCRIPTS = Path(__file__).resolve().parents[2] / "slurm" / "mini"

pytestmark = pytest.mark.slurm


class Mini:
    """A bare cluster beside the two that the other tests use."""

    def __init__(self, base: Path) -> None:
        self.environment = {**os.environ, "VLMABLATE_MINI": str(base), "VLMABLATE_MINI_PORT": "27300"}
        self.environment["SLURM_CONF"] = str(base / "bare" / "slurm.conf")
        self.folder = base / "bare"

    def do(self, *command: str) -> str:
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=self.environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def script(self, name: str, *arguments: str) -> str:
        return self.do(str(SCRIPTS / name), *arguments)

    def daemons(self) -> dict[str, int]:
        """Name -> process id."""
        return {path.name: int(path.read_text().split()[0]) for path in self.folder.glob("run-*")}


@pytest.fixture
def mini() -> Iterator[Mini]:
    base = Path(tempfile.mkdtemp(prefix="vlm-mini-", dir="/tmp"))  # a socket's path must be short
    made = Mini(base)
    made.script("up.sh", "bare")
    yield made
    made.script("down.sh", "bare")
    shutil.rmtree(base)


def alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def test_starting_again_replaces_only_what_has_died(mini: Mini) -> None:
    before = mini.daemons()
    mini.script("node.sh", "kill", "vlm2", "bare")
    assert not alive(before["run-slurmd-vlm2"])

    mini.script("up.sh", "bare")

    after = mini.daemons()
    assert {name for name in before if before[name] != after[name]} == {"run-slurmd-vlm2"}
    assert mini.do("srun", "--nodes=2", "--ntasks=2", "printenv", "SLURM_NODEID").split() in (
        ["0", "1"],
        ["1", "0"],
    )


def test_down_ends_jobs_whose_daemons_are_dead_and_spares_a_process_with_a_used_id(mini: Mini) -> None:
    marker = mini.folder.parent / "job"
    mini.do(
        "sbatch", "--output=/dev/null", f"--wrap=trap '' TERM; echo $$ > {marker}; sleep 600 & wait; wait"
    )
    job = int(until(lambda: marker.exists() and marker.read_text().strip(), "a job that runs"))
    daemons = mini.daemons()
    for name in ("slurmd-vlm1", "slurmd-vlm2", "slurmctld"):
        os.kill(daemons[f"run-{name}"], 9)
    bystander = subprocess.Popen(["sleep", "600"])
    try:
        (mini.folder / "run-slurmctld").write_text(f"{bystander.pid} 1\n")

        mini.script("down.sh", "bare")

        assert bystander.poll() is None
        until(lambda: not alive(job), "the end of the job")
        assert not any(alive(pid) for pid in daemons.values())
        assert not mini.folder.exists()
    finally:
        bystander.kill()
        bystander.wait()


def test_a_daemon_that_cannot_start_is_named_with_its_own_words(mini: Mini) -> None:
    mini.script("node.sh", "stop", "vlm1", "bare")
    with open(mini.folder / "gres.conf", "a") as conf:
        conf.write("NoSuchKey=1\n")

    done = subprocess.run(
        [SCRIPTS / "up.sh", "bare"], capture_output=True, text=True, check=False, env=mini.environment
    )

    assert done.returncode == 1
    assert "slurmd-vlm1 ended" in done.stderr
    assert "NoSuchKey" in done.stderr


def test_an_unknown_cluster_is_refused_with_the_known_names(mini: Mini) -> None:
    done = subprocess.run([SCRIPTS / "env.sh", "fancy"], capture_output=True, text=True, check=False)

    assert done.returncode == 1
    assert "accounting bare" in done.stderr
