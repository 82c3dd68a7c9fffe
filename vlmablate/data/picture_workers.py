"""The same work on many pictures by several processes, for Pillow decodes with Python's lock held."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Found = TypeVar("Found")

_CHUNK = 64
_AHEAD = 4
"""Chunks in hand for each process: enough to keep it busy, few enough to stop soon."""
_ALONE = 4 * _CHUNK
"""So little work is done here and now: processes take most of a second to start."""


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_order(
    function: Callable[[Item], Found], items: Sequence[Item], workers: int
) -> Generator[Found, None, None]:
    """function(item) of every item, in their order; a function of a module, as other processes must find it."""
    if workers < 2 or len(items) <= _ALONE:
        yield from map(function, items)
        return
    # New processes, not copies of this one: what this one has loaded may not survive a fork.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_leave_interrupts)
    waiting: deque[Future[list[Found]]] = deque()
    try:
        for start in range(0, len(items), _CHUNK):
            waiting.append(pool.submit(_chunk, function, items[start : start + _CHUNK]))
            if len(waiting) >= _AHEAD * workers:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _chunk(function: Callable[[Item], Found], items: Sequence[Item]) -> list[Found]:
    return [function(item) for item in items]


def _leave_interrupts() -> None:
    """Ctrl-C reaches every process of a terminal; the first one ends the others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
