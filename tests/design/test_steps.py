from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from vlmablate.design import seeds, steps
from vlmablate.design.compose import composer
from vlmablate.design.seeds import with_seeds
from vlmablate.design.spec import RunSpec, StepSpec
from vlmablate.design.step_table import TABLE
from vlmablate.design.steps import build_run
from vlmablate.design.supplied import select
from vlmablate.errors import UserError

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "ids.json").read_text())


def build(config: dict[str, Any], seed: int = 0, **changes: Any) -> RunSpec:
    arguments: dict[str, Any] = {
        "arm": "a",
        "context": "default",
        "assets": {"stamps": "digest"},
        "weights": {"smoke_conv": "random", "smoke_patch": "random", "big": "sha"},
        "scale": "smoke",
    }
    return build_run(config, seed=seed, **{**arguments, **changes})


@pytest.fixture(scope="module")
def compose():
    with composer() as made:

        def plain(*overrides: str) -> dict[str, Any]:
            # Values are set by hand: Hydra's own way of doing it is slow, and tested elsewhere.
            groups = [text for text in overrides if "." not in text.partition("=")[0]]
            config = {**made.compose(["scale=smoke", *groups]), "precision": "fp32"}
            for text in overrides:
                path, _, value = text.partition("=")
                if text not in groups:
                    *parents, leaf = path.lstrip("+").split(".")
                    node = config
                    for key in parents:
                        node = node.setdefault(key, {})
                    node[leaf] = yaml.safe_load(value)
            return config

        yield plain


def ids(run: RunSpec) -> dict[str, str]:
    return {role: step.id for role, step in run.steps.items()}


def test_golden_run():
    """A frozen configuration keeps its ids whatever happens to conf/ and to the code."""
    case = GOLDEN["run"]
    run = build_run(
        case["config"],
        arm="a",
        context="default",
        seed=case["seed"],
        assets=case["assets"],
        weights=case["tower_weights"],
    )
    assert ids(run) == case["ids"]


@pytest.mark.parametrize("overrides", [(), ("vision=smoke_both",), ("stages=single",)])
def test_other_seeds_of_a_run_are_the_runs_one_would_build(compose, overrides):
    config = compose(*overrides)
    first, *others = [build(config, seed) for seed in (3, 0, 1)]
    made = with_seeds(first, [0, 1])
    assert made == others
    assert [[list(run.steps), ids(run)] for run in made] == [[list(run.steps), ids(run)] for run in others]
    assert [[step.hints for step in run.steps.values()] for run in made] == [
        [step.hints for step in run.steps.values()] for run in others
    ]


def test_other_seeds_leave_out_what_joined_later(compose, monkeypatch):
    row = dataclasses.replace(TABLE["finetune"], added={"seed.order": 7, "position.kind": "learned_2d"})
    for module in (seeds, steps):
        monkeypatch.setattr(module, "TABLE", {**TABLE, "finetune": row})
    config = compose()
    assert with_seeds(build(config, 0), [7]) == [build(config, 7)]


def test_a_run_has_the_declared_graph(compose):
    run = build(compose("vision=smoke_both"))
    s = run.steps
    assert list(s) == ["scenes", "pretrain", "features0", "features1", "align", "finetune", "evaluate"]
    assert s["features0"].config["tower"] == "smoke_patch"
    assert s["align"].deps == {
        "features0": s["features0"].id,
        "features1": s["features1"].id,
        "language": s["pretrain"].id,
        "scenes": s["scenes"].id,
    }
    assert s["finetune"].deps["init"] == s["align"].id
    assert s["evaluate"].deps["model"] == s["finetune"].id
    assert run.run_id == s["evaluate"].id
    of_published_data = {"records", "live"}
    assert s["align"].config.keys() - of_published_data == {
        "projector", "position", "stages", "llm", "seed", "precision"
    }  # fmt: skip
    assert s["align"].config["stages"].keys() == {"align"}
    assert s["finetune"].config["seed"] == {"init": 0, "order": 0}
    assert s["evaluate"].config["seed"] == {"evaluation": 0}


def test_a_single_stage_starts_from_the_language_model(compose):
    run = build(compose("stages=single"))
    assert "align" not in run.steps
    assert run.steps["finetune"].deps["init"] == run.steps["pretrain"].id


def test_seeds_share_everything_before_training(compose):
    config = compose()
    first, second = ids(build(config, 0)), ids(build(config, 1))
    same = {role for role in first if first[role] == second[role]}
    assert same == {"scenes", "pretrain", "features0"}


