from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from vlmablate.design import interpolation
from vlmablate.design.interpolation import resolve

PLAIN = [
    {"a": 1, "b": "${a}", "c": {"d": "${b}", "e": [True, "${a}", {"f": "${c.d}"}]}},
    {"a": {"x": 1.5, "y": "${a.x}"}, "b": "${a}", "c": {"d": "${b}"}},
    {"a": {"name": "n", "label": "${.name}-${..size}", "deep": {"label": "${..name}"}}, "size": 3},
    {"a": "words", "b": "<${a}> and ${a}", "c": "${b}!"},
    {"a": {"copied": {"here": 1, "there": "${.here}"}}, "b": "${a.copied}"},
]
INTRICATE = [
    {"a": 2.0, "b": "x${a}"},
    {"a": None, "b": "x${a}"},
    {"a": [1, 2], "b": "${a[1]}"},
    {"a": {"k": 5}, "key": "k", "b": "${a.${key}}"},
    {"a": "\\${not}"},
    {"a": [{"x": 1, "y": "${.x}"}]},
    {"a": {"b": 1}, "c": "${a}", "d": "${c.b}"},
    {"a": "${oc.decode:'[1, 2]'}"},
]


@pytest.mark.parametrize("raw", PLAIN + INTRICATE)
def test_the_outcome_is_that_of_omegaconf(raw: dict):
    assert resolve(raw) == OmegaConf.to_container(OmegaConf.create(raw), resolve=True)


@pytest.mark.parametrize("raw", PLAIN)
def test_names_of_values_need_no_omegaconf(raw: dict, monkeypatch: pytest.MonkeyPatch):
    expected = OmegaConf.to_container(OmegaConf.create(raw), resolve=True)
    monkeypatch.delattr(interpolation, "_by_omegaconf")
    assert resolve(raw) == expected


def test_the_copy_is_the_callers_own():
    raw = {"a": {"b": [1]}, "c": "${a}"}
    made = resolve(raw)
    made["c"]["b"].append(2)
    made["a"]["b"].append(3)
    assert raw["a"]["b"] == [1]
    assert (made["a"]["b"], made["c"]["b"]) == ([1, 3], [1, 2])


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"a": "${nowhere}"}, "nowhere"),
        ({"a": {"b": "???"}}, "a.b"),
        ({"a": "${b}", "b": "${a}"}, "recursive|Recursive|recursion"),
    ],
)
def test_what_leads_nowhere_is_an_error(raw: dict, message: str):
    with pytest.raises(ValueError, match=message):
        resolve(raw)
