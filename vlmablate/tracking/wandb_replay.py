"""``python -m vlmablate.tracking.wandb_replay FOLDER [STUDY_FOLDER ...] [key=value ...]``: finished runs, and the
report of their study, told to W&B, once each.

A W&B run that is continued offline becomes several folders that never merge. So nothing is sent while a run is being
computed: when it is finished, its whole history is replayed from its files, in one go, under the run's id. It is
written under a temporary name, renamed when W&B has finished with it, and then marked in the folder of the run's
evaluate step (the report: in the folder of the study). Whatever was cut off before the mark is done again from the
beginning.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmablate.errors import EXIT_USER_ERROR, UserError
from vlmablate.files import TEMPORARY_PREFIX, fsync_directory, write_json, write_with
from vlmablate.orchestration.lease import HEARTBEAT_S, Lease, LeaseLostError, now_text
from vlmablate.report.study import Study
from vlmablate.tracking.history import History, Tracked, history, tracked
from vlmablate.tracking.reports import (
    REPORT,
    digest_of,
    report_files,
    report_history,
    report_id,
    untold_report,
)
from vlmablate.tracking.settings import MARK, OF_ONE_RUN, Tracking, read_tracking, require_wandb
from vlmablate.tracking.turn import Report, turn

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_INTERRUPTED = 130
_STAGING = f"{TEMPORARY_PREFIX}wandb-"
_COPIES = "reports"
"""Below the folders of W&B runs: the files of reports as they were told. W&B reads them when the run is sent."""
_INIT_TIMEOUT_S = 60
_FINISH_TIMEOUT_S = 600
_NAME_LENGTH = 128  # of an artifact
_SETTING = re.compile(r"[a-z]+=")  # paths are absolute, or begin otherwise
_USAGE = "usage: python -m vlmablate.tracking.wandb_replay FOLDER [STUDY_FOLDER ...] [key=value ...]"


@dataclass(frozen=True)
class _Place:
    """Where runs are told to: the group (the folder of the study, or of the set of studies), the settings, the folder
    of the W&B runs' folders, and the right to work on it."""

    group: Path
    tracking: Tracking
    target: Path
    lease: Lease


def replay(
    group: Path,
    studies: Sequence[Path],
    tracking: Tracking,
    report: Report,
    heartbeat_s: float = HEARTBEAT_S,
) -> int:
    """Tell W&B the finished runs that are not marked, and the reports if they are new; returns how many runs there
    were.

    Args:
        group: the folder of the set that the studies were computed in; of a single study, its own.
        studies: the folders of the studies.

    Raises:
        UserError: when a study cannot be read.
        LeaseLostError: when another process took this one for dead.
        Exception: whatever W&B raises; the runs before that are told and marked.
    """
    group, studies = group.absolute(), [folder.absolute() for folder in studies]
    home = group.parents[1]
    if not _todo(_load(studies, home)) and not untold_report(group, studies):
        return 0
    target = tracking.folder(home)
    with turn(home, report, heartbeat_s) as lease:
        for left in target.glob(f"{_STAGING}*"):
            shutil.rmtree(left, ignore_errors=True)
        place = _Place(group, tracking, target, lease)
        # Looked at again: somebody may have been at it while this process waited.
        loaded = _load(studies, home)
        todo = _todo(loaded)
        for one in todo:
            _tell_run(one, place)
        reported = bool(untold_report(group, studies))
        if reported:
            _tell_report(loaded, place)
    said = [f"{len(todo)} runs"] if todo else []
    if reported:
        said.append("the report")
    if said:
        report(f"W&B: {' and '.join(said)} tracked, {tracking.mode}, project {tracking.project}")
        if tracking.mode == "offline":
            report(f"  send them: vlmablate track sync{f' dir={target}' if tracking.dir else ''}")
    return len(todo)


def _load(studies: Sequence[Path], home: Path) -> list[Study]:
    return [Study.load(folder, home) for folder in studies]


def _todo(studies: Sequence[Study]) -> list[Tracked]:
    every: dict[str, Tracked] = {}  # equal cells of two contexts, or of two studies, are one run
    for study in studies:
        for one in tracked(study):
            every.setdefault(one.run.run_id, one)
    return [one for run_id, one in every.items() if one.study.result(run_id) and not _mark(one).exists()]


def _mark(told: Tracked) -> Path:
    return told.study.directory(told.run.run_id) / MARK


