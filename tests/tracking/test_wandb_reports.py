"""Reports, sets of studies and trials, told to the real W&B and read from its files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.tracking.conftest import tune, write_report
from tests.tracking.offline import of_kind, run_folders
from tests.tracking.test_wandb_replay import killed_at, run
from vlmablate.files import read_json, write_json
from vlmablate.tracking.reports import report_id
from vlmablate.tracking.settings import MARK

pytestmark = pytest.mark.slow  # every W&B run starts a process of its own


def report_folder(study: Path) -> Path:
    """The one folder of the report's run."""
    (folder,) = (study.parents[1] / "wandb").glob(f"*-{report_id(study)}")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """Name in the artifact -> what W&B would send."""
    manifest = of_kind(folder, "artifact").manifest
    return {entry.path: Path(entry.local_path).read_bytes() for entry in manifest.contents}


def test_a_report_is_one_artifact_that_later_reports_do_not_change(reported: Path):
    done = run(str(reported), "project=lab")
    assert done.returncode == 0, done.stdout
    assert "W&B: 2 runs and the report tracked, offline, project lab" in done.stdout
    folder = report_folder(reported)
    told = of_kind(folder, "run")
    assert (told.run_group, told.job_type, told.display_name) == ("mine", "report", "report mine")
    assert told.notes == "large is worse."
    artifact = of_kind(folder, "artifact")
    digest = read_json(reported / MARK)["digest"]
    assert (artifact.name, artifact.type) == ("report-mine", "report")
    assert set(artifact.aliases) == {"latest", digest[:16]}
    before = contents(folder)
    names = ("report.html", "report.ipynb", "results.parquet", "significance.csv")
    assert before == {f"mine/{name}": (reported / name).read_bytes() for name in names}

    # Written anew after it was told, and before it is sent.
    write_report(reported, "large is better")
    assert contents(folder) == before
    again = run(str(reported), "project=lab")
    assert "W&B: the report tracked" in again.stdout
    newer = report_folder(reported)
    assert contents(newer)["mine/report.html"] == b"<p>large is better</p>"
    assert len(list((reported.parents[1] / "wandb" / "reports" / report_id(reported)).iterdir())) == 1

    # Nothing is told twice.
    assert run(str(reported), "project=lab").stdout == ""
    assert report_folder(reported) == newer
    assert len(run_folders(reported.parents[1] / "wandb")) == 3


@pytest.mark.parametrize(
    "patch",
    [
        "replay.report_history = die",
        "wandb.Run.log_artifact = die",
        "json = replay.write_json\n"
        "replay.write_json = lambda path, facts: (die if "
        "'digest' in facts else json)(path, facts)",
    ],
    ids=["before it is told", "while it is", "before its mark"],
)
def test_a_report_that_was_cut_off_is_told_once(reported: Path, patch: str):
    killed_at(reported, patch)
    assert not (reported / MARK).exists()
    assert run(str(reported)).returncode == 0
    assert contents(report_folder(reported))["mine/report.html"] == b"<p>large is worse</p>"
    target = reported.parents[1] / "wandb"
    assert sorted(target.iterdir()) == sorted([*run_folders(target), target / "reports"])
    assert len(run_folders(target)) == 3


def test_studies_of_one_set_are_one_group_and_share_a_report(reported: Path):
    group, other = reported.with_name("set"), reported.with_name("other")
    other.mkdir()
    facts = json.loads((reported / "study.json").read_text())
    axis: dict[str, Any] = {"name": "depth", "baseline": "small", "arms": {"small": {}, "large": {}}}
    write_json(other / "study.json", {**facts, "name": "other", "axis": axis})
    group.mkdir()
    (group / "index.html").write_text("both")
    done = run(str(group), str(reported), str(other))
    assert done.returncode == 0, done.stdout
    target = reported.parents[1] / "wandb"
    assert len(run_folders(target)) == 3  # the runs that both studies have are told once
    groups = {(of_kind(path, "run").run_group, of_kind(path, "run").job_type) for path in run_folders(target)}
    assert groups == {("set", "size"), ("set", "report")}
    assert {"set/index.html", "mine/report.html"} < contents(report_folder(group)).keys()
    assert (group / MARK).exists()


def test_finished_trials_are_runs_of_the_tuning(study: Path):
    tune(study)
    assert "3 runs tracked" in run(str(study)).stdout
    target = study.parents[1] / "wandb"
    (folder,) = target.glob("*-tried0")
    told = of_kind(folder, "run")
    assert (told.job_type, told.display_name) == ("tuning", "large s2000 trial 0")
    assert not list(target.glob("*-tried1"))
