"""Leases: who works on a directory, decided by one exclusive file per attempt.

The holder of a directory is the owner of the highest-numbered ``NNN.json`` in it. To take over, a process
creates the next number exclusively, so of any number of claimants exactly one wins, and the number is a
fencing token: a holder that was overtaken finds a higher number and may not commit. Nothing is ever deleted
to take over.

A lease is called dead only on evidence: its record says it ended; or its process is gone from this machine
(checked with the start time, because process ids are reused); or it belongs to another machine and its
heartbeat, the modification time of the file, is older than a time-to-live. Ages are taken against the clock
of the file system itself, so skewed clocks of two machines cannot kill a healthy lease.
"""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vlmablate.errors import DiskFull
from vlmablate.files import TEMPORARY_PREFIX, create_exclusive, encode_json, read_json, write_json
from vlmablate.orchestration.processes import Owner

TTL_S = 120.0
HEARTBEAT_S = 5.0
RUNNING = "running"

_abandoned: set[str] = set()
"""Tokens of leases of this process that could not be ended in writing."""


def now_text() -> str:
    """The time now, UTC, ISO 8601 with seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True)
class Attempt:
    """The record of one attempt: its number, its state, its owner, and everything else that was
    written down.
    """

    number: int
    path: Path
    state: str
    owner: Owner | None
    record: dict[str, Any]

    def alive(self, ttl_s: float = TTL_S) -> bool:
        """Whether the attempt may still be at work. Without evidence of its death the answer is yes."""
        if self.state != RUNNING:
            return False
        if self.record.get("token") in _abandoned:
            return False
        if self.owner is not None and self.owner.on_this_machine():
            return self.owner.running()
        return _age(self.path) < ttl_s

    def describe(self) -> str:
        """Who it is, in words."""
        if self.owner is None:
            return f"attempt {self.number}"
        return f"process {self.owner.pid} on {self.owner.host} (attempt {self.number})"


class LeaseBusyError(Exception):
    """Someone else holds the directory; ``holder`` says who."""

    def __init__(self, directory: Path, holder: Attempt) -> None:
        super().__init__(f"{directory} is held by {holder.describe()}")
        self.holder = holder


class LeaseLostError(Exception):
    """A later attempt has taken over: whatever this one computed must not be committed."""


def _path(directory: Path, number: int) -> Path:
    return directory / f"{number:03d}.json"


def _highest(directory: Path) -> int:
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return 0
    numbers = [int(name[:-5]) for name in names if name.endswith(".json") and name[:-5].isdigit()]
    return max(numbers, default=0)


def attempts(directory: Path) -> list[Attempt]:
    """All attempts of a directory that can be read, oldest first."""
    found = []
    for number in range(1, _highest(directory) + 1):
        try:
            record = read_json(_path(directory, number))
        except (OSError, ValueError):
            continue
        owner = Owner.from_dict(record["owner"]) if record.get("owner") else None
        state = str(record.get("state", RUNNING))
        found.append(Attempt(number, _path(directory, number), state, owner, record))
    return found


def latest(directory: Path) -> Attempt | None:
    """The highest-numbered attempt of a directory, or None."""
    number = _highest(directory)
    if number == 0:
        return None
    path = _path(directory, number)
    try:
        record = read_json(path)
    except FileNotFoundError:
        return latest(directory) if _highest(directory) != number else None
    except ValueError:
        # Only possible on a file system without hard links, between creation and writing: age decides.
        return Attempt(number, path, RUNNING, None, {})
    owner = Owner.from_dict(record["owner"]) if record.get("owner") else None
    return Attempt(number, path, str(record.get("state", RUNNING)), owner, record)


def _age(path: Path) -> float:
    """Seconds since the file's last heartbeat, by the clock of the file system it lives on."""
    probe = path.with_name(f"{TEMPORARY_PREFIX}clock-{uuid.uuid4().hex[:8]}")
    try:
        probe.touch()
        return probe.stat().st_mtime - path.stat().st_mtime
    except OSError:
        return 0.0
    finally:
        with suppress(OSError):
            probe.unlink()


