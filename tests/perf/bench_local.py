"""Jobs that do nothing, on this machine: our local executor against Hydra's multirun with the submitit launcher.

    python tests/perf/bench_local.py [JOBS=200] [SLOTS=2]

Both are measured in one run, in processes of their own, by looking at /proc: wall time, the largest number of
processes at once, the largest sum of their resident memory. The peer needs the extra ``bench``. No assertion depends
on time.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MARK = "VLMABLATE_BENCH"
INTERVAL_S = 0.02
PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 2**20


@dataclass
class Usage:
    """What a command took: seconds, processes at once, MB resident together and in its first process."""

    wall_s: float
    processes: int
    resident_mb: float
    first_mb: float


def measure(command: list[str], folder: Path) -> Usage:
    """Run a command to its end and watch it with all its descendants, however they detach themselves."""
    token = uuid.uuid4().hex
    environment = {**os.environ, MARK: token, "OMP_NUM_THREADS": "1"}
    begun = time.perf_counter()
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL)
    ours: dict[str, bool] = {}
    most, resident, first = 0, 0.0, 0.0
    while process.poll() is None:
        sizes = {
            pid: _resident_mb(pid)
            for pid in os.listdir("/proc")
            if pid.isdigit() and _marked(pid, token, ours)
        }
        most, resident = max(most, len(sizes)), max(resident, sum(sizes.values()))
        first = max(first, sizes.get(str(process.pid), 0.0))
        time.sleep(INTERVAL_S)
    if process.returncode != 0:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return Usage(time.perf_counter() - begun, most, resident, first)


def _marked(pid: str, token: str, known: dict[str, bool]) -> bool:
    if pid not in known:
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                content = file.read()
        except OSError:
            return False
        if not content:
            return False  # between fork and exec: its environment is not there yet
        known[pid] = f"{MARK}={token}".encode() in content
    return known[pid]


def _resident_mb(pid: str) -> float:
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * PAGE_MB
    except (OSError, IndexError):
        return 0.0


def ours(jobs: int, slots: int) -> int:
    """Run ``jobs`` steps that do nothing as a controller does, below the working directory."""
    from vlmablate.design.spec import RunSpec, StepSpec
    from vlmablate.orchestration.estimates import Estimator
    from vlmablate.orchestration.jobs import manifest
    from vlmablate.orchestration.local import LocalExecutor
    from vlmablate.orchestration.plan import make_plan
    from vlmablate.orchestration.policy import Policy
    from vlmablate.orchestration.progress import PlainDisplay
    from vlmablate.orchestration.scheduler import Scheduler
    from vlmablate.orchestration.store import Store

    store = Store(Path("results").resolve())
    runs = []
    for number in range(jobs):
        name = f"n{number}"
        step = StepSpec("evaluate", 1, f"{number:016d}", name, {"number": number}, {})
        runs.append(RunSpec(name, "default", 0, {"evaluate": step}))
    plan = make_plan(runs, store, Estimator(store, {}), slots)
    execution = {"threads": 1, "device": "cpu"}
    folder = store.home / "jobs"
    executor = LocalExecutor(folder, slots, 1)
    scheduler = Scheduler(
        plan,
        store,
        executor,
        folder,
        lambda job, changes: manifest(
            job,
            store=store,
            assets=store.home,
            kinds={"evaluate": "tests.perf.noop:run"},
            execution={**execution, **changes},
            parent=executor.parent,
        ),
        PlainDisplay(),
        Policy(),
        execution,
    )
    outcome = scheduler.run()
    return 0 if outcome.computed == jobs else 1


def main() -> None:
    jobs = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    slots = int(sys.argv[2]) if len(sys.argv) > 2 else 2
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        own = measure(
            [sys.executable, str(Path(__file__).resolve()), "--ours", str(jobs), str(slots)], folder
        )
        print(
            f"local executor, {jobs} jobs on {slots} slots:  {describe(own, jobs)}; controller {own.first_mb:.0f} MB"
        )
        if importlib.util.find_spec("hydra_plugins.hydra_submitit_launcher") is None:
            print("peer left out: pip install 'vlmablate[bench]' brings hydra-submitit-launcher")
            return
        numbers = ",".join(map(str, range(jobs)))
        application = [sys.executable, str(Path(__file__).with_name("noop.py")), "-m", f"+number={numbers}"]
        peer = measure([*application, "hydra/launcher=submitit_local"], folder)
        print(f"Hydra multirun with submitit_local, {jobs} jobs: {describe(peer, jobs)}")
        print(
            f"ratio: {peer.wall_s / own.wall_s:.1f} x faster, {peer.processes / own.processes:.0f} x fewer processes, "
            f"{peer.resident_mb / own.resident_mb:.1f} x less memory"
        )


def describe(usage: Usage, jobs: int) -> str:
    """The usage in one line."""
    return (
        f"{usage.wall_s:.1f} s ({1e3 * usage.wall_s / jobs:.0f} ms a job), at most {usage.processes} processes and "
        f"{usage.resident_mb:.0f} MB together"
    )


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    if sys.argv[1:2] == ["--ours"]:
        raise SystemExit(ours(int(sys.argv[2]), int(sys.argv[3])))
    main()
