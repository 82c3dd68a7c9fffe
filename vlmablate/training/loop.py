"""One readable training loop for every stage: batches in, a trained module and a curve out.

The order of the data and every random choice are pure functions of (seed, step), so a run that was killed goes on from
its last checkpoint and ends with the same bits as one that was not.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from vlmablate import files
from vlmablate.errors import UserError
from vlmablate.orchestration.context import StepContext
from vlmablate.training.packing import IGNORED, Packed

CHECKPOINT_FILE = "checkpoint.pt"
CURVE_FILE = "metrics.jsonl"
CURVE_EVERY = 10
CHECKPOINT_EVERY = 100
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
    """What one optimiser step needs: the packed text, and a function from the batch to hidden states [B, T, width]."""

    packed: Packed
    hidden: Callable[[], Tensor]


def token_loss(logits: Tensor, targets: Tensor, total: int) -> Tensor:
    """Summed cross entropy over `total`, the target tokens of the *global* batch.

    logits: [N, vocabulary] at the asked positions; targets: [N]. Dividing by the global count keeps the loss (and its
    gradient) independent of how a batch is cut into ranks or micro-batches.
    """
    return functional.cross_entropy(logits.float(), targets, reduction="sum") / total


def train(
    module: nn.Module,
    trained: Iterable[nn.Parameter],
    logits: Callable[[Tensor], Tensor],
    batch_at: Callable[[int], Batch],
    recipe: Recipe,
    out: Path,
    context: StepContext,
    precision: str,
) -> dict[str, Any]:
    """Train in place and return the payload {steps, final_loss, tokens, tokens_per_s, parameters, precision}.

    `batch_at(step)` must be pure. Writes metrics.jsonl; a checkpoint every CHECKPOINT_EVERY steps, removed at the end.
    Raises UserError when the loss is not finite, StepStopped when asked to stop.
    """
    parameters = list(trained)
    decayed = [p for p in parameters if p.ndim > 1]
    groups = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=BETAS, fused=True)
    state = _Progress.resume(out, module, optimiser)
    began, begun_at, begun_tokens = time.perf_counter(), state.step, state.tokens
    while state.step < recipe.steps:
        context.check_stop()
        step = state.step
        batch = batch_at(step)
        rate = recipe.rate(step)
        for group in optimiser.param_groups:
            group["lr"] = rate
        asked = batch.packed.targets != IGNORED
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            predicted = logits(batch.hidden()[asked])
        loss = token_loss(predicted, batch.packed.targets[asked], batch.packed.target_count)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(parameters, recipe.gradient_clip)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise UserError(
                f"the loss of step {step + 1} is {value}: training diverged. Lower the learning rate "
                f"({recipe.learning_rate}) or look at {out / CURVE_FILE}"
            )
        optimiser.step()
        state.step += 1
        state.loss = value if state.loss is None else 0.95 * state.loss + 0.05 * value
        state.tokens += int((batch.packed.segments >= 0).sum())
        speed = (state.tokens - begun_tokens) / max(1e-9, time.perf_counter() - began)
        context.progress(state.step, recipe.steps, loss=state.loss)
        if step == begun_at or state.step % CURVE_EVERY == 0 or state.step == recipe.steps:
            state.note(out, value, rate, float(norm), speed)
        if state.step % CHECKPOINT_EVERY == 0 and state.step < recipe.steps:
            state.save(out, module, optimiser)
    (out / CHECKPOINT_FILE).unlink(missing_ok=True)
    return {
        "steps": recipe.steps,
        "final_loss": state.loss,
        "tokens": state.tokens,
        "tokens_per_s": round((state.tokens - begun_tokens) / max(1e-9, time.perf_counter() - began), 1),
        "parameters": {
            "trained": sum(p.numel() for p in parameters),
            "total": sum(p.numel() for p in module.parameters()),
        },
        "precision": precision,
        "resumed_from_step": begun_at,
    }


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

    def save(self, out: Path, module: nn.Module, optimiser: torch.optim.Optimizer) -> None:
        state = {"progress": vars(self), "module": module.state_dict(), "optimiser": optimiser.state_dict()}
        with files.write_with(out / CHECKPOINT_FILE) as target:
            torch.save(state, target)

    @staticmethod
    def resume(out: Path, module: nn.Module, optimiser: torch.optim.Optimizer) -> _Progress:
        """Progress from the last checkpoint, or from zero; lines of the curve after it are dropped."""
        progress = _Progress()
        path = out / CHECKPOINT_FILE
        if path.exists():
            state = torch.load(path, weights_only=True)
            module.load_state_dict(state["module"])
            optimiser.load_state_dict(state["optimiser"])
            progress = _Progress(**state["progress"])
        _cut_curve(out / CURVE_FILE, progress.step)
        return progress


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
