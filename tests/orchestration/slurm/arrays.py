"""Small arrays to submit, and a controller that dies at a given moment of submitting one."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from vlmablate.design.spec import StepSpec
from vlmablate.orchestration.jobs import Job, manifest
from vlmablate.orchestration.slurm.batches import Batch
from vlmablate.orchestration.slurm.journal import new_token
from vlmablate.orchestration.slurm.settings import Profile
from vlmablate.orchestration.slurm.submit import adopt, submit, submit_lock
from vlmablate.orchestration.store import Store


def array(count: int = 3, **profile: Any) -> Batch:
    """An array of ``count`` jobs of one step each."""
    steps = [StepSpec("scenes", 1, f"step{i:012d}", "s", {}, {}, {}) for i in range(count)]
    jobs = {i: Job(f"scenes-{step.id}", f"job {i}", (step,)) for i, step in enumerate(steps)}
    return Batch(new_token(), Profile(**profile), 0, jobs)


def manifests(batch: Batch, home: Path) -> dict[str, dict[str, Any]]:
    """Manifests of its jobs, for fake steps."""
    return {
        job.name: manifest(
            job, store=Store(home), assets=home / "cache", kinds={"scenes": "tests.orchestration.fakes:scenes"},
            execution={}, parent=None,
        )
        for job in batch.jobs.values()
    }  # fmt: skip


def die_at(moment: int) -> None:
    """End this process, without any clean-up, at the ``moment``-th audited action on files or processes."""
    seen = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if event in ("open", "os.rename", "os.mkdir", "os.remove", "os.link", "subprocess.Popen", "os.utime"):
            if event == "open" and not str(arguments[0]).startswith(os.environ["DIE_BELOW"]):
                return
            seen += 1
            if seen == moment:
                os._exit(99)

    sys.addaudithook(hook)


def main() -> int:
    """``arrays.py HOME MOMENT``: adopt, then submit one array, dying at the moment."""
    home, moment = Path(sys.argv[1]), int(sys.argv[2])
    batch = array()
    prepared = manifests(batch, home)
    die_at(moment)
    with submit_lock(home, ttl_s=60, heartbeat_s=60):
        adopt(home, print)
        submit(home, "study", batch, prepared, Path("code"), {}, print)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
