"""What a plan shows of a submission."""

from __future__ import annotations

from pathlib import Path

from vlmablate.errors import UserError
from vlmablate.orchestration import preview
from vlmablate.orchestration.estimates import Estimator
from vlmablate.orchestration.plan import make_plan
from vlmablate.orchestration.slurm import commands
from vlmablate.orchestration.store import Store

EXECUTION = {"launcher": "slurm", "threads": 2, "slurm": {"partition": "gpu", "time_min": 30}}


def no_answer() -> commands.Limits:
    raise UserError("no cluster here")


def test_arrays_are_named_by_what_their_jobs_do(store: Store, make_runs, monkeypatch):
    monkeypatch.setattr(commands, "limits", lambda: commands.Limits(1001, 30.0))
    jobs = make_plan(make_runs("stages", 4)[::2], store, Estimator(None, {}), 1).jobs
    found = preview.names(preview.batches_of(jobs, EXECUTION))
    assert found == [("scenes", 1), ("pretrain+features", 2), ("align+finetune+evaluate", 4)]


def test_the_limit_of_the_cluster_or_a_smaller_one_cuts_arrays(store: Store, make_runs, monkeypatch):
    jobs = make_plan(make_runs("stages", 4)[::2], store, Estimator(None, {}), 1).jobs
    monkeypatch.setattr(commands, "limits", lambda: commands.Limits(3, 30.0))
    assert [size for _, size in preview.names(preview.batches_of(jobs, EXECUTION))] == [1, 2, 3, 1]
    monkeypatch.setattr(commands, "limits", no_answer)
    own = {**EXECUTION, "slurm": {"max_array": 2}}
    assert [size for _, size in preview.names(preview.batches_of(jobs, own))] == [1, 2, 2, 2]


def test_scripts_are_those_that_would_be_submitted(store: Store, make_runs, monkeypatch, tmp_path: Path):
    srun = tmp_path / "bin" / "srun"
    srun.parent.mkdir()
    srun.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(srun.parent))
    jobs = make_plan(make_runs("stages"), store, Estimator(None, {}), 1).jobs
    batches = preview.batches_of(jobs, EXECUTION)
    scripts = preview.scripts(batches, store.home)
    assert len(scripts) == len(batches)
    assert "#SBATCH --partition=gpu" in scripts[0]
    assert "#SBATCH --time=30" in scripts[0]
    assert "--dependency='afterok:<id of array-1>_0'" in scripts[1]
    assert not store.home.exists()


def test_without_slurm_there_is_no_script_but_a_plan(sweeps, monkeypatch, tmp_path: Path):
    monkeypatch.setenv("PATH", str(tmp_path))
    text = sweeps.plan(launcher="slurm")
    assert "5 jobs in " in text
    assert "their scripts are shown where Slurm's commands are on the PATH" in text
