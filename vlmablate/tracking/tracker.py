"""The controller's side of tracking: what W&B was not told yet, and a process that tells it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from vlmablate.design.spec import RunSpec
from vlmablate.orchestration.store import RESULT, Store
from vlmablate.tracking.reports import untold_report
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


def track(
    group: Path,
    studies: Sequence[Path],
    runs: Sequence[RunSpec],
    store: Store,
    tracking: Tracking,
    report: Report,
) -> bool:
    """Have W&B told of the finished runs that it was not told of yet, and of the reports if they are new. True when
    nothing is missing afterwards.

    W&B is loaded by another process. Whatever happens to it is reported and raises nothing: results do not depend on
    a tracker, and the same command tries again.

    Args:
        group: the folder of the set of studies that were computed together; of a single study, its own.
        studies: their folders. runs: all their runs.
    """
    if not _missing(group, studies, runs, store):
        return True
    folders = map(str, (group, *studies))
    command = [sys.executable, "-m", "vlmablate.tracking.wandb_replay", *folders, *tracking.words()]
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
    missing = _missing(group, studies, runs, store)
    if missing:
        report(
            f"{' and '.join(missing)} were not told to W&B (exit code {process.returncode}). The results are safe; "
            "the same command tries again"
        )
    return not missing


def _missing(group: Path, studies: Sequence[Path], runs: Iterable[RunSpec], store: Store) -> list[str]:
    """What W&B has not been told, in words."""
    runs_left = len(untracked(runs, store))
    words = [f"{runs_left} runs"] if runs_left else []
    return [*words, "the report"] if untold_report(group, studies) else words
