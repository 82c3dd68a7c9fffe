from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vlmablate.design.compose import composer
from vlmablate.errors import UserError
from vlmablate.tracking.settings import Tracking, read_tracking, require_wandb


def test_the_groups_of_the_configuration_are_what_is_read():
    with composer() as compose:
        assert compose.options("tracking") == ["none", "wandb"]
        assert read_tracking(compose.compose(["scale=smoke"])["tracking"]) is None
        composed = compose.compose(["scale=smoke", "tracking=wandb", "tracking.entity=team"])
    assert read_tracking(composed["tracking"]) == Tracking(entity="team")


def test_words_say_the_same_again():
    for tracking in (Tracking(), Tracking("p", "team", "online", "/some where/else")):
        given = dict(word.split("=", 1) for word in tracking.words())
        assert read_tracking({"name": "wandb", **given}) == tracking


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"name": "wanbd"}, "did you mean 'wandb'"),
        ({"name": "wandb", "projct": "x"}, "did you mean 'project'"),
        ({"name": "wandb", "mode": "offlin"}, "did you mean 'offline'"),
        ({"name": "wandb", "project": None}, "tracking.project must be a text"),
        ({"name": "wandb", "project": " "}, "tracking.project must be a text"),
        ({"name": "wandb", "entity": 3}, "tracking.entity must be a text, or null"),
    ],
)
def test_mistakes_are_named(config: dict[str, Any], says: str):
    with pytest.raises(UserError, match=says):
        read_tracking(config)


def test_a_folder_of_offline_runs_is_not_taken_for_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    import sys

    (tmp_path / "wandb").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    with pytest.raises(UserError, match=r"pip install 'vlmablate\[track\]'"):
        require_wandb()
