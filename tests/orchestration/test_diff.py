from __future__ import annotations

import pytest

from vlmablate.orchestration.diff import MISSING, Difference, fields
from vlmablate.orchestration.kinship import kinship, nearest


def test_fields_are_dotted_paths_with_both_values():
    then = {"stages": {"finetune": {"epochs": 2.0, "rate": 1e-3}}, "old": 1}
    now = {"stages": {"finetune": {"epochs": 3.0, "rate": 1e-3}}, "new": None}
    assert fields(then, now) == [
        Difference("new", MISSING, None),
        Difference("old", 1, MISSING),
        Difference("stages.finetune.epochs", 2.0, 3.0),
    ]
    assert [str(found) for found in fields(then, now)] == [
        "new: (absent) → null",
        "old: 1 → (absent)",
        "stages.finetune.epochs: 2.0 → 3.0",
    ]


@pytest.mark.parametrize(
    ("then", "now", "paths"),
    [
        (2, 2.0, []),
        (1, True, [""]),
        ({"a": [1, 2]}, {"a": [1, 3]}, ["a[1]"]),
        ({"a": [1]}, {"a": [1, 3]}, ["a"]),
        ({"a": {"b": 1}}, {"a": 1}, ["a"]),
        ({"a": [{"b": 1}]}, {"a": [{"b": 2}]}, ["a[0].b"]),
    ],
)
def test_values_differ_as_identities_do(then: object, now: object, paths: list[str]):
    assert [found.path for found in fields(then, now)] == paths


def spec(kind: str, number: int, config: dict, **deps: str) -> dict:
    return {
        "kind": kind, "version": 1, "id": f"{kind}{number}", "slug": "slug", "config": config, "deps": deps,
    }  # fmt: skip


def test_a_dependency_is_followed_down_to_the_fields_that_made_it_another_one():
    specs = [
        spec("scenes", 0, {"n": 1}),
        spec("features", 0, {"image": {"resize": "letterbox"}}, scenes="scenes0"),
        spec("features", 1, {"image": {"resize": "naive"}}, scenes="scenes0"),
        spec("finetune", 0, {"epochs": 2.0}, features0="features0", scenes="scenes0"),
        spec("finetune", 1, {"epochs": 3.0}, features0="features1", scenes="scenes0"),
        spec("evaluate", 0, {"seed": 1}, model="finetune0", features0="features0"),
        spec("evaluate", 1, {"seed": 1}, model="finetune1", features0="features1"),
        spec("evaluate", 2, {"seed": 2}, model="finetune0", features0="features0"),
    ]
    by_id = {step["id"]: step for step in specs}
    found = kinship(by_id["evaluate0"], by_id["evaluate1"], by_id.get)
    assert found.distance == 2
    assert found.lines() == [
        "dependency features0: slug-features0 → slug-features1, because image.resize: letterbox → naive",
        "dependency model: slug-finetune0 → slug-finetune1, because epochs: 2.0 → 3.0",
    ]
    closest = nearest(by_id["evaluate0"], specs, by_id.get)
    assert closest is not None
    assert (closest[0]["id"], closest[1].lines()) == ("evaluate2", ["seed: 2 → 1"])


def test_a_dependency_that_nobody_knows_any_more_counts_as_one_difference():
    then, now = spec("evaluate", 0, {}, model="gone"), spec("evaluate", 1, {}, model="other")
    found = kinship(then, now, {}.get)
    assert (found.distance, found.lines()) == (1, ["dependency model: gone → other"])
