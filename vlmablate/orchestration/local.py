"""The local executor: a bounded number of worker processes, each in the job environment that submitit
defines.

submitit's own LocalExecutor starts every job at once and passes pickles; here the queue is bounded by the
cores, a worker reads a frozen manifest, and it learns its place through the variables that
``submitit.JobEnvironment()`` reads, exactly as it would under submitit. GPUs are handed out through leases that other
controllers of this machine respect; cores are not (see :mod:`vlmablate.orchestration.devices`).
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from vlmablate.errors import UserError
from vlmablate.orchestration.devices import Devices, gpus_per_job
from vlmablate.orchestration.gang import free_port
from vlmablate.orchestration.jobs import Job
from vlmablate.orchestration.kinds import is_collective
from vlmablate.orchestration.nursery import Nursery
from vlmablate.orchestration.provenance import available_cores

STOP_GRACE_S = 30.0
"""A step that ignores the request is interrupted by its own worker long before; only one that saves takes longer."""
RANK_GRACE_S = 10.0
"""How long the other ranks of a job may take to end by themselves, and to write down why, after one has ended badly."""
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


class Executor(Protocol):
    """Where jobs run. A job is started with its manifest, and is reported once with its exit code."""

    @property
    def slots(self) -> int:
        """Processes at work at once."""
        ...

    @property
    def parent(self) -> int | None:
        """Process id of the workers' parent, which they must not outlive; None when they are no processes."""
        ...

    @property
    def full(self) -> bool:
        """Whether no job at all could be started now."""
        ...

    def room(self, job: Job) -> bool:
        """Whether the job could be started now."""
        ...

    def start(self, job: Job, manifest: Path) -> None:
        """Start a job. Only called right after :meth:`room` said yes."""
        ...

    def wait(self, seconds: float) -> None:
        """Return when a job has ended, at the latest after so many seconds."""
        ...

    def poll(self) -> list[tuple[str, int]]:
        """(job name, exit code) of the jobs that ended since the last call; a negative code is minus a signal."""
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


@dataclass(frozen=True)
class Need:
    """What each training job takes of this machine; every other job takes one process and at most one GPU."""

    ranks: int = 1
    gpus: int = 0

    def of(self, job: Job) -> Need:
        """What this job takes."""
        trains = any(is_collective(step) for step in job.steps)
        return self if trains else Need(1, min(1, self.gpus))


def read_need(execution: Mapping[str, Any]) -> Need:
    """What ``execution.ranks`` and ``execution.gpus_per_job`` ask for.

    Raises:
        UserError: when one of them is no such number.
    """
    ranks = execution.get("ranks")
    if ranks is None:
        ranks = 1
    if isinstance(ranks, bool) or not isinstance(ranks, int) or ranks < 1:
        raise UserError(f"execution.ranks must be a positive whole number, not {ranks!r}")
    return Need(ranks, gpus_per_job(execution))


