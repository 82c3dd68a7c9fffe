from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vlmablate.errors import UserError
from vlmablate.search.space import (
    Categorical,
    Float,
    Int,
    Space,
    grid,
    load_space,
    parse_space,
    space_names,
    spelled,
)


def parameter(**fields: Any) -> dict[str, Any]:
    return {"space": {"some.setting": fields}}


def test_every_space_that_comes_with_the_package_can_be_read():
    assert space_names()
    for name in space_names():
        assert load_space(name).parameters


def test_a_space_is_read_as_it_is_written(tmp_path: Path):
    (tmp_path / "mine.yaml").write_text(
        "method: random\ndirection: minimize\nstartup: 3\nspace:\n"
        "  a.rate: {kind: float, low: 1.0e-4, high: 1, log: true, points: 5}\n"
        "  a.count: {kind: int, low: 1, high: 4}\n"
        "  a.name: {kind: categorical, choices: [x, 1, 1.0, true, null]}\n"
    )
    assert load_space("mine", tmp_path) == Space(
        {
            "a.rate": Float(1e-4, 1.0, log=True, points=5),
            "a.count": Int(1, 4),
            "a.name": Categorical(("x", 1, 1.0, True, None)),
        },
        method="random",
        direction="minimize",
        startup=3,
    )


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        ([], "mapping of fields"),
        ({"method": "tpe"}, "the field space is missing"),
        ({"space": {}}, "at least one parameter"),
        ({"space": {1: {"kind": "int", "low": 1, "high": 2}}}, "1 is not the name of a setting"),
        ({**parameter(kind="int", low=1, high=2), "metod": "tpe"}, "did you mean 'method'"),
        ({**parameter(kind="int", low=1, high=2), "method": "gird"}, "did you mean 'grid'"),
        ({**parameter(kind="int", low=1, high=2), "direction": "up"}, "minimize"),
        ({**parameter(kind="int", low=1, high=2), "startup": -1}, "startup must be a whole number"),
        ({**parameter(kind="float", low=0, high=1), "method": "grid"}, "add points"),
        (parameter(kind="flaot", low=0, high=1), "did you mean 'float'"),
        (parameter(low=0, high=1), "unknown kind 'None'"),
        (parameter(kind="float", low=0), "the field high is missing"),
        (parameter(kind="float", low=0, high=1, step=1), "unknown field 'step'"),
        (parameter(kind="float", low="1e-5", high=1), "write 1.0e-5"),
        (parameter(kind="float", low=0, high=float("inf")), "finite number"),
        (parameter(kind="float", low=2, high=1), "must be below high"),
        (parameter(kind="float", low=0, high=1, log=True), "above 0"),
        (parameter(kind="float", low=0, high=1, log="yes"), "log must be true or false"),
        (parameter(kind="float", low=0, high=1, points=1), "at least 2"),
        (parameter(kind="int", low=1.5, high=3), "low must be a whole number"),
        (parameter(kind="int", low=True, high=3), "low must be a whole number"),
        (parameter(kind="categorical", choices=[]), "choices must be a list"),
        (parameter(kind="categorical", choices=[[1]]), "choices must be a list"),
        (parameter(kind="categorical", choices=["a", "a"]), "names a value twice"),
        (parameter(kind="categorical", choices=[float("nan")]), "not finite"),
    ],
)
def test_a_bad_space_says_where_and_what(raw: Any, says: str):
    with pytest.raises(UserError) as raised:
        parse_space(raw, "the file")
    assert says in str(raised.value)
    assert "the file" in str(raised.value)


def test_an_unknown_space_and_a_file_that_is_no_yaml(tmp_path: Path):
    (tmp_path / "broken.yaml").write_text("space: {a: [")
    with pytest.raises(UserError, match="did you mean 'broken'"):
        load_space("borken", tmp_path)
    with pytest.raises(UserError, match=r"broken\.yaml is not valid YAML"):
        load_space("broken", tmp_path)


def test_a_grid_has_every_point_once():
    space = Space(
        {"rate": Float(1e-4, 1e-2, log=True, points=3), "n": Int(1, 2), "c": Categorical((True, 1))}, "grid"
    )
    points = grid(space)
    assert [point["rate"] for point in points[::4]] == [1e-4, 1e-3, 1e-2]
    assert points[:2] == [{"rate": 1e-4, "n": 1, "c": True}, {"rate": 1e-4, "n": 1, "c": 1}]
    assert len({spelled(point) for point in points}) == len(points) == 12


@pytest.mark.parametrize("share", [0.0, 0.3, 0.999999999, 1.0])
@pytest.mark.parametrize(
    "of", [Float(-1, 2), Float(0.3, 7, log=True), Int(-2, 3), Int(1, 100, log=True), Categorical(("a", 1))]
)
def test_every_share_of_a_range_is_in_it(of: Float | Int | Categorical, share: float):
    assert of.holds(of.at(share))
