"""Who works on the folders of W&B runs: one process at a time in a results folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vlmablate.errors import UserError
from vlmablate.orchestration.lease import HEARTBEAT_S, Lease, LeaseBusyError, claim

LEASE = "tracking"
"""The folder in the results folder by which turns are taken."""
_WAIT_S = 0.1

Report = Callable[[str], None]


@contextmanager
def turn(home: Path, report: Report, heartbeat_s: float = HEARTBEAT_S) -> Iterator[Lease]:
    """Wait until nobody else is at it, and keep others waiting until the end."""
    lease = _wait(home / LEASE, report, heartbeat_s)
    try:
        yield lease
    finally:
        with suppress(UserError):
            lease.finish("ended")
        lease.abandon()


def _wait(folder: Path, report: Report, heartbeat_s: float) -> Lease:
    said = False
    while True:
        try:
            return claim(folder, heartbeat_s=heartbeat_s)
        except LeaseBusyError as busy:
            if not said:
                report(f"W&B: waiting for {busy.holder.describe()}, which is at it")
                said = True
        time.sleep(_WAIT_S)
