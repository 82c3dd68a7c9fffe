"""One readable training loop for every stage: batches in, a trained module and a curve out.

The order of the data and every random choice are pure functions of (seed, step), so a run that was killed goes on from
its last checkpoint and ends with the same bits as one that was not. How many processes share the rows of a batch, and
how many rows fit into one forward, changes nothing but the order of sums.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from vlmablate import files
from vlmablate.design.schedule import Schedule
from vlmablate.design.stage_choices import read_factors
from vlmablate.errors import Diverged, UserError
from vlmablate.orchestration import checkpoint_folder
from vlmablate.orchestration.context import StepContext, StepStopped
from vlmablate.training import trunks
from vlmablate.training.meters import Meter, peak_of
from vlmablate.training.optimiser import adamw
from vlmablate.training.packing import IGNORED
from vlmablate.training.parallelize import Layout, Whole, parallelize
from vlmablate.training.precision import computing
from vlmablate.training.ranks import ALONE, Ranks, local
from vlmablate.training.saver import Saver
from vlmablate.training.tuning import check_master_weights

CURVE_FILE = "metrics.jsonl"
CURVE_EVERY = 10
SAVE_EVERY = 100


@dataclass(frozen=True)
class Recipe:
    """Hyper-parameters of one stage. `warmup` is a share of the steps, see `schedule` for what follows it.

    factors: part of the model (``projector``) -> its learning rate as a multiple of `learning_rate`.
    """

    steps: int
    learning_rate: float
    warmup: float
    weight_decay: float
    gradient_clip: float
    schedule: Schedule = Schedule()  # noqa: RUF009  (immutable)
    factors: Mapping[str, float] = field(default_factory=dict)

    @staticmethod
    def read(stage: Mapping[str, Any], steps: int) -> Recipe:
        """Of the settings of a stage. Raises UserError for a schedule that does not exist."""
        return Recipe(
            steps,
            float(stage["learning_rate"]),
            float(stage["warmup"]),
            float(stage["weight_decay"]),
            float(stage["gradient_clip"]),
            Schedule.read(stage.get("schedule") or "cosine"),
            read_factors(stage.get("learning_rate_factors")),
        )

    @property
    def branch_point(self) -> int:
        """After how many steps this training parts from every longer one."""
        return self.schedule.trunk(self.warmup, self.steps)

    def rate(self, step: int) -> float:
        """Learning rate of optimiser step `step`, counted from 0."""
        return self.schedule.rate(self.learning_rate, self.warmup, step, self.steps)


class Rows(Protocol):
    """The text of a batch (`packing.Packed`, `sequences.Sequences`); int64 [B, T] each."""

    @property
    def segments(self) -> Tensor:
        """Number of the segment of every token in its row, negative for padding."""

    @property
    def targets(self) -> Tensor:
        """The token to predict at each place, IGNORED where nothing is asked."""

    @property
    def target_count(self) -> int:
        """How many are asked."""


@dataclass(frozen=True)
class Batch:
    """What one optimiser step needs: the packed text of the global batch [B, T], and a function from some of its rows
    to their hidden states [rows, T, width]. `operations`: see `Meter.count`."""

    packed: Rows
    hidden: Callable[[slice], Tensor]
    operations: float | None = None


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
    rates: Mapping[str, float] = MappingProxyType({}),
    rows_at_once: int | None = None,
    piece: trunks.Piece = trunks.WHOLE,
) -> dict[str, Any]:
    """Train in place, with all ranks, and return the payload {steps, final_loss, tokens, parameters, precision,
    resumed_from_step, and the figures of `Meter`}. Parameters that require a gradient are trained, and must be float32;
    those of `module` come back sharded.

    `rates`: part of `module` -> its own peak learning rate; the schedule is that of `recipe`. `batch_at(step)` must be
    pure. Writes metrics.jsonl and checkpoints (see `saver`), one every
    `execution.save_every` steps and one when asked to stop; `execution.keep_checkpoints` of them stay.
    `execution.micro_batch` bounds the rows of one forward, unless the batches are laid out by it already and say
    `rows_at_once`; for the rest of the placement see `Layout`.
    `piece`: which steps of the training are done here. Steps, loss and tokens count from the beginning of the training
    all the same; the payload of a piece also says `from_step`, the step that it began at.
    Raises, on all ranks: Diverged when the loss or a gradient is not finite, Pruned where a milestone of the context
    ends a trial, StepStopped when any rank was asked to stop.
    """
    micro = rows_at_once or placement(context, "micro_batch", None)
    save_every = placement(context, "save_every", SAVE_EVERY)
    keep = placement(context, "keep_checkpoints", checkpoint_folder.KEEP)
    check_master_weights(module)
    counts = {
        "trained": sum(p.numel() for p in module.parameters() if p.requires_grad),
        "total": sum(p.numel() for p in module.parameters()),
    }
    whole = parallelize(
        module=module, layout=Layout.read(context.execution), precision=precision, ranks=ranks
    )
    factors = {part: factor * recipe.learning_rate for part, factor in recipe.factors.items()}
    optimiser = adamw(module, recipe.learning_rate, recipe.weight_decay, {**factors, **rates})
    end = trunks.end_of(piece, recipe.schedule, recipe.warmup, recipe.steps)
    state = _Progress(**trunks.resume(piece, out, module, optimiser, ranks))
    trunks.check_start(piece, state.start, end, recipe.branch_point)
    if ranks.rank == 0:
        piece.inherit(CURVE_FILE, out)
        _cut_curve(out / CURVE_FILE, state.step)
    begun_at = state.step
    marks = {milestone.step(recipe.steps): milestone for milestone in context.milestones}
    meter = Meter(ranks.device, ranks.size, peak_of(ranks.device))
    stopping = ranks.any_true(context.stop_requested())
    with Saver(out, module, optimiser, context, ranks, keep) as saver:
        while state.step < end and not stopping:
            step = state.step
            with meter.waiting("data"):
                batch = batch_at(step)
            rate = recipe.rate(step)
            for group in optimiser.param_groups:
                group["lr"] = rate * group["scale"]
            optimiser.zero_grad(set_to_none=True)
            turns = pieces(len(batch.packed.targets), ranks.rank, ranks.size, micro)
            shares = _backward(whole, logits, batch, turns, precision)
            value, norm, stopping, saved = _settle(whole, shares, context, ranks, saver.ended)
            if not (math.isfinite(value) and math.isfinite(norm)):
                where = _where(module, shares, turns, ranks)
                raise Diverged(
                    f"the loss of step {step + 1} is {value}, the norm of its gradient {norm} ({where}): training "
                    f"diverged. Lower the learning rate ({recipe.learning_rate}) or look at {out / CURVE_FILE}",
                    share=step / recipe.steps,
                )
            _clip(module, norm, recipe.gradient_clip, ranks)
            optimiser.step()
            state.step += 1
            state.loss = value if state.loss is None else 0.95 * state.loss + 0.05 * value
            tokens = int((batch.packed.segments >= 0).sum())
            state.tokens += tokens
            meter.count(tokens, batch.packed.segments.numel(), batch.operations)
            context.progress(state.step, end, loss=state.loss)
            noted = state.step % CURVE_EVERY == 0 or state.step in (begun_at + 1, end, *marks)
            if ranks.rank == 0 and noted:
                state.note(out, value, rate, norm, meter.figures())
            if state.step in marks:
                marks[state.step].judge(state.loss, recipe.steps)
            with meter.waiting("saving"):
                if saved:
                    saver.settle()
                if stopping or (state.step % save_every == 0 and state.step < end):
                    saver.save(state.step, vars(state))
    if stopping:
        raise StepStopped(f"stopped on request after step {state.step} of {end}")
    if piece.trunk:
        trunks.keep(out, module, optimiser, context, ranks, state.step, vars(state))
    return {
        "steps": end,
        "final_loss": state.loss,
        "tokens": state.tokens,
        **meter.figures(),
        "parameters": counts,
        "precision": precision,
        "resumed_from_step": begun_at,
        **({} if piece == trunks.WHOLE else {"from_step": state.start}),
    }


def placement(context: StepContext, name: str, default: Any) -> Any:
    """A whole number of at least 1 from the placement of the step, or the default for null."""
    value = context.execution.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError(f"execution.{name} must be a whole number of at least 1, or null, not {value!r}")
    return value


def _backward(
    whole: Whole, logits: Callable[[Tensor], Tensor], batch: Batch, turns: Sequence[slice], precision: str
) -> list[float]:
    """Add the gradients of some rows at a time to the parameters; returns their shares of the loss.

    Without rows the first one passes through and nothing is asked of it: gradients of zero, but the same collectives
    as on the ranks that have some.
    """
    losses = []
    for number, turn in enumerate(turns, 1):
        idle = turn.start == turn.stop
        rows = slice(0, 1) if idle else turn
        targets = batch.packed.targets[rows]
        asked = torch.zeros_like(targets, dtype=torch.bool) if idle else targets != IGNORED
        whole.part(last=number == len(turns))
        with computing(precision, targets.device):
            predicted = whole(lambda rows=rows, asked=asked: logits(batch.hidden(rows)[asked]))
        loss = token_loss(predicted, targets[asked], batch.packed.target_count)
        loss.backward()
        losses.append(loss.detach())
    shares: list[float] = torch.stack(losses).tolist()  # a GPU is waited for once, not in every turn
    return shares


def _settle(
    whole: Whole, shares: Sequence[float], context: StepContext, ranks: Ranks, ended: bool
) -> tuple[float, float, bool, bool]:
    """Loss and gradient norm of the global batch, whether any rank has to stop, and whether all have `ended` to save.

    One small reduction carries all four, so that all ranks stop, or hear of a full disk, after the same step.
    """
    gradients = [local(p.grad) for p in whole.parameters() if p.grad is not None]
    if whole.replicas is None:
        return sum(shares), float(nn.utils.get_total_norm(gradients)), context.stop_requested(), ended
    norms = [torch.linalg.vector_norm(gradient, dtype=torch.float64) for gradient in gradients]
    squares = float(torch.stack(norms).square().sum()) if norms else 0.0
    stop = float(context.stop_requested())
    value, squares, stops, ends = ranks.total(sum(shares), squares, stop, float(ended))
    return value, math.sqrt(squares / whole.replicas), stops > 0, ends == ranks.size


def _clip(module: nn.Module, norm: float, limit: float, ranks: Ranks) -> None:
    """Scale all gradients so that their norm is at most `limit`."""
    parameters = [p for p in module.parameters() if p.grad is not None]
    if ranks.size == 1:
        nn.utils.clip_grads_with_norm_(parameters, limit, torch.tensor(norm, device=ranks.device))
    elif norm > limit:
        torch._foreach_mul_([local(p.grad) for p in parameters if p.grad is not None], limit / (norm + 1e-6))


def _where(module: nn.Module, shares: Sequence[float], turns: Sequence[slice], ranks: Ranks) -> str:
    """Which rows gave a loss, and which parameters a gradient, that is not finite; of all ranks."""
    rows = [
        f"rows {turn.start} to {turn.stop - 1}"
        for turn, share in zip(turns, shares, strict=True)
        if not math.isfinite(share)
    ]
    names = [
        name
        for name, p in module.named_parameters()
        if p.grad is not None and not bool(local(p.grad).isfinite().all())
    ]
    told = ranks.share((rows, names))
    rows = [row for theirs, _ in told for row in theirs]
    names = list(dict.fromkeys(name for _, theirs in told for name in theirs))
    found = [*rows[:3], *names[:3]] or ["only the norm, which is too large for its type"]
    more = max(0, len(rows) + len(names) - len(found))
    return "not finite: " + ", ".join(found) + (f" and {more} more" if more else "")


@dataclass
class _Progress:
    """How far a stage is: what a checkpoint must hold beside the weights and the optimiser."""

    step: int = 0
    loss: float | None = None
    tokens: int = 0
    start: int = 0  # of this piece of the training

    def note(self, out: Path, loss: float, rate: float, norm: float, figures: Mapping[str, float]) -> None:
        record = {
            "step": self.step,
            "loss": round(loss, 5),
            "smoothed_loss": round(self.loss or loss, 5),
            "lr": rate,
            "gradient_norm": round(norm, 4),
            **figures,
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