def _tell_run(told: Tracked, place: _Place) -> None:
    run_id = told.run.run_id
    made = _tell(run_id, history(told), place)
    facts = {"run_id": run_id, "study": told.study.name, **_where(place.tracking), "folder": made}
    write_json(_mark(told), {**facts, "tracked": now_text()})


def _tell_report(studies: Sequence[Study], place: _Place) -> None:
    """The reports as they are now, as a new version of their artifact."""
    run_id = report_id(place.group)
    copies = place.target / _COPIES / run_id
    files, digest = _copied(report_files(place.group, [study.folder for study in studies]), copies)

    def attach(run: Any) -> None:
        import wandb

        name = f"{REPORT}-{place.group.name}"[:_NAME_LENGTH]
        artifact = wandb.Artifact(name, type=REPORT, metadata={"study": place.group.name, "digest": digest})
        for inside, path in files.items():
            # The copy is final: W&B need not make another one in a folder of its own.
            artifact.add_file(str(path), name=inside, policy="immutable", skip_cache=True)
        run.log_artifact(artifact, aliases=["latest", digest[:16]])

    made = _tell(run_id, report_history(place.group, studies), place, attach)
    facts = {"run_id": run_id, "digest": digest, **_where(place.tracking), "folder": made}
    write_json(place.group / MARK, {**facts, "tracked": now_text()})
    for version in copies.iterdir():
        if version.name != digest:
            shutil.rmtree(version, ignore_errors=True)


def _copied(files: Mapping[str, Path], folder: Path) -> tuple[dict[str, Path], str]:
    """The files in a folder that is named by their digest, and the digest: reports may be written anew before the run
    is sent, and while they are copied."""
    folder.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=_STAGING, dir=folder))
    for name, path in files.items():
        with write_with(staging / name) as copy:
            shutil.copyfile(path, copy)
    digest = digest_of({name: staging / name for name in files})
    final = folder / digest
    if final.exists():
        shutil.rmtree(final)
    os.replace(staging, final)
    return {name: final / name for name in files}, digest


def _tell(run_id: str, told: History, place: _Place, attach: Callable[[Any], None] = lambda run: None) -> str:
    """Write one W&B run, whole or not at all. Returns the name of its folder."""
    target = place.target
    target.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=_STAGING, dir=target))
    try:
        _write(run_id, told, place, staging, attach)
        (made,) = staging.glob(f"*/*run-*-{run_id}")
        for path in made.glob("*.wandb"):
            with open(path, "rb+") as written:
                os.fsync(written.fileno())
        place.lease.check()
        for old in target.glob(f"*run-*-{run_id}"):
            shutil.rmtree(old)
        os.replace(made, target / made.name)
        fsync_directory(target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return made.name


def _where(tracking: Tracking) -> dict[str, Any]:
    return {"project": tracking.project, "entity": tracking.entity, "mode": tracking.mode}


def _write(run_id: str, told: History, place: _Place, staging: Path, attach: Callable[[Any], None]) -> None:
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
    run = wandb.init(
        **_where(place.tracking),
        id=run_id,
        name=told.name,
        group=place.group.name,
        job_type=told.job,
        tags=list(told.tags),
        notes=told.notes or None,
        config=told.config,
        dir=str(staging),
        settings=settings,
    )
    index = 0
    for role, points in told.curves.items():
        run.define_metric(f"{role}/step")
        run.define_metric(f"{role}/*", step_metric=f"{role}/step")
        for point in points:
            run.log({f"{role}/{key}": value for key, value in point.items()}, step=index)
            index += 1
    run.summary.update(told.summary)
    attach(run)
    run.finish()


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns 0, 1 when W&B failed, 2 for mistakes, 130 when it was interrupted."""
    given = sys.argv[1:] if arguments is None else arguments

    def report(text: str) -> None:
        print(text, flush=True)

    try:
        words = [word for word in given if _SETTING.match(word)]
        folders = [Path(word) for word in given if not _SETTING.match(word)]
        if not folders:
            raise UserError(_USAGE)
        tracking = read_tracking({**dict(word.split("=", 1) for word in words), "name": "wandb"})
        assert tracking is not None
        require_wandb()
        for name in OF_ONE_RUN:
            os.environ.pop(name, None)
        replay(folders[0], folders[1:] or folders, tracking, report)
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
