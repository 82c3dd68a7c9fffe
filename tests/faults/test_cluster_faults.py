"""Faults of workers, nodes, the queue and the people who use it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.faults import invariants, toy
from tests.slurm.conftest import ROOT, Cluster, slurm, until

pytestmark = pytest.mark.slurm
TOY = ("kinds=toy",)
TWO_RANKS = (*TOY, "execution.nodes=2")


def held(cluster: Cluster, kind: str, step: int, rank: int = 0) -> int:
    """Wait until a rank holds at a step; its process id."""
    path = cluster.control / f"held-{kind}-{step}-{rank}"
    return int(until(lambda: path.exists() and path.read_text().strip(), f"{path.name}"))


def release(cluster: Cluster, kind: str, step: int) -> None:
    cluster.clear(f"hold-{kind}-{step}")
    for path in cluster.control.glob(f"held-{kind}-{step}-*"):
        path.unlink(missing_ok=True)


def running(cluster: Cluster) -> str:
    """The element that runs now."""
    return str(
        until(
            lambda: next((n for n, s in cluster.elements().items() if s == "RUNNING"), ""),
            "a running element",
        )
    )


def bring_back(node: str) -> None:
    """A node that was set down may be back by itself already."""
    subprocess.run(
        ["scontrol", "update", f"NodeName={node}", "State=RESUME"], capture_output=True, check=False
    )
    until(
        lambda: "*" not in slurm("sinfo", "--noheader", "--Node", f"--nodes={node}", "--format=%T"),
        "the node",
    )


@pytest.mark.parametrize("rank", [0, 1])
def test_01_a_killed_rank_ends_the_job_and_the_job_is_tried_once_more(cluster: Cluster, rank: int):
    cluster.set("hold-pretrain-6")
    controller = cluster.start(*TWO_RANKS)
    victim, other = held(cluster, "pretrain", 6, rank), held(cluster, "pretrain", 6, 1 - rank)
    os.kill(victim, signal.SIGKILL)
    until(lambda: "trying once more" in controller.said, "the news of its death", 15)
    until(lambda: not Path(f"/proc/{other}").exists(), "the end of the other rank")
    release(cluster, "pretrain", 6)
    controller.wait()
    assert {event.split()[3] for event in cluster.events("resumed pretrain")} == {"4"}
    invariants.check(cluster, *TWO_RANKS, ranks=2)


def test_03_nobody_watches_for_the_whole_sweep(cluster: Cluster):
    cluster.run(*TOY, "seeds=2", "detach=true")
    until(lambda: not cluster.live(), "the end of all jobs")
    submitted = len(cluster.submissions())
    invariants.check(cluster, *TOY, "seeds=2", recomputed=0)
    assert len(cluster.submissions()) == submitted


def test_04_what_is_cancelled_ends_in_order_and_waits_for_retry(cluster: Cluster):
    cluster.set("hold-pretrain-6")
    controller = cluster.start(*TOY)
    held(cluster, "pretrain", 6)
    slurm("scancel", *{name.partition("_")[0] for name in cluster.live()})
    said = controller.wait()
    assert "FAILED pretrain" in said
    attempt = cluster.attempts("pretrain")[0]
    assert (attempt.state, attempt.record.get("checkpoint")) == ("stopped", 7)
    release(cluster, "pretrain", 6)
    submitted = len(cluster.submissions())
    assert "vlmablate retry" in cluster.run(*TOY)
    assert len(cluster.submissions()) == submitted
    cluster.verb("retry", "study")
    invariants.check(cluster, *TOY, recomputed=0)


def test_05_a_time_limit_is_survived(cluster: Cluster):
    """The limit is one minute, the shortest there is; the signal comes 50 seconds before it."""
    limits = (*TWO_RANKS, "execution.slurm.time_min=1", "execution.slurm.signal_delay_s=50")
    cluster.set("hold-pretrain-6")
    controller = cluster.start(*limits)
    held(cluster, "pretrain", 6)
    until(lambda: cluster.events("saved pretrain"), "a checkpoint")
    until(
        lambda: any(e.split()[3] == "7" for e in cluster.events("saved pretrain")),
        "a checkpoint on request",
        60,
    )
    release(cluster, "pretrain", 6)
    said = controller.wait(90)
    assert "runs are done" in said, said
    assert any(event.startswith("resumed pretrain") for event in cluster.events())
    assert "FAILED" not in said
    invariants.check(cluster, *limits, recomputed=0, ranks=2)


def test_06_preemptions_of_a_short_job_are_no_timeouts(cluster: Cluster):
    """Three preemptions of a job of eight minutes: each saves, goes back to the queue, and goes on from there."""
    words = (*TWO_RANKS, "execution.slurm.partition=low", "execution.slurm.time_min=8")
    controller = cluster.start(*words)
    for step in (2, 5, 9):
        cluster.set(f"hold-pretrain-{step}")
    for step in (2, 5, 9):
        held(cluster, "pretrain", step)
        rival = slurm(
            "sbatch",
            "--parsable",
            "--partition=high",
            "--nodes=2",
            "--exclusive",
            "--output=/dev/null",
            "--wrap=true",
        ).strip()
        until(
            lambda s=step: any(e.split()[3] == str(s + 1) for e in cluster.events("saved pretrain")),
            "a checkpoint",
        )
        release(cluster, "pretrain", step)
        until(
            lambda r=rival: (
                "COMPLETED" in slurm("squeue", "--noheader", "--states=all", "--format=%T", f"--jobs={r}")
            ),
            "the rival",
        )
    said = controller.wait(60)
    assert "runs are done" in said, said
    assert "FAILED" not in said
    invariants.check(cluster, *words, recomputed=0, ranks=2)


def test_07_a_node_that_goes_down_loses_one_checkpoint_interval_at_most(cluster: Cluster):
    cluster.set("hold-pretrain-6")
    controller = cluster.start(*TOY)
    held(cluster, "pretrain", 6)
    node = slurm("squeue", "--noheader", "--states=RUNNING", "--format=%N").split()[0]
    try:
        slurm("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")
        release(cluster, "pretrain", 6)
        said = controller.wait()
    finally:
        bring_back(node)
    assert "runs are done" in said, said
    until(
        lambda: set(slurm("sinfo", "--noheader", "--Node", "--format=%T").split()) == {"idle"},
        "two idle nodes",
    )
    invariants.check(cluster, *TOY)


def test_07_a_node_that_is_drained_finishes_its_work(cluster: Cluster):
    cluster.set("hold-pretrain-6")
    controller = cluster.start(*TOY)
    held(cluster, "pretrain", 6)
    node = slurm("squeue", "--noheader", "--states=RUNNING", "--format=%N").split()[0]
    try:
        slurm("scontrol", "update", f"NodeName={node}", "State=DRAIN", "Reason=test")
        release(cluster, "pretrain", 6)
        said = controller.wait()
    finally:
        bring_back(node)
    assert "runs are done" in said, said
    invariants.check(cluster, *TOY, recomputed=0)


@pytest.mark.parametrize("damage", ["truncated", "uncommitted", "flipped", "draft"])
def test_09_a_damaged_checkpoint_is_passed_over(cluster: Cluster, damage: str):
    cluster.set("hold-pretrain-10")
    controller = cluster.start(*TWO_RANKS)
    victim = held(cluster, "pretrain", 10)
    folder = next(path for path in cluster.home.glob("steps/pretrain/*") if (path / "checkpoint-8").exists())
    newest = folder / "checkpoint-8"
    shard = newest / "rank-1.json"
    content = shard.read_bytes()
    if damage == "truncated":
        shard.write_bytes(content[:100])
    elif damage == "uncommitted":
        (newest / "COMMIT").unlink()
    elif damage == "flipped":
        shard.write_bytes(content[:50] + bytes([content[50] ^ 1]) + content[51:])
    else:
        shutil.copytree(newest, folder / "checkpoint-9.tmp-1")
    os.kill(victim, signal.SIGKILL)
    until(lambda: "trying once more" in controller.said, "the news of its death", 15)
    release(cluster, "pretrain", 10)
    said = controller.wait()
    assert "runs are done" in said, said
    resumed = {event.split()[3] for event in cluster.events("resumed pretrain")}
    assert resumed <= ({"8"} if damage == "draft" else {"4", "8"})
    invariants.check(cluster, *TWO_RANKS, recomputed=2 * toy.EVERY, ranks=2)


def test_10_two_controllers_at_the_same_time_make_one_sweep(cluster: Cluster):
    both = [cluster.start(*TOY, "seeds=2") for _ in range(2)]
    said = [controller.wait() for controller in both]
    assert all("runs are done" in text for text in said), said
    submitted = [step["id"] for s in cluster.submissions() for i in s.indices for step in s.job(i)["steps"]]
    assert len(submitted) == len(set(submitted))
    invariants.check(cluster, *TOY, "seeds=2", recomputed=0)


def test_10_two_studies_that_share_steps_submit_them_once(cluster: Cluster):
    """Another name is another study with a controller of its own, over the same steps."""
    both = [cluster.start(*TOY, f"study={name}") for name in ("study", "other")]
    said = [controller.wait() for controller in both]
    assert all("runs are done" in text for text in said), said
    submitted = [step["id"] for s in cluster.submissions() for i in s.indices for step in s.job(i)["steps"]]
    assert len(submitted) == len(set(submitted))
    invariants.check(cluster, *TOY, recomputed=0)


def test_11_a_worker_that_slept_through_its_lease_may_not_commit(cluster: Cluster):
    """It is stopped for longer than the lease lives, a second worker does the work, and it wakes up again."""
    cluster.set("hold-pretrain-6")
    cluster.run(*TOY, "detach=true")
    sleeper = held(cluster, "pretrain", 6)
    os.kill(sleeper, signal.SIGSTOP)
    folder = next(path for path in cluster.home.glob("steps/pretrain/*") if (path / "checkpoint-4").exists())
    first = folder / "attempts" / "001.json"
    # The clock of the file system, an hour back: what waiting for an hour would do.
    old = time.time() - 3600
    os.utime(first, (old, old))
    record = json.loads(first.read_text())
    record["owner"]["host"] = "another-machine"  # otherwise its process would be found, alive
    first.write_text(json.dumps(record))
    os.utime(first, (old, old))
    thief = cluster.start(*TOY, "launcher=local", "study=thief")
    until(lambda: (folder / "attempts" / "002.json").exists(), "the second attempt")
    release(cluster, "pretrain", 6)
    thief.wait()
    os.kill(sleeper, signal.SIGCONT)
    until(lambda: not cluster.live(), "the end of the sleeper")
    assert json.loads((folder / "result.json").read_text())["attempt"] == 2
    invariants.check(cluster, *TOY, recomputed=toy.STEPS)


def test_15_what_is_edited_while_jobs_wait_does_not_reach_them(cluster: Cluster, tmp_path: Path):
    """The sources of the sweep are a copy; after the submission every one of its files is made unusable."""
    tree = tmp_path / "tree"
    for name in ("vlmablate", "conf", "tests", "analysis"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    (tree / "pyproject.toml").write_text("")
    cluster.set("hold-pretrain-0")
    cluster.run_in(tree, *TOY, "detach=true")
    for path in (tree / "vlmablate").rglob("*.py"):
        path.write_text("raise SystemExit('edited while jobs were waiting')\n")
    for path in (tree / "conf").rglob("*.yaml"):
        path.write_text("edited: true\n")
    cluster.clear("hold-pretrain-0")
    until(lambda: not cluster.live(), "the end of all jobs")
    invariants.check(cluster, *TOY, recomputed=0)


@pytest.mark.parametrize(
    ("fault", "said", "ends_well"),
    [
        ("oom rows=2", "execution.micro_batch=2", True),
        ("memory always", "MemoryError: told to have none", False),
        ("nan always", "the loss of step 7 is nan", False),
        ("bug always", "was told to fail", False),
    ],
)
def test_16_the_policy_is_followed(cluster: Cluster, fault: str, said: str, ends_well: bool):
    words = (*TOY, "execution.micro_batch=4")
    cluster.set("fault-pretrain-6", f"{fault} always" if fault.startswith("oom") else fault)
    text = cluster.run(*words)
    assert said in text
    assert ("runs are done" in text) == ends_well
    cluster.clear("fault-pretrain-6")
    invariants.check(cluster, *words)


def test_16_what_goes_wrong_on_another_rank_is_the_failure_of_the_job(cluster: Cluster):
    cluster.set("fault-pretrain-6", "bug rank=1 always")
    said = cluster.run(*TWO_RANKS)
    assert "FAILED pretrain" in said
    assert "RuntimeError: the pretrain step was told to fail" in said
    attempt = cluster.attempts("pretrain")[0]
    assert (attempt.state, attempt.record["error"]["type"]) == ("failed", "RuntimeError")
    cluster.clear("fault-pretrain-6")
    invariants.check(cluster, *TWO_RANKS, ranks=2)


def test_16_a_crash_loop_opens_the_circuit(cluster: Cluster):
    """Every alignment fails in the same way: after three of them nothing more is started."""
    cluster.set("fault-align-0", "bug always")
    text = cluster.run(*TOY, "seeds=8")
    assert "failed in the same way" in text, text
    assert cluster.live() == []
    cluster.clear("fault-align-0")
    invariants.check(cluster, *TOY, "seeds=8", recomputed=0)


@pytest.mark.parametrize("damage", ["gone", "garbage"])
def test_17_what_is_derived_may_be_lost(cluster: Cluster, damage: str):
    """The declaration, the job files and the caches are made again; the steps are the truth."""
    cluster.run(*TOY)
    derived = [path for path in (cluster.home / "studies").rglob("*") if path.is_file()]
    derived += [path for path in (cluster.home / "cache").rglob("*") if path.is_file()]
    assert derived
    for path in derived:
        if damage == "gone":
            path.unlink()
        else:
            path.write_bytes(b"\0garbage")
    invariants.check(cluster, *TOY, recomputed=0)


def test_19_clocks_that_disagree_steal_no_lease(cluster: Cluster):
    """The clock of the node is an hour behind, so its heartbeats look old; they still are signs of life."""
    cluster.set("hold-pretrain-6")
    controller = cluster.start(*TOY)
    held(cluster, "pretrain", 6)
    lease = next(cluster.home.glob("steps/pretrain/*/attempts/001.json"))
    old = time.time() - 3600
    for _ in range(20):
        os.utime(lease, (old, old))
        subprocess.run(["sleep", "0.05"], check=True)
    release(cluster, "pretrain", 6)
    controller.wait()
    assert not list(cluster.home.glob("steps/pretrain/*/attempts/002.json"))
    invariants.check(cluster, *TOY, recomputed=0)
