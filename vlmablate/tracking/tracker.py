"""The controller's side of tracking: which finished runs are missing, and a process that tells them to W&B."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from vlmablate.design.spec import RunSpec
from vlmablate.orchestration.store import RESULT, Store
from vlmablate.tracking.settings import MARK, Tracking

Report = Callable[[str], None]


def untracked(runs: Iterable[RunSpec], store: Store) -> list[str]:
    """Ids of the finished runs that W&B was not told about, each once."""
    folders = {run.run_id: store.find("evaluate", run.run_id) for run in runs}
    return [
        run_id
        for run_id, folder in folders.items()
        if folder is not None and (folder / RESULT).exists() and not (folder / MARK).exists()
    ]


def track(study: Path, runs: Iterable[RunSpec], store: Store, tracking: Tracking, report: Report) -> bool:
    """Have the finished runs of a study told to W&B that were not told yet. True when none is missing afterwards.

    W&B is loaded by another process. Whatever happens to it is reported and raises nothing: results do not depend on
    a tracker, and the same command tries again.
    """
    runs = list(runs)
    if not untracked(runs, store):
        return True
    command = [sys.executable, "-m", "vlmablate.tracking.wandb_replay", str(study), *tracking.words()]
    # Without a terminal W&B asks no questions.
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                report(line.rstrip())
            process.wait()
        except BaseException:
            process.terminate()
            raise
    missing = len(untracked(runs, store))
    if missing:
        report(
            f"{missing} runs were not told to W&B (exit code {process.returncode}). The results are safe; "
            "the same command tries again"
        )
    return not missing
