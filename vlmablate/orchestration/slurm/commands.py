"""Slurm's own commands: run, bounded in time, and read into rows. Nothing here decides anything."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from vlmablate.errors import UserError

TIMEOUT_S = 30.0
SUBMIT_TIMEOUT_S = 120.0
_INVALID = "Invalid job id"


class NoAnswer(Exception):  # noqa: N818
    """A command of Slurm failed, hung, or printed what cannot be read.

    Nothing is known then, and that is no news of a death.
    """


@dataclass(frozen=True)
class Row:
    """One job or array element as ``squeue``, ``sacct`` or ``scontrol`` shows it.

    A row without an index stands for several elements; ``span`` says for which (``2-5,7``), or is empty.
    """

    job_id: str
    index: int | None
    name: str
    state: str
    reason: str = ""
    nodes: str = ""
    comment: str = ""
    span: str = ""


def require_slurm() -> None:
    """Raises UserError when Slurm's commands are not to be found."""
    for command in ("sbatch", "squeue", "scontrol", "scancel"):
        if shutil.which(command) is None:
            raise UserError(
                f"launcher=slurm needs Slurm's commands, and {command} is not on the PATH: run this on a login node "
                "of the cluster, or leave launcher=slurm out to use this machine"
            )


def clean_environment() -> dict[str, str]:
    """The environment without what a surrounding job left in it, so that a sweep may be started inside a job.

    SLURM_CONF and the like say which cluster to talk to and stay.
    """
    keep = ("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_TIME_FORMAT", "SLURM_CONF_SERVER", "SLURM_JWT")
    drop = ("SLURM_", "SLURMD_", "SBATCH_", "SRUN_", "SUBMITIT_", "PMI_", "PMIX_")
    own = ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    return {
        name: value
        for name, value in os.environ.items()
        if name in keep or not (name.startswith(drop) or name in own)
    }


