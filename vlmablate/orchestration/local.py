"""The local executor: a bounded number of worker processes, each in the job environment that submitit
defines.

submitit's own LocalExecutor starts every job at once and passes pickles; here the queue is bounded by the
cores, a worker reads a frozen manifest, and it learns its place through ``submitit.JobEnvironment()`` exactly
as it would under submitit, so the same worker also runs where submitit launches it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from vlmablate.errors import UserError
from vlmablate.orchestration.provenance import available_cores

STOP_GRACE_S = 10.0
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


class Executor(Protocol):
    """Where jobs run. A job is started by name and manifest, and is reported once with its exit code."""

    slots: int

    @property
    def running(self) -> list[str]:
        """Names of the jobs at work."""
        ...

    def start(self, job: str, manifest: Path) -> None:
        """Start a job. Only called while fewer than ``slots`` are running."""
        ...

    def poll(self) -> list[tuple[str, int]]:
        """(job, exit code) of the jobs that ended since the last call; a negative code is minus a signal."""
        ...

    def stop(self) -> None:
        """Stop all jobs: politely, then for good. Returns when none is left."""
        ...


def count_slots(threads: int, asked: int | None, cores: int | None = None) -> int:
    """Workers that fit: never more than ``cores // threads``, never more than asked for, at least one.

    Raises:
        UserError: when threads or asked is not a positive number.
    """
    for name, value in (("threads", threads), ("workers", asked)):
        if value is not None and (not isinstance(value, int) or value < 1):
            raise UserError(f"execution.{name} must be a positive whole number, not {value!r}")
    fit = max(1, (cores or available_cores()) // threads)
    return fit if asked is None else min(fit, asked)


def worker_environment(threads: int, job_id: str, folder: Path, gpu: str | None = None) -> dict[str, str]:
    """The environment of a worker: thread counts, submitit's local job environment, and where the package is.

    Thread counts must be in place before the process starts, because numerical libraries read them when
    loaded.
    """
    package = str(Path(__file__).resolve().parents[2])
    inherited = os.environ.get("PYTHONPATH")
    environment = {
        **os.environ,
        **dict.fromkeys(_THREAD_VARIABLES, str(threads)),
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONPATH": f"{package}{os.pathsep}{inherited}" if inherited else package,
        "PYTHONUNBUFFERED": "1",
        "SUBMITIT_EXECUTOR": "local",
        "SUBMITIT_FOLDER": str(folder),
        "SUBMITIT_LOCAL_JOB_ID": job_id,
        "SUBMITIT_LOCAL_NTASKS": "1",
        "SUBMITIT_LOCAL_JOB_NUM_NODES": "1",
        "SUBMITIT_LOCAL_NODEID": "0",
        "SUBMITIT_LOCAL_GLOBALID": "0",
        "SUBMITIT_LOCAL_LOCALID": "0",
    }
    if gpu is not None:
        environment["CUDA_VISIBLE_DEVICES"] = gpu
    return environment


class LocalExecutor:
    """Runs jobs as child processes of the controller.

    Args:
        folder: where the workers' own output goes (``<job>.log``); each step's output goes to its
            ``log.txt``.
        slots: how many workers at once.
        threads: threads of each worker.
        gpus: device numbers to hand out, one per slot; None leaves the visible devices as they are.
    """

    def __init__(self, folder: Path, slots: int, threads: int, gpus: list[str] | None = None) -> None:
        self.slots = min(slots, len(gpus)) if gpus else slots
        self._folder = folder
        self._threads = threads
        self._gpus = gpus
        self._count = 0
        self._processes: dict[str, tuple[subprocess.Popen[bytes], int]] = {}

    @property
    def running(self) -> list[str]:
        """Names of the jobs at work."""
        return list(self._processes)

    def start(self, job: str, manifest: Path) -> None:
        """Start a worker on a manifest. Must be called from the main thread: the kernel kills the worker when
        the thread that started it ends."""
        taken = {slot for _, slot in self._processes.values()}
        slot = min(set(range(self.slots)) - taken)
        self._count += 1
        self._folder.mkdir(parents=True, exist_ok=True)
        gpu = self._gpus[slot] if self._gpus else None
        with open(self._folder / f"{job}.log", "ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "vlmablate.orchestration.worker", "--job", str(manifest)],
                env=worker_environment(self._threads, f"{os.getpid()}-{self._count}", self._folder, gpu),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches the controller only; it stops its workers in order
            )
        self._processes[job] = (process, slot)

    def poll(self) -> list[tuple[str, int]]:
        """(job, exit code) of the workers that ended since the last call."""
        ended = []
        for job, (process, _) in list(self._processes.items()):
            code = process.poll()
            if code is not None:
                del self._processes[job]
                ended.append((job, code))
        return ended

    def pids(self) -> dict[str, int]:
        """Job -> process id of its worker."""
        return {job: process.pid for job, (process, _) in self._processes.items()}

    def stop(self) -> None:
        """SIGTERM to every worker, SIGKILL to those that are still there after the grace period (or at once
        on a second Ctrl-C)."""
        processes = [process for process, _ in self._processes.values()]
        try:
            for process in processes:
                with suppress(ProcessLookupError):
                    process.send_signal(signal.SIGTERM)
            deadline = time.monotonic() + STOP_GRACE_S
            for process in processes:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.0, deadline - time.monotonic()))
        finally:
            for process in processes:
                if process.poll() is None:
                    process.kill()
                    process.wait()
            self._processes.clear()


def gpu_list(execution: Mapping[str, Any]) -> list[str] | None:
    """The devices that ``execution.gpus`` asks to hand out, one per worker; None on machines that
    use none.
    """
    wanted = execution.get("gpus")
    if not wanted:
        return None
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return visible[:wanted] if visible else [str(i) for i in range(wanted)]
