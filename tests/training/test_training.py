"""The loss, the schedule, and the exact resume of a killed stage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from vlmablate.errors import UserError
from vlmablate.orchestration.context import StepContext, StepStopped
from vlmablate.training import loop
from vlmablate.training.packing import IGNORED, Segment, pack
from vlmablate.training.steps import _order, _visit


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
    order = _order(10, 25, seed=3)
    assert sorted(order[:10]) == sorted(order[10:20]) == list(range(10))
    assert (order != _order(10, 25, seed=4)).any()
    rows = [[Segment((i,), (i,)) for i in range(8)]] * 3
    assert _visit(rows, 2, seed=1, step=5) == _visit(rows, 2, seed=1, step=5)
    assert _visit(rows, 2, seed=1, step=5) != _visit(rows, 2, seed=1, step=6)


class _StopAt(StepContext):
    def __init__(self, out: Path, step: int | None) -> None:
        super().__init__(execution={}, attempt=1, assets=out, out=out)
        self.calls, self.step = 0, step

    def check_stop(self) -> None:
        if self.calls == self.step:
            raise StepStopped("killed here")
        self.calls += 1


def _train(out: Path, stop: int | None, rate: float = 0.05) -> tuple[nn.Module, dict[str, object]]:
    torch.manual_seed(0)
    module = nn.Linear(6, 9)

    def batch_at(step: int) -> loop.Batch:
        generator = torch.Generator().manual_seed(step)
        packed = pack([[Segment((1, 2), (int(torch.randint(0, 9, (1,), generator=generator)),))]])
        hidden = torch.randn(1, packed.tokens.shape[1], 6, generator=generator)
        return loop.Batch(packed, lambda: hidden)

    out.mkdir(exist_ok=True)
    recipe = loop.Recipe(350, rate, 0.1, 0.01, 1.0)
    payload = loop.train(
        module, module.parameters(), module, batch_at, recipe, out, _StopAt(out, stop), "fp32"
    )
    return module, payload


@pytest.mark.parametrize("killed_at", [50, 100, 237])
def test_a_killed_stage_ends_with_the_same_bits(tmp_path: Path, killed_at: int) -> None:
    undisturbed, _ = _train(tmp_path / "a", None)
    with pytest.raises(StepStopped):
        _train(tmp_path / "b", killed_at)
    resumed, payload = _train(tmp_path / "b", None)
    assert payload["resumed_from_step"] == killed_at // loop.CHECKPOINT_EVERY * loop.CHECKPOINT_EVERY
    assert torch.equal(undisturbed.weight, resumed.weight)
    assert torch.equal(undisturbed.bias, resumed.bias)
    curves = [
        [(row["step"], row["loss"]) for row in map(json.loads, (tmp_path / n / loop.CURVE_FILE).open())]
        for n in "ab"
    ]
    assert dict(curves[0]).items() <= dict(curves[1]).items()
    assert not (tmp_path / "b" / loop.CHECKPOINT_FILE).exists()


def test_a_diverged_loss_is_an_error_that_says_where(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="diverged"):
        _train(tmp_path / "c", None, rate=float("inf"))
