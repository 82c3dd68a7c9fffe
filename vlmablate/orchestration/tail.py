"""``vlmablate tail``: the log of the step at work, or of the last one, of a run."""

from __future__ import annotations

import codecs
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vlmablate.errors import UserError
from vlmablate.orchestration.lease import Attempt, latest
from vlmablate.orchestration.names import Index, KnownStep, Selection
from vlmablate.orchestration.store import ATTEMPTS, LOG

POLL_S = 0.25
LINGER_LOOKS = 12
_BLOCK = 16384


@dataclass(frozen=True)
class Source:
    """A log, the step it is of, and that step's latest attempt (None for what a worker said before any step)."""

    step: KnownStep
    attempt: Attempt | None
    path: Path

    @property
    def alive(self) -> bool:
        """Whether somebody may still write to it."""
        return self.attempt is not None and self.attempt.alive()

    def renewed(self) -> Source:
        """The same log with the attempt as it is now."""
        attempt = latest(self.attempt.path.parent) if self.attempt is not None else None
        return Source(self.step, attempt, self.path)


def tail(
    home: Path,
    word: str,
    *,
    lines: int,
    follow: bool,
    rank: int,
    write: Callable[[str], object],
    pause: Callable[[float], None] = time.sleep,
) -> None:
    """Write the last lines of a run's log, and with ``follow`` what comes until the run is no longer at work.

    Args:
        home: the results folder.
        word: a run or a step.
        lines: how many lines of what is there.
        follow: go on until nobody works on the run, from step to step.
        rank: 0 for the log of the step, which the first rank writes; another rank has one for its whole job.
        write: gets text, with line ends.
        pause: waits between two looks.

    Raises:
        UserError: for a name that means nothing or several runs, and when nothing was written yet.
    """
    index = Index(home)
    selection = index.one(word)
    steps = steps_of(index, selection)
    source = find_source(home, steps, rank)
    if source is None:
        what = f"rank {rank} of {selection.title}" if rank else selection.title
        raise UserError(f"no log of {what} yet; what is going on: vlmablate why {word}")
    write(f"==> {source.step}: {source.path}\n")
    reader = _Reader(source.path, lines)
    reader.pass_on(write)
    while follow:
        source = source.renewed()
        reader.pass_on(write)
        if not source.alive:
            following = _next(home, steps, source, rank, pause)
            if following is None:
                if source.attempt is not None:
                    write(f"==> {source.step}: {source.attempt.state}\n")
                return
            if following.path != source.path:
                write(f"==> {following.step}: {following.path}\n")
                reader = _Reader(following.path)
            source = following
        pause(POLL_S)


class _Reader:
    """Reads a log that grows: first its last ``lines`` lines (None: all of them), then what was added."""

    def __init__(self, path: Path, lines: int | None = None) -> None:
        self._path = path
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._at = 0 if lines is None else _start_of_last_lines(path, lines)

    def pass_on(self, write: Callable[[str], object]) -> None:
        """Write what is there and was not written yet; from the start again when the file was cut."""
        try:
            with open(self._path, "rb") as log:
                if self._at > log.seek(0, os.SEEK_END):
                    self._at = 0
                log.seek(self._at)
                while block := log.read(_BLOCK):
                    self._at += len(block)
                    write(self._decoder.decode(block))
        except FileNotFoundError:
            return


def steps_of(index: Index, selection: Selection) -> list[KnownStep]:
    """The steps that a selection of one run or step is about, dependencies first."""
    if selection.step is not None:
        return [selection.step]
    return [index.steps[step_id] for step_id in dict.fromkeys(selection.runs[0].steps.values())]


def find_source(home: Path, steps: Sequence[KnownStep], rank: int = 0) -> Source | None:
    """The log to look at: of the last step at work, else of the step that was worked on last."""
    begun = []
    for step in steps:
        attempt = latest(home / step.directory / ATTEMPTS)
        if attempt is not None:
            path = _log(home, step, attempt) if rank == 0 else _log_of_rank(home, attempt, rank)
            if path is not None:
                begun.append(Source(step, attempt, path))
    if begun:
        return max(begun, key=lambda source: (source.alive, _modified(source.attempt)))
    # A worker may have ended before it came to any step; then its own output is all there is.
    for step in reversed(steps) if rank == 0 else ():
        for path in sorted(home.glob(f"studies/*/jobs/{step.kind}-{step.id}.log")):
            return Source(step, None, path)
    return None


def _modified(attempt: Attempt | None) -> float:
    try:
        return attempt.path.stat().st_mtime if attempt is not None else 0.0
    except OSError:
        return 0.0


def _log(home: Path, step: KnownStep, attempt: Attempt) -> Path | None:
    for path in (Path(str(attempt.record.get("log") or "")), home / step.directory / LOG):
        if path.is_file():
            return path
    return None


def _log_of_rank(home: Path, attempt: Attempt, rank: int) -> Path | None:
    slurm = attempt.record.get("slurm") or {}
    if slurm:
        path = home / "submissions" / str(slurm["token"]) / "logs" / f"{slurm['index']}.{rank}.log"
        return path if path.is_file() else None
    found = home.glob(f"studies/*/jobs/{attempt.record.get('job')}.{rank}.log")
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def _next(
    home: Path, steps: Sequence[KnownStep], before: Source, rank: int, pause: Callable[[float], None]
) -> Source | None:
    """The next log of a run whose step has just ended; a worker takes a moment from one step to the next."""
    for _ in range(LINGER_LOOKS if before.attempt is not None and before.attempt.state == "done" else 1):
        following = find_source(home, steps, rank)
        if following is not None and following.alive:
            return following
        pause(POLL_S)
    return None


def _start_of_last_lines(path: Path, lines: int) -> int:
    """Where the last ``lines`` lines of a file begin, read from its end."""
    with open(path, "rb") as log:
        end = at = log.seek(0, os.SEEK_END)
        if lines <= 0:
            return end
        seen = 0
        while at > 0:
            size = min(_BLOCK, at)
            at -= size
            log.seek(at)
            block = log.read(size)
            for position in range(len(block) - 1, -1, -1):
                if block[position] == 0x0A and at + position != end - 1:
                    seen += 1
                    if seen == lines:
                        return at + position + 1
    return 0
