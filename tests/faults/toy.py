"""A training step without torch, for tests of faults: exact, countable, on any number of ranks, and obedient.

It has what real training has: a state that every step changes, the rows of a batch shared among ranks, a flag on which
all ranks agree after every step, and checkpoints of the same protocol. Its result, one number, is the same on any
number of ranks and after any number of interruptions, or it is wrong; :func:`number_after` says which one it must be.

The folder ``$VLMABLATE_FAKES`` is its remote control. Numbers in files: ``toy-steps`` (how many steps, 12),
``toy-every`` (steps between checkpoints, 4), ``toy-pace`` (seconds of one step, 0). A file ``hold-<kind>-<n>`` makes
all ranks wait when n steps are done, until it is gone or they are told to stop; meanwhile ``held-<kind>-<n>-<rank>``
holds each one's process id. A file ``fault-<kind>-<n>`` does something to one rank in the step after the first n:
its first word says what (:data:`FAULTS`), ``rank=1`` to which rank, ``rows=4`` only with more rows in one forward than
that, ``always`` not only once. The faults of saving (``full``, ``exit-saving``) wait for the next checkpoint.

``events`` gets a line for everything that happens: ``step``, ``saved`` and ``resumed``, each followed by
``<kind> <id> <steps done> attempt=<n> rank=<rank>``.
"""

from __future__ import annotations

import errno
import hashlib
import os
import time
from collections.abc import Callable, Iterable
from contextlib import contextmanager, suppress
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any

from tests.orchestration import fakes
from vlmablate.errors import Diverged
from vlmablate.files import read_json, write_json
from vlmablate.orchestration import checkpoint_folder
from vlmablate.orchestration.checkpoint_folder import Alone, Group
from vlmablate.orchestration.context import StepContext, StepStopped
from vlmablate.orchestration.kinds import TRAINING

KINDS = {**fakes.KINDS, **{kind: f"tests.faults.toy:{kind}" for kind in TRAINING}}
FAULTS = ("oom", "memory", "nan", "bug", "hang", "exit", "full", "exit-saving")
ROWS = 8
STEPS, EVERY, PACE = 12, 4, 0.0
JOIN_S = 60.0
_WIDTH = 2**64


class OutOfMemoryError(RuntimeError):
    """Named and worded as torch does it."""


def number_after(start: str, steps: int) -> int:
    """The number that ``steps`` steps make from a text."""
    number = _hash(start)
    for step in range(steps):
        number = _after(number, [_share(number, step, row) for row in range(ROWS)])
    return number


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _share(number: int, step: int, row: int) -> int:
    return _hash(f"{number} {step} {row}")


def _after(number: int, shares: Iterable[int]) -> int:
    return (31 * number + sum(shares)) % _WIDTH


