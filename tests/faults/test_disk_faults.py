"""A disk that fills up while a sweep works, at the three moments that matter."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import invariants
from tests.slurm.conftest import Cluster, until

pytestmark = pytest.mark.slurm
TOY = ("kinds=toy",)


@pytest.fixture
def disk(cluster: Cluster, tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 MB for the results."""
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)], check=False)
    if made.returncode != 0:
        pytest.skip("no file system can be mounted here")
    cluster.home = place / "results"
    yield place
    cluster.close()
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(disk: Path) -> None:
    """Leave no room, not even for a small file."""
    with open(disk / "filler", "wb", buffering=0) as filler:
        for size in (2**16, 2**12, 1):
            try:
                while True:
                    filler.write(b"." * size)
            except OSError:
                continue


def free(disk: Path) -> None:
    (disk / "filler").unlink()


def whole(home: Path) -> bool:
    """No file under a final name is empty or torn."""
    return all(path.stat().st_size > 0 for path in home.rglob("*.json") if not path.name.startswith(".tmp-"))


def test_08_no_room_to_submit_submits_nothing(cluster: Cluster, disk: Path):
    fill(disk)
    said = cluster.run(*TOY)
    assert "DiskFull" in said or "disk is full" in said, said
    assert cluster.strangers() == []
    free(disk)
    invariants.check(cluster, *TOY, recomputed=0)


@pytest.mark.parametrize("moment", ["checkpoint", "result"])
def test_08_no_room_for_a_checkpoint_or_a_result_stops_the_sweep_and_costs_one_interval(
    cluster: Cluster, disk: Path, moment: str
):
    step = (
        6 if moment == "checkpoint" else 10
    )  # the next checkpoint is at 8; after 10 only the result is left
    cluster.set(f"hold-pretrain-{step}")
    controller = cluster.start(*TOY)
    held = cluster.control / f"held-pretrain-{step}-0"
    until(held.exists, "a worker at work")
    fill(disk)
    cluster.clear(f"hold-pretrain-{step}")
    until(lambda: not cluster.live(), "the end of all jobs")
    until(lambda: "disk is full" in controller.said or controller.process.poll() is not None, "the news")
    free(disk)
    said = controller.wait()
    assert "runs are done" not in said
    assert whole(cluster.home)
    invariants.check(cluster, *TOY)
