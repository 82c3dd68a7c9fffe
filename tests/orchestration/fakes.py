"""Step functions that cost nothing, leave a trace of every call, and can be told to fail, wait or die.

The folder ``$VLMABLATE_FAKES`` is their remote control: ``calls`` gets one line per call; a file
``fail-<kind>`` makes the kind raise, ``oom-<kind>`` makes it run out of GPU memory with more than so many rows,
``diverge-<kind>`` makes its loss infinite, ``hold-<kind>`` makes it wait until the file is gone, ``full-<kind>``
makes it meet a full disk, ``nan-<kind>`` makes it return a NaN. While a step waits there is a file
``held-<kind>`` with its process id.
"""

from __future__ import annotations

import errno
import hashlib
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from vlmablate.errors import Diverged
from vlmablate.files import read_json, write_json
from vlmablate.orchestration.context import StepContext

KINDS = {
    kind: f"tests.orchestration.fakes:{kind}"
    for kind in ("scenes", "pretrain", "features", "align", "finetune", "evaluate")
}


class OutOfMemoryError(RuntimeError):
    """Named and worded as torch does it."""


def control() -> Path:
    """The remote control folder."""
    return Path(os.environ["VLMABLATE_FAKES"])


def calls() -> list[str]:
    """``<kind> <directory name>`` of every call so far, in the order of their starts."""
    path = control() / "calls"
    return path.read_text().splitlines() if path.exists() else []


def _step(kind: str, deps: dict[str, Path], out: Path, context: StepContext) -> dict[str, Any]:
    with open(control() / "calls", "a") as log:
        log.write(f"{kind} {out.name}\n")
    if (control() / f"hold-{kind}").exists():
        held = control() / f"held-{kind}"
        held.write_text(str(os.getpid()))
        while (control() / f"hold-{kind}").exists():
            context.check_stop()
            time.sleep(0.01)
        held.unlink()
    if (control() / f"fail-{kind}").exists():
        raise RuntimeError(f"the {kind} step was told to fail")
    if (control() / f"oom-{kind}").exists():
        rows, fit = context.execution.get("micro_batch"), int((control() / f"oom-{kind}").read_text())
        if rows is None or rows > fit:
            raise OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
    if (control() / f"diverge-{kind}").exists():
        raise Diverged(f"the loss of the {kind} step is not finite")
    if (control() / f"full-{kind}").exists():
        raise OSError(errno.ENOSPC, "No space left on device")
    parents = [read_json(path / "value.json")["value"] for _, path in sorted(deps.items())]
    value = hashlib.sha256(repr((kind, out.name.rpartition("-")[2], parents)).encode()).hexdigest()
    write_json(out / "value.json", {"value": value})
    context.progress(1, 1, loss=0.5)
    if (control() / f"nan-{kind}").exists():
        return {"value": float("nan")}
    return {"value": value, "threads": os.environ.get("OMP_NUM_THREADS")}


def scenes(config: dict, deps: dict, out: Path, context: StepContext) -> dict:
    """Fake scenes."""
    return _step("scenes", deps, out, context)


def pretrain(config: dict, deps: dict, out: Path, context: StepContext) -> dict:
    """Fake language model."""
    return _step("pretrain", deps, out, context)


def features(config: dict, deps: dict, out: Path, context: StepContext) -> dict:
    """Fake features."""
    return _step("features", deps, out, context)


def align(config: dict, deps: dict, out: Path, context: StepContext) -> dict:
    """Fake alignment."""
    return _step("align", deps, out, context)


def finetune(config: dict, deps: dict, out: Path, context: StepContext) -> dict:
    """Fake training."""
    return _step("finetune", deps, out, context)


def evaluate(config: dict, deps: dict, out: Path, context: StepContext) -> dict:
    """Fake evaluation; tells what submitit's job environment said."""
    payload = _step("evaluate", deps, out, context)
    if os.environ.get("SUBMITIT_EXECUTOR"):
        import submitit

        job = submitit.JobEnvironment()
        payload["environment"] = [job.job_id, job.num_tasks, job.global_rank, job.local_rank, job.num_nodes]
    return payload


class Assets:
    """An asset source without assets."""

    def required(self, config: dict[str, Any]) -> list[str]:
        """Nothing is needed."""
        return []

    def ensure(self, names: list[str], report: Any = print) -> dict[str, str]:
        """Nothing to fetch."""
        return {}

    def pictures(self, config: dict[str, Any]) -> list[str]:
        """Scenes need none either."""
        return []

    def published(self, config: dict[str, Any]) -> dict[str, str]:
        return {}

    def weights(self, config: dict[str, Any], digests: dict[str, str]) -> dict[str, str]:
        """Every tower is random."""
        return dict.fromkeys(config["vision"]["towers"], "random")

    def status(self) -> list[SimpleNamespace]:
        """No sets."""
        return []


def build(study_dir: Path, home: Path, force: bool = False) -> dict[str, Any]:
    """A report that lists the values of all runs."""
    study = read_json(study_dir / "study.json")
    values = {}
    for run in study["runs"]:
        folder = home / study["steps"][run["run_id"]]["dir"]
        values[f"{run['arm']}-{run['seed']}"] = read_json(folder / "result.json")["payload"]["value"]
    write_json(study_dir / "values.json", values)
    return {"verdicts": [f"{len(values)} runs compared"], "html": study_dir / "report.html"}