def call(arguments: Sequence[str], timeout_s: float = TIMEOUT_S) -> str:
    """Standard output of a command. Raises :class:`NoAnswer` when it fails, hangs or does not exist."""
    try:
        done = subprocess.run(
            list(arguments),
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=timeout_s,
            env=clean_environment(),
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired as error:
        raise NoAnswer(f"{arguments[0]} gave no answer within {timeout_s:.0f} s") from error
    except OSError as error:
        raise NoAnswer(f"{arguments[0]} cannot be run: {error}") from error
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()
        raise NoAnswer(f"{arguments[0]} ended with code {done.returncode}: {said}")
    return done.stdout


_SQUEUE = "%F|%K|%A|%j|%T|%r|%N|%k"


def squeue() -> list[Row]:
    """Every job of this user that the controller of Slurm still remembers, ended ones included, one row per array
    element.
    """
    user = str(os.getuid())
    return read_squeue(
        call(["squeue", "--noheader", "--array", "--states=all", f"--user={user}", f"--format={_SQUEUE}"])
    )


def read_squeue(text: str) -> list[Row]:
    """Rows of :data:`_SQUEUE`. Raises :class:`NoAnswer` for a line of another form."""
    rows = []
    for line in text.splitlines():
        if not line.strip():
            continue
        parts = line.split("|")
        if len(parts) < 8:
            raise NoAnswer(f"squeue printed a line that cannot be read: {line[:80]!r}")
        array, index, job_id, name, state, reason, nodes = parts[:7]
        number = int(index) if index.isdigit() else None
        rows.append(
            Row(
                array if number is not None else job_id,
                number,
                name,
                state,
                reason,
                nodes,
                "|".join(parts[7:]),
            )
        )
    return rows


def sacct(job_ids: Sequence[str], since: str) -> list[Row]:
    """What the accounting says of these jobs; steps of jobs are left out.

    Args:
        job_ids: ids of arrays or jobs.
        since: ``YYYY-MM-DDTHH:MM:SS``, local time; ids are reused, so older jobs are not asked for.
    """
    if not job_ids:
        return []
    text = call(
        [
            "sacct", "--noheader", "--parsable2", "--allocations", "--array", "--duplicates", f"--starttime={since}",
            "--format=JobID,JobName%60,State,NodeList%200,Submit", f"--jobs={','.join(job_ids)}",
        ]
    )  # fmt: skip
    return read_sacct(text)


def read_sacct(text: str) -> list[Row]:
    """Rows of :func:`sacct`; a requeued job has several, the last one counts. Raises :class:`NoAnswer`."""
    latest: dict[tuple[str, int | None], Row] = {}
    for line in text.splitlines():
        if not line.strip():
            continue
        parts = line.split("|")
        if len(parts) < 5:
            raise NoAnswer(f"sacct printed a line that cannot be read: {line[:80]!r}")
        found = re.fullmatch(r"(\d+)(?:_(\d+))?", parts[0])
        if found is None:
            continue  # a step, or an array that is not expanded yet
        index = int(found[2]) if found[2] else None
        state = parts[2].split()[0] if parts[2].strip() else ""  # "CANCELLED by 1000"
        latest[found[1], index] = Row(found[1], index, parts[1], state, "", parts[3])
    return list(latest.values())


def show_job(job_id: str) -> list[Row] | None:
    """All elements of a job as ``scontrol show job`` knows them; None when it says that there is no such job."""
    try:
        text = call(["scontrol", "--oneliner", "show", "job", job_id])
    except NoAnswer as error:
        if _INVALID in str(error):
            return None
        raise
    rows = []
    for line in text.splitlines():
        facts = dict(part.split("=", 1) for part in line.split() if "=" in part)
        if "JobId" not in facts:
            continue
        index = facts.get("ArrayTaskId", "")
        rows.append(
            Row(
                facts.get("ArrayJobId", facts["JobId"]),
                int(index) if index.isdigit() else None,
                facts.get("JobName", ""),
                facts.get("JobState", ""),
                facts.get("Reason", ""),
                facts.get("NodeList", ""),
                facts.get("Comment", ""),
                span_of(index),
            )
        )
    if not rows:
        raise NoAnswer("scontrol show job printed nothing that can be read")
    return rows


def span_of(text: str) -> str:
    """The elements that a row without an index stands for, from what is printed in the index's place (``2-5%3``)."""
    listed = text.partition("%")[0].strip("[]")
    return (
        listed
        if re.fullmatch(r"\d+(-\d+(:\d+)?)?(,\d+(-\d+(:\d+)?)?)*", listed) and not listed.isdigit()
        else ""
    )


def covers(span: str, index: int) -> bool:
    """Whether ``2-5,7`` names an index."""
    for part in span.split(","):
        bounds, _, step = part.partition(":")
        first, _, last = bounds.partition("-")
        if int(first) <= index <= int(last or first) and (index - int(first)) % int(step or 1) == 0:
            return True
    return False


@dataclass(frozen=True)
class Limits:
    """What the cluster allows: no array index may reach ``max_array``; a job that is ended has ``kill_wait_s`` seconds
    between SIGTERM and SIGKILL.
    """

    max_array: int
    kill_wait_s: float


def limits() -> Limits:
    """The cluster's limits. Raises UserError when Slurm does not tell, because then it takes no jobs either."""
    try:
        text = call(["scontrol", "show", "config"])
    except NoAnswer as error:
        raise UserError(f"Slurm cannot be asked: {error}\nnothing was submitted") from error
    found = {
        name: re.search(rf"^{name}\s*=\s*(\d+)", text, re.MULTILINE) for name in ("MaxArraySize", "KillWait")
    }
    size, wait = found["MaxArraySize"], found["KillWait"]
    # The defaults are Slurm's own.
    return Limits(int(size[1]) if size else 1001, float(wait[1]) if wait else 30.0)


def scancel(names: Sequence[str]) -> None:
    """Cancel jobs (``123``) and elements (``123_4``)."""
    if names:
        call(["scancel", *names])


def start_now(name: str) -> None:
    """Lift the delay that Slurm puts on a job that went back to the queue."""
    call(["scontrol", "update", f"JobId={name}", "StartTime=now"])
