"""Speed on Slurm, against a raw ``sbatch`` array of the same cluster in the same run. Needs ``SLURM_CONF``.

``make bench-slurm`` brings the small cluster up and runs it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from vlmablate.design.identity import step_id  # noqa: E402
from vlmablate.design.spec import RunSpec, StepSpec  # noqa: E402
from vlmablate.orchestration.estimates import Estimator  # noqa: E402
from vlmablate.orchestration.plan import Plan, make_plan  # noqa: E402
from vlmablate.orchestration.policy import Policy  # noqa: E402
from vlmablate.orchestration.progress import PlainDisplay  # noqa: E402
from vlmablate.orchestration.slurm import commands  # noqa: E402
from vlmablate.orchestration.slurm.round import SlurmRound, Surroundings  # noqa: E402
from vlmablate.orchestration.snapshot import snapshot  # noqa: E402
from vlmablate.orchestration.store import Store  # noqa: E402

SLOTS = 4
JOBS = 100
MANY = 1000
KINDS = {"evaluate": "tests.perf.noop:run"}


def runs(count: int) -> list[RunSpec]:
    """Runs of one step that only says its number."""
    made = []
    for number in range(count):
        config = {"number": number}
        step = StepSpec("evaluate", 1, step_id("evaluate", 1, config, {}, {}), "noop", config, {}, {})
        made.append(RunSpec("noop", "default", number, {"evaluate": step}))
    return made


def prepared(home: Path, count: int, throttle: int | None) -> SlurmRound:
    """A round over ``count`` runs of one step that does nothing."""
    store = Store(home)
    specs = runs(count)

    def plan() -> Plan:
        return make_plan(specs, store, Estimator(store, {}), SLOTS)

    around = Surroundings(
        study="bench", home=home, assets=home, kinds=KINDS, execution={"slurm": {"throttle": throttle}},
        code=snapshot(home), limits=commands.limits(),
    )  # fmt: skip
    return SlurmRound(plan, store, around, Policy(), PlainDisplay(lambda text: None))


def raw_array(folder: Path) -> float:
    """Seconds of a plain array of the same size and throttle."""
    begun = time.perf_counter()
    subprocess.run(
        ["sbatch", "--wait", f"--array=0-{JOBS - 1}%{SLOTS}", f"--output={folder}/%a.log", "--wrap=true"],
        check=True, capture_output=True,
    )  # fmt: skip
    return time.perf_counter() - begun


def bench_submission(home: Path) -> None:
    """Submit 1,000 runs and take them back."""
    work = prepared(home, MANY, None)
    begun = time.perf_counter()
    work.run(detach=True)
    took = time.perf_counter() - begun
    arrays = list(home.glob("submissions/*/record.json"))
    files = sum(1 for _ in arrays[0].parent.iterdir() if _.is_file())
    print(f"{'submitting 1,000 runs':<34} {took * 1e3:9.1f} ms   {len(arrays)} sbatch call, {files} files")
    subprocess.run(["scancel", "--user", str(os.getuid())], check=True)
    while subprocess.run(["squeue", "--noheader"], capture_output=True, text=True, check=True).stdout.strip():
        time.sleep(0.2)


def bench_jobs(base: Path) -> None:
    """100 runs that do nothing, four at a time, against 100 elements that do nothing at all."""
    raw = raw_array(base)
    home = base / "jobs"
    begun = time.perf_counter()
    outcome = prepared(home, JOBS, SLOTS).run()
    took = time.perf_counter() - begun
    assert outcome.computed == JOBS
    ratio = f"{took / raw:6.2f} x   the time of a raw array ({raw:.1f} s)"
    print(f"{'100 runs that do nothing':<34} {took:9.1f} s    {ratio}")


def main() -> None:
    os.environ["PYTHONPATH"] = str(ROOT)  # the step of the bench is imported by name
    base = Path(tempfile.mkdtemp(prefix="vlmablate-bench-"))
    try:
        bench_submission(base / "many")
        bench_jobs(base)
    finally:
        shutil.rmtree(base, ignore_errors=True)


if __name__ == "__main__":
    main()
