"""Stopping a process cleanly: first a polite flag, then, after a grace period, an exception in the step."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

GRACE_S = 3.0


class StopNow(BaseException):
    """Raised inside a step function that ignored a stop request for the whole grace period."""


class StopFlag:
    """The stop request of a process. Step functions read it through :meth:`StepContext.stop_requested`."""

    def __init__(self, grace_s: float = GRACE_S) -> None:
        self._grace_s = grace_s
        self._requested = False
        self._interruptible = False
        self._installed = False

    @property
    def requested(self) -> bool:
        """True after SIGTERM or SIGINT, or :meth:`request`."""
        return self._requested

    def request(self) -> None:
        """Ask for a stop from inside the process."""
        self._requested = True
        if self._installed and self._interruptible:
            signal.setitimer(signal.ITIMER_REAL, self._grace_s)

    def install(self) -> None:
        """Answer SIGTERM and SIGINT of this process; call from the main thread."""
        self._installed = True
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        signal.signal(signal.SIGALRM, self._on_grace_over)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.request()

    def _on_grace_over(self, number: int, frame: FrameType | None) -> None:
        if self._interruptible:
            raise StopNow

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """The stretch in which a step that ignores the flag may be interrupted: its own function, nothing
        else.

        Commits and records stay outside, so they are never torn by the grace period's end.
        """
        self._interruptible = True
        if self._requested:
            self.request()
        try:
            yield
        finally:
            self._interruptible = False
            if self._installed:
                signal.setitimer(signal.ITIMER_REAL, 0)


@contextmanager
def signals_interrupt() -> Iterator[None]:
    """SIGTERM and SIGHUP stop the controller the way Ctrl-C does (only in the main thread)."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    previous = {}
    try:
        for number in (signal.SIGTERM, signal.SIGHUP):
            previous[number] = signal.signal(number, interrupt)
    except ValueError:
        pass  # not the main thread: the caller has its own ways
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
