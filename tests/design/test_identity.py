from __future__ import annotations

import enum
import json
import math
from pathlib import Path

import pytest

from vlmablate.design.identity import CanonicalError, canonical, elide, short_id, step_id

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "ids.json").read_text())


class Colour(enum.IntEnum):
    RED = 1


class Text(str):
    pass


def test_canonical_form_is_sorted_compact_and_by_value():
    assert (
        canonical({"b": [1, 2.0, None], "a": {"y": True, "x": "é"}})
        == '{"a":{"x":"é","y":true},"b":[1,2,null]}'
    )
    assert canonical(2.0) == canonical(2) == "2"
    assert canonical(-0.0) == "0"
    assert canonical(0.1) == "0.1"
    assert canonical(1e300) == "1e+300"
    assert canonical(True) != canonical(1)
    assert canonical("1") != canonical(1)


def test_key_order_does_not_matter_but_list_order_does():
    assert short_id({"a": 1, "b": 2}) == short_id({"b": 2, "a": 1})
    assert short_id([1, 2]) != short_id([2, 1])


@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        math.inf,
        -math.inf,
        {1, 2},
        (1, 2),
        b"bytes",
        Path("x"),
        Colour.RED,
        Text("a"),
        object(),
        1j,
        {1: "key"},
        {None: 1},
        {Text("k"): 1},
        "\ud800",
        {"\ud800": 1},
    ],
)
def test_values_without_a_canonical_form_are_refused(value):
    with pytest.raises(CanonicalError):
        canonical({"outer": [value]})


def test_numpy_values_are_refused_even_those_that_are_floats():
    numpy = pytest.importorskip("numpy")
    for value in (numpy.float64(0.5), numpy.int64(1), numpy.array([1]), numpy.str_("a"), numpy.bool_(True)):
        with pytest.raises(CanonicalError):
            canonical(value)


def test_the_error_says_where_the_value_sits():
    with pytest.raises(CanonicalError, match=r"\$\.stages\.finetune\[1\]"):
        canonical({"stages": {"finetune": [0, math.nan]}})


def test_an_id_is_sixteen_lower_case_letters_of_base32():
    made = step_id("features", 1, {"tower": "a"}, {"scenes": "x"})
    assert len(made) == 16
    assert set(made) <= set("abcdefghijklmnopqrstuvwxyz234567")


def test_every_part_of_a_step_enters_its_id():
    base = step_id("features", 1, {"tower": "a"}, {"scenes": "x"})
    others = [
        step_id("evaluate", 1, {"tower": "a"}, {"scenes": "x"}),
        step_id("features", 2, {"tower": "a"}, {"scenes": "x"}),
        step_id("features", 1, {"tower": "b"}, {"scenes": "x"}),
        step_id("features", 1, {"tower": "a"}, {"scenes": "y"}),
        step_id("features", 1, {"tower": "a"}, {"pictures": "x"}),
    ]
    assert len({base, *others}) == 6


def test_a_field_added_later_changes_no_id_at_its_default_and_does_otherwise():
    old = step_id("finetune", 1, {"stages": {"finetune": {"epochs": 1}}}, {})
    added = {"stages.finetune.dropout": 0.0}
    same = {"stages": {"finetune": {"epochs": 1, "dropout": 0}}}
    other = {"stages": {"finetune": {"epochs": 1, "dropout": 0.1}}}
    assert step_id("finetune", 1, same, {}, added) == old
    assert step_id("finetune", 1, other, {}, added) != old


def test_a_whole_group_that_joined_later_may_grow():
    added = {"extra": {"a": 1}, "extra.b": 2}
    assert elide({"x": 0, "extra": {"a": 1, "b": 2}}, added) == {"x": 0}
    assert elide({"x": 0, "extra": {"a": 1, "b": 3}}, added) == {"x": 0, "extra": {"a": 1, "b": 3}}


def test_elision_leaves_its_argument_alone_and_ignores_missing_parents():
    config = {"a": {"b": 1}, "c": None}
    assert elide(config, {"a.b": 1, "c.d": 2, "e.f": 3}) == {"a": {}, "c": None}
    assert config == {"a": {"b": 1}, "c": None}


@pytest.mark.parametrize("case", GOLDEN["steps"], ids=lambda case: case["kind"])
def test_golden_step_ids(case):
    """These ids name results on disks; a change here orphans every one of them."""
    assert step_id(case["kind"], case["version"], case["config"], case["deps"]) == case["id"]


@pytest.mark.parametrize("case", GOLDEN["canonical"], ids=lambda case: case["text"][:30])
def test_golden_canonical_texts(case):
    assert canonical(case["value"]) == case["text"]