class Star:
    """Ranks that share values through rank 0, at the address that the environment names."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size
        address = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
        self._others: list[Connection[Any, Any]] = []
        if rank == 0:
            with Listener(address, authkey=b"toy") as listener:
                found = dict(_greeting(listener.accept()) for _ in range(size - 1))
            self._others = [found[other] for other in range(1, size)]
            return
        deadline = time.monotonic() + JOIN_S
        while not self._others:
            try:
                self._others = [Client(address, authkey=b"toy")]
            except ConnectionRefusedError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
        self._others[0].send(rank)

    def share(self, value: Any) -> list[Any]:
        """What every rank gives, in the order of ranks."""
        if self.rank:
            self._others[0].send(value)
            values: list[Any] = self._others[0].recv()
            return values
        values = [value, *(other.recv() for other in self._others)]
        for other in self._others:
            other.send(values)
        return values

    def close(self) -> None:
        """End the connections."""
        for other in self._others:
            other.close()


def _greeting(connection: Connection[Any, Any]) -> tuple[int, Connection[Any, Any]]:
    return int(connection.recv()), connection


@contextmanager
def _group(context: StepContext) -> Any:
    if context.world_size == 1:
        yield Alone()
        return
    star = Star(context.rank, context.world_size)
    try:
        yield star
    finally:
        star.close()


def _setting(name: str, default: float) -> float:
    with suppress(OSError, ValueError):
        return float((fakes.control() / name).read_text())
    return default


class Trainer:
    """One step of the work graph, on one rank."""

    def __init__(self, kind: str, out: Path, context: StepContext, group: Group) -> None:
        self.kind, self.out, self.context, self.group = kind, out, context, group
        self._saving_fault: str | None = None

    def train(self, start: str) -> int:
        """The number after all steps."""
        steps, every = int(_setting("toy-steps", STEPS)), int(_setting("toy-every", EVERY))
        done, number = 0, _hash(start)
        found = checkpoint_folder.newest(self.out, self.group)
        if found is not None:
            done, number = found.step, read_json(found.folder / "rank-0.json")["number"]
            self._event("resumed", done)
        stopping = False
        while done < steps and not stopping:
            self._hold(done)
            bad = self._fault(done)
            time.sleep(_setting("toy-pace", PACE))
            self._event("step", done + 1)
            mine = [_share(number, done, row) for row in range(self.group.rank, ROWS, self.group.size)]
            told = self.group.share((sum(mine), bad, self.context.stop_requested()))
            if any(nan for _, nan, _ in told):
                raise Diverged(f"the loss of step {done + 1} is nan: training diverged")
            number = _after(number, (shares for shares, _, _ in told))
            stopping = any(stop for _, _, stop in told)
            done += 1
            self.context.progress(done, steps, loss=1.0 / done)
            if stopping or (done % every == 0 and done < steps):
                self._save(done, number)
        if stopping:
            raise StepStopped(f"stopped on request after step {done} of {steps}")
        return number

    def _save(self, done: int, number: int) -> None:
        fault, self._saving_fault = self._saving_fault, None

        def write(folder: Path) -> list[str]:
            name = f"rank-{self.group.rank}.json"
            if fault == "full":
                raise OSError(errno.ENOSPC, "No space left on device")
            write_json(folder / name, {"number": number, "filler": "." * 4096})
            if fault == "exit-saving":
                os._exit(9)
            return [name]

        with self.context.saving():
            checkpoint_folder.save(self.out, done, self.context.attempt, self.group, write, {})
            self.context.saved(done)
        self._event("saved", done)

    def _event(self, what: str, done: int) -> None:
        step_id = self.out.name.rpartition("-")[2]
        line = f"{what} {self.kind} {step_id} {done} attempt={self.context.attempt} rank={self.group.rank}\n"
        with open(fakes.control() / "events", "a") as events:
            events.write(line)

    def _hold(self, done: int) -> None:
        hold = fakes.control() / f"hold-{self.kind}-{done}"
        if not hold.exists():
            return
        held = fakes.control() / f"held-{self.kind}-{done}-{self.group.rank}"
        write_json(held, os.getpid())
        while hold.exists() and not self.context.stop_requested():
            time.sleep(0.01)
        held.unlink(missing_ok=True)

    def _fault(self, done: int) -> bool:
        """Do what a fault file says; true for a loss that is not a number."""
        path = fakes.control() / f"fault-{self.kind}-{done}"
        try:
            what, *words = path.read_text().split()
        except (OSError, ValueError):
            return False
        options = dict(word.split("=") for word in words if "=" in word)
        rows = self.context.execution.get("micro_batch") or -(-ROWS // self.group.size)
        if int(options.get("rank", 0)) != self.group.rank or rows <= int(options.get("rows", 0)):
            return False
        if "always" not in words:
            path.unlink()
        if what not in FAULTS:
            raise ValueError(f"{path} says {what}; what exists: {', '.join(FAULTS)}")
        if what in ("full", "exit-saving"):
            self._saving_fault = what
        if what == "exit":
            os._exit(9)
        while what == "hang":
            time.sleep(0.05)
        errors: dict[str, Callable[[], Exception]] = {
            "oom": lambda: OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
            "memory": lambda: MemoryError("told to have none"),
            "bug": lambda: RuntimeError(f"the {self.kind} step was told to fail"),
        }
        if what in errors:
            raise errors[what]()
        return what == "nan"


def _step(kind: str, deps: dict[str, Path], out: Path, context: StepContext) -> dict[str, Any]:
    parents = [read_json(path / "value.json")["value"] for _, path in sorted(deps.items())]
    start = repr((kind, out.name.rpartition("-")[2], parents))
    with _group(context) as group:
        number = Trainer(kind, out, context, group).train(start)
    value = f"{number:016x}"
    if context.rank == 0:
        write_json(out / "value.json", {"value": value})
    return {"value": value}


def pretrain(config: dict, deps: dict, out: Path, context: StepContext) -> dict:
    """Toy language model."""
    return _step("pretrain", deps, out, context)


def align(config: dict, deps: dict, out: Path, context: StepContext) -> dict:
    """Toy alignment."""
    return _step("align", deps, out, context)


def finetune(config: dict, deps: dict, out: Path, context: StepContext) -> dict:
    """Toy training."""
    return _step("finetune", deps, out, context)
