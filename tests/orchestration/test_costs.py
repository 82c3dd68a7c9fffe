from __future__ import annotations

import math

import pytest

from vlmablate.errors import UserError
from vlmablate.files import write_json
from vlmablate.orchestration.costs import batch_line, detectable_line, work_lines
from vlmablate.orchestration.detectable import Spread, detectable, measured_spread
from vlmablate.orchestration.estimates import Estimator, read_estimates
from vlmablate.orchestration.plan import make_plan
from vlmablate.orchestration.store import Store
from vlmablate.stats.power import mde


@pytest.mark.parametrize("two_sided", [True, False])
@pytest.mark.parametrize(
    ("cells", "seeds", "contexts"), [(2, 2, 1), (2, 3, 1), (3, 3, 1), (6, 5, 2), (40, 20, 4)]
)
def test_detectable_differences_are_those_of_the_analysis(
    cells: int, seeds: int, contexts: int, two_sided: bool
):
    ours = detectable(1.3, seeds, cells, contexts, 0.05, 0.8, two_sided)
    alternative = "two-sided" if two_sided else "greater"
    se = 1.3 * math.sqrt(2 / (seeds * contexts))
    assert ours == pytest.approx(mde(se, cells * (seeds - 1), alternative=alternative), rel=1e-5)


def test_one_seed_detects_nothing():
    assert detectable(1.0, 1, 3, 1, 0.05, 0.8) == math.inf
    assert "one seed per arm" in detectable_line(3, 1, 1, {}, Spread(1.0, 0))


def test_the_line_says_where_the_spread_is_from_and_how_many_seeds_the_margin_needs():
    assumed = detectable_line(2, 1, 3, {"margin": 2.0}, Spread(1.0, 0))
    assert assumed == (
        "3 seeds find a difference of 3.1 points or more with 80 % power (SD between seeds 1.00 points, assumed); "
        "6 seeds would find the margin of 2"
    )
    assert "from 12 finished runs at this scale)" in detectable_line(2, 1, 9, {}, Spread(1.0, 12))
    assert "unknown" in detectable_line(2, 1, 3, {}, None)


def finish(store: Store, step, wall_s: float, size: int = 0, means: tuple[float, ...] = ()) -> None:
    directory = store.directory(step)
    write_json(directory / "spec.json", step.to_dict())
    payload = {"benchmarks": {f"b{i}": {"mean": mean} for i, mean in enumerate(means)}}
    files = {"x": {"bytes": size}} if size else {}
    result = {"id": step.id, "files": files, "wall_s": wall_s, "payload": payload}
    write_json(directory / "result.json", result)
    if size:
        (directory / "x").write_bytes(b"0" * size)


def test_the_spread_is_pooled_within_the_cells_of_all_studies_at_a_scale(store: Store, make_runs):
    runs = make_runs("stages", seeds=2)  # two_stage s0, single s0, two_stage s1, single s1
    assert measured_spread(store.home, "smoke") is None
    for run, mean in zip(runs, (0.50, 0.60, 0.52, 0.60), strict=True):
        finish(store, run.steps["evaluate"], 1.0, means=(mean, mean))
    steps = {run.run_id: {"dir": f"steps/evaluate/{run.steps['evaluate'].name}"} for run in runs}
    for name, scale in (("one", "smoke"), ("again", "smoke"), ("other", "tiny")):
        study = {"name": name, "scale": scale, "runs": [run.to_dict() for run in runs], "steps": steps}
        write_json(store.home / "studies" / name / "study.json", study)
    spread = measured_spread(store.home, "smoke")
    assert spread is not None
    # Variances 2 and 0 points^2 on one degree of freedom each; a run that two studies share counts once.
    assert (spread.sd, spread.runs) == (pytest.approx(1.0), 4)
    assert measured_spread(store.home, "small") is None


def test_costs_come_from_history_then_operations_then_the_declaration(store: Store, make_runs):
    once, twice = (run.steps for run in make_runs("epochs") if run.arm in ("once", "twice"))
    declared = {"finetune": 5.0, "evaluate": 7.0}
    plain = Estimator(store, declared)
    assert (plain.cost(once["finetune"]).basis, plain.cost(once["align"]).basis) == ("declared", "guessed")
    counted = Estimator(store, declared, throughput=1e9)
    assert counted.cost(once["finetune"]).basis == "operations"
    assert counted.seconds(twice["finetune"]) == pytest.approx(4 * counted.seconds(once["finetune"]))
    assert counted.cost(once["evaluate"]).basis == "declared"
    seeds = [run for run in make_runs("epochs", 5) if run.arm == "once"]
    for run, wall in zip(seeds, (10.0, 20.0, 30.0, 40.0, 50.0), strict=True):
        finish(store, run.steps["finetune"], wall, size=2000)
    measured = Estimator(store, declared, throughput=1e9).cost(once["finetune"])
    assert (measured.seconds, measured.high, measured.basis) == (30.0, 50.0, "measured")
    assert measured.megabytes == pytest.approx(0.002)


def test_hours_disk_and_what_they_rest_on_are_told(store: Store, make_runs):
    runs = make_runs("stages")
    seconds = dict.fromkeys(("scenes", "pretrain", "features", "align", "finetune", "evaluate"), 3600.0)
    plan = make_plan(runs, store, Estimator(store, seconds, disk_mb={"features": 500.0}), 2)
    hours, disk = work_lines(plan, {"threads": 2, "device": "cpu"})
    # Six steps of an hour, an alignment of half an epoch, and one more training with its evaluation, on two cores.
    assert hours == "15 CPU-hours; times of steps: 8 declared by the scale"
    assert disk == "about 500 MB on disk (unknown: scenes, pretrain, align, finetune, evaluate)"
    on_gpus = work_lines(plan, {"threads": 2, "device": "cuda", "gpus_per_job": 4})[0]
    assert on_gpus.startswith("18 GPU-hours")


def test_arrays_are_counted():
    assert (
        batch_line([("scenes", 1), ("align+finetune", 20)])
        == "21 jobs in 2 arrays: scenes (1), align+finetune (20)"
    )


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"finetune": 3}, "unknown key 'finetune' in estimates"),
        ({"throughput": -1}, "estimates.throughput must be a positive number"),
        ({"seconds": {"align": "long"}}, "estimates.seconds.align must be a positive number"),
    ],
)
def test_mistakes_in_estimates_are_named(raw: dict, message: str):
    with pytest.raises(UserError) as caught:
        read_estimates(raw)
    assert message in str(caught.value)
