"""One readable training loop for every stage: batches in, a trained module and a curve out.

The order of the data and every random choice are pure functions of (seed, step), so a run that was killed goes on from
its last checkpoint and ends with the same bits as one that was not. How many processes share the rows of a batch, and
how many rows fit into one forward, changes nothing but the order of sums.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from vlmablate import files
from vlmablate.errors import Diverged, UserError
from vlmablate.orchestration.context import StepContext, StepStopped
from vlmablate.training import checkpoints
from vlmablate.training.packing import IGNORED, Packed
from vlmablate.training.ranks import ALONE, Ranks, Whole, local

CURVE_FILE = "metrics.jsonl"
CURVE_EVERY = 10
SAVE_EVERY = 100
BETAS = (0.9, 0.95)


@dataclass(frozen=True)
class Recipe:
    """Hyper-parameters of one stage. `warmup` is a share of the steps; the schedule is linear warm-up, then a cosine
    to zero (paper, table 1)."""

    steps: int
    learning_rate: float
    warmup: float
    weight_decay: float
    gradient_clip: float

    @staticmethod
    def read(stage: Mapping[str, Any], steps: int) -> Recipe:
        return Recipe(
            steps,
            float(stage["learning_rate"]),
            float(stage["warmup"]),
            float(stage["weight_decay"]),
            float(stage["gradient_clip"]),
        )

    def rate(self, step: int) -> float:
        """Learning rate of optimiser step `step`, counted from 0."""
        warm = max(1, round(self.warmup * self.steps))
        if step < warm:
            return self.learning_rate * (step + 1) / warm
        return (
            self.learning_rate * 0.5 * (1.0 + math.cos(math.pi * (step - warm) / max(1, self.steps - warm)))
        )


@dataclass(frozen=True)
class Batch:
    """What one optimiser step needs: the packed text of the global batch [B, T], and a function from some of its rows
    to their hidden states [rows, T, width]."""

    packed: Packed
    hidden: Callable[[slice], Tensor]


def token_loss(logits: Tensor, targets: Tensor, total: int) -> Tensor:
    """Summed cross entropy over `total`, the target tokens of the *global* batch.

    logits: [N, vocabulary] at the asked positions; targets: [N]. Dividing by the global count keeps the loss (and its
    gradient) independent of how a batch is cut into ranks or micro-batches.
    """
    return functional.cross_entropy(logits.float(), targets, reduction="sum") / total


def pieces(rows: int, rank: int, size: int, micro: int | None) -> list[slice]:
    """The rows of a global batch that a rank takes, at most `micro` in one forward.

    All ranks get equally many pieces, because sharded parameters are gathered by all at once; pieces without rows are
    empty slices.
    """
    first, last = rank * rows // size, (rank + 1) * rows // size
    most = -(-rows // size)
    width = min(micro or most, most)
    starts = [first + start for start in range(0, most, width)]
    return [slice(min(start, last), min(start + width, last)) for start in starts]


def train(
    module: nn.Module,
    logits: Callable[[Tensor], Tensor],
    batch_at: Callable[[int], Batch],
    recipe: Recipe,
    out: Path,
    context: StepContext,
    precision: str,
    ranks: Ranks = ALONE,
) -> dict[str, Any]:
    """Train in place, with all ranks, and return the payload {steps, final_loss, tokens, tokens_per_s, parameters,
    precision, resumed_from_step}. Parameters that require a gradient are trained; those of `module` come back sharded.

    `batch_at(step)` must be pure. Writes metrics.jsonl and checkpoints (see `checkpoints`), one every
    `execution.save_every` steps and one when asked to stop. `execution.micro_batch` bounds the rows of one forward.
    Raises, on all ranks: Diverged when the loss is not finite, StepStopped when any rank was asked to stop.
    """
    micro = _placement(context, "micro_batch", None)
    save_every = _placement(context, "save_every", SAVE_EVERY)
    counts = {
        "trained": sum(p.numel() for p in module.parameters() if p.requires_grad),
        "total": sum(p.numel() for p in module.parameters()),
    }
    whole = ranks.shard(module)
    parameters = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=BETAS, fused=True)
    state = _Progress(**(checkpoints.resume(out, module, optimiser, ranks) or {}))
    if ranks.rank == 0:
        _cut_curve(out / CURVE_FILE, state.step)
    began, begun_at, begun_tokens = time.perf_counter(), state.step, state.tokens
    stopping = ranks.any_true(context.stop_requested())
    while state.step < recipe.steps and not stopping:
        step = state.step
        batch = batch_at(step)
        rate = recipe.rate(step)
        for group in optimiser.param_groups:
            group["lr"] = rate
        optimiser.zero_grad(set_to_none=True)
        share = 0.0
        for rows in pieces(len(batch.packed.targets), ranks.rank, ranks.size, micro):
            share += _backward(whole, logits, batch, rows, precision)
        value, norm, stopping = _settle(parameters, recipe.gradient_clip, share, context, ranks)
        if not math.isfinite(value):
            raise Diverged(
                f"the loss of step {step + 1} is {value}: training diverged. Lower the learning rate "
                f"({recipe.learning_rate}) or look at {out / CURVE_FILE}"
            )
        optimiser.step()
        state.step += 1
        state.loss = value if state.loss is None else 0.95 * state.loss + 0.05 * value
        state.tokens += int((batch.packed.segments >= 0).sum())
        speed = (state.tokens - begun_tokens) / max(1e-9, time.perf_counter() - began)
        context.progress(state.step, recipe.steps, loss=state.loss)
        if ranks.rank == 0 and (
            step == begun_at or state.step % CURVE_EVERY == 0 or state.step == recipe.steps
        ):
            state.note(out, value, rate, norm, speed)
        due = state.step % save_every == 0 and state.step < recipe.steps
        if stopping or due:
            checkpoints.save(out, module, optimiser, state.step, vars(state), context, ranks)
    if stopping:
        raise StepStopped(f"stopped on request after step {state.step} of {recipe.steps}")
    return {
        "steps": recipe.steps,
        "final_loss": state.loss,
        "tokens": state.tokens,
        "tokens_per_s": round((state.tokens - begun_tokens) / max(1e-9, time.perf_counter() - began), 1),
        "parameters": counts,
        "precision": precision,
        "resumed_from_step": begun_at,
    }


def _placement(context: StepContext, name: str, default: Any) -> Any:
    """A whole number of at least 1 from the placement of the step, or the default for null."""
    value = context.execution.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError(f"execution.{name} must be a whole number of at least 1, or null, not {value!r}")
    return value


def _backward(
    whole: Whole, logits: Callable[[Tensor], Tensor], batch: Batch, rows: slice, precision: str
) -> float:
    """Add the gradient of these rows to the parameters; returns their share of the loss.

    Without rows the first one passes through and nothing is asked of it: gradients of zero, but the same collectives
    as on the ranks that have some.
    """
    idle = rows.start == rows.stop
    rows = slice(0, 1) if idle else rows
    targets = batch.packed.targets[rows]
    asked = torch.zeros_like(targets, dtype=torch.bool) if idle else targets != IGNORED
    with torch.autocast(targets.device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
        predicted = whole(lambda: logits(batch.hidden(rows)[asked]))
    loss = token_loss(predicted, targets[asked], batch.packed.target_count)
    loss.backward()
    return float(loss.detach())


def _settle(
    parameters: Sequence[nn.Parameter], limit: float, share: float, context: StepContext, ranks: Ranks
) -> tuple[float, float, bool]:
    """Loss and gradient norm of the global batch, gradients clipped by it, and whether any rank has to stop.

    One small reduction carries all three, so that all ranks stop after the same step.
    """
    if ranks.size == 1:
        return share, float(nn.utils.clip_grad_norm_(parameters, limit)), context.stop_requested()
    gradients = [local(p.grad) for p in parameters if p.grad is not None]
    squares = float(sum(gradient.double().square().sum() for gradient in gradients))
    value, squares, stops = ranks.total(share, squares, float(context.stop_requested()))
    norm = math.sqrt(squares)
    if norm > limit:
        torch._foreach_mul_(gradients, limit / (norm + 1e-6))
    return value, norm, stops > 0


@dataclass
class _Progress:
    """How far a stage is: what a checkpoint must hold beside the weights and the optimiser."""

    step: int = 0
    loss: float | None = None
    tokens: int = 0

    def note(self, out: Path, loss: float, rate: float, norm: float, speed: float) -> None:
        record = {
            "step": self.step,
            "loss": round(loss, 5),
            "smoothed_loss": round(self.loss or loss, 5),
            "lr": rate,
            "gradient_norm": round(norm, 4),
            "tokens_per_s": round(speed, 1),
        }
        with (out / CURVE_FILE).open("a", encoding="utf-8") as curve:
            curve.write(json.dumps(record) + "\n")


def _cut_curve(path: Path, step: int) -> None:
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError):
            continue  # a line torn by a kill
    if kept:
        files.write_bytes(path, ("\n".join(kept) + "\n").encode())
    else:
        os.unlink(path)
