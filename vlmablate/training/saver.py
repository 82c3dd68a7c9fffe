"""Saving while training goes on: the state is copied to the CPU, and a thread writes the copy and commits it.

At most one checkpoint is on its way. Until its COMMIT is written the one before it is the newest, so a crash at any
moment costs time only. A thread, not a process: it needs no second copy, what it does (hashing, writing) lets other
threads run, and a full disk is an error here and not somewhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from vlmablate.orchestration import checkpoint_folder
from vlmablate.orchestration.context import StepContext
from vlmablate.training import checkpoints
from vlmablate.training.ranks import Ranks


class Saver:
    """Saves the checkpoints of one training; all ranks call each method together. A block: its end waits.

    Args:
        out: the folder of the step.
        keep: so many newest checkpoints stay.
    """

    def __init__(
        self,
        out: Path,
        module: nn.Module,
        optimiser: torch.optim.Optimizer,
        context: StepContext,
        ranks: Ranks,
        keep: int = checkpoint_folder.KEEP,
    ) -> None:
        self._out, self._module, self._optimiser = out, module, optimiser
        self._context, self._ranks, self._keep = context, ranks, keep
        self._stage = _Stage(ranks)
        self._thread: Thread | None = None
        self._step = 0
        self._error: BaseException | None = None

    @property
    def ended(self) -> bool:
        """Whether this rank's part is written and committed, or failed, and `settle` has not been called since."""
        return self._thread is not None and not self._thread.is_alive()

    def save(self, step: int, note: Mapping[str, Any]) -> None:
        """Begin to save what `checkpoints.load` needs; `note` is JSON. Raises as `settle` about the one before."""
        self.settle()
        state = self._stage(checkpoints.state_of(self._module, self._optimiser, self._ranks))
        self._step = step
        self._thread = Thread(target=self._write, args=(state, dict(note)), name=f"save-{step}", daemon=True)
        self._thread.start()

    def settle(self) -> None:
        """Wait until nothing is on its way, and tell the context what was committed. An interruption waits as well.

        Raises what `checkpoint_folder.save` raises, on all ranks.
        """
        thread, self._thread = self._thread, None
        if thread is None:
            return
        with self._context.saving():
            thread.join()
            error, self._error = self._error, None
            if error is not None:
                raise error
            self._context.saved(self._step)

    def _write(self, state: Mapping[str, Any], note: Mapping[str, Any]) -> None:
        ranks = self._ranks.beside()
        try:
            checkpoint_folder.save(
                self._out,
                self._step,
                self._context.attempt,
                ranks,
                lambda folder: checkpoints.write(state, folder, ranks),
                note,
                self._keep,
            )
        except BaseException as error:  # whatever it is belongs to the thread that trains
            self._error = error

    def __enter__(self) -> Saver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.settle()
        except Exception:
            if error is None:
                raise
            # The training's own error says more than that of its last checkpoint.


class _Stage:
    """Copies a state into buffers of the CPU, the same ones every time; from a GPU they are page-locked."""

    def __init__(self, ranks: Ranks) -> None:
        self._pinned, self._sharded = ranks.device.type == "cuda", ranks.size > 1
        self._buffers: dict[str, Tensor] = {}
        self._stager: Any = None

    def __call__(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if self._sharded:
            return self._shards(state)
        for name, tensor in state.items():
            if name not in self._buffers:
                self._buffers[name] = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=self._pinned)
            self._buffers[name].copy_(tensor.detach())
        return dict(self._buffers)

    def _shards(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if self._stager is None:
            from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

            self._stager = DefaultStager(StagingOptions(self._pinned, False, False, False))
        staged: dict[str, Tensor] = self._stager.stage(dict(state))
        return staged
