"""Submitting: one call for an array, and nothing lost or doubled whatever happens in between."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.orchestration.slurm import arrays, fake_slurm
from vlmablate.errors import UserError
from vlmablate.orchestration.slurm import commands, journal
from vlmablate.orchestration.slurm.executor import QueueFull
from vlmablate.orchestration.slurm.submit import adopt, submit, submit_lock

ROOT = Path(__file__).resolve().parents[3]


def lock(home: Path):
    return submit_lock(home, ttl_s=60, heartbeat_s=60)


def send(home: Path, count: int = 3, said: list[str] | None = None, **profile) -> journal.Submission:
    batch = arrays.array(count, **profile)
    report = (said if said is not None else []).append
    with lock(home):
        return submit(
            home, "study", batch, arrays.manifests(batch, home), Path("code"), {}, report, lambda _: None
        )


def calls(slurm: Path, command: str) -> int:
    path = slurm / "calls"
    return sum(line.split()[0] == command for line in path.read_text().splitlines()) if path.exists() else 0


def test_a_thousand_jobs_are_one_call_and_three_files(slurm: Path, home: Path):
    submission = send(home, 1000)
    assert calls(slurm, "sbatch") == 1
    assert len(fake_slurm.read_jobs()) == 1000
    assert sorted(path.name for path in submission.folder.iterdir() if path.is_file()) == [
        "batch.sh", "intent.json", "jobs.jsonl", "record.json",
    ]  # fmt: skip
    assert journal.read_manifest(submission.folder, 999)["job"] == submission.job(999)["name"]


def test_the_script_says_what_the_profile_asks_for(slurm: Path, home: Path):
    submission = send(
        home, partition="gpu", account="lab", qos="normal", time_min=90, nodes=2, ranks=4, gpus_per_node=4,
        cpus_per_task=6, mem_gb=120, throttle=8, setup=("module load cuda",), exclude="n1,n2", constraint="a100",
    )  # fmt: skip
    text = (submission.folder / journal.SCRIPT).read_text()
    for line in (
        "partition=gpu", "account=lab", "qos=normal", "time=90", "nodes=2", "ntasks-per-node=4", "gpus-per-node=4",
        "cpus-per-task=6", "mem=122880M", "array=0-2%8", "exclude=n1,n2", "constraint=a100", "requeue",
        "kill-on-invalid-dep=yes", "signal=USR2@90", f"comment=vlmablate:{submission.token}",
    ):  # fmt: skip
        assert any(
            found.removeprefix("#SBATCH --").replace("'", "") == line for found in text.splitlines()
        ), line
    assert text.index("module load cuda") < text.index("srun --kill-on-bad-exit=1")
    assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0


def test_one_task_needs_no_srun_and_its_shell_passes_signals_on(slurm: Path, home: Path):
    text = (send(home).folder / journal.SCRIPT).read_text()
    assert "srun --" not in text
    assert "#SBATCH --signal=B:USR2@90" in text


def test_a_refusal_is_an_error_that_says_why_and_leaves_nothing_open(slurm: Path, home: Path):
    (slurm / "mode-sbatch").write_text("refuse")
    with pytest.raises(UserError, match="invalid partition specified: nowhere"):
        send(home)
    assert journal.open_submissions(home) == []


def test_a_full_queue_is_told_apart_from_a_refusal(slurm: Path, home: Path):
    (slurm / "mode-sbatch").write_text("full")
    with pytest.raises(QueueFull):
        send(home)
    assert journal.open_submissions(home) == []


@pytest.mark.parametrize("lie", ["accept-then-fail", "noise"])
def test_a_job_that_arrived_although_sbatch_said_otherwise_is_adopted(slurm: Path, home: Path, lie: str):
    (slurm / "mode-sbatch").write_text(lie)
    said: list[str] = []
    submission = send(home, said=said)
    assert submission.job_id == "101"
    assert calls(slurm, "sbatch") == 1
    assert "adopted job 101" in said[0]


def test_an_sbatch_that_hangs_is_ended_and_its_job_adopted(
    slurm: Path, home: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(commands, "SUBMIT_TIMEOUT_S", 1.0)
    (slurm / "mode-sbatch").write_text("hang")
    submission = send(home)
    assert submission.job_id == "101"
    assert calls(slurm, "sbatch") == 1


def test_a_slurm_that_is_down_is_an_error_with_nothing_submitted(slurm: Path, home: Path):
    (slurm / "mode-sbatch").write_text("down")
    with pytest.raises(UserError, match="nothing was submitted"):
        send(home)
    assert fake_slurm.read_jobs() == []
    assert journal.open_submissions(home) == []


def test_a_submission_that_was_given_up_does_nothing_when_it_arrives_late(slurm: Path, home: Path):
    (slurm / "mode-sbatch").write_text("accept-then-fail")
    (slurm / "mode-squeue").write_text("error")
    with pytest.raises(UserError):
        send(home)
    assert len({job["id"] for job in fake_slurm.read_jobs()}) == 3  # all of them had arrived
    for job in fake_slurm.read_jobs():
        assert fake_slurm.run_element(f"{job['id']}_{job['index']}") == 0
    assert not (home / "steps").exists()


def test_an_open_question_is_answered_before_anything_else_is_submitted(slurm: Path, home: Path):
    send(home)
    next(home.glob("submissions/*/record.json")).unlink()
    (slurm / "mode-squeue").write_text("error")
    with lock(home), pytest.raises(UserError, match="may or may not have arrived"):
        adopt(home, print, lambda _: None)
    (slurm / "mode-squeue").unlink()
    said: list[str] = []
    with lock(home):
        adopt(home, said.append, lambda _: None)
    assert "adopted job 101" in said[0]
    assert journal.open_submissions(home)[0].job_id == "101"


@pytest.mark.slow
def test_kill_9_at_every_step_of_a_submission_leaves_no_orphan_and_no_duplicate(slurm: Path, home: Path):
    """The controller dies at its n-th action on files or processes, for every n until it survives."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "DIE_BELOW": str(home)}
    script = str(Path(arrays.__file__))
    deaths = 0
    for moment in range(1, 200):
        root = home / str(moment)
        (slurm / "jobs.json").unlink(missing_ok=True)
        died = subprocess.run([sys.executable, script, str(root), str(moment)], env=environment, check=False)
        assert died.returncode in (0, 99)
        with lock(root):
            adopt(root, print, lambda _: None)
        send(root)
        known = {submission.job_id for submission in journal.open_submissions(root)}
        assert {job["id"] for job in fake_slurm.read_jobs() if job["state"] == "PENDING"} == known
        assert None not in known
        if died.returncode == 0:
            break
        deaths += 1
    assert deaths >= 15
