"""Who a process is, so that "it is gone" can be said with evidence and never because a number was reused."""

from __future__ import annotations

import os
import socket
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Owner:
    """A process: machine (host name, boot, process namespace), process id, and when that process started."""

    host: str
    boot: str
    namespace: str
    pid: int
    started: str

    @classmethod
    def current(cls) -> Owner:
        """The calling process."""
        pid = os.getpid()
        return cls(socket.gethostname(), _boot_id(), _namespace(), pid, start_time(pid) or "")

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Owner:
        """The inverse of :meth:`to_dict`."""
        return cls(raw["host"], raw["boot"], raw["namespace"], int(raw["pid"]), raw["started"])

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    def on_this_machine(self) -> bool:
        """True when this process could see the owner in its process table."""
        return (self.host, self.boot, self.namespace) == (socket.gethostname(), _boot_id(), _namespace())

    def running(self) -> bool:
        """Whether the owner still runs; only meaningful when :meth:`on_this_machine`."""
        return start_time(self.pid) == self.started


@lru_cache(maxsize=1)
def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


@lru_cache(maxsize=1)
def _namespace() -> str:
    # Two containers can share a host name and a results folder without seeing each other's processes.
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def start_time(pid: int) -> str | None:
    """When process ``pid`` started, as an opaque text; None when it is gone or only a zombie is
    left of it.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return _start_time_without_proc(pid) if not Path("/proc/self/stat").exists() else None
    except (ProcessLookupError, PermissionError):
        return None
    # The command name may hold spaces and brackets; the fields after it are state, ppid, …, start time
    # (22nd).
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[19]


def _start_time_without_proc(pid: int) -> str | None:
    import subprocess

    listed = subprocess.run(
        ["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    ).stdout.split(maxsplit=1)
    return None if len(listed) < 2 or listed[0].startswith("Z") else listed[1].strip()


def die_with_parent(parent: int) -> bool:
    """Ask the kernel to kill this process when its parent dies (Linux). False when ``parent`` is already
    gone.
    """
    import ctypes
    import signal

    try:
        libc = ctypes.CDLL(None, use_errno=True)
        pr_set_pdeathsig = 1
        libc.prctl(pr_set_pdeathsig, signal.SIGKILL, 0, 0, 0)
    except (OSError, AttributeError):
        pass  # no prctl: the heartbeat thread watches the parent instead
    return os.getppid() == parent
