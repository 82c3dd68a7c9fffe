"""A training in pieces: a trunk ends where a shorter training would begin to decay, and others go on from there.

What a piece hands on is what a checkpoint holds (`training.checkpoints`): the weights that train, the moments of the
optimiser, the random states, and how far it is. So a training on a trunk is one that was stopped at the branch point
and resumed by another step: with as many ranks it ends with the same bits as one that was not, and any other number of
ranks may go on. Which pieces there are is said in `design.trunks`.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vlmablate.design.schedule import Schedule
from vlmablate.errors import UserError
from vlmablate.files import write_bytes
from vlmablate.orchestration.checkpoint_folder import handed_on, together
from vlmablate.orchestration.context import StepContext
from vlmablate.training import checkpoints
from vlmablate.training.ranks import Ranks
from vlmablate.training.saver import Saver

STATE = "trunk"
"""The folder of a trunk step with the one checkpoint that it hands on."""


@dataclass(frozen=True)
class Piece:
    """Which steps of a training are done here.

    Attributes:
        after: the folder of the trunk step that it goes on from; None: it begins at the beginning.
        trunk: whether it ends at the branch point, with its state as its result, and not at the end.
    """

    after: Path | None = None
    trunk: bool = False

    def inherit(self, name: str, out: Path) -> None:
        """Begin a file of lines where the trunk ended it; one that is there already is left alone."""
        if self.after is not None and (self.after / name).is_file() and not (out / name).exists():
            write_bytes(out / name, (self.after / name).read_bytes())


WHOLE = Piece()


def end_of(piece: Piece, schedule: Schedule, warmup: float, steps: int) -> int:
    """How many of the `steps` of its training are done when a piece ends. warmup: see `Schedule.warm`.

    Raises UserError for a trunk that would end before its warm-up.
    """
    if not piece.trunk:
        return steps
    end, warm = schedule.trunk(warmup, steps), schedule.warm(warmup, steps)
    if end > steps - schedule.decay_steps(steps):
        raise UserError(
            f"a warm-up of {warm} steps is longer than the trunk of a training of {steps} steps, decay and all: lower "
            "stages.finetune.schedule.warmup_steps, or leave that length out of stages.finetune.branches"
        )
    return end


def resume(
    piece: Piece, out: Path, module: nn.Module, optimiser: torch.optim.Optimizer, ranks: Ranks
) -> Mapping[str, Any]:
    """Load how far a piece is: the newest checkpoint of its step, else the state of the trunk that it goes on from.

    Returns the note of that state, where `start` is the step at which the piece began; empty at the beginning. Raises
    UserError for a trunk without a state, and as `checkpoints.load`.
    """
    own = checkpoints.resume(out, module, optimiser, ranks)
    if own is not None or piece.after is None:
        return own or {}
    kept = checkpoints.load(handed_on(piece.after / STATE, ranks), module, optimiser, ranks)
    return {**kept, "start": kept["step"]}


def check_start(piece: Piece, start: int, end: int, branch_point: int) -> None:
    """Whether a piece that goes on from step `start` has something to do, and leaves nothing out.

    Raises UserError where two branches leave at one step, ValueError for a decay that does not begin where the trunk
    ended.
    """
    if piece.trunk and start >= end:
        raise UserError(
            f"two of stages.finetune.branches leave the trunk at step {end}: they must be an optimiser step or more "
            "apart, so leave one of them out"
        )
    if piece.after is not None and not piece.trunk and start != branch_point:
        raise ValueError(f"{piece.after} ends at step {start}, this training decays from step {branch_point}")


def keep(
    out: Path,
    module: nn.Module,
    optimiser: torch.optim.Optimizer,
    context: StepContext,
    ranks: Ranks,
    step: int,
    note: Mapping[str, Any],
) -> None:
    """Write the state of a finished trunk among the results of its step. All ranks call it. Raises as `Saver` does."""
    together(ranks, lambda: None if ranks.rank else _clear(out / STATE))
    with Saver(out / STATE, module, optimiser, context, ranks, keep=1) as saver:
        saver.save(step, note)


def _clear(folder: Path) -> None:
    """An attempt that was killed may have left half a state."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
