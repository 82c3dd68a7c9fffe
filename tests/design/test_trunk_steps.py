"""The steps of trainings that share a trunk: which there are, who shares them, what they cost, and what is refused."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from vlmablate.design import trunks
from vlmablate.design.catalogue import load_axis
from vlmablate.design.compose import composer
from vlmablate.design.seeds import with_seeds
from vlmablate.design.spec import RunSpec, StepSpec
from vlmablate.design.stage_choices import check_stages
from vlmablate.design.steps import build_run
from vlmablate.errors import UserError
from vlmablate.files import write_json
from vlmablate.orchestration.estimates import Estimator
from vlmablate.orchestration.gc import _used
from vlmablate.orchestration.jobs import group
from vlmablate.orchestration.names import Index
from vlmablate.orchestration.plan import make_plan, summary, unique_steps
from vlmablate.orchestration.store import Store
from vlmablate.orchestration.study import Request, declaration

LENGTHS = [1.0, 1.25, 1.5, 2.0, 3.0]
WSD = {"name": "wsd", "decay": 0.1, "form": "linear", "warmup_steps": 2}


@pytest.fixture(scope="module")
def smoke() -> dict[str, Any]:
    with composer() as made:
        return {**made.compose(["scale=smoke", "stages=single"]), "precision": "fp32"}


def config(smoke: dict[str, Any], epochs: float = 3.0, **settings: Any) -> dict[str, Any]:
    made = copy.deepcopy(smoke)
    made["stages"]["finetune"] |= {"epochs": epochs, "schedule": WSD, "branches": LENGTHS, **settings}
    return made


def build(smoke: dict[str, Any], epochs: float = 3.0, seed: int = 0, **settings: Any) -> RunSpec:
    return run_of(config(smoke, epochs, **settings), seed)


def run_of(made: dict[str, Any], seed: int = 0, arm: str = "a") -> RunSpec:
    weights = {"smoke_conv": "random"}
    return build_run(made, arm=arm, context="default", seed=seed, assets={}, weights=weights, scale="smoke")


def trunk(run: RunSpec) -> list[StepSpec]:
    return [step for step in run.steps.values() if step.kind == "trunk"]


def ids(run: RunSpec) -> dict[str, str]:
    return {role: step.id for role, step in run.steps.items()}


def test_a_training_has_the_pieces_of_all_lengths_up_to_its_own(smoke: dict[str, Any]) -> None:
    run = build(smoke, 1.5)
    first, second, third = trunk(run)
    assert list(run.steps) == [
        "scenes",
        "pretrain",
        "features0",
        "trunk0",
        "trunk1",
        "trunk2",
        "finetune",
        "evaluate",
    ]
    assert [piece.config["stages"]["finetune"]["epochs"] for piece in (first, second, third)] == LENGTHS[:3]
    assert "trunk" not in first.deps
    assert (second.deps["trunk"], third.deps["trunk"]) == (first.id, second.id)
    assert run.steps["finetune"].deps == {
        **{role: run.steps[role].id for role in ("features0", "scenes")},
        "init": run.steps["pretrain"].id,
        "trunk": third.id,
    }
    assert [piece.slug for piece in (first, second)] == [
        "smoke_conv-letterbox-to1-s0",
        "smoke_conv-letterbox-to1.25-s0",
    ]


def test_no_branches_are_the_steps_there_were(smoke: dict[str, Any]) -> None:
    before = copy.deepcopy(smoke)
    del before["stages"]["finetune"]["branches"]
    assert smoke["stages"]["finetune"]["branches"] is None
    assert ids(run_of(smoke)) == ids(run_of(before))


def test_arms_share_the_pieces_they_pass(smoke: dict[str, Any]) -> None:
    runs = [build(smoke, epochs) for epochs in LENGTHS]
    pieces = [piece.id for piece in trunk(runs[-1])]
    assert len(set(pieces)) == 5
    for number, run in enumerate(runs, 1):
        assert [piece.id for piece in trunk(run)] == pieces[:number]
    assert len({run.steps["finetune"].id for run in runs}) == 5


def test_a_longer_list_of_branches_leaves_the_shorter_ones_as_they_are(smoke: dict[str, Any]) -> None:
    assert ids(build(smoke, 1.5, branches=LENGTHS[:3])) == ids(build(smoke, 1.5))


@pytest.mark.parametrize(
    ("settings", "same"),
    [
        ({"schedule": {**WSD, "form": "1-sqrt"}}, 5),
        ({"schedule": {**WSD, "decay": 0.2}}, 0),
        ({"schedule": {**WSD, "warmup_steps": 3}}, 0),
        ({"learning_rate": 1e-4}, 0),
        ({"branches": [1.0, 1.5, 2.0, 3.0]}, 1),
    ],
    ids=str,
)
def test_how_a_training_decays_is_not_part_of_its_trunk(
    smoke: dict[str, Any], settings: dict[str, Any], same: int
) -> None:
    before, after = build(smoke), build(smoke, **settings)
    assert len({p.id for p in trunk(before)} & {p.id for p in trunk(after)}) == same
    assert before.steps["finetune"].id != after.steps["finetune"].id


def test_a_training_on_a_trunk_is_another_step_than_one_without(smoke: dict[str, Any]) -> None:
    apart = build(smoke, branches=None)
    assert not trunk(apart)
    assert apart.steps["finetune"].config == build(smoke).steps["finetune"].config
    assert apart.steps["finetune"].id != build(smoke).steps["finetune"].id


def test_other_seeds_are_the_runs_one_would_build(smoke: dict[str, Any]) -> None:
    made, built = with_seeds(build(smoke), [4])[0], build(smoke, seed=4)
    assert made == built
    assert ids(made) == ids(built)
    assert not {p.id for p in trunk(made)} & {p.id for p in trunk(build(smoke))}


# What it costs


def test_five_lengths_take_three_and_a_half_epochs_in_the_place_of_eight_and_three_quarters(
    smoke: dict[str, Any],
) -> None:
    shared = unique_steps(build(smoke, epochs) for epochs in LENGTHS).values()
    trained = {
        kind: sum(s.hints["units"] for s in shared if s.kind == kind) for kind in ("trunk", "finetune")
    }
    assert trained == pytest.approx({"trunk": 2.7, "finetune": 0.875})
    alone = [build(smoke, epochs, branches=None).steps["finetune"].hints for epochs in LENGTHS]
    assert sum(hints["units"] for hints in alone) == 8.75
    operations = sum(s.hints["flops"] for s in shared if s.kind in trained)
    assert operations == pytest.approx(3.575 / 8.75 * sum(hints["flops"] for hints in alone))


def test_a_plan_shows_the_saving(smoke: dict[str, Any], tmp_path: Path) -> None:
    runs = [run_of(config(smoke, epochs), arm=f"x{epochs}") for epochs in LENGTHS]
    seconds = dict.fromkeys(("scenes", "pretrain", "features", "evaluate"), 0.0) | {
        "trunk": 100.0,
        "finetune": 100.0,
    }
    plan = make_plan(runs, Store(tmp_path), Estimator(None, seconds), 1)
    assert (plan.alone_s, plan.shared_s) == pytest.approx((875.0, 357.5))
    assert "and 9 min of 15 min (59 %) against computing every run alone" in summary(plan)[-1]


def test_a_decay_is_no_history_for_whole_trainings_nor_they_for_it(smoke: dict[str, Any]) -> None:
    branch, whole = build(smoke).steps["finetune"], build(smoke, branches=None).steps["finetune"]
    estimator = Estimator(None, {"finetune": 1.0})
    estimator.learn(branch, 30.0)
    assert estimator.cost(whole).seconds == 3.0
    assert estimator.cost(branch).seconds == 30.0


def test_pieces_that_others_wait_for_are_jobs_of_their_own_and_the_last_is_not(smoke: dict[str, Any]) -> None:
    runs = [run_of(config(smoke, epochs), arm=f"x{epochs}") for epochs in LENGTHS]
    jobs = group(list(unique_steps(runs).values()), runs)
    kinds = [tuple(step.kind for step in job.steps) for job in jobs]
    assert kinds.count(("trunk",)) == 4
    assert kinds.count(("finetune", "evaluate")) == 4
    assert kinds.count(("trunk", "finetune", "evaluate")) == 1


def test_a_study_declares_its_pieces_so_that_they_are_kept(smoke: dict[str, Any], tmp_path: Path) -> None:
    request, axis = Request("epochs_trunk", (0,), "smoke"), load_axis("epochs_trunk", "smoke")
    runs = [
        run_of(config(smoke, epochs), arm=arm.name) for epochs, arm in zip(LENGTHS, axis.arms, strict=True)
    ]
    declared = declaration(request, axis, runs, Store(tmp_path), {}, {})
    pieces = {piece.id for piece in trunk(runs[-1])}
    assert len(pieces) == len(runs) == 5
    folder = tmp_path / "studies" / request.name
    folder.mkdir(parents=True)
    write_json(folder / "study.json", declared)
    assert pieces <= _used(Index(tmp_path))


# What is refused


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"branches": 3}, "stages.finetune.branches is a rising list of epochs"),
        ({"branches": []}, "a rising list of epochs"),
        ({"branches": [1.0, "2"]}, "a rising list of epochs"),
        ({"branches": [2.0, 1.0, 3.0]}, "a rising list of epochs"),
        ({"branches": [1.0, 1.0, 3.0]}, "a rising list of epochs"),
        ({"branches": [0, 3.0]}, "a rising list of epochs"),
        ({"branches": [1.0, 2.0]}, r"epochs=3.0 is none of stages.finetune.branches=\[1.0, 2.0\]"),
        (
            {"schedule": "cosine"},
            "under stages.finetune.schedule=cosine trainings of different length share no trunk",
        ),
        ({"schedule": "constant"}, "under stages.finetune.schedule=constant"),
        ({"schedule": {"name": "wsd", "decay": 0.1}}, "Set stages.finetune.schedule.warmup_steps"),
        ({"schedule": {**WSD, "warmup_steps": 8}}, "warmup_steps=8 is longer than the trunk of 1.0 epochs"),
        ({"schedule": {**WSD, "decay": 1.0}}, "is longer than the trunk of 1.0 epochs"),
        (
            {"branches": [1.0, 1.01, 3.0]},
            "branch point of 1.01 epochs, step 7, is not behind the one before, step 7",
        ),
    ],
    ids=str,
)
def test_what_makes_no_trunk_is_refused_when_it_is_planned(
    smoke: dict[str, Any], settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        check_stages(config(smoke, **settings))


def test_what_makes_a_trunk_is_accepted(smoke: dict[str, Any]) -> None:
    check_stages(config(smoke))
    check_stages(config(smoke, 1, branches=[1, 2]))
    check_stages(config(smoke, branches=[3.0]))
    check_stages(config(smoke, schedule={**WSD, "warmup_steps": 7}))


def test_where_rows_are_not_known_the_training_judges_the_warm_up(smoke: dict[str, Any]) -> None:
    made = config(smoke, schedule={**WSD, "warmup_steps": 800})
    del made["data"]["train_scenes"]
    check_stages(made)


def test_an_alignment_has_no_branches(smoke: dict[str, Any]) -> None:
    made = config(smoke)
    made["stages"]["align"] = {"learning_rate": 1e-3, "branches": [1.0]}
    with pytest.raises(UserError, match=r"stages\.align\.branches: only finetunings share a trunk"):
        check_stages(made)


def test_rows_without_a_picture_count_as_rows(smoke: dict[str, Any]) -> None:
    made = config(smoke, mixture={"text_only": 0.2})
    assert trunks.most_rows(made) == 80
