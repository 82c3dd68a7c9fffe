"""The loss, the schedule, and the exact resume of a killed stage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from vlmablate.errors import Diverged
from vlmablate.orchestration.context import StepContext, StepStopped
from vlmablate.training import loop
from vlmablate.training.packing import IGNORED, Segment, pack
from vlmablate.training.visits import order_of, picked


def test_loss_does_not_depend_on_how_the_batch_is_cut() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(12, 7, generator=generator, requires_grad=True)
    targets = torch.randint(0, 7, (12,), generator=generator)
    whole = loop.token_loss(logits, targets, 12)
    (gradient,) = torch.autograd.grad(whole, logits)
    parts = [loop.token_loss(logits[a:b], targets[a:b], 12) for a, b in ((0, 1), (1, 8), (8, 12))]
    (cut,) = torch.autograd.grad(torch.stack(parts).sum(), logits)
    assert float(whole.detach()) == pytest.approx(float(torch.stack(parts).sum().detach()), abs=1e-6)
    assert torch.allclose(gradient, cut, atol=1e-7)


def test_targets_are_the_answer_tokens_only() -> None:
    packed = pack([[Segment((5, 6, 7), (8,)), Segment((9, 10), (11, 12))]])
    assert packed.tokens.tolist() == [[5, 6, 7, 9, 10, 11]]
    assert packed.targets.tolist() == [[IGNORED, IGNORED, 8, IGNORED, 11, 12]]
    assert packed.positions.tolist() == [[0, 1, 2, 0, 1, 2]]
    assert packed.target_count == 3


def test_the_schedule_warms_up_and_ends_near_zero() -> None:
    recipe = loop.Recipe(100, 1.0, 0.1, 0.0, 1.0)
    rates = [recipe.rate(step) for step in range(100)]
    assert rates[9] == 1.0
    assert max(rates) == 1.0
    assert rates[-1] < 1e-3
    assert rates == sorted(rates[:10]) + sorted(rates[10:], reverse=True)


def test_order_and_questions_follow_the_seed_and_cover_every_epoch() -> None:
    order = order_of(10, 25, seed=3)
    assert sorted(order[:10]) == sorted(order[10:20]) == list(range(10))
    assert (order != order_of(10, 25, seed=4)).any()
    rows = [[Segment((i,), (i,)) for i in range(8)]] * 3
    assert picked(rows, 2, seed=1, step=5) == picked(rows, 2, seed=1, step=5)
    assert picked(rows, 2, seed=1, step=5) != picked(rows, 2, seed=1, step=6)


def _train(
    out: Path, stop: int | None, rate: float = 0.05, steps: int = 350, **placement: int
) -> tuple[nn.Module, dict[str, object]]:
    """A stage that is told to stop while step ``stop`` is at work, counted from 0."""
    torch.manual_seed(0)
    module, asked = nn.Linear(6, 9), -1

    def batch_at(step: int) -> loop.Batch:
        nonlocal asked
        asked = step
        generator = torch.Generator().manual_seed(step)
        packed = pack([[Segment((1, 2), (int(torch.randint(0, 9, (1,), generator=generator)),))]])
        hidden = torch.randn(1, packed.tokens.shape[1], 6, generator=generator)
        return loop.Batch(packed, lambda rows: hidden[rows])

    out.mkdir(exist_ok=True)
    context = StepContext(
        execution=placement, attempt=1, assets=out, out=out, stop_requested=lambda: asked == stop
    )
    recipe = loop.Recipe(steps, rate, 0.1, 0.01, 1.0)
    return module, loop.train(module, module, batch_at, recipe, out, context, "fp32")


class _Killed(BaseException):
    """As sudden as SIGKILL: nothing is saved."""


def _kill(out: Path, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rate = loop.Recipe.rate

    def killed(recipe: loop.Recipe, at: int) -> float:
        if at == step:
            raise _Killed
        return rate(recipe, at)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Recipe, "rate", killed)
        with pytest.raises(_Killed):
            _train(out, None)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    out = tmp_path_factory.mktemp("undisturbed")
    return _train(out, None)[0], out


def _assert_equal(undisturbed: tuple[nn.Module, Path], module: nn.Module, out: Path) -> None:
    assert torch.equal(undisturbed[0].weight, module.weight)
    assert torch.equal(undisturbed[0].bias, module.bias)
    ours, theirs = (
        {row["step"]: row["loss"] for row in map(json.loads, (folder / loop.CURVE_FILE).open())}
        for folder in (undisturbed[1], out)
    )
    assert ours.items() <= theirs.items()


@pytest.mark.parametrize("killed_at", [50, 100, 237])
def test_a_killed_stage_ends_with_the_same_bits(
    tmp_path: Path, undisturbed, monkeypatch, killed_at: int
) -> None:
    _kill(tmp_path, killed_at, monkeypatch)
    resumed, payload = _train(tmp_path, None)
    assert payload["resumed_from_step"] == killed_at // loop.SAVE_EVERY * loop.SAVE_EVERY
    _assert_equal(undisturbed, resumed, tmp_path)


@pytest.mark.parametrize("told_at", [0, 50, 99, 237, 349])
def test_a_stage_that_is_told_to_stop_loses_nothing(tmp_path: Path, undisturbed, told_at: int) -> None:
    with pytest.raises(StepStopped, match=f"after step {told_at + 1} of 350"):
        _train(tmp_path, told_at)
    resumed, payload = _train(tmp_path, None)
    assert payload["resumed_from_step"] == told_at + 1
    assert payload["steps"] == 350
    _assert_equal(undisturbed, resumed, tmp_path)


def test_a_stage_that_is_told_to_stop_again_and_again_gets_there(tmp_path: Path) -> None:
    whole, _ = _train(tmp_path / "a", None, steps=6)
    for told_at in range(6):
        with pytest.raises(StepStopped):
            _train(tmp_path / "b", told_at, steps=6)
    resumed, _ = _train(tmp_path / "b", None, steps=6)
    assert torch.equal(whole.weight, resumed.weight)


def test_how_often_a_stage_saves_changes_nothing(tmp_path: Path, undisturbed) -> None:
    often, _ = _train(tmp_path, None, save_every=7)
    _assert_equal(undisturbed, often, tmp_path)
    assert sorted(path.name for path in tmp_path.glob("checkpoint*")) == ["checkpoint-336", "checkpoint-343"]


def test_a_diverged_loss_is_an_error_that_says_where(tmp_path: Path) -> None:
    with pytest.raises(Diverged, match="diverged"):
        _train(tmp_path / "c", None, rate=float("inf"))
