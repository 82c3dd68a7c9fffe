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
    """The stop request of a process. Step functions read it through :meth:`StepContext.stop_requested`.

    A signal only sets the flag. Whatever has to happen, saving above all, happens at a step boundary, where all ranks
    of a job can agree on it; in a signal handler one rank would be alone.

    Args:
        grace_s: how long a step that was told to stop may go on before it is interrupted.
        requeue_grace_s: the same after SIGUSR2, which comes with a time limit or a preemption and is followed by
            SIGKILL at a time that the queue knows.
    """

    def __init__(self, grace_s: float = GRACE_S, requeue_grace_s: float = GRACE_S) -> None:
        self.grace_s = grace_s
        self.requeue_grace_s = requeue_grace_s
        self._reason = ""
        self._interruptible = False
        self._installed = False

    @property
    def requested(self) -> bool:
        """True after SIGTERM, SIGINT or SIGUSR2, or :meth:`request`."""
        return bool(self._reason)

    @property
    def reason(self) -> str:
        """``requeue`` after SIGUSR2 (time limit, preemption: go on later), ``stop`` after the others, else empty.

        A stop after a request to make room stays a stop.
        """
        return self._reason

    def request(self, reason: str = "stop") -> None:
        """Ask for a stop from inside the process."""
        if self._reason != "stop":
            self._reason = reason
        self._arm()

    def _arm(self) -> None:
        if self._installed and self._interruptible and self._reason:
            grace = self.requeue_grace_s if self._reason == "requeue" else self.grace_s
            signal.setitimer(signal.ITIMER_REAL, max(grace, 1e-3))

    def install(self) -> None:
        """Answer SIGTERM, SIGINT and SIGUSR2 of this process; call from the main thread."""
        self._installed = True
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
            signal.signal(number, self._on_signal)
        signal.signal(signal.SIGALRM, self._on_grace_over)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.request("requeue" if number == signal.SIGUSR2 else "stop")

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
        self._arm()
        try:
            yield
        finally:
            self._disarm()

    @contextmanager
    def uninterrupted(self) -> Iterator[None]:
        """A stretch inside a step that is not interrupted, because it saves what would be lost: a checkpoint."""
        before = self._interruptible
        self._disarm()
        try:
            yield
        finally:
            self._interruptible = before
            self._arm()

    def _disarm(self) -> None:
        self._interruptible = False
        if self._installed:
            signal.setitimer(signal.ITIMER_REAL, 0)


_asked = False


@contextmanager
def signals_interrupt() -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP stop the controller alike, by KeyboardInterrupt (only in the main thread).

    An exception that a signal raises inside a finaliser or a callback of the interpreter is swallowed there, and
    nobody would ever know of the Ctrl-C. So it is also noted, for :func:`check_interrupt`.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        global _asked
        _asked = True
        raise KeyboardInterrupt

    global _asked
    _asked = False
    previous = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            previous[number] = signal.signal(number, interrupt)
    except ValueError:
        pass  # not the main thread: the caller has its own ways
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        _asked = False


def check_interrupt() -> None:
    """Raise KeyboardInterrupt when a signal asked for it and it got lost; loops that wait call this in every round."""
    global _asked
    if _asked:
        _asked = False
        raise KeyboardInterrupt
