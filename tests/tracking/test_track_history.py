"""What is told, without telling it: no W&B here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.tracking.conftest import CONTRAST, tune, write_report
from vlmablate.errors import UserError
from vlmablate.files import read_json, write_json
from vlmablate.report.study import Study
from vlmablate.report.study_page import PAGE as STUDY_PAGE
from vlmablate.tracking import reports
from vlmablate.tracking.history import history, tracked
from vlmablate.tracking.settings import MARK


def load(folder: Path) -> Study:
    return Study.load(folder, folder.parents[1])


def test_scores_are_points_and_their_mean_leaves_out_what_is_outside_the_suite(study: Path):
    loaded = load(study)
    result = loaded.directory("evaluatesmall0") / "result.json"
    facts = read_json(result)
    facts["payload"]["benchmarks"] |= {
        "count": {"metric": "exact", "n": 4, "mean": 0.25},
        "refusals": {"metric": "rate", "n": 4, "mean": 1.0, "suite": False},
    }
    write_json(result, facts)
    told = history(tracked(loaded)[0])
    scores = {key: value for key, value in told.summary.items() if key.startswith("score/")}
    assert scores == {"score/colour": 75.0, "score/count": 25.0, "score/suite": 50.0}
    assert told.summary["cost/wall_s"] == 4 * 2.5
    assert told.summary["evaluate/benchmarks/refusals/mean"] == 1.0


def test_a_run_belongs_to_its_axis_and_a_trial_to_the_tuning(study: Path):
    tune(study)
    first, second, *runs = [history(told) for told in tracked(load(study))]
    assert (first.name, first.job) == ("large s2000 trial 0", "tuning")
    assert first.config["trial"] == {"number": 0, "values": {"rate": 0.1}}
    assert "tuning" in first.tags
    assert first.summary["score/suite"] == 50.0
    assert "score/suite" not in second.summary
    assert [told.job for told in runs] == ["size"] * 3
    assert all("trial" not in told.config for told in runs)


def test_a_report_is_told_with_its_verdicts(reported: Path):
    told = reports.report_history(reported, [load(reported)])
    assert (told.name, told.job) == ("report mine", "report")
    assert told.notes == "large is worse."
    assert told.summary == {
        "size/large/delta": -3.5,
        "size/large/ci_low": -5.0,
        "size/large/ci_high": -2.0,
        "size/large/p_adjusted": 0.01,
        "size/large/verdict": "worse",
    }
    assert told.config["axes"]["size"]["baseline"] == "small"
    assert told.tags == ("report", "size", "tiny")


def test_a_number_that_there_is_not_is_not_told(reported: Path):
    row = {**CONTRAST, "p_adjusted": "", "verdict": "unresolved"}
    (reported / "significance.csv").write_text(f"{','.join(row)}\n{','.join(row.values())}\n")
    told = reports.report_history(reported, [load(reported)])
    assert "size/large/p_adjusted" not in told.summary
    assert told.summary["size/large/verdict"] == "unresolved"
    json.dumps(told.summary, allow_nan=False)


def test_a_damaged_table_is_named(reported: Path):
    (reported / "significance.csv").write_text("level,arm\ndesign,large\n")
    with pytest.raises(UserError, match=r"significance\.csv, line 2"):
        reports.report_history(reported, [load(reported)])


def test_the_version_of_a_report_is_its_content(reported: Path):
    seen = reports.untold_report(reported, [reported])
    assert seen
    assert reports.untold_report(reported, [reported]) == seen
    write_json(reported / MARK, {"digest": seen})
    assert reports.untold_report(reported, [reported]) == ""
    write_report(reported)  # the same bytes at another time
    assert reports.untold_report(reported, [reported]) == ""
    write_report(reported, "large is better")
    assert reports.untold_report(reported, [reported]) not in ("", seen)
    (reported / MARK).write_text('{"dig')
    assert reports.untold_report(reported, [reported])


def test_without_a_report_there_is_none_to_tell(study: Path):
    assert reports.untold_report(study, [study]) == ""


def test_files_of_several_studies_keep_their_places(reported: Path):
    group = reported.with_name("set")
    group.mkdir()
    (group / reports.PAGE).write_text("<a href='../mine/report.html'></a>")
    files = reports.report_files(group, [reported, reported.with_name("not there")])
    assert sorted(files) == [
        "mine/report.html",
        "mine/report.ipynb",
        "mine/results.parquet",
        "mine/significance.csv",
        "set/index.html",
    ]
    assert reports.PAGE == STUDY_PAGE


def test_reports_of_two_results_folders_are_two(tmp_path: Path):
    first, second = (reports.report_id(tmp_path / home / "studies" / "mine") for home in "ab")
    assert first != second
    assert reports.report_id(tmp_path / "a" / "studies" / "mine") == first
