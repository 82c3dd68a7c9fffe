"""Ranges that are multiples of what a configuration has, and how far values lie apart."""

from __future__ import annotations

from typing import Any

import pytest

from vlmablate.errors import UserError
from vlmablate.search.proposals import propose
from vlmablate.search.space import (
    Categorical,
    Float,
    Int,
    Space,
    around,
    distance,
    load_space,
    parse_space,
    space_names,
    to_json,
)

RATE = Float(0.1, 10.0, log=True, points=3, relative=True)
SPACE = Space({"rate": RATE, "decay": Float(0.0, 0.5)})


def test_multiples_become_numbers_around_what_is_configured():
    found = around(SPACE, {"rate": 2e-3, "decay": 0.1})
    rate = found.parameters["rate"]
    assert isinstance(rate, Float)
    assert (rate.low, rate.high, rate.relative) == (pytest.approx(2e-4), pytest.approx(2e-2), False)
    assert rate.values() == [pytest.approx(2e-4), pytest.approx(2e-3), pytest.approx(2e-2)]
    assert found.parameters["decay"] == SPACE.parameters["decay"]
    assert found.holds({"rate": 2e-3, "decay": 0.1})


@pytest.mark.parametrize("rate", [2e-5, 1 / 3e4, 0.123456789])
def test_the_configured_value_is_in_its_own_range(rate: float):
    edge = Space({"rate": Float(1.0, 10.0, log=True, relative=True)})
    assert around(edge, {"rate": rate}).holds({"rate": rate})


def test_the_same_draws_are_the_same_multiples_of_any_value():
    one, other = (around(SPACE, {"rate": rate, "decay": 0.1}) for rate in (1e-5, 1e-3))
    for a, b in zip(propose(one, [], 4, seed=3), propose(other, [], 4, seed=3), strict=True):
        assert b["values"]["rate"] / a["values"]["rate"] == pytest.approx(100, rel=1e-4)
        assert b["values"]["decay"] == a["values"]["decay"]


@pytest.mark.parametrize("value", [None, "cosine", 0.0, -1.0, True, float("inf")])
def test_multiples_of_what_is_no_number_above_zero_are_refused(value: Any):
    with pytest.raises(UserError, match=r"rate is .* needs a number above 0"):
        around(SPACE, {"rate": value, "decay": 0.1})


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"low": 2.0, "high": 10.0}, "low <= 1 <= high"),
        ({"low": 0.1, "high": 0.5}, "low <= 1 <= high"),
        ({"low": -1.0, "high": 2.0}, "low <= 1 <= high"),
        ({"low": 0.1, "high": 2.0, "relative": "yes"}, "relative must be true or false"),
    ],
)
def test_a_range_without_the_configured_value_is_refused(fields: dict[str, Any], says: str):
    raw = {"space": {"rate": {"kind": "float", "relative": True, **fields}}}
    with pytest.raises(UserError, match=says):
        parse_space(raw, "the file")


def test_only_floats_are_relative():
    with pytest.raises(UserError, match="unknown field 'relative'"):
        parse_space({"space": {"n": {"kind": "int", "low": 1, "high": 2, "relative": True}}}, "the file")


@pytest.mark.parametrize(
    ("parameter", "value", "other", "expected"),
    [
        (Float(1e-4, 1e-2, log=True), 1e-3, 1e-4, 0.5),
        (Float(0.0, 2.0), 0.5, 1.5, 0.5),
        (Int(1, 5), 5, 1, 1.0),
        (Float(1e-4, 1e-2, log=True), 0.0, 5e-3, 5e-3 / 9.9e-3),  # configured outside: no logarithm
        (Float(0.0, 2.0), None, 1.5, 1.0),
        (Categorical(("a", 1, True)), 1, True, 1.0),
        (Categorical(("a", 1, True)), "a", "a", 0.0),
    ],
)
def test_distances_are_shares_of_the_range(parameter: Any, value: Any, other: Any, expected: float):
    assert distance(parameter, value, other) == pytest.approx(expected)
    assert distance(parameter, other, value) == pytest.approx(expected)


@pytest.mark.parametrize("name", space_names())
def test_a_space_is_told_as_its_file_has_it(name: str):
    space = load_space(name)
    told = {path: to_json(parameter) for path, parameter in space.parameters.items()}
    plain = {
        path: {key: value for key, value in fields.items() if value is not None}
        for path, fields in told.items()
    }
    assert parse_space({"space": plain}, "the record").parameters == space.parameters
