"""Several axes as one: names, order, what Hydra makes of the combinations, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pytest
import yaml

from tests.design.synthetic_conf import write_tree
from vlmablate.design.catalogue import Arm, Axis, Context, load_axis
from vlmablate.design.compose import Composer, composer
from vlmablate.design.crossing import MOST, CrossedAxis, cross
from vlmablate.design.crossing_conflicts import check_apart
from vlmablate.errors import UserError
from vlmablate.orchestration.study import Request, compose_cells


def axis(
    name: str,
    levels: Mapping[str, list[str]],
    baseline: str = "",
    context: tuple[str, ...] = (),
    limits: tuple[str, ...] = (),
) -> Axis:
    return Axis(
        name=name,
        question=f"Does {name} matter?",
        baseline=baseline or next(iter(levels)),
        arms=tuple(Arm(level, tuple(texts), f"words of {level}") for level, texts in levels.items()),
        contexts=(Context("fixed" if context else "default", context),),
        affects=("finetune",),
        paper=MappingProxyType({"p_published": 0.01}),
        limits=limits,
    )


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory: pytest.TempPathFactory):
    with composer(write_tree(tmp_path_factory.mktemp("conf"))) as made:
        yield made


@pytest.fixture(scope="module")
def packaged():
    with composer() as made:
        yield made


def apart(compose: Composer, *axes: Axis) -> CrossedAxis:
    made = cross(axes)
    check_apart(made, compose, made.contexts[0].overrides, ())
    return made


A = axis("a", {"low": ["g02=b"], "mid": ["g02=a"]}, baseline="mid", limits=("one", "both"))
B = axis("b", {"x": [], "y": ["g04=c", "g05.rate=3"], "z": ["g04=b"]}, limits=("both", "two"))


def test_arms_are_the_combinations_and_that_of_the_baselines_comes_first() -> None:
    made = cross([A, B])
    assert [arm.name for arm in made.arms] == ["mid+x", "low+x", "low+y", "low+z", "mid+y", "mid+z"]
    assert (made.name, made.baseline) == ("a-b", "mid+x")
    assert made.arm("low+y").overrides == ("g02=b", "g04=c", "g05.rate=3")
    assert made.arm("low+y").label == "words of low + words of y"
    assert {name: level.name for name, level in made.levels("low+y").items()} == {"a": "low", "b": "y"}
    assert made.named({"b": "y", "a": "low"}) == "low+y"
    assert made.limits == ("one", "both", "two")
    assert made.affects == ("finetune",)
    assert not made.paper
    assert [context.name for context in made.contexts] == ["default"]
    assert set(made.to_dict()["arms"]) == {arm.name for arm in made.arms}


def test_axes_of_one_part_of_the_configuration_share_a_set() -> None:
    group = axis("group", {"g": ["g03=a"], "h": ["g03=b"]})
    value = axis("value", {"v": [], "w": ["g03.rate=5"]})
    made = cross([group, A, value])
    assert made.sets(made.levels("h+low+w")) == [("g02=b",), ("g03=b", "g03.rate=5")]
    assert made.sets({"value": value.arm("w")}) == [(), ("g03.rate=5",)]


def test_what_the_axes_hold_fixed_is_one_context() -> None:
    fixed = axis("c", {"s": ["g06=a"], "t": ["g06=b"]}, context=("g03=b", "sizes.depth=4"))
    again = axis("d", {"s": ["g07=a"], "t": ["g07=b"]}, context=("g03=b",))
    (context,) = cross([A, fixed, again]).contexts
    assert context == Context("fixed", ("g03=b", "sizes.depth=4"))


def test_an_axis_of_several_contexts_is_refused() -> None:
    position = load_axis("position", "tiny")
    with pytest.raises(UserError, match=r"axis position repeats its contrast in 2 contexts \(default, pre"):
        cross([A, position])


def test_a_space_too_large_to_compose_is_refused() -> None:
    wide = [axis(f"n{i}", {f"l{j}": [f"sizes.n{i}={j}"] for j in range(17)}) for i in range(3)]
    assert MOST < 17**3
    with pytest.raises(UserError, match=r"17 n0 x 17 n1 x 17 n2 are 4,913 combinations"):
        cross(wide)


# What undoes what


def test_axes_that_leave_each_other_alone_pass(synthetic: Composer) -> None:
    apart(synthetic, A, B)


def test_a_value_inside_a_group_passes_while_its_options_agree_about_it(synthetic: Composer) -> None:
    """Options b and c of g12 build on a and differ in nested.value2 alone."""
    group = axis("group", {"b": ["g12=b"], "c": ["g12=c"]})
    apart(synthetic, group, axis("value", {"v": [], "w": ["g12.rate=5"]}))
    message = (
        r"axis group and axis value \(w: g12\.nested\.value2=q\) both decide about g12\.nested\.value2, and one "
        "would undo the other: leave out an axis"
    )
    with pytest.raises(UserError, match=message):
        apart(synthetic, group, axis("value", {"v": [], "w": ["g12.nested.value2=q"]}))
    with pytest.raises(UserError, match=r"\(w: g12\.nested=\{value2: q\}\) and axis group both decide about"):
        apart(synthetic, axis("value", {"v": [], "w": ["g12.nested={value2: q}"]}), group)


def test_one_group_chosen_twice_is_refused(synthetic: Composer) -> None:
    other = axis("other", {"same": [], "g": ["g02=c"]})
    with pytest.raises(
        UserError, match=r"axis a \(low: g02=b\) and axis other \(g: g02=c\) both decide about g02"
    ):
        apart(synthetic, A, other)


def test_one_value_set_twice_or_what_it_lies_in_is_refused(synthetic: Composer) -> None:
    one = axis("one", {"v": ["g05.nested.value1=1"], "w": ["g05.nested.value1=2"]})
    other = axis("other", {"v": [], "w": ["g05.nested={value1: 4}"]})
    with pytest.raises(
        UserError, match=r"axis one \(v: .*\) and axis other \(w: .*\) both decide about g05\.nested"
    ):
        apart(synthetic, one, other)


def test_an_option_that_chooses_the_group_of_another_axis_is_refused(synthetic: Composer) -> None:
    """g00=b chooses g01=b."""
    with pytest.raises(UserError, match=r"axis one and axis other \(x: g01=a\) both decide about g01"):
        apart(
            synthetic, axis("one", {"x": ["g00=a"], "y": ["g00=b"]}), axis("other", {"x": ["g01=a"], "y": []})
        )


def test_what_one_axis_holds_fixed_another_may_not_vary(synthetic: Composer) -> None:
    fixed = axis("fixed", {"s": ["g06=a"], "t": ["g06=b"]}, context=("g02=b",))
    with pytest.raises(
        UserError, match=r"the context fixed of axis fixed \(g02=b\) and axis a \(low: g02=b\) both"
    ):
        apart(synthetic, fixed, A)
    with pytest.raises(
        UserError, match=r"the context fixed of axis fixed .* and the context fixed of axis other"
    ):
        apart(synthetic, fixed, axis("other", {"s": [], "t": ["g07=b"]}, context=("g02=c",)))


# The cells


def spaces(tmp_path: Path, **axes: Mapping[str, list[str]]) -> Path:
    for name, levels in axes.items():
        content = {
            "name": name,
            "question": f"Does {name} matter?",
            "baseline": next(iter(levels)),
            "arms": {level: {"overrides": texts} for level, texts in levels.items()},
        }
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return tmp_path


def cells_of(axes: tuple[str, ...], compose: Composer, folder: Path | None = None, **more: object):
    request = Request(axis="-".join(axes), axes=axes, scale="smoke", **more)  # type: ignore[arg-type]
    return compose_cells(request, compose, folder)


def test_every_combination_is_what_hydra_makes_of_it(tmp_path: Path) -> None:
    """Two of the axes speak of the stages, so their sets meet."""
    folder = spaces(
        tmp_path,
        pictures={"letterbox": ["image=letterbox"], "naive": ["image=resize_naive"]},
        stages={"two": [], "one": ["stages=single"]},
        mix={"plain": [], "more": ["stages.finetune.mixture.detailed=5"]},
    )
    with composer() as compose:
        made, cells = cells_of(("pictures", "stages", "mix"), compose, folder, overrides=("llm.width=32",))
        asked = len(compose.known)
        assert [cell.arm for cell in cells] == [arm.name for arm in made.arms]
        assert len(cells) == 8
        for cell in cells[1::2]:
            texts = ["scale=smoke", "launcher=local", *made.arm(cell.arm).overrides, "llm.width=32"]
            assert cell.config == {**compose.compose(texts), "precision": "fp32"}
    # The plain configuration, every level that says something, and the pair of levels that speak of the stages.
    assert asked == 1 + (2 + 1 + 1) + 1


def test_levels_that_exclude_each_other_are_named(packaged: Composer, tmp_path: Path) -> None:
    words = "stages.finetune.mixture.text_only=0.1"
    folder = spaces(
        tmp_path,
        pictures={"letterbox": [], "naive": ["image=resize_naive"]},
        rows={"with": ["llm=small_text"], "without": ["llm=small_causal"]},
        talk={"none": [], "some": [words]},
    )
    message = (
        r"rows=without and talk=some exclude each other: stages\.finetune\.mixture\.text_only asks for requests .*\n"
        r"Every combination of a design space must be possible: leave out one of the axes rows and talk\."
    )
    with pytest.raises(UserError, match=message):
        cells_of(("pictures", "rows", "talk"), packaged, folder)


def test_a_level_that_cannot_be_is_named_alone(packaged: Composer, tmp_path: Path) -> None:
    folder = spaces(
        tmp_path,
        pictures={"letterbox": [], "naive": ["image=resize_naive"]},
        rate={"slow": [], "fast": ["stages.finetune.learning_rate=-1"]},
    )
    with pytest.raises(UserError, match=r"^rate=fast cannot be composed: stages\.finetune"):
        cells_of(("pictures", "rate"), packaged, folder)


@pytest.mark.parametrize(
    ("axes", "key"),
    [
        (("image_resize", "tiling"), "image"),
        (("fusion", "visual_representation"), "vision"),
        (("resolution", "visual_representation"), "vision.towers"),
        (("finetune_vision", "stages"), "stages"),
    ],
)
def test_axes_of_the_catalogue_that_cannot_be_crossed_say_why(
    packaged: Composer, axes: tuple[str, ...], key: str
) -> None:
    request = Request(axis="-".join(axes), axes=axes, scale="tiny")
    with pytest.raises(UserError, match=f"both decide about {key}, and one would undo"):
        compose_cells(request, packaged)


def test_an_unknown_axis_of_a_space_lists_what_exists(packaged: Composer) -> None:
    with pytest.raises(UserError, match="unknown axis 'stage'"):
        cells_of(("image_resize", "stage"), packaged)
