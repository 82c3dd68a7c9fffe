from __future__ import annotations

import random
from pathlib import Path

import pytest
import yaml

from tests.design.synthetic_conf import GROUPS, LEAVES, OPTIONS, PLAIN, count_leaves, write_tree
from vlmablate.design.compose import Composer, composer
from vlmablate.design.patches import Patches, defaults_depend_on_choices
from vlmablate.errors import UserError


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory: pytest.TempPathFactory):
    with composer(write_tree(tmp_path_factory.mktemp("conf"))) as made:
        yield made


@pytest.fixture(scope="module")
def packaged():
    with composer() as made:
        yield made


def both(
    compose: Composer, sets: list[tuple[str, ...]], first: tuple[str, ...] = (), last: tuple[str, ...] = ()
):
    """(by patches, by Hydra, whether Hydra was asked for this very combination)."""
    patched = Patches(compose, first, last).compose(sets)
    overrides = (*first, *(text for part in sets for text in part), *last)
    asked = overrides in compose.known
    return patched, compose.compose(overrides), asked


def test_the_synthetic_tree_is_as_large_as_promised(synthetic):
    assert len(GROUPS) == 14
    assert count_leaves(synthetic.compose()) == LEAVES


@pytest.mark.parametrize("sample", range(8))
def test_random_combinations_equal_those_of_hydra(synthetic, sample: int):
    drawn = random.Random(sample)
    sets = [(f"{group}={drawn.choice(OPTIONS)}",) for group in drawn.sample(GROUPS, drawn.randint(2, 9))]
    if drawn.random() < 0.5:
        sets.append((f"sizes.depth={drawn.randint(1, 9)}", "g04.nested.value1=7"))
    patched, composed, _ = both(synthetic, sets)
    assert patched == composed


def test_groups_that_do_not_meet_are_merged_without_hydra(synthetic):
    sets = [(f"{group}=b",) for group in PLAIN] + [("sizes.depth=5",)]
    patched, composed, asked = both(synthetic, sets, last=("sizes.name=x",))
    assert not asked
    assert patched == composed
    assert patched["g05"]["label"] == "x-b5"  # resolved after the merge


MEETING = {
    "an option chooses another group, and the second set chooses the default of that one": ("g00=b", "g01=a"),
    "two groups write into one package": ("g00=c", "g01=c"),
    "a global file hides a value of the other group, in the base only": ("g02=b", "g13=b"),
    "a group and one of its values": ("g03=b", "g03.nested.value1=9"),
    "a value and what lies above it": ("g03.nested.value1=9", "g03.nested={value2: 3}"),
    "an option that builds on another": ("g12=b", "g12.name=x"),
    "one group twice": ("g03=b", "g03=c"),
}


@pytest.mark.parametrize("texts", MEETING.values(), ids=MEETING)
def test_sets_that_meet_are_left_to_hydra(synthetic, texts):
    patched, composed, asked = both(synthetic, [(text,) for text in texts])
    assert asked
    assert patched == composed


def test_a_value_that_another_set_hides_in_the_base_comes_to_light(synthetic):
    patched, _, _ = both(synthetic, [("g02=b",), ("g13=b",)])
    assert patched["g02"]["nested"]["value3"] == 213


def test_a_set_that_is_only_valid_in_company_is_composed_in_company(packaged):
    first = ("scale=smoke", "stages=single")
    sets = [("stages=two_stage",), ("stages.align.epochs=3",)]
    patched, composed, _ = both(packaged, sets, first)
    assert patched == composed
    assert patched["stages"]["align"]["epochs"] == 3


def test_a_mistake_is_told_as_ever(packaged):
    with pytest.raises(UserError, match="unknown option of image 'squash'"):
        Patches(packaged, ["scale=smoke"]).compose([("image=squash",), ("projector=linear",)])


def test_the_callers_own_and_no_two_share_anything(synthetic):
    patches = Patches(synthetic, [])
    sets = [("g02=b",), ("g03=b",)]
    first = patches.compose(sets)
    first["g02"]["nested"]["value0"] = -1
    first["g04"]["listed"].append(0)
    assert patches.compose(sets) == both(synthetic, sets)[1]


REAL = [
    ("image=resize_naive",), ("image=resize_crop",), ("projector=linear",), ("stages=single",),
    ("stages.finetune.epochs=4.0",), ("vision=smoke_patch",), ("vision=smoke_both",), ("fusion=none",),
    ("data.train_scenes=80",), ("data=embedded_openmoji",), ("llm.width=32",), ("sizes.epochs=1.0",),
    ("policy=strict",), ("analysis.margin=1", "seed.evaluation=3"),
]  # fmt: skip


@pytest.mark.parametrize("sample", range(6))
def test_random_combinations_of_the_packaged_tree_equal_those_of_hydra(packaged, sample: int):
    drawn = random.Random(sample)
    sets = drawn.sample(REAL, drawn.randint(2, 5))
    patched, composed, _ = both(packaged, sets, ("scale=smoke", "launcher=local"), ("llm.heads=1",))
    assert patched == composed


def test_a_tower_pair_and_its_fusion_meet(packaged):
    patched, composed, asked = both(packaged, [("vision=smoke_both",), ("fusion=none",)], ("scale=smoke",))
    assert asked
    assert patched == composed
    assert patched["vision"]["fusion"] == "none"


def test_where_a_choice_makes_another_nothing_is_merged(tmp_path: Path):
    def write(name: str, content: dict) -> None:
        path = tmp_path / f"{name}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump(content))

    write("config", {"defaults": ["_self_", {"a": "x"}, {"b": "x"}, {"optional both": "${a}_${b}"}]})
    for group in ("a", "b"):
        write(f"{group}/x", {"value": "x"})
        write(f"{group}/y", {"value": "y"})
    write("both/y_y", {"value": "only together"})
    with composer(tmp_path) as compose:
        patched, composed, asked = both(compose, [("a=y",), ("b=y",)])
    assert asked
    assert patched == composed
    assert patched["both"] == {"value": "only together"}


def test_the_packaged_tree_can_be_merged(packaged):
    assert not defaults_depend_on_choices(packaged.conf)
