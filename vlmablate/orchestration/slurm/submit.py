"""Submitting so that a crash between any two instructions loses nothing and doubles nothing.

Write the intent, ask Slurm, write its answer. Whoever finds an intent without an answer asks Slurm for the token: the
job is there, and is adopted; or it is not, and the submission is revoked, so that a late arrival ends at once. All of
this happens under one lock of the results folder, so nobody judges another's submission in mid-flight.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from vlmablate.errors import DiskFull, UserError
from vlmablate.orchestration.lease import LeaseBusyError, claim, now_text
from vlmablate.orchestration.slurm import commands, journal
from vlmablate.orchestration.slurm.batches import Batch, dependency
from vlmablate.orchestration.slurm.commands import NoAnswer, Row
from vlmablate.orchestration.slurm.executor import QueueFull, SubmissionRefused, render, sbatch
from vlmablate.orchestration.slurm.journal import Submission

Report = Callable[[str], None]
ATTEMPTS = 3
RETRY_S = 2.0
LOCK = "submit"


@contextmanager
def submit_lock(home: Path, *, ttl_s: float, heartbeat_s: float) -> Iterator[None]:
    """Be the only one under ``home`` who plans and submits; waits for its turn."""
    place = home / journal.FOLDER / LOCK
    while True:
        try:
            lease = claim(place, ttl_s=ttl_s, heartbeat_s=heartbeat_s)
            break
        except LeaseBusyError:
            time.sleep(0.05)
    try:
        yield
    finally:
        with suppress(DiskFull):
            lease.finish("ended")
        lease.abandon()
        for number in range(1, lease.number - 1):
            # The history of a lock tells nothing; only its last holders matter.
            (place / f"{number:03d}.json").unlink(missing_ok=True)


def submit(
    home: Path,
    study: str,
    batch: Batch,
    manifests: Mapping[str, dict[str, Any]],
    code: Path,
    job_ids: Mapping[str, str],
    report: Report,
    pause: Callable[[float], None] = time.sleep,
) -> Submission:
    """Submit one array; call it under :func:`submit_lock`.

    Args:
        home: the results folder.
        study: who asks for it.
        batch: the array.
        manifests: job name -> its manifest.
        code: snapshot of the package.
        job_ids: token -> Slurm's id of the arrays it waits for.
        report: for messages.
        pause: waits before another try.

    Raises:
        UserError: Slurm refuses the job, or gives no answer however often it is asked. Nothing is left behind.
        QueueFull: the limit of jobs is reached.
    """
    for attempt in range(1, ATTEMPTS + 1):
        # Every try has a name of its own: should an earlier one arrive after all, it ends at once.
        named = batch if attempt == 1 else replace(batch, token=journal.new_token())
        submission = _write_down(home, study, named, manifests, code, job_ids)
        try:
            return journal.write_record(submission, sbatch(submission.folder), "answered")
        except SubmissionRefused as error:
            journal.revoke(submission, str(error))
            raise UserError(
                f"Slurm refuses the jobs of {study}: {error}\n"
                "look at execution.slurm (partition, account, qos, time_min, mem_gb); "
                f"the script is {submission.folder / journal.SCRIPT}"
            ) from error
        except QueueFull as error:
            journal.revoke(submission, str(error))
            raise
        except NoAnswer as error:
            said = error
        found = _look_up(submission, pause)
        if found is not None:
            report(f"adopted job {found.job_id}: Slurm had taken it although sbatch failed ({said})")
            return found
        journal.revoke(submission, str(said))
        if attempt < ATTEMPTS:
            report(f"sbatch gave no answer ({said}); trying again")
            pause(RETRY_S * attempt)
    raise UserError(
        f"Slurm takes no jobs now: {said}\nnothing was submitted; give the same command again later"
    )


def _write_down(
    home: Path,
    study: str,
    batch: Batch,
    manifests: Mapping[str, dict[str, Any]],
    code: Path,
    job_ids: Mapping[str, str],
) -> Submission:
    place = journal.folder(home, batch.token)
    lines = [{"index": index, **manifests[job.name]} for index, job in batch.jobs.items()]
    intent = {
        "study": study,
        "created": now_text(),
        "level": batch.level,
        "code": str(code),
        "dependency": dependency(batch, job_ids),
        "profile": {name: value for name, value in vars(batch.profile).items() if value not in (None, ())},
        "jobs": {
            str(index): {
                "name": job.name,
                "label": job.label,
                "steps": [{"id": step.id, "kind": step.kind, "slug": step.slug} for step in job.steps],
            }
            for index, job in batch.jobs.items()
        },
    }
    return journal.write_intent(home, batch.token, lines, intent, render(batch, place, code, job_ids))


def _look_up(submission: Submission, pause: Callable[[float], None]) -> Submission | None:
    """Ask Slurm for a submission by its token, a few times, because an accepted job can take a moment to show."""
    for wait in (0.2, 1.0, 2.0):
        with suppress(NoAnswer):
            job_id = find_token(commands.squeue(), submission.token)
            if job_id is not None:
                return journal.write_record(submission, job_id, "asked")
        pause(wait)
    return None


def find_token(rows: Sequence[Row], token: str) -> str | None:
    """Slurm's id of the array that carries a token; None when no row does."""
    for row in rows:
        if row.name == journal.job_name(token) or row.comment == f"{journal.COMMENT_PREFIX}{token}":
            return row.job_id
    return None


def adopt(home: Path, report: Report, pause: Callable[[float], None] = time.sleep) -> None:
    """Bring the journal up to date after a crash; call it under :func:`submit_lock`.

    Intents without an answer are looked up and adopted or revoked; a revoked submission that arrived late is
    cancelled.

    Raises:
        UserError: when Slurm gives no answer, because then nothing may be submitted.
    """
    waiting = [submission for submission in journal.open_submissions(home) if submission.job_id is None]
    revoked = journal.revoked_tokens(home) if waiting else set()
    if not waiting:
        return
    for wait in (1.0, 3.0, 0.0):
        try:
            rows = commands.squeue()
            break
        except NoAnswer as error:
            said = error
            pause(wait)
    else:
        raise UserError(
            f"an earlier submission may or may not have arrived, and Slurm cannot be asked: {said}\n"
            "nothing is submitted before that is known; give the same command again later"
        )
    for submission in waiting:
        job_id = find_token(rows, submission.token)
        if job_id is not None:
            journal.write_record(submission, job_id, "asked")
            report(f"adopted job {job_id}: it was submitted, but whoever did it was cut off")
        else:
            journal.revoke(submission, "Slurm did not know it")
    late = [row.job_id for row in rows if row.name.removeprefix("vlm-") in revoked]
    with suppress(NoAnswer):
        commands.scancel(sorted(set(late)))