def worker_environment(
    threads: int,
    job_id: str,
    folder: Path,
    gpus: Sequence[str] = (),
    rank: int = 0,
    ranks: int = 1,
    port: int = 0,
) -> dict[str, str]:
    """The environment of a worker: thread counts, submitit's local job environment, and where the package is.

    Thread counts must be in place before the process starts, because numerical libraries read them when
    loaded. All ranks of a job see all of its GPUs; which one is whose follows from the rank.
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
        "SUBMITIT_LOCAL_NTASKS": str(ranks),
        "SUBMITIT_LOCAL_JOB_NUM_NODES": "1",
        "SUBMITIT_LOCAL_NODEID": "0",
        "SUBMITIT_LOCAL_GLOBALID": str(rank),
        "SUBMITIT_LOCAL_LOCALID": str(rank),
    }
    if ranks > 1:
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    if gpus:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
    return environment


@dataclass
class _Gang:
    """The processes of one job: how many ranks, the exit codes of those that ended, and the GPUs they hold."""

    ranks: int
    gpus: list[str]
    codes: dict[int, int] = field(default_factory=dict)
    first_bad: int = 0
    deadline: float = float("inf")

    def note(self, rank: int, code: int, now: float) -> None:
        """A rank has ended."""
        self.codes[rank] = code
        self.first_bad = self.first_bad or code
        if code or rank == 0:
            # The others end by themselves when one is gone, and rank 0 writes down why; a rank that hangs does not.
            self.deadline = min(self.deadline, now + RANK_GRACE_S)


class LocalExecutor:
    """Runs jobs as worker processes that end with this one.

    Args:
        folder: where the workers' own output goes (``<job>.log``, ``<job>.<rank>.log``); each step's output goes to
            its ``log.txt``.
        slots: how many worker processes at once. A job of more ranks runs all the same, alone.
        threads: threads of each process.
        need: ranks and GPUs of a training job.
        devices: where GPUs come from.
    """

    def __init__(
        self, folder: Path, slots: int, threads: int, need: Need | None = None, devices: Devices | None = None
    ) -> None:
        self._need = need or Need()
        self._devices = devices or Devices({})
        self.slots = slots
        if self._need.gpus:
            self.slots = min(slots, self._devices.count // self._need.gpus * self._need.ranks)
        self._folder = folder
        self._threads = threads
        self._reserved: list[str] = []
        self._count = 0
        self._jobs: dict[str, _Gang] = {}
        self._nursery: Nursery | None = None

    @property
    def parent(self) -> int:
        """Process id of the workers' parent, as their manifests have to name it."""
        return self._helper().pid

    @property
    def full(self) -> bool:
        """Whether all slots are taken."""
        return self._used() >= self.slots

    def room(self, job: Job) -> bool:
        """Whether there are processes and GPUs left for the job; the GPUs are kept for the next :meth:`start`."""
        need = self._need.of(job)
        if self._jobs and self._used() + need.ranks > self.slots:
            return False
        if len(self._reserved) != need.gpus:
            self._devices.give_back(self._reserved)
            self._reserved = self._devices.take(need.gpus) or []
        return len(self._reserved) == need.gpus

    def start(self, job: Job, manifest: Path) -> None:
        """Start the workers of a job; each becomes a child of :attr:`parent`."""
        need, nursery = self._need.of(job), self._helper()
        self._count += 1
        gang = self._jobs[job.name] = _Gang(need.ranks, self._reserved)
        self._reserved = []
        port = free_port("127.0.0.1") if need.ranks > 1 else 0
        for rank in range(need.ranks):
            name = f"{os.getpid()}-{self._count}"
            environment = worker_environment(
                self._threads, name, self._folder, gang.gpus, rank, need.ranks, port
            )
            log = self._folder / (f"{job.name}.{rank}.log" if rank else f"{job.name}.log")
            nursery.start(_name(job.name, rank), ["--job", str(manifest)], environment, log)

    def wait(self, seconds: float) -> None:
        """Return when a worker has ended, at the latest after so many seconds."""
        if self._jobs:
            self._listen(seconds)
        else:
            time.sleep(seconds)

    def poll(self) -> list[tuple[str, int]]:
        """(job, exit code) of the jobs that ended since the last call: the first bad code of their ranks."""
        self._listen(0.0)
        ended = []
        for job, gang in list(self._jobs.items()):
            if len(gang.codes) == gang.ranks:
                del self._jobs[job]
                self._devices.give_back(gang.gpus)
                ended.append((job, gang.first_bad))
            elif time.monotonic() >= gang.deadline:
                self._signal(job, signal.SIGKILL)
        return ended

    def stop(self) -> None:
        """SIGTERM to every worker, SIGKILL to those that are still there after the grace period (or at once
        on a second Ctrl-C)."""
        try:
            for job in self._jobs:
                self._signal(job, signal.SIGTERM)
            deadline = time.monotonic() + STOP_GRACE_S
            while any(len(gang.codes) < gang.ranks for gang in self._jobs.values()):
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                self._listen(left)
        finally:
            if self._nursery is not None:
                self._nursery.close()
                self._nursery = None
            for gang in self._jobs.values():
                self._devices.give_back(gang.gpus)
            self._devices.give_back(self._reserved)
            self._reserved = []
            self._jobs.clear()

    def _used(self) -> int:
        return sum(gang.ranks for gang in self._jobs.values())

    def _helper(self) -> Nursery:
        """The workers' parent, started when there is none. Only for the main thread: the kernel ends a process with
        the thread that started it.
        """
        if self._nursery is not None and self._nursery.broken:
            self._listen(0.0)  # the ends of its workers would be lost with it
            self._nursery.close()
            self._nursery = None
        if self._nursery is None:
            self._nursery = Nursery(worker_environment(self._threads, "none", self._folder), self._log())
        return self._nursery

    def _log(self) -> Path:
        return self._folder / "workers.log"

    def _listen(self, seconds: float) -> None:
        if self._nursery is None:
            return
        for name, code in self._nursery.ended(seconds).items():
            job, _, rank = name.rpartition("/")
            self._jobs[job].note(int(rank), code, time.monotonic())
        if self._nursery.failed:
            raise RuntimeError(f"no worker can be started, see {self._log()}")

    def _signal(self, job: str, number: signal.Signals) -> None:
        if self._nursery is not None:
            for rank in range(self._jobs[job].ranks):
                self._nursery.kill(_name(job, rank), number)


def _name(job: str, rank: int) -> str:
    return f"{job}/{rank}"
