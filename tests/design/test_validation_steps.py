"""The steps of a trial: it learns from the scenes of any run, and is evaluated on others."""

from __future__ import annotations

from typing import Any

import pytest

from vlmablate.design.compose import composer
from vlmablate.design.spec import RunSpec
from vlmablate.design.steps import build_run
from vlmablate.errors import UserError


@pytest.fixture(scope="module")
def configs() -> dict[str, dict[str, Any]]:
    with composer() as made:
        return {
            name: {**made.compose(["scale=smoke", *overrides]), "precision": "fp32"}
            for name, overrides in {"one": [], "two": ["vision=smoke_both", "stages=single"]}.items()
        }


def build(config: dict[str, Any], **more: Any) -> RunSpec:
    weights = {"smoke_conv": "random", "smoke_patch": "random"}
    return build_run(config, arm="a", context="default", seed=2000, assets={}, weights=weights, **more)


def changed(config: dict[str, Any], group: str, **values: Any) -> dict[str, Any]:
    return {**config, group: {**config[group], **values}}


@pytest.mark.parametrize("name", ["one", "two"])
def test_a_trial_differs_from_a_run_in_its_evaluation_alone(configs: dict[str, Any], name: str) -> None:
    run, trial = build(configs[name]), build(configs[name], validation=True)
    assert run == build(configs[name], validation=False)
    assert {role: step.id for role, step in run.steps.items() if role != "evaluate"} == {
        role: step.id for role, step in trial.steps.items() if role in run.steps and role != "evaluate"
    }
    own = trial.steps["validation_scenes"]
    assert own.config == {**run.steps["scenes"].config, "validation": 48}
    assert (own.deps, own.slug) == ({}, "embedded-drawn_shapes-validation-48")
    towers = [role for role in run.steps if role.startswith("features")]
    for role in towers:
        features = trial.steps[f"validation_{role}"]
        assert features.config == run.steps[role].config
        assert features.deps == {"scenes": own.id}
    asked = trial.steps["evaluate"]
    assert asked.config == run.steps["evaluate"].config
    assert asked.deps == {
        "model": trial.steps["finetune"].id,
        "scenes": own.id,
        **{role: trial.steps[f"validation_{role}"].id for role in towers},
    }
    order = list(trial.steps)
    by_id = {step.id: role for role, step in trial.steps.items()}
    for role, step in trial.steps.items():
        assert all(order.index(by_id[dep]) < order.index(role) for dep in step.deps.values())


def test_live_towers_look_at_the_scenes_themselves(configs: dict[str, Any]) -> None:
    stages = configs["two"]["stages"]
    live = changed(configs["two"], "stages", finetune={**stages["finetune"], "vision": "full"})
    trial = build(live, validation=True)
    assert not any("features" in role for role in trial.steps)
    assert trial.steps["evaluate"].deps == {
        "model": trial.steps["finetune"].id,
        "scenes": trial.steps["validation_scenes"].id,
    }


def test_how_many_scenes_there_are_to_tune_on_changes_no_training_and_no_run(configs: dict[str, Any]) -> None:
    more = changed(configs["one"], "data", validation_scenes=200)
    assert build(more).run_id == build(configs["one"]).run_id
    trial, other = build(more, validation=True), build(configs["one"], validation=True)
    assert trial.steps["validation_scenes"].config["validation"] == 200
    assert trial.steps["finetune"] == other.steps["finetune"]
    assert trial.run_id != other.run_id
    without = {key: value for key, value in configs["one"]["data"].items() if key != "validation_scenes"}
    assert build({**configs["one"], "data": without}, validation=True) == other


@pytest.mark.parametrize("count", [0, -1, 1.5, True, "many"])
def test_what_is_no_number_of_scenes_is_refused(configs: dict[str, Any], count: Any) -> None:
    with pytest.raises(UserError, match=r"data\.validation_scenes must be a whole number of at least 1"):
        build(changed(configs["one"], "data", validation_scenes=count), validation=True)


def test_nothing_is_held_out_of_published_data() -> None:
    from vlmablate.design.supplied import validation_scenes

    with composer() as made:
        published = made.compose(["scale=7b", "paper=one-stage+7b"])
    with pytest.raises(UserError, match="data=llava_v15 has no scenes to tune on"):
        validation_scenes(published)