@pytest.mark.parametrize(
    "override",
    [
        "execution.threads=2",
        "execution.device=cuda",
        "execution.workers=1",
        "launcher=debug",
        "policy.killed.retries=5",
        "+tracking.project=x",
        "estimates.throughput=99",
        "+extra.note=words",
    ],
)
def test_placement_and_words_change_no_id(compose, override):
    assert ids(build(compose())) == ids(build(compose(override)))
    config = compose()
    assert ids(build(config, arm="other", context="elsewhere", scale="huge")) == ids(build(config))


@pytest.mark.parametrize(
    ("override", "changed"),
    [
        ("data.train_scenes=97", {"scenes", "pretrain", "features0", "align", "finetune", "evaluate"}),
        ("llm.width=56", {"pretrain", "align", "finetune", "evaluate"}),
        ("image=resize_naive", {"features0", "align", "finetune", "evaluate"}),
        ("position=rope_tie", {"pretrain", "align", "finetune", "evaluate"}),
        ("vision.grid=9", {"pretrain", "features0", "align", "finetune", "evaluate"}),
        ("image=tiles", {"features0", "align", "finetune", "evaluate"}),
        ("projector=linear", {"align", "finetune", "evaluate"}),
        ("projector.norm=false", {"align", "finetune", "evaluate"}),
        ("projector.hidden=1", {"align", "finetune", "evaluate"}),
        ("stages.align.epochs=7", {"align", "finetune", "evaluate"}),
        ("stages.finetune.epochs=7", {"finetune", "evaluate"}),
        ("benchmark.names=[existence]", {"evaluate"}),
        ("seed.evaluation=7", {"evaluate"}),
    ],
)
def test_a_change_reaches_exactly_the_steps_it_can_change(compose, override, changed):
    before, after = ids(build(compose())), ids(build(compose(override)))
    assert {role for role in before if before[role] != after[role]} == changed


def test_assets_and_weights_enter_the_ids(compose):
    base = ids(build(compose()))
    other_pictures = ids(build(compose(), assets={"stamps": "other"}))
    other_weights = ids(build(compose(), weights={"smoke_conv": "other"}))
    assert other_pictures["scenes"] != base["scenes"]
    assert other_weights["scenes"] == base["scenes"]
    assert other_weights["features0"] != base["features0"]


def test_fused_towers_share_the_features_of_the_single_ones(compose):
    both = build(compose("vision=smoke_both"))
    single = build(compose("vision=smoke_conv"))
    assert single.steps["features0"].id == both.steps["features1"].id


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["vision.towers=[smoke_conv,smoke_patch]"], "need a fusion"),
        (["fusion=channel_concat"], "needs two towers"),
        (["fusion=channel_concat", "vision.towers=[smoke_conv,smoke_conv]"], "twice"),
        (["vision.towers=[]"], "must be a list"),
        (["vision.towers=[3]"], "a name or a mapping"),
        (["vision.towers=[unheard]"], "unknown tower 'unheard'"),
        (["image=tiles", "stages.finetune.vision=full"], "image.tiles cuts them"),
    ],
)
def test_towers_and_fusion_must_fit(compose, overrides, message):
    with pytest.raises(UserError, match=message):
        build(compose(*overrides))


def test_a_tower_may_be_a_mapping_with_options(compose):
    run = build(compose("vision.towers=[{name: smoke_conv, channels: 8}]"))
    assert run.steps["features0"].config["tower"] == {"name": "smoke_conv", "channels": 8}
    assert run.steps["features0"].slug == "smoke_conv-letterbox"


def test_slugs_and_cost_groups_do_not_depend_on_the_seed(compose):
    config = compose()
    first, second = build(config, 0).steps["finetune"], build(config, 1).steps["finetune"]
    assert first.slug.endswith("-s0")
    assert second.slug.endswith("-s1")
    assert first.hints["similar"] == second.hints["similar"]
    longer = build(compose("stages.finetune.epochs=3")).steps["finetune"]
    assert longer.hints["similar"] != first.hints["similar"]
    assert longer.hints["units"] == 3.0


def test_specs_survive_json():
    step = StepSpec("features", 1, "id", "slug", {"a": [1]}, {"scenes": "x"}, {"scale": "smoke"})
    assert StepSpec.from_dict(json.loads(json.dumps(step.to_dict()))) == step


def test_select_names_the_missing_key():
    with pytest.raises(UserError, match="unknown configuration key 'c' in a"):
        select({"a": {"b": 1}}, "a.c")


def test_no_row_of_the_table_reads_the_placement():
    forbidden = {"execution", "policy", "tracking", "estimates", "sizes", "launcher", "axis", "study"}
    for row in TABLE.values():
        assert not {source.split(".")[0] for source in row.fields.values()} & forbidden
