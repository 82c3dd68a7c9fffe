"""``vlmablate status``: the state of all studies from their files alone, quick enough to be called at any
time.

Imports nothing but the standard library and this package's own light modules.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vlmablate.errors import unknown_name
from vlmablate.files import read_json
from vlmablate.orchestration.context import PROGRESS_FILE
from vlmablate.orchestration.lease import Attempt, latest
from vlmablate.orchestration.store import ATTEMPTS, RESULT


@dataclass(frozen=True)
class ActiveStep:
    """A step that someone works on now."""

    kind: str
    what: str
    done: int
    total: int
    metrics: dict[str, float | None]
    owner: str


@dataclass(frozen=True)
class FailedStep:
    """A step whose latest attempt failed, with the cause and the log."""

    kind: str
    what: str
    cause: str
    log: str


@dataclass(frozen=True)
class StudyStatus:
    """One study: its counts, what is at work, what failed, and its report when there is one."""

    name: str
    axis: str
    scale: str
    runs: int
    runs_done: int
    steps: int
    steps_done: int
    controller: str
    active: tuple[ActiveStep, ...]
    failed: tuple[FailedStep, ...]
    report: str
    command: str

    @property
    def state(self) -> str:
        """One word: done, running, failed, or incomplete."""
        if self.runs_done == self.runs:
            return "done"
        if self.active or self.controller:
            return "running"
        return "failed" if self.failed else "incomplete"


def read_status(home: Path, name: str = "") -> list[StudyStatus]:
    """The status of every study under ``home``, or of the one called ``name``.

    Raises:
        UserError: when there is no study of that name; lists those there are.
    """
    studies = home / "studies"
    known = sorted(path.parent.name for path in studies.glob("*/study.json"))
    if name and name not in known:
        raise unknown_name("study", name, known, where=str(studies))
    found = []
    for study in [name] if name else known:
        try:
            declared = read_json(studies / study / "study.json")
        except (OSError, ValueError):
            continue  # being replaced, or damaged; the next sweep writes it again
        found.append(_study(home, studies / study, declared))
    return found


def _study(home: Path, folder: Path, declared: dict[str, Any]) -> StudyStatus:
    steps = declared["steps"]
    done = {step_id for step_id, step in steps.items() if os.path.exists(home / step["dir"] / RESULT)}
    active, failed = [], []
    for step_id, step in steps.items():
        if step_id in done:
            continue
        attempt = latest(home / step["dir"] / ATTEMPTS)
        if attempt is None:
            continue
        if attempt.alive():
            active.append(_active(home / step["dir"], step, attempt))
        elif attempt.state == "failed":
            error = attempt.record.get("error") or {}
            cause = f"{error.get('type', 'error')}: {error.get('message', '')}".strip()
            failed.append(FailedStep(step["kind"], step["slug"], cause, str(attempt.record.get("log", ""))))
    control = latest(folder / "control")
    html = folder / "report.html"
    return StudyStatus(
        name=folder.name,
        axis=declared["axis"]["name"],
        scale=declared["scale"],
        runs=len(declared["runs"]),
        runs_done=sum(run["run_id"] in done for run in declared["runs"]),
        steps=len(steps),
        steps_done=len(done),
        controller=control.describe() if control is not None and control.alive() else "",
        active=tuple(active),
        failed=tuple(failed),
        report=str(html) if html.exists() else "",
        command=declared["command"],
    )


def _active(directory: Path, step: dict[str, Any], attempt: Attempt) -> ActiveStep:
    try:
        said = read_json(directory / PROGRESS_FILE)
    except (OSError, ValueError):
        said = {}
    return ActiveStep(
        kind=step["kind"],
        what=step["slug"],
        done=int(said.get("done") or 0),
        total=int(said.get("total") or 0),
        metrics=dict(said.get("metrics") or {}),
        owner=attempt.describe(),
    )


def render(statuses: list[StudyStatus], home: Path) -> str:
    """The statuses as a plain table, with the steps at work and the failures below their study."""
    if not statuses:
        return f"no studies under {home} yet; start one: python -m vlmablate.sweep axis=image_resize"
    rows = [("study", "state", "runs", "steps", "report")]
    for status in statuses:
        runs = f"{status.runs_done}/{status.runs}"
        steps = f"{status.steps_done}/{status.steps}"
        rows.append((status.name, status.state, runs, steps, status.report))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    for status in statuses:
        for step in status.active:
            progress = f" {step.done}/{step.total}" if step.total else ""
            numbers = "".join(f" {k} {v:.3g}" for k, v in step.metrics.items() if v is not None)
            lines.append(f"  {status.name}: {step.kind} {step.what}{progress}{numbers}, {step.owner}")
        for failure in status.failed:
            lines.append(f"  {status.name}: FAILED {failure.kind} {failure.what}: {failure.cause}")
            lines.append(f"    log: {failure.log}")
        if status.state in ("failed", "incomplete"):
            lines.append(f"  {status.name}: to go on: {status.command}")
    return "\n".join(lines)


def to_json(statuses: list[StudyStatus]) -> str:
    """The statuses as JSON text."""
    return json.dumps([{**asdict(status), "state": status.state} for status in statuses], indent=1)
