from __future__ import annotations

from pathlib import Path

import pytest

from vlmablate.design.catalogue import axis_names, load_axis
from vlmablate.design.declarations import (
    declaration_names,
    load_declaration,
    parse_declaration,
    study_questions,
)
from vlmablate.errors import UserError
from vlmablate.sweep import parse_seeds


@pytest.mark.parametrize("name", declaration_names())
def test_every_declared_study_can_be_read_and_names_axes_that_exist(name: str):
    declared = load_declaration(name)
    assert declared.question == study_questions()[name]
    assert declared.question.endswith("?")
    for axis in declared.axes:
        load_axis(axis, declared.scale)
    assert parse_seeds(declared.seeds)


def test_the_study_of_the_paper_has_every_axis():
    assert set(load_declaration("prismatic").axes) == set(axis_names()) - {
        "epochs_trunk"
    }  # asks what epochs asks


def test_fields_are_read(tmp_path: Path):
    (tmp_path / "mine.yaml").write_text(
        "question: Why?\naxes: [a, b]\nseeds: [0, 4]\nscale: smoke\noverrides: [image=letterbox]\n"
    )
    declared = load_declaration("mine", tmp_path)
    assert (declared.axes, declared.seeds, declared.scale) == (("a", "b"), "[0,4]", "smoke")
    assert declared.overrides == ("image=letterbox",)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ([], "holds a mapping"),
        ({"question": "?", "axis": ["a"]}, "unknown field 'axis'"),
        ({"axes": ["a"]}, "the field question is missing"),
        ({"question": "?", "axes": []}, "names no axis"),
        ({"question": "?", "axes": ["a", "a"]}, "names an axis twice"),
        ({"question": "?", "axes": "a"}, "must be a list of texts"),
        ({"question": "?", "axes": ["a"], "overrides": [1]}, "must be a list of texts"),
    ],
)
def test_mistakes_are_named_with_their_file(raw: object, message: str):
    with pytest.raises(UserError) as caught:
        parse_declaration(raw, "sweeps/mine.yaml", "mine")
    assert str(caught.value).find("sweeps/mine.yaml") >= 0
    assert message in str(caught.value)


def test_an_unknown_study_lists_those_there_are():
    with pytest.raises(UserError) as caught:
        load_declaration("prismatik")
    assert "did you mean 'prismatic'" in str(caught.value)
    assert "axis=NAME" in str(caught.value)
