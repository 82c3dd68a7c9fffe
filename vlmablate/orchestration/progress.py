"""Live progress: a table that redraws itself on a terminal, plain lines every few seconds anywhere else."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from vlmablate.files import read_json
from vlmablate.orchestration.context import PROGRESS_FILE
from vlmablate.orchestration.plan import duration

PLAIN_INTERVAL_S = 5.0


@dataclass(frozen=True)
class Running:
    """One step at work: whose it is, how far it is (``total`` 0 when it has not said), its metrics, its
    seconds.
    """

    label: str
    kind: str
    done: int
    total: int
    metrics: dict[str, float | None]
    seconds: float

    def describe(self) -> str:
        """For example ``finetune letterbox s0 312/1200 loss 0.412``."""
        parts = [self.kind, self.label]
        if self.total:
            parts.append(f"{self.done}/{self.total}")
        parts += [f"{name} {value:.3g}" for name, value in self.shown().items()]
        return " ".join(parts)

    def shown(self) -> dict[str, float]:
        """The metrics worth a column: the loss first, then at most one other."""
        known = {name: value for name, value in self.metrics.items() if value is not None}
        names = sorted(known, key=lambda name: name != "loss")[:2]
        return {name: known[name] for name in names}


@dataclass(frozen=True)
class Snapshot:
    """The state of a sweep at one moment."""

    runs: int
    runs_done: int
    runs_failed: int
    steps_left: int
    running: tuple[Running, ...]
    waiting: tuple[str, ...]
    eta_s: float | None
    elapsed_s: float


def read_progress(directory: Path) -> dict[str, Any]:
    """What a running step said last: {done, total, elapsed_s, metrics}; empty before it said anything."""
    try:
        record = read_json(directory / PROGRESS_FILE)
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


class Display(Protocol):
    """Shows snapshots and messages."""

    def update(self, snapshot: Snapshot) -> None:
        """Show the current state; may be called often."""
        ...

    def message(self, text: str) -> None:
        """Print a lasting message."""
        ...

    def close(self) -> None:
        """End the display and leave the terminal clean."""
        ...


class PlainDisplay:
    """One line about every five seconds, and at once when a run ends or a step reports for the first time."""

    def __init__(
        self, write: Callable[[str], None] | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._write = write or _print
        self._clock = clock
        self._last = float("-inf")
        self._seen: tuple[Any, ...] = ()

    def update(self, snapshot: Snapshot) -> None:
        """Print a line when it is time or something notable changed."""
        reported = frozenset((r.kind, r.label) for r in snapshot.running if r.total)
        seen = (snapshot.runs_done, snapshot.runs_failed, reported)
        if seen == self._seen and self._clock() - self._last < PLAIN_INTERVAL_S:
            return
        self._seen, self._last = seen, self._clock()
        self._write(line(snapshot))

    def message(self, text: str) -> None:
        """Print the message."""
        self._write(text)

    def close(self) -> None:
        """Nothing to clean up."""


def line(snapshot: Snapshot) -> str:
    """A snapshot as one line of text."""
    parts = [f"[{_clock_text(snapshot.elapsed_s)}] runs {snapshot.runs_done}/{snapshot.runs}"]
    if snapshot.runs_failed:
        parts[0] += f" ({snapshot.runs_failed} failed)"
    parts += [running.describe() for running in snapshot.running]
    parts += [f"waiting: {text}" for text in snapshot.waiting[:2]]
    if snapshot.eta_s is not None:
        parts.append(f"ETA {duration(snapshot.eta_s)}")
    return " | ".join(parts)


def _clock_text(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes:02d}:{rest:02d}"


def _print(text: str) -> None:
    print(text, flush=True)


class RichDisplay:
    """A live table on a terminal."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = Console()
        self._live = Live(console=self._console, refresh_per_second=2, transient=True)
        self._live.start()

    def update(self, snapshot: Snapshot) -> None:
        """Redraw the table."""
        from rich.table import Table

        table = Table(title=line_head(snapshot), title_justify="left", box=None, pad_edge=False)
        for name in ("step", "what", "progress", "", "time"):
            table.add_column(name)
        for running in snapshot.running:
            bar = _bar(running.done / running.total) if running.total else ""
            metrics = "  ".join(f"{name} {value:.3g}" for name, value in running.shown().items())
            table.add_row(running.kind, running.label, bar, metrics, _clock_text(running.seconds))
        for text in snapshot.waiting:
            table.add_row("waiting", text, "", "", "")
        self._live.update(table)

    def message(self, text: str) -> None:
        """Print the message above the table."""
        self._console.print(text, markup=False, highlight=False)

    def close(self) -> None:
        """Remove the table."""
        self._live.stop()


def line_head(snapshot: Snapshot) -> str:
    """The title of the live table: runs, time, ETA."""
    failed = f", {snapshot.runs_failed} failed" if snapshot.runs_failed else ""
    eta = f", ETA {duration(snapshot.eta_s)}" if snapshot.eta_s is not None else ""
    head = f"runs {snapshot.runs_done}/{snapshot.runs}{failed}, {snapshot.steps_left} steps left"
    return f"{head}, {_clock_text(snapshot.elapsed_s)}{eta}"


def _bar(fraction: float, width: int = 24) -> str:
    filled = round(min(1.0, max(0.0, fraction)) * width)
    return "█" * filled + "░" * (width - filled) + f" {100 * fraction:3.0f} %"


def make_display() -> Display:
    """A live table when standard output is a terminal, plain lines otherwise."""
    return RichDisplay() if sys.stdout.isatty() else PlainDisplay()
