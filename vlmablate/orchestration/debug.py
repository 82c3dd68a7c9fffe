"""The debug executor: the same worker, in this process, one job after the other. Breakpoints and
prints work.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from vlmablate.files import read_json
from vlmablate.orchestration.jobs import Job
from vlmablate.orchestration.worker import Exit, Worker


class DebugExecutor:
    """Runs each job inside :meth:`start`. Ctrl-C interrupts the step at once and is passed on.

    Args:
        tick: called from the lease's heartbeat thread while a job runs, so that progress is still shown.
    """

    slots = 1
    parent = None

    def __init__(self, tick: Callable[[], None]) -> None:
        self._tick = tick
        self._ended: list[tuple[str, int]] = []

    @property
    def full(self) -> bool:
        """A job is over when :meth:`start` returns, so there is room once it was reported."""
        return bool(self._ended)

    def room(self, job: Job) -> bool:
        """Every job fits."""
        return not self._ended

    def start(self, job: Job, manifest: Path) -> None:
        """Run the job to its end in this process; its output stays on the terminal."""
        code = Worker(read_json(manifest), redirect=False, watch=self._tick).run()
        if code is Exit.STOPPED:
            raise KeyboardInterrupt  # in this process only Ctrl-C stops a worker
        self._ended.append((job.name, int(code)))

    def wait(self, seconds: float) -> None:
        """Wait for what others do; a job of this process has always ended."""
        if not self._ended:
            time.sleep(seconds)

    def poll(self) -> list[tuple[str, int]]:
        """The job that just ran, with its exit code."""
        ended, self._ended = self._ended, []
        return ended

    def stop(self) -> None:
        """Nothing is left running."""
        self._ended.clear()
