"""Whole studies with fake steps: in this process (debug) and with worker processes (local)."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.orchestration import fakes
from vlmablate.errors import UserError
from vlmablate.files import read_json
from vlmablate.orchestration.study import Cell, analysis_history, declared_analysis


def result_of(results: Path, kind: str, index: int = 0) -> Path:
    return sorted((results / "steps" / kind).glob("*/result.json"))[index]


def snapshot(results: Path) -> set[tuple[Path, int]]:
    """Every file with its time of change, but for the record of who controlled the study."""
    files = (path for path in results.rglob("*") if path.is_file() and path.parent.name != "control")
    return {(path, path.stat().st_mtime_ns) for path in files}


def test_a_study_runs_and_the_same_command_submits_nothing(sweeps, results: Path):
    assert sweeps.run() == 0
    assert sorted(call.split()[0] for call in fakes.calls()) == [
        "align", "evaluate", "evaluate", "features", "finetune", "finetune", "pretrain", "scenes",
    ]  # fmt: skip
    assert "writing the report" in sweeps.text
    before = snapshot(results)
    values = sweeps.values()
    assert sweeps.run() == 0
    assert len(fakes.calls()) == 8
    assert "2 runs are done, nothing to submit" in sweeps.text
    changed = {path.name for path, _ in before ^ snapshot(results)}
    assert changed <= {"values.json"}
    assert sweeps.values() == values


def test_study_json_says_everything_a_report_needs(sweeps, results: Path):
    sweeps.run(seeds=2)
    study = read_json(results / "studies" / "study" / "study.json")
    assert study.keys() == {
        "name", "axis", "scale", "seeds", "baseline", "contexts", "overrides", "command", "runs", "steps",
        "provenance", "analysis", "analysis_history",
    }  # fmt: skip
    assert (study["seeds"], study["baseline"], study["contexts"]) == ([0, 1], "two_stage", ["default"])
    assert study["axis"]["question"]
    assert len(study["runs"]) == 4
    assert study["provenance"].keys() == {
        "assets", "git", "code", "lock", "argv", "versions", "host", "gpus",
    }  # fmt: skip
    for run in study["runs"]:
        assert run["run_id"] == run["steps"]["evaluate"]
        for step_id in run["steps"].values():
            assert (results / study["steps"][step_id]["dir"] / "result.json").is_file()


def test_deleting_one_result_redoes_exactly_that_run(sweeps, results: Path):
    sweeps.run()
    values = sweeps.values()
    result_of(results, "evaluate").unlink()
    assert sweeps.run() == 0
    assert [call.split()[0] for call in fakes.calls()[8:]] == ["evaluate"]
    assert sweeps.values() == values


def test_more_seeds_train_only_the_new_ones(sweeps):
    sweeps.run()
    sweeps.run(seeds=2)
    again = [call.split()[0] for call in fakes.calls()[8:]]
    assert sorted(again) == ["align", "evaluate", "evaluate", "finetune", "finetune"]


def test_studies_share_steps(sweeps):
    sweeps.run()
    sweeps.run(axis="image_resize", study="other")
    again = [call.split()[0] for call in fakes.calls()[8:]]
    # The letterbox arm is the two-stage arm; scenes and language model are there as well.
    assert sorted(again) == sorted(["features", "align", "finetune", "evaluate"] * 2)


def test_the_plan_runs_nothing(sweeps, results: Path):
    text = sweeps.plan()
    assert "2 runs, 0 done; 8 steps: 8 new" in text
    assert "sharing steps saves" in text
    assert not results.exists()
    sweeps.run()
    assert "nothing to submit" in sweeps.plan()


def test_workers_get_their_environment_and_results_equal_those_of_debug(sweeps, results: Path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    sweeps.run()
    expected = sweeps.values()
    shutil.rmtree(results)
    assert sweeps.run(launcher="local") == 0
    assert "all 2 runs are done; writing the report" in sweeps.text
    assert sweeps.values() == expected
    payload = read_json(result_of(results, "evaluate"))["payload"]
    assert payload["threads"] == "1"
    job, tasks, rank, local_rank, nodes = payload["environment"]
    assert job.startswith(f"{os.getpid()}-")
    assert (tasks, rank, local_rank, nodes) == (1, 0, 0, 1)
    logs = list((results / "steps" / "finetune").glob("*/log.txt"))
    assert len(logs) == 2
    assert "attempt 1" in logs[0].read_text()


def test_a_failed_step_stops_only_what_depends_on_it(sweeps, results: Path, control: Path):
    (control / "fail-align").touch()
    assert sweeps.run(launcher="local") == 1
    text = sweeps.text
    assert "FAILED align two_stage s0: RuntimeError: the align step was told to fail" in text
    assert "log: " in text
    assert "1 of 2 runs are missing" in text
    assert "To go on: the same command" in text
    log = next(line for line in sweeps.said if "log: " in line).split("log: ")[1].splitlines()[0]
    assert "was told to fail" in Path(log).read_text()
    assert len(list((results / "steps" / "evaluate").glob("*/result.json"))) == 1
    (control / "fail-align").unlink()
    assert sweeps.run() == 0
    assert len([call for call in fakes.calls() if call.startswith("finetune")]) == 2


def test_dependants_of_a_failed_shared_step_are_named(sweeps, control: Path):
    (control / "fail-features").touch()
    assert sweeps.run() == 1
    assert "not run, a step it needs failed: evaluate two_stage s0" in sweeps.text
    assert "not run, a step it needs failed: evaluate single s0" in sweeps.text
    assert [call.split()[0] for call in fakes.calls()] == ["scenes", "pretrain", "features"]


def test_the_same_failure_again_and_again_stops_the_sweep(sweeps, control: Path):
    (control / "fail-evaluate").touch()
    assert sweeps.run(seeds=3) == 1
    cause = "RuntimeError: the evaluate step was told to fail"
    assert f"3 steps failed in the same way; no more are started. The cause: {cause}" in sweeps.text
    assert "3 jobs were not started" in sweeps.text
    summary = [text for text in sweeps.said if text.startswith("failed: ")]
    assert len(summary) == 1
    assert summary[0].count(cause) == 1
    assert len([call for call in fakes.calls() if call.startswith("evaluate")]) == 3


def test_too_little_gpu_memory_is_met_with_half_the_rows_and_the_same_result(
    sweeps, results: Path, control: Path
):
    sweeps.run()
    expected = sweeps.values()
    shutil.rmtree(results)
    (control / "calls").unlink()
    (control / "oom-finetune").write_text("4")  # the smoke scale has 8 rows in a batch
    assert sweeps.run(launcher="local") == 0
    assert sweeps.values() == expected
    assert sweeps.text.count("CUDA out of memory. Tried to allocate 20.00 MiB.; trying once more with") == 2
    assert "execution.micro_batch=4" in sweeps.text
    result = read_json(result_of(results, "finetune"))
    assert (result["attempt"], result["execution"]["micro_batch"]) == (2, 4)
    assert read_json(result_of(results, "pretrain"))["execution"]["micro_batch"] is None
    verdict = read_json(result_of(results, "finetune").parent / "attempts" / "001.verdict.json")
    assert (verdict["class"], verdict["action"], verdict["execution"]) == (
        "cuda_oom",
        "retry",
        {"micro_batch": 4},
    )


def test_a_policy_that_is_more_patient_halves_again(sweeps, results: Path, control: Path):
    (control / "oom-finetune").write_text("2")
    assert sweeps.run() == 1
    assert "was tried again once (policy cuda_oom.retries=1)" in sweeps.text
    assert sweeps.run(overrides=("policy=patient",), study="patient") == 0
    assert read_json(result_of(results, "finetune"))["execution"]["micro_batch"] == 2


def test_a_loss_that_is_not_finite_is_not_tried_again(sweeps, results: Path, control: Path):
    (control / "diverge-finetune").touch()
    assert sweeps.run(launcher="local") == 1
    assert "FAILED finetune single s0: the loss of the finetune step is not finite" in sweeps.text
    verdicts = (results / "steps" / "finetune").glob("*/attempts/*.verdict.json")
    assert [read_json(path)["class"] for path in verdicts] == ["nan", "nan"]
    assert len([call for call in fakes.calls() if call.startswith("finetune")]) == 2


def test_a_cancelled_step_is_left_alone_until_the_mark_is_gone(sweeps, results: Path):
    sweeps.run()
    result = result_of(results, "evaluate")
    mark = result.parent / "cancelled.json"
    result.unlink()
    mark.write_text('{"by": "process 7 on host", "when": "2026-01-01T00:00:00+00:00"}')
    before = len(fakes.calls())
    assert sweeps.run() == 1
    assert len(fakes.calls()) == before
    assert "cancelled by process 7 on host at 2026-01-01" in sweeps.text
    assert f"vlmablate retry {result.parent.name}" in sweeps.text
    mark.unlink()
    assert sweeps.run() == 0
    assert len(fakes.calls()) == before + 1


def test_what_needs_a_cancelled_step_is_not_run(sweeps, results: Path):
    sweeps.run()
    shared = result_of(results, "features")
    shutil.rmtree(results / "steps" / "evaluate")
    shared.unlink()
    (shared.parent / "cancelled.json").write_text("{}")
    assert sweeps.run() == 1
    assert sweeps.text.count("not run, a step it needs failed: evaluate") == 2


def test_a_truncated_file_is_found_moved_aside_and_made_again(sweeps, results: Path):
    sweeps.run()
    values = sweeps.values()
    result_of(results, "evaluate").unlink()
    features = result_of(results, "features").parent
    os.truncate(features / "value.json", 5)
    assert sweeps.run() == 0
    assert "CORRUPT" in sweeps.text
    assert "value.json has 5 bytes" in sweeps.text
    assert sorted(call.split()[0] for call in fakes.calls()[8:]) == ["evaluate", "features"]
    assert sweeps.values() == values


def test_a_flipped_byte_in_a_dependency_is_found_by_the_worker_and_made_again(sweeps, results: Path):
    sweeps.run()
    values = sweeps.values()
    for result in (results / "steps" / "evaluate").glob("*/result.json"):
        result.unlink()
    value = result_of(results, "features").parent / "value.json"
    good = value.read_bytes()
    value.write_bytes(good.replace(b"value", b"velue"))
    assert sweeps.run() == 0
    assert value.read_bytes() == good
    assert "a dependency is damaged" in sweeps.text
    assert sweeps.values() == values


def test_a_full_disk_stops_submitting_and_the_same_command_goes_on(sweeps, control: Path):
    (control / "full-pretrain").touch()
    assert sweeps.run() == 1
    assert "the disk is full" in sweeps.text
    assert "To go on: the same command" in sweeps.text
    assert not [call for call in fakes.calls() if call.split()[0] in ("align", "finetune")]
    (control / "full-pretrain").unlink()
    assert sweeps.run() == 0


def test_arms_that_an_override_makes_equal_are_refused(sweeps):
    with pytest.raises(UserError, match="the arms two_stage and single are the same configuration"):
        sweeps.run(overrides=("stages=single", "study.x=1")[:1])


def test_a_name_taken_by_another_study_is_refused(sweeps):
    sweeps.run()
    with pytest.raises(UserError, match="choose another name"):
        sweeps.run(axis="epochs")


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"axis": "stage"}, "unknown axis 'stage'"),
        ({"scale": "huge"}, "unknown scale 'huge'"),
        ({"launcher": "slurn"}, "unknown launcher 'slurn'"),
        ({"overrides": ("llm.depth=1",)}, "unknown key 'depth' in llm"),
        ({"overrides": ("precision=fp64",)}, "unknown precision 'fp64'"),
        ({"overrides": ("execution.threads=0",)}, "execution.threads must be a positive whole number"),
        ({"overrides": ("execution.ranks=0",)}, "execution.ranks must be a positive whole number"),
        ({"overrides": ("policy.killed.action=retri",)}, "unknown policy.killed.action 'retri'"),
        ({"overrides": ("analysis.margin=0",)}, "analysis.margin must be positive"),
        ({"overrides": ("analysis.magin=1",)}, "unknown key 'magin' in analysis"),
        ({"overrides": ("analysis.correction=none",)}, "unknown analysis.correction 'none'"),
        ({"overrides": ("+analysis.families.vqa=x",)}, "unknown benchmark 'vqa' in analysis.families"),
    ],
)
def test_mistakes_are_refused_before_anything_is_written(sweeps, results: Path, request_, message):
    with pytest.raises(UserError) as caught:
        sweeps.run(**request_)
    assert message in str(caught.value)
    assert not results.exists()


def test_the_name_of_a_study_follows_axis_scale_and_overrides(sweeps):
    plain = sweeps.request(study="", overrides=())
    assert plain.name == "stages-smoke"
    one = sweeps.request(study="", overrides=("data.seed=1",)).name
    other = sweeps.request(study="", overrides=("data.seed=2",)).name
    assert one.startswith("stages-smoke-")
    assert one != other


def test_a_changed_analysis_computes_nothing_and_is_recorded(sweeps, results: Path):
    overrides = ("execution.workers=2",)
    sweeps.run(overrides=overrides)
    assert sweeps.run(overrides=(*overrides, "analysis.margin=1"), command="another command") == 0
    assert len(fakes.calls()) == 8
    study = read_json(results / "studies" / "study" / "study.json")
    assert (study["analysis"]["margin"], study["command"]) == (1, "another command")
    seen = [(entry["settings"]["margin"], entry["runs_with_scores"]) for entry in study["analysis_history"]]
    assert seen == [(2.0, 0), (1, 2)]
    assert sweeps.request(study="", overrides=("analysis.margin=1",)).name == "stages-smoke"


def test_settings_that_no_score_was_seen_under_are_replaced():
    first = analysis_history([], {"margin": 2.0}, 0)
    second = analysis_history(first, {"margin": 1.0}, 0)
    assert second == [{"settings": {"margin": 1.0}, "runs_with_scores": 0}]
    third = analysis_history(second, {"margin": 0.5}, 3)
    assert third == [*second, {"settings": {"margin": 0.5}, "runs_with_scores": 3}]
    assert analysis_history(third, {"margin": 0.5}, 6) == third


def test_an_arm_cannot_choose_how_it_is_judged():
    cells = [
        Cell("a", "default", {"analysis": {"margin": 2.0}}),
        Cell("b", "default", {"analysis": {"margin": 1.0}}),
    ]
    with pytest.raises(UserError, match="arm b, context default changes the analysis"):
        declared_analysis(cells)


def test_a_manifest_holds_no_pickles(sweeps, results: Path):
    sweeps.run()
    jobs = list((results / "studies" / "study" / "jobs").glob("*.json"))
    assert len(jobs) == 5
    for job in jobs:
        assert json.loads(job.read_text())["kinds"] == fakes.KINDS


def test_ctrl_c_in_debug_is_recorded_and_says_how_to_go_on(sweeps, results: Path, monkeypatch):
    def interrupted(*_: object) -> dict:
        raise KeyboardInterrupt

    monkeypatch.setattr(fakes, "pretrain", interrupted)
    assert sweeps.run() == 130
    assert sweeps.said[-1] == "stopped; finished steps are kept. To go on: the same command"
    attempt = next((results / "steps" / "pretrain").glob("*/attempts/001.json"))
    assert read_json(attempt)["state"] == "stopped"
    monkeypatch.undo()
