from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from vlmablate.design.spec import RunSpec, StepSpec
from vlmablate.files import write_json
from vlmablate.orchestration.estimates import Estimator
from vlmablate.orchestration.jobs import Job, find_dependency, group, makespan, manifest
from vlmablate.orchestration.lease import claim
from vlmablate.orchestration.plan import Plan, Status, duration, make_plan, summary, table, unique_steps
from vlmablate.orchestration.store import ATTEMPTS, Store

SECONDS = {"scenes": 1, "pretrain": 2, "features": 3, "align": 4, "finetune": 5, "evaluate": 6}


def plan_of(runs: list[RunSpec], store: Store, slots: int = 2) -> Plan:
    return make_plan(runs, store, Estimator(store, SECONDS), slots)


def finish(store: Store, step: StepSpec, wall_s: float = 1.0) -> Path:
    directory = store.directory(step)
    write_json(directory / "spec.json", step.to_dict())
    write_json(directory / "result.json", {"id": step.id, "files": {}, "wall_s": wall_s})
    return directory


def finish_all(store: Store, runs: list[RunSpec]) -> None:
    for step in unique_steps(runs).values():
        finish(store, step)


def kinds(jobs: tuple[Job, ...] | list[Job]) -> list[list[str]]:
    return [[step.kind for step in job.steps] for job in jobs]


def test_shared_steps_are_planned_once(store: Store, make_runs):
    plan = plan_of(make_runs(seeds=2), store)
    count = [planned.spec.kind for planned in plan.steps]
    assert {kind: count.count(kind) for kind in set(count)} == {
        "scenes": 1, "pretrain": 1, "features": 3, "align": 6, "finetune": 6, "evaluate": 6,
    }  # fmt: skip
    users = {planned.spec.kind: planned.runs for planned in plan.steps}
    assert (users["scenes"], users["features"], users["evaluate"]) == (6, 2, 1)
    assert plan.alone_s == pytest.approx(6 * (1 + 2 + 3 + 0.5 * 4 + 5 + 6))
    assert plan.shared_s == pytest.approx(1 + 2 + 3 * 3 + 6 * (0.5 * 4 + 5 + 6)) == plan.work_s
    assert not plan.finished


def test_a_finished_study_has_nothing_to_do(store: Store, make_runs):
    runs = make_runs()
    finish_all(store, runs)
    plan = plan_of(runs, store)
    assert plan.finished
    assert plan.runs_done == 3
    assert {planned.status for planned in plan.steps} == {Status.DONE}


def test_deleting_k_evaluations_plans_exactly_k_steps(store: Store, make_runs):
    runs = make_runs()
    finish_all(store, runs)
    for run in runs[:2]:
        shutil.rmtree(store.directory(run.steps["evaluate"]))
    plan = plan_of(runs, store)
    assert [step.id for step in plan.missing] == [run.run_id for run in runs[:2]]


def test_what_no_missing_evaluation_needs_is_not_planned(store: Store, make_runs):
    runs = make_runs()
    finish_all(store, runs)
    shutil.rmtree(store.directory(runs[0].steps["features0"]))
    shutil.rmtree(store.directory(runs[0].steps["finetune"]))
    assert plan_of(runs, store).finished
    shutil.rmtree(store.directory(runs[0].steps["evaluate"]))
    missing = [step.kind for step in plan_of(runs, store).missing]
    assert missing == ["features", "finetune", "evaluate"]


def test_a_damaged_step_is_reported_and_planned_only_when_needed(store: Store, make_runs):
    runs = make_runs()
    finish_all(store, runs)
    broken = finish(store, runs[0].steps["features0"])
    write_json(broken / "result.json", {"id": runs[0].steps["features0"].id, "files": {"x": {"bytes": 1}}})
    assert plan_of(runs, store).corrupt == ()
    shutil.rmtree(store.directory(runs[0].steps["evaluate"]))
    plan = plan_of(runs, store)
    assert [damaged.directory for damaged in plan.corrupt] == [broken]
    assert [step.kind for step in plan.missing] == ["features", "evaluate"]


def test_a_step_that_someone_computes_is_live(store: Store, make_runs):
    runs = make_runs()
    lease = claim(store.directory(runs[0].steps["scenes"]) / ATTEMPTS, heartbeat_s=60.0)
    statuses = {planned.spec.kind: planned.status for planned in plan_of(runs, store).steps}
    assert statuses["scenes"] is Status.LIVE
    assert statuses["pretrain"] is Status.NEW
    lease.finish("failed")
    assert plan_of(runs, store).steps[0].status is Status.NEW
    assert plan_of(runs, store).steps[0].note == "attempt 1 failed"


