"""The ranks of one job: rank 0 decides what is done and holds the lease, the others do the same step beside it.

Rank 0 listens on a free port of its node and writes the address, with a key, into a file that all ranks can see. The
others connect and are told, step by step, what to run; they answer how it went. A connection that ends tells each
side of the other's death at once, without any time-out. The port of a step's process group is chosen anew for every
step and sent along, so that a requeued job never meets the port of its former life.
"""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

from vlmablate.files import read_json, write_json

if TYPE_CHECKING:
    from multiprocessing.connection import Connection, Listener

JOIN_S = 300.0
SETTLE_S = 5.0
_LOOK_S = 0.1


class GangBrokenError(Exception):
    """Another rank of the job is gone or failed; ``error`` is its error record when it left one."""

    def __init__(self, message: str, error: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.error = error


@dataclass(frozen=True)
class Place:
    """Where a process stands in its job: rank of ``size``, rank on its node, and the node of rank 0."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    leader_host: str


ALONE = Place(0, 1, 0, 1, "127.0.0.1")


def place_in_job() -> Place:
    """The place from submitit's job environment; the only rank when started by hand.

    submitit would also choose the process group's port, from the job id alone: the same after every requeue. The gang
    chooses it instead.
    """
    if "SUBMITIT_EXECUTOR" not in os.environ or _one_task():
        return ALONE
    from submitit.helpers import TorchDistributedEnvironment

    found = TorchDistributedEnvironment()
    # On one machine the name of the host may lead anywhere; the loopback address does not.
    host = "127.0.0.1" if os.environ["SUBMITIT_EXECUTOR"] == "local" else str(found.master_addr)
    return Place(found.rank, found.world_size, found.local_rank, found.local_world_size, host)


def _one_task() -> bool:
    name = "SLURM_NTASKS" if os.environ["SUBMITIT_EXECUTOR"] == "slurm" else "SUBMITIT_LOCAL_NTASKS"
    return os.environ.get(name, "1") == "1"


def free_port(host: str) -> int:
    """A port of this node that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def rank_environment(place: Place, port: int) -> dict[str, str]:
    """What torch.distributed's ``env://`` reads. CUDA_VISIBLE_DEVICES is left alone: a job sees its own GPUs, and
    every rank takes the one with its local rank.
    """
    return {
        "MASTER_ADDR": place.leader_host,
        "MASTER_PORT": str(port),
        "RANK": str(place.rank),
        "WORLD_SIZE": str(place.size),
        "LOCAL_RANK": str(place.local_rank),
        "LOCAL_WORLD_SIZE": str(place.local_size),
    }


class Leader:
    """Rank 0's side. A job of one rank has a leader without followers, for which all of this is free.

    Args:
        place: the process' place; must be rank 0.
        meeting: file that tells the followers where to connect; unique to this life of the job.
        on_broken: called, in a thread of its own, when a follower fails or vanishes while a step is at work.
    """

    def __init__(self, place: Place, meeting: Path, on_broken: Callable[[GangBrokenError], None]) -> None:
        self.place = place
        self._on_broken = on_broken
        self._followers: dict[int, Connection[Any, Any]] = {}
        self._done: dict[int, Event] = {}
        self._reasons: dict[int, str] = {}
        self._closing = False
        if place.size == 1:
            return
        from multiprocessing.connection import Listener  # most jobs have one rank and need none of it

        key = secrets.token_hex(16)
        with Listener((place.leader_host, 0), authkey=key.encode()) as listener:
            write_json(meeting, {"host": place.leader_host, "port": listener.address[1], "key": key})
            os.chmod(meeting, 0o600)
            _timeout(listener, JOIN_S)
            while len(self._followers) < place.size - 1:
                try:
                    connection = listener.accept()
                except TimeoutError as error:
                    missing = sorted(set(range(1, place.size)) - self._followers.keys())
                    raise GangBrokenError(f"ranks {missing} did not appear within {JOIN_S:.0f} s") from error
                self._followers[int(connection.recv())] = connection
        meeting.unlink(missing_ok=True)
        for rank, connection in self._followers.items():
            self._done[rank] = Event()
            Thread(target=self._listen, args=(rank, connection), daemon=True).start()

    def start(self, message: dict[str, Any]) -> dict[str, str]:
        """Tell all ranks to run a step; returns the environment of the process group for this rank."""
        port = free_port(self.place.leader_host) if self._followers else 0
        for rank, connection in self._followers.items():
            self._done[rank].clear()
            connection.send({**message, "port": port})
        return rank_environment(self.place, port) if self._followers else {}

    def join(self) -> None:
        """Wait until all ranks have ended the step well."""
        for event in self._done.values():
            event.wait()

    def settle(self) -> None:
        """Give the others a moment to tell what happened to them.

        A rank that fails breaks the connections of a collective, and rank 0 may meet that before it meets the word of
        the rank itself; whoever failed first is then told by the callback, which does not return.
        """
        until = time.monotonic() + SETTLE_S
        for event in self._done.values():
            event.wait(max(0.0, until - time.monotonic()))

    def reason(self) -> str:
        """Why the ranks stopped, when another one was told to and this one was not; empty when none was."""
        self.join()
        return next((reason for _, reason in sorted(self._reasons.items()) if reason), "")

    def close(self, code: int) -> None:
        """Send the followers home with the exit code of the job."""
        self._closing = True
        for connection in self._followers.values():
            with suppress(OSError):
                connection.send({"do": "end", "code": int(code)})

    def _listen(self, rank: int, connection: Connection[Any, Any]) -> None:
        while True:
            try:
                answer = connection.recv()
            except (EOFError, OSError):
                if not self._closing:
                    self._on_broken(GangBrokenError(f"rank {rank} is gone"))
                self._done[rank].set()
                return
            if answer.get("error") is not None:
                self._on_broken(GangBrokenError(f"rank {rank} failed", answer["error"]))
                return
            self._reasons[rank] = str(answer["reason"])
            self._done[rank].set()


class Follower:
    """The side of every other rank. ``code`` is the exit code of the job once :meth:`next` has returned None."""

    def __init__(self, place: Place, meeting: Path) -> None:
        self.place = place
        self.code = 0
        from multiprocessing.connection import Client

        deadline = time.monotonic() + JOIN_S
        while True:
            try:
                # Listing the folder makes a network file system forget that the file was not there.
                os.listdir(meeting.parent)
                found = read_json(meeting)
                self._leader = Client((found["host"], found["port"]), authkey=found["key"].encode())
                break
            except (OSError, ValueError, KeyError) as error:
                if time.monotonic() > deadline:
                    raise GangBrokenError(f"rank 0 did not appear within {JOIN_S:.0f} s") from error
                time.sleep(_LOOK_S)
        self._leader.send(place.rank)

    def next(self) -> dict[str, Any] | None:
        """The next order, with ``environment`` for the process group; None when there is nothing left to do.

        Raises:
            GangBrokenError: rank 0 is gone.
        """
        try:
            order: dict[str, Any] = self._leader.recv()
        except (EOFError, OSError) as error:
            raise GangBrokenError("rank 0 is gone") from error
        if order["do"] == "end":
            self.code = int(order["code"])
            return None
        return {**order, "environment": rank_environment(self.place, order["port"])}

    def answer(self, error: dict[str, Any] | None = None, reason: str = "") -> None:
        """Tell rank 0 how the step went: an error record, or why this rank was told to stop."""
        with suppress(OSError):
            self._leader.send({"error": error, "reason": reason})


def _timeout(listener: Listener, seconds: float) -> None:
    # The listener has no public way to bound the wait for a connection.
    listener._listener._socket.settimeout(seconds)  # type: ignore[attr-defined]
