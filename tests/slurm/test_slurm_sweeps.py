"""Whole sweeps on a real Slurm."""

from __future__ import annotations

import os
import signal
import time

import pytest

from tests.orchestration import fakes
from tests.slurm.conftest import Cluster, slurm, until

pytestmark = pytest.mark.slurm
both = pytest.mark.both_clusters


def calls() -> list[str]:
    return [line.split()[0] for line in fakes.calls()]


@both
def test_a_sweep_is_computed_once_and_then_never_again(cluster: Cluster):
    said = cluster.run("seeds=2")
    assert "all 4 runs are done" in said, said
    made = len(calls())
    assert made == len(set(fakes.calls()))
    again = cluster.run("seeds=2")
    assert "nothing to submit" in again
    assert len(calls()) == made
    assert len(cluster.submissions()) == len({s.job_id for s in cluster.submissions()})
    assert all((s.folder / "closed.json").exists() for s in cluster.submissions())


def test_more_seeds_submit_only_what_is_missing(cluster: Cluster):
    cluster.run("seeds=1")
    before = {
        step
        for s in cluster.submissions()
        for i in s.indices
        for step in (e["id"] for e in s.job(i)["steps"])
    }
    cluster.run("seeds=2")
    every = [step["id"] for s in cluster.submissions() for i in s.indices for step in s.job(i)["steps"]]
    assert len(every) == len(set(every))
    assert before < set(every)


def test_the_controller_may_go_and_a_later_one_finds_the_work_done(cluster: Cluster):
    cluster.set("hold-pretrain")
    said = cluster.run("seeds=2", "detach=true")
    assert "the jobs are left to Slurm" in said
    assert len(cluster.live()) > 0
    submitted = len(cluster.submissions())
    cluster.clear("hold-pretrain")
    until(lambda: not cluster.live(), "the end of all jobs without any controller")
    assert "all 4 runs are done" in cluster.run("seeds=2")
    assert len(cluster.submissions()) == submitted
    assert len(fakes.calls()) == len(set(fakes.calls()))


def test_a_second_controller_adopts_what_waits_in_the_queue(cluster: Cluster):
    cluster.set("hold-pretrain")
    first = cluster.start("seeds=2")
    until(lambda: "pretrain" in calls(), "a job at work")
    first.kill()
    submitted = len(cluster.submissions())
    second = cluster.start("seeds=2")
    until(lambda: "runs 0/4" in second.said, "the second controller at work")
    assert len(cluster.submissions()) == submitted
    cluster.clear("hold-pretrain")
    assert "all 4 runs are done" in second.wait()
    assert len(cluster.submissions()) == submitted


@both
def test_a_killed_worker_is_seen_soon_and_tried_once_more(cluster: Cluster):
    cluster.set("hold-pretrain")
    controller = cluster.start()
    pid = int(until(lambda: _read(cluster, "held-pretrain"), "a worker at work"))
    os.kill(pid, signal.SIGKILL)
    begun = time.monotonic()
    until(lambda: "the worker was killed by SIGKILL" in controller.said, "the news of its death", 15)
    assert time.monotonic() - begun < 15  # the bar that users rely on, with and without accounting
    cluster.clear("hold-pretrain")
    cluster.clear("held-pretrain")
    assert "all 2 runs are done" in controller.wait()
    assert calls().count("pretrain") == 2


def test_a_cancelled_element_is_not_started_again(cluster: Cluster):
    cluster.set("hold-align")
    controller = cluster.start()
    until(lambda: _read(cluster, "held-align"), "a worker at work")
    name = next(name for name, state in cluster.elements().items() if state == "RUNNING")
    slurm("scancel", name)
    said = controller.wait()
    assert "FAILED align" in said
    assert "cancelled" in said.lower()
    assert calls().count("align") == 1
    attempt = cluster.attempts("align")[0]
    assert attempt.state == "stopped"  # it ended in order, with a final record


@both
def test_work_that_needs_a_failed_step_does_not_wait_for_ever_and_comes_back_with_it(cluster: Cluster):
    cluster.set("fail-features")
    said = cluster.run("seeds=2")
    assert "FAILED features" in said
    assert "not run, a step it needs failed" in said
    assert cluster.live() == []
    assert "finetune" not in calls()
    cluster.clear("fail-features")
    assert "all 4 runs are done" in cluster.run("seeds=2")


def test_a_failed_branch_keeps_no_other_branch_from_running(cluster: Cluster):
    cluster.set("hold-pretrain")
    cluster.set("fail-align")  # only the arm with two stages aligns
    cluster.run("seeds=2", "detach=true")
    cluster.clear("hold-pretrain")
    until(lambda: not cluster.live(), "the end of all jobs")
    assert calls().count("evaluate") == 2  # the single-stage arm, without any controller to help


def _read(cluster: Cluster, name: str) -> str:
    path = cluster.control / name
    return path.read_text() if path.exists() else ""
