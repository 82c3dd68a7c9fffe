"""The operations of a step, priced from shapes, against what torch counts while it computes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tests.training.vision_world import World, work
from vlmablate.training import causal_steps, loop, steps

LORA = "stages.finetune.language={lora: {rank: 4, alpha: 8, targets: [qkv, mlp_out], dropout: 0.0}}"

LLAMA = ("llm=random_llama", "position=rope_1d")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    torch.set_num_threads(1)
    return World(tmp_path_factory.mktemp("world"))


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, float]]:
    """(priced, counted) of every optimiser step of what is trained on a device whose peak is known."""
    for module in (loop, steps, causal_steps):
        monkeypatch.setattr(module, "peak_of", lambda device: 1e12)
    found: list[tuple[float, float]] = []
    backward = loop._backward

    def counting(whole: Any, logits: Any, batch: loop.Batch, *arguments: Any) -> Any:
        # The backend whose products torch counts on a CPU; attention costs the same whatever computes it.
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            shares = backward(whole, logits, batch, *arguments)
        assert batch.operations is not None
        found.append((batch.operations, counter.get_total_flops()))
        return shares

    monkeypatch.setattr(loop, "_backward", counting)
    return found


@pytest.mark.parametrize(
    ("role", "overrides"),
    [
        ("pretrain", ()),
        ("pretrain", ("llm=small_text",)),
        ("align", ("stages=two_stage",)),
        ("finetune", ()),
        ("finetune", ("projector=perceiver",)),
        ("finetune", ("image=tiles",)),
        ("finetune", ("stages.finetune.language=frozen",)),
        ("finetune", ("stages.finetune.language={last: 1}",)),
        ("finetune", (LORA,)),
        ("finetune", ("stages=single", "vision=smoke_both", "stages.finetune.vision=full")),
        ("finetune", ("stages=single", "vision=smoke_patch", "stages.finetune.vision={last: 1}")),
        ("align", (*LLAMA, "stages=two_stage")),
        ("finetune", LLAMA),
        ("finetune", (*LLAMA, "stages.finetune.language=frozen")),
        ("finetune", (*LLAMA, LORA.replace("qkv, mlp_out", "q_proj, down_proj"))),
        ("finetune", (*LLAMA, "stages=single", "vision=smoke_both", "stages.finetune.vision=full")),
    ],
    ids=str,
)
def test_a_step_is_priced_as_torch_counts_it(
    world: World, tmp_path: Path, figures: list[tuple[float, float]], role: str, overrides: tuple[str, ...]
) -> None:
    job = world.job(world.plan(*overrides), role)
    figures.clear()
    payload = work(out=str(tmp_path), **job)
    assert len(figures) == payload["steps"]
    for priced, counted in figures:
        assert priced == pytest.approx(counted, rel=1e-6)
    assert 0 < payload["mfu"] < 1


def test_without_a_peak_nothing_is_counted_and_there_is_no_mfu(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "picture_operations", None)
    payload = work(out=str(tmp_path), **world.job(world.plan(), "finetune"))
    assert "mfu" not in payload


def test_the_operations_of_a_batch_do_not_follow_how_it_is_cut(
    world: World, tmp_path: Path, figures: list[tuple[float, float]]
) -> None:
    job = world.job(world.plan(), "finetune")
    figures.clear()
    work(out=str(tmp_path / "whole"), **job)
    whole = [priced for priced, _ in figures]
    figures.clear()
    recomputed = {"micro_batch": 2, "activation_checkpointing": "full"}
    work(out=str(tmp_path / "parts"), execution=recomputed, **job)
    assert [priced for priced, _ in figures] == whole
    assert all(
        counted > 1.1 * priced for priced, counted in figures
    )  # torch counts the second forward as well