def test_planning_writes_nothing(results: Path, make_runs):
    plan_of(make_runs(), Store(results))
    assert not results.exists()


def test_a_run_is_one_job_and_shared_steps_are_jobs_of_their_own(store: Store, make_runs):
    jobs = plan_of(make_runs(), store).jobs
    assert kinds(jobs) == [
        ["scenes"],
        ["pretrain"],
        *[["features"], ["align", "finetune", "evaluate"]] * 3,
    ]
    assert [job.label for job in jobs if len(job.steps) > 1] == [
        "letterbox s0",
        "resize_naive s0",
        "resize_crop s0",
    ]


def test_an_alignment_that_several_runs_share_is_a_job_of_its_own(store: Store, make_runs):
    runs = [run for run in make_runs("epochs") if run.arm in ("once", "twice")]
    jobs = group(list(unique_steps(runs).values()), runs)
    assert kinds(jobs) == [
        ["scenes"], ["pretrain"], ["features"], ["align"], ["finetune", "evaluate"], ["finetune", "evaluate"],
    ]  # fmt: skip
    assert jobs[3].label == "once s0 (+1)"
    assert jobs[3].steps[0].id in jobs[4].requires


def test_the_manifest_holds_everything_a_worker_needs(store: Store, make_runs, tmp_path: Path):
    runs = make_runs()
    for role in ("scenes", "pretrain", "features0"):
        finish(store, runs[0].steps[role])
    job = plan_of(runs[:1], store).jobs[0]
    made = manifest(
        job, store=store, assets=tmp_path, kinds={"a": "b:c"}, execution={"threads": 1}, parent=None
    )
    align, finetune, evaluate = made["steps"]
    assert StepSpec.from_dict(align["spec"]) == runs[0].steps["align"]
    assert align["deps"].keys() == {"features0", "language", "scenes"}
    assert finetune["deps"]["init"] == {"id": align["spec"]["id"], "dir": align["dir"]}
    assert evaluate["deps"]["model"]["dir"] == finetune["dir"]
    with pytest.raises(FileNotFoundError):
        find_dependency(store, "nothing")


def test_makespan_follows_dependencies_and_slots(store: Store, make_runs):
    runs = make_runs()
    jobs = plan_of(runs, store).jobs
    seconds = Estimator(None, SECONDS).seconds
    chain = 0.5 * 4 + 5 + 6
    assert makespan(jobs, 1, seconds) == pytest.approx(1 + 2 + 3 * (3 + chain))
    assert makespan(jobs, 99, seconds) == pytest.approx(1 + 3 + chain)
    two = makespan(jobs, 2, seconds)
    assert 1 + 3 + chain < two < makespan(jobs, 1, seconds)
    assert makespan([], 2, seconds) == 0.0


def test_estimates_prefer_the_same_work_then_the_scale_then_the_declaration(store: Store, make_runs):
    finetunes = {(run.arm, run.seed): run.steps["finetune"] for run in make_runs("epochs", 2)}
    once, twice, other_seed = (finetunes[key] for key in (("once", 0), ("twice", 0), ("once", 1)))
    assert Estimator(store, SECONDS).seconds(twice) == 20.0
    assert Estimator(None, {}).seconds(once) == 60.0
    finish(store, once, wall_s=30.0)
    estimator = Estimator(store, SECONDS)
    assert estimator.seconds(other_seed) == 30.0
    assert estimator.seconds(twice) == 120.0  # four epochs at the speed of one
    estimator.learn(twice, 50.0)
    assert estimator.seconds(twice) == 50.0


def test_the_table_and_the_summary_name_the_saving(store: Store, make_runs):
    runs = make_runs(seeds=2)
    finish(store, runs[0].steps["scenes"])
    plan = plan_of(runs, store)
    rows = table(plan)
    assert len(rows) == 1 + len(plan.steps)
    assert rows[1].split()[:4] == ["scenes", "embedded-drawn_shapes-96", "done", "6"]
    by_kind = table(plan, limit=3)
    assert [row.split()[0] for row in by_kind] == ["step", *SECONDS]
    text = "\n".join(summary(plan))
    assert "6 runs, 0 done; 23 steps: 22 new, 1 done; 5 shared" in text
    assert "sharing steps saves" in text


@pytest.mark.parametrize(
    ("seconds", "words"), [(0, "0 s"), (89, "89 s"), (91, "2 min"), (3600, "60 min"), (6000, "1 h 40 min")]
)
def test_durations(seconds: float, words: str):
    assert duration(seconds) == words
