"""Placement changes nothing: recomputed and compiled layers on one rank. Layouts over ranks are in test_ranks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.training import tiny
from vlmablate.errors import UserError
from vlmablate.training import parallelize
from vlmablate.training.parallelize import Layout
from vlmablate.training.ranks import ALONE


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict:
    torch.set_num_threads(1)
    return tiny.run(tmp_path_factory.mktemp("plain"), steps=6)


@pytest.mark.parametrize("how", ["full", {"every": 2}, {"keep": ["attention", "matmul"]}], ids=str)
def test_activations_that_are_computed_again_change_no_bit(tmp_path: Path, plain, how):
    answer = tiny.run(tmp_path, steps=6, execution={"activation_checkpointing": how})
    assert answer["sha"] == plain["sha"]


def test_compiled_layers_give_the_same_loss(tmp_path: Path, plain, monkeypatch):
    monkeypatch.setattr(parallelize, "COMPILER", "aot_eager")
    answer = tiny.run(tmp_path, steps=6, execution={"compile": True, "activation_checkpointing": "full"})
    assert answer["final_loss"] == pytest.approx(plain["final_loss"], rel=1e-6)


@pytest.mark.parametrize(("how", "calls"), [("none", 2), ("full", 4), ({"every": 2}, 3)], ids=str)
def test_only_the_layers_that_are_named_are_computed_again(how, calls: int):
    model, seen = tiny.Tiny(), []
    for block in model.language.blocks:
        block.norm_mlp.register_forward_hook(lambda *_: seen.append(1))
    layout = Layout.read({"activation_checkpointing": how})
    whole = parallelize.parallelize(module=model, layout=layout, precision="fp32", ranks=ALONE)
    batch = tiny.batch(model, 1, 2)
    whole(lambda: batch.hidden(slice(0, 2))).sum().backward()
    assert len(seen) == calls


@pytest.mark.parametrize(
    "execution",
    [
        {"shard": "hybird"},
        {"frozen": "some"},
        {"accumulate": "late"},
        {"compile": "yes"},
        {"reshard_after_forward": 1},
        {"activation_checkpointing": "selective"},
        {"activation_checkpointing": {"every": 0}},
        {"activation_checkpointing": {"keep": ["attentoin"]}},
    ],
    ids=str,
)
def test_a_placement_that_does_not_exist_is_refused(execution):
    with pytest.raises(UserError):
        Layout.read(execution)


def test_a_hybrid_layout_needs_equally_many_ranks_on_every_node():
    layout = Layout(shard="hybrid", nodes=2)
    assert layout.shards(8) == 4
    with pytest.raises(UserError, match="3 ranks on 2 nodes"):
        layout.shards(3)