class Lease:
    """A held lease, beating in a background thread until :meth:`finish`; made by :func:`claim`."""

    def __init__(
        self,
        directory: Path,
        number: int,
        record: dict[str, Any],
        heartbeat_s: float,
        watch: Callable[[], None] | None,
    ) -> None:
        self.directory = directory
        self.number = number
        self._record = record
        self._heartbeat_s = heartbeat_s
        self._watch = watch
        self._lost = threading.Event()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"lease-{number}", daemon=True)
        self._thread.start()

    @property
    def path(self) -> Path:
        """The file of this attempt."""
        return _path(self.directory, self.number)

    @property
    def lost(self) -> bool:
        """True once a heartbeat found that a later attempt has taken over."""
        return self._lost.is_set()

    def _beat(self) -> None:
        while not self._ended.wait(self._heartbeat_s):
            self.beat()
            if self._watch is not None:
                self._watch()

    def beat(self) -> None:
        """One heartbeat: notice a take-over, else renew the lease."""
        try:
            if _highest(self.directory) != self.number:
                self._lost.set()
                return
            os.utime(self.path)
        except FileNotFoundError:
            self._lost.set()
        except OSError:
            return  # a disk that stumbles once is no take-over; the next beat tries again

    def check(self) -> None:
        """Raise :class:`LeaseLostError` unless this attempt still is the latest one."""
        self.beat()
        if self.lost:
            raise LeaseLostError(f"attempt {self.number} in {self.directory} was overtaken by a later one")

    def note(self, **fields: Any) -> None:
        """Add fields to the record while the lease is held. A disk that cannot take them loses nothing else."""
        self._record.update(fields)
        with suppress(DiskFull):
            write_json(self.path, self._record)

    def finish(self, state: str, **fields: Any) -> None:
        """End the lease: stop the heartbeat first, then write the final record (``state`` and ``fields``)."""
        self._ended.set()
        self._thread.join()
        write_json(self.path, {**self._record, "state": state, "ended": now_text(), **fields})

    def abandon(self) -> None:
        """Stop the heartbeat and write nothing, for example because the disk is full.

        The record keeps saying running: this process knows better at once, others once it has ended.
        """
        self._ended.set()
        self._thread.join()
        _abandoned.add(self._record["token"])


def claim(
    directory: Path,
    *,
    ttl_s: float = TTL_S,
    heartbeat_s: float = HEARTBEAT_S,
    watch: Callable[[], None] | None = None,
    owner: Owner | None = None,
    supersedes: Callable[[Attempt], bool] = lambda attempt: False,
    **fields: Any,
) -> Lease:
    """Become the holder of ``directory``.

    Args:
        directory: holds the ``NNN.json`` files; created when missing.
        ttl_s: how old the heartbeat of another machine's lease must be to count as dead.
        heartbeat_s: seconds between heartbeats.
        watch: called after every heartbeat, in the heartbeat's thread.
        owner: another owner than this process (tests).
        supersedes: other evidence that the current holder is dead, for example that the same Slurm job was started
            again.
        fields: written into the record beside number, state, owner and start.

    Raises:
        LeaseBusyError: when the current holder is not known to be dead, or another claimant was quicker.
        DiskFull: when the record cannot be written.
    """
    holder = latest(directory)
    if holder is not None and holder.alive(ttl_s) and not supersedes(holder):
        raise LeaseBusyError(directory, holder)
    number = (holder.number if holder else 0) + 1
    record = {
        "attempt": number,
        "state": RUNNING,
        "token": uuid.uuid4().hex,
        "owner": (owner or Owner.current()).to_dict(),
        "begun": now_text(),
        **fields,
    }
    if not create_exclusive(_path(directory, number), encode_json(record)):
        winner = latest(directory)
        assert winner is not None
        raise LeaseBusyError(directory, winner)
    later = latest(directory)
    if later is not None and later.number > number:
        # The number was free only because somebody tidied up old ones while this process stood still.
        _path(directory, number).unlink(missing_ok=True)
        raise LeaseBusyError(directory, later)
    return Lease(directory, number, record, heartbeat_s, watch)
