"""What follows pretraining, and what a mixture changes, in the graph of a run."""

from __future__ import annotations

from typing import Any

import pytest

from vlmablate.design.catalogue import load_axis
from vlmablate.design.compose import composer
from vlmablate.design.flops import flops
from vlmablate.design.seeds import with_seeds
from vlmablate.design.spec import RunSpec
from vlmablate.design.steps import build_run


@pytest.fixture(scope="module")
def compose():
    with composer() as made:
        yield made


def build(config: dict[str, Any], seed: int = 0) -> RunSpec:
    weights = {"smoke_conv": "random", "smoke_patch": "random"}
    config = {**config, "precision": "fp32"}
    return build_run(config, arm="a", context="c", seed=seed, assets={}, weights=weights, scale="smoke")


def ids(run: RunSpec) -> dict[str, str]:
    return {role: step.id for role, step in run.steps.items()}


@pytest.fixture(scope="module")
def models(compose) -> dict[str, RunSpec]:
    names = ("small_causal", "small_text", "small_longer", "small_chat")
    return {name: build(compose.compose(["scale=smoke", f"llm={name}"])) for name in names}


def test_a_chat_model_and_its_base_are_made_of_one_pretrained_model(models: dict[str, RunSpec]):
    made = {models[name].steps["pretrain"].id for name in ("small_text", "small_longer", "small_chat")}
    assert len(made) == 1
    assert models["small_causal"].steps["pretrain"].id not in made
    assert "posttrain" not in models["small_text"].steps
    longer, chat = (models[name].steps["posttrain"] for name in ("small_longer", "small_chat"))
    assert longer.id != chat.id
    assert longer.config["posttrain"] | {"text": "dialogue"} == chat.config["posttrain"]
    assert longer.hints["flops"] == chat.hints["flops"] > 0
    assert (longer.slug, chat.slug) == ("plain-6", "dialogue-6")


@pytest.mark.parametrize("stages", ["two_stage", "single"])
def test_a_run_goes_on_from_the_model_that_was_trained_last(compose, stages: str):
    steps = build(compose.compose(["scale=smoke", "llm=small_chat", f"stages={stages}"])).steps
    assert steps["posttrain"].deps == {"language": steps["pretrain"].id, "scenes": steps["scenes"].id}
    first = steps["align"].deps["language"] if stages == "two_stage" else steps["finetune"].deps["init"]
    assert first == steps["posttrain"].id


def test_all_seeds_share_the_chat_model(compose):
    config = compose.compose(["scale=smoke", "llm=small_chat"])
    runs = with_seeds(build(config), [1, 2])
    assert runs == [build(config, 1), build(config, 2)]
    assert len({run.steps["posttrain"].id for run in runs} | {build(config).steps["posttrain"].id}) == 1
    assert len({run.steps["finetune"].id for run in runs}) == 2


def test_what_joined_later_changes_no_id_at_its_default(compose):
    config = compose.compose(["scale=smoke"])
    old = compose.compose(["scale=smoke"])
    del old["llm"]["posttrain"], old["llm"]["pretrain"]["text_only"], old["stages"]["finetune"]["mixture"]
    assert ids(build(config)) == ids(build(old))


@pytest.mark.parametrize("override", ["detailed=1", "negative=1", "text_only=0.1"])
def test_a_mixture_reaches_finetuning_and_what_follows_and_never_the_scenes(compose, override: str):
    plain = ids(build(compose.compose(["scale=smoke"])))
    mixed = ids(build(compose.compose(["scale=smoke", f"stages.finetune.mixture.{override}"])))
    assert {role for role in plain if plain[role] != mixed[role]} == {"finetune", "evaluate"}


@pytest.mark.parametrize("axis", ["safety", "data_mix", "base_vs_chat"])
@pytest.mark.parametrize("scale", ["smoke", "tiny"])
def test_the_arms_of_an_axis_differ_in_the_kinds_that_it_names(compose, axis: str, scale: str):
    declared = load_axis(axis, scale)
    for context in declared.contexts:
        runs = {}
        for arm in declared.arms:
            config = compose.compose(
                [f"scale={scale}", "vision=smoke_conv", *context.overrides, *arm.overrides]
            )
            runs[arm.name] = build(config).steps
        baseline = runs.pop(declared.baseline)
        for steps in runs.values():
            every = {step.id: step.kind for step in (*steps.values(), *baseline.values())}
            both = {step.id for step in steps.values()} & {step.id for step in baseline.values()}
            assert {kind for id_, kind in every.items() if id_ not in both} <= set(declared.affects)
            assert steps["evaluate"].id not in both


def test_added_questions_and_rows_take_their_operations():
    language = {"llm": {"layers": 2, "width": 10, "segment": 4}, "grid": 3}
    needs = {"pretrain": language, "scenes": {"data": {"train_scenes": 8}}}
    stage = {"epochs": 1.0, "questions_per_visit": 2}
    mixture = {"detailed": 3, "negative": 1, "text_only": 0.2}
    n, plain = 2400.0, flops("finetune", {"stages": {"finetune": stage}}, needs)
    assert plain == 6 * n * 8 * (9 + 2 * 4)
    mixed = flops("finetune", {"stages": {"finetune": {**stage, "mixture": mixture}}}, needs)
    assert mixed == pytest.approx(6 * n * 10 * (9 + 6 * 4))
    text = {"steps": 3, "batch_scenes": 5, "questions_per_visit": 2}
    assert flops("posttrain", {"posttrain": text}, needs) == 6 * n * 15 * (9 + 2 * 4)
