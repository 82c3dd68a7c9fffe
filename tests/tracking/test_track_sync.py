"""``vlmablate track sync``, with a network that is told what to do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from vlmablate.errors import UserError
from vlmablate.tracking import sync as module
from vlmablate.tracking.sync import run, sync, unsent
from vlmablate.verbs import Help


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """Three offline runs, one that was online, and one that is being written."""
    folder = tmp_path / "home" / "wandb"
    for name in ("offline-run-1-a", "offline-run-2-b", "offline-run-3-c", "run-0-d", ".tmp-wandb-x/wandb"):
        (folder / name).mkdir(parents=True)
        (folder / name / f"run-{name[-1]}.wandb").write_text("told")
    return folder


class Network:
    """Sends so many runs, then is away."""

    def __init__(self, runs: int) -> None:
        self.left = runs
        self.sent: list[str] = []

    def __call__(self, folders: Sequence[Path]) -> None:
        for folder in folders[: self.left]:
            self.sent.append(folder.name)
            (path,) = folder.glob("*.wandb")
            path.with_suffix(".wandb.synced").touch()
        self.left -= min(self.left, len(folders))


def test_what_is_unsent_is_sent_once(target: Path):
    said: list[str] = []
    network = Network(9)
    assert sync(target.parent, target, network, said.append)
    assert network.sent == ["offline-run-1-a", "offline-run-2-b", "offline-run-3-c"]
    assert said == ["W&B: 3 runs sent"]
    assert sync(target.parent, target, network, said.append)
    assert len(network.sent) == 3
    assert said[-1] == f"nothing to send in {target}"


def test_what_a_network_left_is_sent_later(target: Path):
    said: list[str] = []
    assert not sync(target.parent, target, Network(1), said.append)
    assert "1 runs sent, 2 not sent" in said[0]
    network = Network(9)
    assert sync(target.parent, target, network, said.append)
    assert network.sent == ["offline-run-2-b", "offline-run-3-c"]


def test_an_interrupted_one_leaves_the_turn_to_others(target: Path):
    def interrupted(folders: Sequence[Path]) -> None:
        Network(1)(folders)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sync(target.parent, target, interrupted, print)
    assert len(unsent(target)) == 2
    assert sync(target.parent, target, Network(9), print)


def test_many_runs_are_sent_by_several_commands(target: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_AT_ONCE", 2)
    given: list[int] = []
    network = Network(9)

    def send(folders: Sequence[Path]) -> None:
        given.append(len(folders))
        network(folders)

    assert sync(target.parent, target, send, print)
    assert given == [2, 1]


def test_the_verb_looks_where_the_runs_are(
    target: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(module, "require_wandb", lambda: None)
    monkeypatch.setattr(module, "_wandb_sync", Network(2))
    monkeypatch.setenv("VLMABLATE_HOME", str(target.parent))
    assert run(["sync"]) == 1
    assert "2 runs sent, 1 not sent" in capsys.readouterr().out
    assert run(["sync", f"dir={target.with_name('other')}"]) == 0
    assert "nothing to send in" in capsys.readouterr().out


@pytest.mark.parametrize("words", [[], ["send"], ["sync", "mine"], ["sync", "folder=x"]])
def test_other_words_are_answered_with_the_usage(words: list[str]):
    with pytest.raises(UserError, match="usage: vlmablate track sync"):
        run(words)


def test_help_is_help():
    with pytest.raises(Help, match="usage: vlmablate track sync"):
        run(["sync", "--help"])


def test_without_wandb_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    from vlmablate.tracking import settings

    monkeypatch.setattr(settings, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'vlmablate\[track\]'"):
        run(["sync"])
