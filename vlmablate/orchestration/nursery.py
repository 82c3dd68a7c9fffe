"""One process that has everything a worker imports already in memory, and that becomes a worker whenever one is needed.

A Python process takes longer to import what every worker needs than a small step takes to run, so workers are forked
from a process that has done it once. Nothing heavy is loaded before the fork: no torch, no numpy, no thread.

The helper belongs to one controller. When the controller dies, the kernel ends the helper, and with it every worker;
where the kernel does not do that, the end of their connection does. A worker leads a session of its own, and what it
leaves behind is ended with it.
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from vlmablate.orchestration import provenance, worker
from vlmablate.orchestration.processes import die_with_parent

_BLOCK = 65536
HELPER_S = 10.0


class Nursery:
    """The controller's side: starts processes by name and hears of their ends.

    Args:
        environment: of the helper itself; every process gets its own.
        log: where the helper complains.
    """

    def __init__(self, environment: Mapping[str, str], log: Path) -> None:
        ours, theirs = socket.socketpair()
        self._socket = ours
        self._buffer = b""
        self._alive: set[str] = set()
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "wb") as output, theirs:
            self._helper = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "vlmablate.orchestration.nursery",
                    str(theirs.fileno()),
                    str(os.getpid()),
                ],
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C reaches the controller only; it stops its workers in order
            )

    @property
    def pid(self) -> int:
        """Process id of the helper, the parent of every process it starts."""
        return self._helper.pid

    @property
    def broken(self) -> bool:
        """Whether the helper is gone, and with it every process."""
        return self._helper.poll() is not None

    @property
    def failed(self) -> bool:
        """Whether the helper ended by an error of its own."""
        return (self._helper.poll() or 0) > 0

    def start(self, name: str, arguments: list[str], environment: Mapping[str, str], log: Path) -> None:
        """Start a worker with these command-line arguments; its output goes to ``log``."""
        self._alive.add(name)
        self._send({"start": name, "arguments": arguments, "environment": dict(environment), "log": str(log)})

    def kill(self, name: str, number: signal.Signals) -> None:
        """Send a signal; SIGKILL also reaches what the process has started."""
        if name in self._alive:
            self._send({"kill": name, "signal": int(number)})

    def ended(self, seconds: float) -> dict[str, int]:
        """name -> exit code of the processes that ended; waits for one of them, at the longest so many seconds.

        A negative code is minus a signal. When the helper is gone, all of its processes were killed.
        """
        found: dict[str, int] = {}
        while select.select([self._socket], [], [], 0.0 if found else seconds)[0]:
            try:
                data = self._socket.recv(_BLOCK)
            except ConnectionError:
                data = b""
            if not data:
                self._end_helper()
                found |= dict.fromkeys(self._alive - found.keys(), -int(signal.SIGKILL))
                break
            *lines, self._buffer = (self._buffer + data).split(b"\n")
            for line in lines:
                said = json.loads(line)
                found[said["ended"]] = said["code"]
        self._alive -= found.keys()
        return found

    def close(self) -> None:
        """End the helper, and whatever it has not ended yet."""
        self._socket.close()
        self._end_helper()

    def _end_helper(self) -> None:
        """Its connection is closed, so it ends by itself, at once; whatever may keep it, the controller goes on."""
        try:
            self._helper.wait(HELPER_S)
        except subprocess.TimeoutExpired:
            self._helper.kill()  # and the kernel ends its workers
            self._helper.wait()

    def _send(self, order: dict[str, Any]) -> None:
        with suppress(ConnectionError):  # :meth:`ended` tells that the helper is gone
            self._socket.sendall(json.dumps(order).encode() + b"\n")


# The helper's side


def main() -> int:
    """``python -m vlmablate.orchestration.nursery SOCKET CONTROLLER``; in a forked process, the worker itself."""
    control, controller = socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2])
    if not die_with_parent(controller):
        return 0
    # looked up once for all workers
    (
        provenance.versions(),
        provenance.host(),
        provenance.science_digest(),
        provenance.lock_text(),
        provenance.gpus(),
    )
    gc.collect()
    gc.freeze()  # memory that is never touched stays shared with the workers
    order = _serve(control)
    if order is None:
        return 0
    _settle(order)
    return worker.main(order["arguments"])


def _serve(control: socket.socket) -> dict[str, Any] | None:
    """Start, signal and reap processes until the controller is gone: None then. Returns the order in a new process."""
    wake_read, wake_write = socket.socketpair()
    wake_read.setblocking(False)
    wake_write.setblocking(False)
    signal.set_wakeup_fd(wake_write.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    names: dict[int, str] = {}
    buffer = b""
    while True:
        readable, _, _ = select.select([control, wake_read], [], [])
        if wake_read in readable:
            with suppress(BlockingIOError):
                wake_read.recv(_BLOCK)
            for pid, code in _reap():
                with suppress(ConnectionError):
                    control.sendall(json.dumps({"ended": names.pop(pid), "code": code}).encode() + b"\n")
        if control not in readable:
            continue
        try:
            data = control.recv(_BLOCK)
        except ConnectionError:
            data = b""
        if not data:
            for pid in names:
                _kill(pid)
            return None
        *lines, buffer = (buffer + data).split(b"\n")
        for line in lines:
            order = json.loads(line)
            if "start" in order:
                pid = os.fork()
                if pid == 0:
                    signal.set_wakeup_fd(-1)
                    for end in (control, wake_read, wake_write):
                        end.close()
                    return dict(order)
                names[pid] = order["start"]
            else:
                for pid in [pid for pid, name in names.items() if name == order["kill"]]:
                    _kill(pid) if order["signal"] == signal.SIGKILL else os.kill(pid, order["signal"])


def _settle(order: Mapping[str, Any]) -> None:
    """Make a forked process look like one that was started on its own."""
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for target in (1, 2):
        os.dup2(log, target)
    os.close(log)
    os.environ.clear()
    os.environ.update(order["environment"])


def _kill(pid: int) -> None:
    """End a process that was not reaped yet, and its whole group."""
    for kill in (os.killpg, os.kill):
        with suppress(ProcessLookupError, PermissionError):
            kill(pid, signal.SIGKILL)


def _reap() -> list[tuple[int, int]]:
    """(process id, exit code) of the processes that ended; the rest of their groups is ended as well."""
    found = []
    while True:
        try:
            if hasattr(os, "waitid"):
                # Not reaped yet: the process id is still taken, so nobody else's group can be ended in its place.
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
                if ended is None:
                    break
                _kill(ended.si_pid)
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            break
        if pid == 0:
            break
        found.append((pid, os.waitstatus_to_exitcode(status)))
    return found


if __name__ == "__main__":
    raise SystemExit(main())
