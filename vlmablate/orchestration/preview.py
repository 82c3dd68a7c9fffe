"""What ``mode=plan launcher=slurm`` would submit: the arrays and their scripts. Writes and submits nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from vlmablate.errors import UserError
from vlmablate.orchestration.jobs import Job
from vlmablate.orchestration.slurm import commands, journal
from vlmablate.orchestration.slurm.batches import Batch, make_batches
from vlmablate.orchestration.slurm.executor import render
from vlmablate.orchestration.slurm.settings import profile_of, read_profile
from vlmablate.orchestration.snapshot import FOLDER

DEFAULT_MAX_ARRAY = 1001
"""Slurm's MaxArraySize where nobody changed it."""


def batches_of(jobs: Sequence[Job], execution: Mapping[str, Any]) -> list[Batch]:
    """The arrays for these jobs, called ``array-1``, ``array-2``, …

    Raises:
        UserError: for a setting of ``execution.slurm`` that is unknown or out of range.
    """
    profile = read_profile(execution)
    try:
        limit = commands.limits().max_array
    except UserError:
        limit = DEFAULT_MAX_ARRAY
    if profile.max_array is not None:
        limit = min(limit, profile.max_array)
    number = count(1)
    return make_batches(
        jobs, lambda job: profile_of(job, profile), {}, limit, lambda: f"array-{next(number)}"
    )


def names(batches: Sequence[Batch]) -> list[tuple[str, int]]:
    """(name, number of jobs) of each array; the name says what its jobs are."""
    found = []
    for batch in batches:
        kinds = dict.fromkeys(step.kind for job in batch.jobs.values() for step in job.steps)
        found.append(("+".join(kinds), len(batch.jobs)))
    return found


def scripts(batches: Sequence[Batch], home: Path) -> list[str]:
    """The exact batch scripts, with ``array-N`` where a token and ``<id of array-N>`` where Slurm's ids will stand.

    Raises:
        RuntimeError: where Slurm's commands are not to be found.
    """
    ids = {batch.token: f"<id of {batch.token}>" for batch in batches}
    code = home / FOLDER / "<digest>"
    return [render(batch, journal.folder(home, batch.token), code, ids) for batch in batches]
