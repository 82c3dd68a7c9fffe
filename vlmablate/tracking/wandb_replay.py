"""``python -m vlmablate.tracking.wandb_replay STUDY_FOLDER [key=value ...]``: finished runs told to W&B, once each.

A W&B run that is continued offline becomes several folders that never merge. So nothing is sent while a run is being
computed: when it is finished, its whole history is replayed from its files, in one go, under the run's id. It is
written under a temporary name, renamed when W&B has finished with it, and then marked in the folder of the run's
evaluate step. Whatever was cut off before the mark is done again from the beginning.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from vlmablate.errors import EXIT_USER_ERROR, UserError
from vlmablate.files import TEMPORARY_PREFIX, fsync_directory, write_json
from vlmablate.orchestration.lease import HEARTBEAT_S, Lease, LeaseBusyError, LeaseLostError, claim, now_text
from vlmablate.report.study import Run, Study
from vlmablate.tracking.history import History, history
from vlmablate.tracking.settings import MARK, Tracking, read_tracking, require_wandb

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_INTERRUPTED = 130
LEASE = "tracking"
"""The folder in the results folder by which one process at a time replays."""
_STAGING = f"{TEMPORARY_PREFIX}wandb-"
_WAIT_S = 0.1
_INIT_TIMEOUT_S = 60
_FINISH_TIMEOUT_S = 600
_OF_ONE_RUN = (
    "RUN_ID",
    "NAME",
    "RUN_GROUP",
    "JOB_TYPE",
    "TAGS",
    "NOTES",
    "RESUME",
    "SWEEP_ID",
    "DIR",
    "MODE",
)
"""Variables of W&B that would make one run of all of them, or send them elsewhere."""

Report = Callable[[str], None]


def replay(folder: Path, tracking: Tracking, report: Report, heartbeat_s: float = HEARTBEAT_S) -> int:
    """Tell W&B the finished runs of a study that are not marked; returns how many there were.

    Raises:
        UserError: when the study cannot be read.
        LeaseLostError: when another process took this one for dead.
        Exception: whatever W&B raises; the runs before that are told and marked.
    """
    folder = folder.absolute()
    home = folder.parents[1]
    if not _todo(Study.load(folder, home)):
        return 0
    target = tracking.folder(home)
    lease = _wait_for_turn(home / LEASE, report, heartbeat_s)
    try:
        for left in target.glob(f"{_STAGING}*"):
            shutil.rmtree(left, ignore_errors=True)
        # Looked at again: somebody may have been at it while this process waited.
        study = Study.load(folder, home)
        todo = _todo(study)
        for run in todo:
            _track(study, run, tracking, target, lease)
    finally:
        with suppress(UserError):
            lease.finish("ended")
        lease.abandon()
    if todo:
        report(f"W&B: {len(todo)} runs tracked, {tracking.mode}, project {tracking.project}")
        if tracking.mode == "offline":
            report(f"  send them: wandb sync {target}/offline-run-*")
    return len(todo)


def _todo(study: Study) -> list[Run]:
    runs = {run.run_id: run for run in study.runs}  # equal cells of two contexts are one run
    return [run for run in runs.values() if study.result(run.run_id) and not _mark(study, run).exists()]


def _mark(study: Study, run: Run) -> Path:
    return study.directory(run.run_id) / MARK


def _wait_for_turn(folder: Path, report: Report, heartbeat_s: float) -> Lease:
    said = False
    while True:
        try:
            return claim(folder, heartbeat_s=heartbeat_s)
        except LeaseBusyError as busy:
            if not said:
                report(f"W&B: waiting for {busy.holder.describe()}, which is at it")
                said = True
        time.sleep(_WAIT_S)


def _track(study: Study, run: Run, tracking: Tracking, target: Path, lease: Lease) -> None:
    told = history(study, run)
    target.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=_STAGING, dir=target))
    try:
        _write(study, run, told, tracking, staging)
        (made,) = staging.glob(f"*/*run-*-{run.run_id}")
        for path in made.glob("*.wandb"):
            with open(path, "rb+") as written:
                os.fsync(written.fileno())
        lease.check()
        for old in target.glob(f"*run-*-{run.run_id}"):
            shutil.rmtree(old)
        os.replace(made, target / made.name)
        fsync_directory(target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    facts = {"run_id": run.run_id, "study": study.name, **_where(tracking), "folder": made.name}
    write_json(_mark(study, run), {**facts, "tracked": now_text()})


def _where(tracking: Tracking) -> dict[str, Any]:
    return {"project": tracking.project, "entity": tracking.entity, "mode": tracking.mode}


def _write(study: Study, run: Run, told: History, tracking: Tracking, staging: Path) -> None:
    import wandb

    # What W&B would find out by itself is about this process, and not about those that computed the run.
    settings = wandb.Settings(
        console="off",
        silent=True,
        disable_git=True,
        disable_code=True,
        init_timeout=_INIT_TIMEOUT_S,
        finish_timeout=_FINISH_TIMEOUT_S,
        finish_timeout_raises=True,
        x_disable_stats=True,
        x_disable_meta=True,
        x_save_requirements=False,
    )
    tracked = wandb.init(
        **_where(tracking),
        id=run.run_id,
        name=told.name,
        group=study.name,
        job_type=study.axis_name,
        tags=list(told.tags),
        config=told.config,
        dir=str(staging),
        settings=settings,
    )
    index = 0
    for role, points in told.curves.items():
        tracked.define_metric(f"{role}/step")
        tracked.define_metric(f"{role}/*", step_metric=f"{role}/step")
        for point in points:
            tracked.log({f"{role}/{key}": value for key, value in point.items()}, step=index)
            index += 1
    tracked.summary.update(told.summary)
    tracked.finish()


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns 0, 1 when W&B failed, 2 for mistakes, 130 when it was interrupted."""
    given = sys.argv[1:] if arguments is None else arguments

    def report(text: str) -> None:
        print(text, flush=True)

    try:
        if not given or not all("=" in word for word in given[1:]):
            raise UserError("usage: python -m vlmablate.tracking.wandb_replay STUDY_FOLDER [key=value ...]")
        tracking = read_tracking({**dict(word.split("=", 1) for word in given[1:]), "name": "wandb"})
        assert tracking is not None
        require_wandb()
        for name in _OF_ONE_RUN:
            os.environ.pop(f"WANDB_{name}", None)
        replay(Path(given[0]), tracking, report)
    except UserError as error:
        report(str(error))
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except LeaseLostError as error:
        report(f"W&B: {error}")
        return EXIT_FAILED
    except Exception as error:  # W&B raises what it likes, and so do its libraries
        report(f"W&B: {type(error).__name__}: {error}")
        return EXIT_FAILED
    return EXIT_OK


if __name__ == "__main__":
    raise SystemExit(main())
