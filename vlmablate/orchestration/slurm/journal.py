"""The journal of submissions: what was meant to be submitted is written down before Slurm hears of it.

A submission is a folder ``<home>/submissions/<token>/``. The token is made here and travels with the job as its
comment and in its name, so that after any interruption Slurm itself can be asked whether a submission arrived:

- ``jobs.jsonl``, ``batch.sh``: what the elements of the array will do; line N is array index N of the file's own list
- ``intent.json``: written next; from here on the submission exists
- ``record.json``: written when Slurm has answered with a job id
- ``exits/<index>-<restart>.json``: how an element ended, written by its own script
- ``revoked.json``: Slurm never knew it; an element that should turn up all the same ends at once
- ``taken-back.json``: indices that the controller itself cancelled, because the sweep was stopped
- ``closed.json``: every element has ended and was judged
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from vlmablate.files import read_json, write_bytes, write_json
from vlmablate.orchestration.lease import now_text

FOLDER = "submissions"
INTENT = "intent.json"
RECORD = "record.json"
REVOKED = "revoked.json"
CLOSED = "closed.json"
TAKEN_BACK = "taken-back.json"
JOBS = "jobs.jsonl"
SCRIPT = "batch.sh"
EXITS = "exits"
LOGS = "logs"
COMMENT_PREFIX = "vlmablate:"


def new_token() -> str:
    """A name for a submission that nobody else uses."""
    return uuid.uuid4().hex[:16]


def job_name(token: str) -> str:
    """The name of a submission's jobs in Slurm. It is unique, because job ids are used again and names are not."""
    return f"vlm-{token}"


@dataclass(frozen=True)
class Submission:
    """One submission as its folder tells it.

    Attributes:
        token: its name.
        folder: its folder.
        job_id: Slurm's id of the array, None before Slurm has answered.
        intent: what was written before (study, created, jobs: index -> {name, label, steps}, profile, …).
    """

    token: str
    folder: Path
    job_id: str | None
    intent: Mapping[str, Any]

    @property
    def study(self) -> str:
        """The study that submitted it."""
        return str(self.intent["study"])

    @cached_property
    def indices(self) -> tuple[int, ...]:
        """The array indices, in order."""
        return tuple(sorted(int(index) for index in self.intent["jobs"]))

    def job(self, index: int) -> Mapping[str, Any]:
        """{name, label, steps: [{id, kind, dir}]} of an element."""
        found: Mapping[str, Any] = self.intent["jobs"][str(index)]
        return found

    def element_name(self, index: int) -> str:
        """How Slurm's commands call an element."""
        return f"{self.job_id}_{index}"

    def log(self, index: int) -> Path:
        """What the element's own script printed; steps have logs of their own."""
        return self.folder / LOGS / f"{index}.log"

    def exit_records(self) -> dict[int, dict[str, Any]]:
        """index -> the record of its latest end."""
        found: dict[int, tuple[int, str]] = {}
        try:
            names = os.listdir(self.folder / EXITS)
        except FileNotFoundError:
            return {}
        for name in names:
            index, _, restart = name.removesuffix(".json").partition("-")
            if index.isdigit() and restart.isdigit():
                found[int(index)] = max(found.get(int(index), (-1, "")), (int(restart), name))
        records = {}
        for number, (restart_count, name) in found.items():
            try:
                record = read_json(self.folder / EXITS / name)
            except (OSError, ValueError):
                continue
            records[number] = {**record, "restart": restart_count}
        return records


def folder(home: Path, token: str) -> Path:
    """Where a submission lives."""
    return home / FOLDER / token


def write_intent(
    home: Path, token: str, manifests: Sequence[Mapping[str, Any]], intent: Mapping[str, Any], script: str
) -> Submission:
    """Write a submission down, before Slurm is asked. The intent file comes last.

    Args:
        home: the results folder.
        token: name of the submission.
        manifests: one job manifest per element, in the order of the indices; each carries its ``index``.
        intent: {study, created, jobs, profile, after, corresponding, code}.
        script: the text of the batch script.
    """
    place = folder(home, token)
    for name in (EXITS, LOGS):
        (place / name).mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(manifest, separators=(",", ":")) + "\n" for manifest in manifests)
    write_bytes(place / JOBS, lines.encode())
    write_bytes(place / SCRIPT, script.encode())
    write_json(place / INTENT, {"token": token, **intent})
    return Submission(token, place, None, dict(intent))


