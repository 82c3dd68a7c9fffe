from __future__ import annotations

import pytest

from vlmablate.design.compose import composer
from vlmablate.errors import UserError


@pytest.fixture(scope="module")
def compose():
    with composer() as made:
        yield made


def test_the_result_is_plain_and_complete(compose):
    config = compose.compose(["scale=smoke"])
    assert type(config["data"]) is dict
    assert type(config["vision"]["towers"]) is list
    for key in (
        "data",
        "vision",
        "image",
        "projector",
        "position",
        "llm",
        "stages",
        "benchmark",
        "execution",
    ):
        assert key in config
    assert not {"hydra", "axis", "defaults"} & set(config)


def test_the_scale_wins_over_groups_and_overrides_win_over_the_scale(compose):
    assert compose.compose(["scale=smoke"])["vision"]["towers"] == ["smoke_conv"]
    assert compose.compose(["scale=smoke", "vision=smoke_patch"])["vision"]["towers"] == ["smoke_patch"]
    assert compose.compose(["scale=smoke", "data.train_scenes=7"])["data"]["train_scenes"] == 7


def test_two_towers_choose_their_fusion_and_it_can_be_overridden(compose):
    both = compose.compose(["scale=smoke", "vision=smoke_both"])
    assert both["vision"]["fusion"] == "channel_concat"
    assert compose.compose(["scale=smoke", "vision=smoke_both", "fusion=none"])["vision"]["fusion"] == "none"


def test_a_single_stage_stays_single_at_every_scale(compose):
    for scale in compose.options("scale"):
        assert compose.compose([f"scale={scale}", "stages=single"])["stages"]["align"] is None
    for scale in ("smoke", "tiny"):  # the recipe of the paper's size has one stage anyway
        assert compose.compose([f"scale={scale}"])["stages"]["align"]["epochs"] > 0


def test_a_composed_configuration_can_be_changed_without_changing_the_next_one(compose):
    first = compose.compose(["scale=smoke"])
    first["data"]["train_scenes"] = -1
    first["vision"]["towers"].append("x")
    assert compose.compose(["scale=smoke"])["data"]["train_scenes"] != -1
    assert compose.compose(["scale=smoke"])["vision"]["towers"] == ["smoke_conv"]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("scale=smol", ["unknown option of scale 'smol'", "did you mean 'smoke'", "  tiny"]),
        ("image=squash", ["unknown option of image 'squash'", "  letterbox", "  resize_crop"]),
        ("image.resise=letterbox", ["unknown key 'resise' in image", "did you mean 'resize'"]),
        ("stages.finetune.epoch=2", ["unknown key 'epoch' in stages.finetune", "  epochs"]),
        ("visoin=dinov2_small", ["unknown key 'visoin'", "did you mean 'vision'"]),
        ("image.resize.deep=1", ["'image.resize' is a value and has no key 'deep'"]),
        ("image=letterbox,resize_crop", ["several values at once", "arms"]),
        ("image.fill=[1,2", ["cannot read the override", "key.sub=value"]),
        ("hydra.run.dir=x", ["hydra is not part of the configuration"]),
        ("seeds=3", ["seeds is not part of the configuration"]),
    ],
)
def test_mistakes_are_explained_with_what_exists(compose, override, expected):
    with pytest.raises(UserError) as caught:
        compose.compose(["scale=smoke", override])
    for text in expected:
        assert text in str(caught.value)


def test_the_mistake_is_found_among_good_overrides(compose):
    with pytest.raises(UserError, match=r"from the override 'llm\.depth=2'"):
        compose.compose(["scale=smoke", "image=resize_crop", "llm.layers=1", "llm.depth=2", "data.seed=1"])


def test_a_key_that_exists_only_under_another_choice_is_judged_under_the_choice_made(compose):
    assert compose.compose(["stages=two_stage", "stages.align.epochs=3"])["stages"]["align"]["epochs"] == 3
    with pytest.raises(UserError, match=r"stages\.align"):
        compose.compose(["stages=single", "stages.align.epochs=3"])


def test_hydra_leaves_no_trace(compose, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    compose.compose(["scale=smoke", "data.seed=3"])
    assert capsys.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []
