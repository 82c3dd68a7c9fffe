from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from vlmablate.data import assets
from vlmablate.design.catalogue import Axis, axis_names, load_axis, parse_axis, questions
from vlmablate.design.compose import composer
from vlmablate.design.published import sources_of
from vlmablate.design.spec import RunSpec
from vlmablate.design.step_table import TABLE
from vlmablate.errors import UserError
from vlmablate.orchestration.study import Cell, Request, build_runs, compose_cells, required_assets
from vlmablate.paths import resource

SCALES = ("tiny", "small", "smoke", "7b", "13b")
# A pretrained language model brings its position code along.
REFUSED = {
    **{("position", scale): "pretrained with its own position code" for scale in ("small", "7b", "13b")},
    **{("tiling", scale): "image.tiles cuts them" for scale in ("7b", "13b")},
    # The paper asked these of 7B models alone.
    ("language_model", "13b"): "unknown key", ("safety", "13b"): "unknown key",
}  # fmt: skip
RAW = {
    "name": "toy",
    "question": "Does it matter?",
    "baseline": "a",
    "arms": {"a": {"overrides": []}, "b": {"overrides": ["image=resize_naive"], "label": "the b"}},
}


@pytest.fixture(scope="module")
def compose():
    with composer() as made:
        yield made


def test_the_axes_of_the_first_slice_exist():
    assert {"image_resize", "visual_representation", "fusion", "epochs", "stages"} <= set(axis_names())


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", axis_names())
def test_every_arm_of_every_axis_is_another_run_and_differs_in_the_steps_that_the_axis_names(
    compose, name, scale
):
    if (name, scale) in REFUSED:
        with pytest.raises(UserError, match=REFUSED[name, scale]):
            planned(compose, name, scale)
        return
    axis, cells, runs = planned(compose, name, scale)
    assert axis.arm(axis.baseline).name == axis.baseline
    # An axis that no figure of the paper is about says null.
    assert not axis.paper or axis.paper.keys() >= {
        "section",
        "figure",
        "comparison",
        "p_published",
        "verdict",
    }
    assert axis.limits
    assert len(cells) == len(runs) == len(axis.arms) * len(axis.contexts)
    if scale == "smoke":  # it must run without any asset
        assert not required_assets(cells, assets)
        assert all(set(assets.weights(cell.config, {}).values()) == {"random"} for cell in cells)
    differ = set()
    for context in axis.contexts:
        of_context = {run.arm: run for run in runs if run.context == context.name}
        assert len({run.steps["evaluate"].id for run in of_context.values()}) == len(axis.arms)
        baseline = kinds_by_id(of_context.pop(axis.baseline))
        for run in of_context.values():
            own = kinds_by_id(run)
            differ |= {(own | baseline)[step] for step in own.keys() ^ baseline.keys()}
    assert "evaluate" in differ <= set(axis.affects) <= set(TABLE)
    if scale == "tiny":  # other scales may replace an arm by one of less effect
        assert differ == set(axis.affects)


@pytest.fixture(autouse=True)
def _no_folders(monkeypatch):
    """Published data of made-up digests."""

    def published(config):
        names = [
            *sources_of(config),
            *(config["benchmark"]["names"] if "folder" in config["benchmark"] else ()),
        ]
        return {name: f"digest of {name}" for name in names}

    monkeypatch.setattr(assets, "published", published)


def planned(compose, name: str, scale: str) -> tuple[Axis, list[Cell], list[RunSpec]]:
    """An axis, its cells and their runs with one seed. Nothing is fetched: every asset set has a made-up digest."""
    axis, cells = compose_cells(Request(name, (0,), scale), compose)
    digests = {asset: f"digest of {asset}" for asset in required_assets(cells, assets)}
    return axis, cells, build_runs(cells, (0,), digests, assets, scale)


def kinds_by_id(run: RunSpec) -> dict[str, str]:
    return {step.id: step.kind for step in run.steps.values()}


def test_questions_read_without_yaml_equal_those_read_with_it():
    read = questions()
    for name in axis_names():
        raw = yaml.safe_load((resource("conf") / "axis" / f"{name}.yaml").read_text())
        assert read[name] == raw["question"] == load_axis(name).question


def test_unknown_axis_lists_what_exists():
    with pytest.raises(UserError) as caught:
        load_axis("fusoin")
    assert "did you mean 'fusion'" in str(caught.value)
    assert all(f"  {name}" in str(caught.value) for name in axis_names())


def test_axis_names_are_exact():
    with pytest.raises(UserError):
        load_axis("image")
    with pytest.raises(UserError):
        load_axis("../config")


def test_unknown_arm_lists_what_exists():
    with pytest.raises(UserError, match="letterbox"):
        load_axis("image_resize").arm("leterbox")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"baseline": "c"}, "baseline 'c' is none of its arms"),
        ({"arms": {"a": {"overrides": []}}}, "at least two arms"),
        ({"arms": {"a": {"overrides": []}, "b": {}}}, "arms.b.overrides"),
        ({"arms": {"a": {"overrides": []}, "B c": {"overrides": []}}}, "not a name"),
        ({"arms": []}, "field arms"),
        ({"question": ""}, "question is missing"),
        ({"name": "other"}, "is called toy.yaml"),
        ({"arm": {}}, "unknown field 'arm'"),
        ({"scales": {"smoke": {"question": "x"}}}, "unknown field 'question'"),
    ],
)
def test_a_file_that_breaks_the_format_is_refused_with_the_place(change, message):
    with pytest.raises(UserError) as caught:
        parse_axis({**RAW, **change}, "smoke", "toy.yaml", "toy")
    assert message in str(caught.value)
    assert "toy.yaml" in str(caught.value)


def test_a_scale_replaces_arms_and_baseline():
    arms = {"x": {"overrides": []}, "y": {"overrides": ["image=resize_crop"]}}
    raw = {**RAW, "scales": {"smoke": {"arms": arms, "baseline": "x"}}}
    smoke = parse_axis(raw, "smoke", "toy.yaml", "toy")
    assert (smoke.baseline, [arm.name for arm in smoke.arms]) == ("x", ["x", "y"])
    tiny = parse_axis(raw, "tiny", "toy.yaml", "toy")
    assert [(arm.name, arm.label) for arm in tiny.arms] == [("a", "a"), ("b", "the b")]


def test_an_axis_survives_the_way_through_study_json():
    axis = load_axis("fusion", "smoke")
    raw = axis.to_dict()
    assert parse_axis({**raw, "name": "fusion"}, "", "study.json", "fusion") == axis


def test_broken_yaml_is_a_user_error(tmp_path: Path):
    (tmp_path / "toy.yaml").write_text("name: [")
    with pytest.raises(UserError, match="not valid YAML"):
        load_axis("toy", directory=tmp_path)