def write_record(submission: Submission, job_id: str, how: str) -> Submission:
    """Note the id that Slurm gave; ``how`` says whether it answered or was asked later."""
    write_json(submission.folder / RECORD, {"job_id": job_id, "at": now_text(), "how": how})
    return Submission(submission.token, submission.folder, job_id, submission.intent)


def revoke(submission: Submission, why: str) -> None:
    """Slurm does not know the submission: should it arrive after all, it ends without doing anything."""
    write_json(submission.folder / REVOKED, {"at": now_text(), "why": why})


def take_back(submission: Submission, indices: Sequence[int]) -> None:
    """Note that these elements are about to be cancelled, and that it is no user who wants that. Raises DiskFull."""
    if indices:
        write_json(submission.folder / TAKEN_BACK, sorted({*taken_back(submission), *indices}))


def taken_back(submission: Submission) -> list[int]:
    """Indices that :func:`take_back` noted."""
    try:
        noted: list[int] = read_json(submission.folder / TAKEN_BACK)
    except (OSError, ValueError):
        return []
    return noted


def close(submission: Submission, outcomes: Mapping[int, str]) -> None:
    """Every element has ended: nobody has to look at the submission again."""
    write_json(
        submission.folder / CLOSED,
        {"at": now_text(), "outcomes": {str(i): text for i, text in outcomes.items()}},
    )


def close_finished(home: Path, is_done: Callable[[str, str], bool]) -> None:
    """Close the submissions that have nothing left to do, without asking Slurm.

    Args:
        home: the results folder.
        is_done: whether the step of a kind with an id has its result.
    """
    for submission in open_submissions(home):
        steps = [step for index in submission.indices for step in submission.job(index)["steps"]]
        if submission.job_id is not None and all(is_done(step["kind"], step["id"]) for step in steps):
            close(submission, dict.fromkeys(submission.indices, "DONE"))


def open_submissions(home: Path) -> list[Submission]:
    """The submissions that are neither closed nor revoked, oldest first. A folder without an intent never was one."""
    found = []
    try:
        tokens = os.listdir(home / FOLDER)
    except FileNotFoundError:
        return []
    for token in tokens:
        place = home / FOLDER / token
        try:
            names = set(os.listdir(place))
        except (FileNotFoundError, NotADirectoryError):
            continue
        if INTENT not in names or names & {CLOSED, REVOKED}:
            continue
        submission = read_submission(place)
        if submission is not None:
            found.append(submission)
    return sorted(found, key=lambda submission: (str(submission.intent.get("created")), submission.token))


def revoked_tokens(home: Path) -> set[str]:
    """Tokens of the submissions that were given up before Slurm confirmed them."""
    return {path.parent.name for path in (home / FOLDER).glob(f"*/{REVOKED}")}


def read_submission(place: Path) -> Submission | None:
    """The submission in a folder; None when its files cannot be read."""
    try:
        intent = read_json(place / INTENT)
    except (OSError, ValueError):
        return None
    try:
        job_id = str(read_json(place / RECORD)["job_id"])
    except (OSError, ValueError, KeyError):
        job_id = None
    return Submission(place.name, place, job_id, intent)


def read_manifest(place: Path, index: int) -> dict[str, Any]:
    """The frozen manifest of one element. Raises KeyError when the submission has no such index."""
    with open(place / JOBS, encoding="utf-8") as lines:
        for line in lines:
            # Every line starts with its index, so that no other line has to be parsed.
            if line.startswith(f'{{"index":{index},'):
                manifest: dict[str, Any] = json.loads(line)
                return manifest
    raise KeyError(f"{place / JOBS} has no element {index}")
