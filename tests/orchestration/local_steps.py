"""Step functions that show how the local executor starts processes, and that end in every way a process can."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from vlmablate.files import write_json
from vlmablate.orchestration.context import StepContext

KINDS = dict.fromkeys(("finetune", "features"), "tests.orchestration.local_steps:run")
_SHOWN = (
    "CUDA_VISIBLE_DEVICES",
    "OMP_NUM_THREADS",
    "SUBMITIT_LOCAL_JOB_ID",
    "SUBMITIT_LOCAL_NTASKS",
    "SUBMITIT_LOCAL_GLOBALID",
    "SUBMITIT_LOCAL_LOCALID",
    "MASTER_ADDR",
    "MASTER_PORT",
)


def run(config: dict[str, Any], deps: dict[str, Path], out: Path, context: StepContext) -> dict[str, Any]:
    """Note the environment of this rank in the folder ``config["shown"]``, then do as ``config["do"]`` says.

    A rank that ``do`` names may: ``die`` by SIGKILL, ``fail``, ``hang`` until the file ``free`` is in the folder,
    ``wait`` for it and look for a stop request, leave a child behind and die (``orphan``).
    """
    folder = Path(config["shown"])
    seen = {name: os.environ[name] for name in _SHOWN if name in os.environ}
    write_json(folder / f"rank{context.rank}", {**seen, "pid": os.getpid(), "world_size": context.world_size})
    what = config["do"].get(str(context.rank))
    if what == "fail":
        raise ValueError("told to fail")
    if what == "die":
        _others(folder, context)
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "orphan":
        child = subprocess.Popen(["sleep", "1000"])
        write_json(folder / "child", child.pid)
        os.kill(os.getpid(), signal.SIGKILL)
    while what in ("hang", "wait") and not (folder / "free").exists():
        if what == "wait":
            context.check_stop()
        time.sleep(0.01)
    return {"rank": context.rank}


def _others(folder: Path, context: StepContext) -> None:
    # Only when the others are at work does the death of this one meet them there.
    while len(list(folder.glob("rank*"))) < context.world_size:
        time.sleep(0.01)
