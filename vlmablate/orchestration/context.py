"""What a step function may know about its execution: never anything that could change its result."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from vlmablate.orchestration.milestones import Milestone

PROGRESS_FILE = "progress.json"
_INTERVAL_S = 0.5


class StepStopped(Exception):  # noqa: N818
    """A step function may raise this after it saw a stop request; the worker records the attempt as
    stopped.
    """


class StepContext:
    """Handed to every step function.

    Attributes:
        execution: placement only (``threads``, ``device``, …); reading it for mathematics would break
            identity.
        attempt: 1 for the first attempt of the step, counted up by every later one.
        assets: the folder of downloaded and converted assets.
        rank, world_size: this process and the number of processes that run the step together.
        local_rank: this process among those of its machine; the number of its GPU.
        milestones: where the loss of a trial is looked at, and what ends it there; of any other step there are none.
    """

    def __init__(
        self,
        *,
        execution: dict[str, Any],
        attempt: int,
        assets: Path,
        out: Path,
        stop_requested: Callable[[], bool] = lambda: False,
        saving: Callable[[], AbstractContextManager[None]] = nullcontext,
        on_saved: Callable[[int], None] = lambda step: None,
        rank: int = 0,
        world_size: int = 1,
        local_rank: int = 0,
        milestones: Sequence[Milestone] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.execution = execution
        self.attempt = attempt
        self.assets = assets
        self.rank = rank
        self.world_size = world_size
        self.local_rank = local_rank
        self.milestones = tuple(milestones)
        self.saving = saving
        self._on_saved = on_saved
        self._out = out
        self._stop_requested = stop_requested
        self._clock = clock
        self._last_write = -_INTERVAL_S
        self._begun = clock()

    def stop_requested(self) -> bool:
        """True once the step should end soon: a signal came, or its lease was lost.

        A step that returns or raises after this is recorded as stopped, never as done, so returning early is
        safe.
        """
        return self._stop_requested()

    def saved(self, step: int) -> None:
        """A checkpoint of training step ``step`` is committed: from now on an interruption loses nothing before it.

        Save inside ``with context.saving():``, so that the end of a grace period does not tear the checkpoint.
        """
        if self.rank == 0:
            self._on_saved(step)

    def check_stop(self) -> None:
        """Raise :class:`StepStopped` when a stop was requested."""
        if self._stop_requested():
            raise StepStopped("stopped on request")

    def progress(self, done: int, total: int, **metrics: float) -> None:
        """Tell the controller how far the step is, for example ``progress(step, steps, loss=0.31)``.

        Cheap enough for every optimiser step: at most two small atomic writes a second (and the last one
        always). They are not flushed to disk, because losing one loses nothing. A full disk is ignored here.
        """
        if self.rank:
            return
        now = self._clock()
        if now - self._last_write < _INTERVAL_S and done < total:
            return
        self._last_write = now
        record = {
            "done": done,
            "total": total,
            "elapsed_s": round(now - self._begun, 3),
            "metrics": {name: _number(value) for name, value in metrics.items()},
        }
        target = self._out / PROGRESS_FILE
        temporary = target.with_name(f".tmp-{os.getpid()}-{PROGRESS_FILE}")
        try:
            temporary.write_text(json.dumps(record), encoding="utf-8")
            os.replace(temporary, target)
        except OSError:
            return


def _number(value: float) -> float | None:
    number = float(value)
    return number if abs(number) < float("inf") else None
