"""plan = desired - store - live: which steps are wanted, which exist, which someone else computes, what is
left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from vlmablate.design.spec import RunSpec, StepSpec
from vlmablate.orchestration.estimates import Estimator
from vlmablate.orchestration.jobs import Job, group, makespan
from vlmablate.orchestration.lease import RUNNING
from vlmablate.orchestration.store import State, Store


class Status(StrEnum):
    """What the plan says about a step."""

    NEW = "new"
    DONE = "done"
    LIVE = "live"
    UNNEEDED = "unneeded"


@dataclass(frozen=True)
class PlannedStep:
    """One desired step: its status, the number of runs that use it, and its expected seconds (0
    when done).
    """

    spec: StepSpec
    status: Status
    runs: int
    seconds: float
    note: str = ""


@dataclass(frozen=True)
class Corrupt:
    """A finished step whose files are damaged; it must be moved aside before it can be computed again."""

    directory: Path
    reason: str


@dataclass(frozen=True)
class Plan:
    """The difference between the declaration and the store.

    Attributes:
        steps: every desired step once, dependencies first, in the order of the runs.
        jobs: the missing steps, grouped for workers (steps that someone else computes right now included:
            they are followed, and taken over when their owner is gone).
        corrupt: damaged results among the needed steps.
        runs_done: how many runs have their evaluation.
        alone_s: expected seconds of one worker if every run were computed alone, without sharing and from
            nothing.
        shared_s: the same with every step computed once.
        work_s: expected seconds of one worker for what is missing.
        wall_s: expected wall seconds for what is missing, on ``slots`` workers.
    """

    runs: tuple[RunSpec, ...]
    steps: tuple[PlannedStep, ...]
    jobs: tuple[Job, ...]
    corrupt: tuple[Corrupt, ...]
    slots: int
    runs_done: int
    alone_s: float
    shared_s: float
    work_s: float
    wall_s: float
    estimator: Estimator = field(compare=False)

    @property
    def missing(self) -> list[StepSpec]:
        """The steps to compute or to follow, dependencies first."""
        return [planned.spec for planned in self.steps if planned.status in (Status.NEW, Status.LIVE)]

    @property
    def finished(self) -> bool:
        """True when every run has its evaluation."""
        return not self.jobs


def unique_steps(runs: Sequence[RunSpec]) -> dict[str, StepSpec]:
    """id -> step over all runs, each once, dependencies first, in the order of the runs."""
    return {step.id: step for run in runs for step in run.steps.values()}


def make_plan(runs: Sequence[RunSpec], store: Store, estimator: Estimator, slots: int) -> Plan:
    """Compare the desired runs with the store.

    Only what a missing evaluation needs is planned: when an evaluation is there, the steps behind it may be
    gone. The store is only read; nothing is moved or claimed.
    """
    desired = unique_steps(runs)
    inspected = {step_id: store.inspect(step) for step_id, step in desired.items()}
    needed: set[str] = set()
    todo = [run.run_id for run in runs]
    while todo:
        step_id = todo.pop()
        if step_id in needed or inspected[step_id].state is State.DONE:
            continue
        needed.add(step_id)
        todo.extend(desired[step_id].deps.values())

    users: dict[str, int] = dict.fromkeys(desired, 0)
    for run in runs:
        for step_id in {step.id for step in run.steps.values()}:
            users[step_id] += 1

    corrupt, steps = [], []
    for step_id, step in desired.items():
        found = inspected[step_id]
        status, note = Status.UNNEEDED, ""
        if step_id in needed:
            status = Status.NEW
            attempt = store.attempt(step)
            if attempt is not None and attempt.alive():
                status, note = Status.LIVE, attempt.describe()
            elif found.state is State.CORRUPT:
                corrupt.append(Corrupt(store.directory(step), found.reason))
                note = f"damaged: {found.reason}"
            elif attempt is not None:
                ended = "was cut off" if attempt.state == RUNNING else attempt.state
                note = f"attempt {attempt.number} {ended}"
        elif found.state is State.DONE:
            status = Status.DONE
        seconds = estimator.seconds(step) if step_id in needed else 0.0
        steps.append(PlannedStep(step, status, users[step_id], seconds, note))

    jobs = group([desired[planned.spec.id] for planned in steps if planned.spec.id in needed], runs)
    work = sum(planned.seconds for planned in steps)
    # On the path of a finished study nothing is estimated, so the history is not even read.
    shared = sum(estimator.seconds(step) for step in desired.values()) if jobs else 0.0
    alone = sum(estimator.seconds(step) for run in runs for step in run.steps.values()) if jobs else 0.0
    return Plan(
        runs=tuple(runs),
        steps=tuple(steps),
        jobs=tuple(jobs),
        corrupt=tuple(corrupt),
        slots=slots,
        runs_done=sum(inspected[run.run_id].state is State.DONE for run in runs),
        alone_s=alone,
        shared_s=shared,
        work_s=work,
        wall_s=makespan(jobs, slots, estimator.seconds) if jobs else 0.0,
        estimator=estimator,
    )


def duration(seconds: float) -> str:
    """A rough duration in words: ``45 s``, ``3 min``, ``1 h 20 min``."""
    if seconds < 90:
        return f"{max(0.0, seconds):.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def table(plan: Plan, limit: int = 60) -> list[str]:
    """The plan as lines of text: one row per step, or one per kind when there are more than
    ``limit`` steps.
    """
    rows: list[tuple[str, ...]] = []
    if len(plan.steps) <= limit:
        head: tuple[str, ...] = ("step", "what", "status", "used by", "time", "")
        for planned in plan.steps:
            used = f"{planned.runs} runs" if planned.runs > 1 else "1 run"
            time = f"~{duration(planned.seconds)}" if planned.seconds else ""
            rows.append((planned.spec.kind, planned.spec.slug, planned.status, used, time, planned.note))
    else:
        head = ("step", "steps", "new", "live", "done", "shared", "time")
        for kind in dict.fromkeys(planned.spec.kind for planned in plan.steps):
            of_kind = [planned for planned in plan.steps if planned.spec.kind == kind]
            count = {status: sum(p.status is status for p in of_kind) for status in Status}
            done = count[Status.DONE] + count[Status.UNNEEDED]
            shared = sum(planned.runs > 1 for planned in of_kind)
            seconds = sum(planned.seconds for planned in of_kind)
            numbers = (len(of_kind), count[Status.NEW], count[Status.LIVE], done, shared)
            rows.append((kind, *map(str, numbers), f"~{duration(seconds)}" if seconds else ""))
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (head, *rows)
    ]


def summary(plan: Plan) -> list[str]:
    """Counts, the time estimate, and what sharing saves, in one to three lines."""
    count = {status: sum(planned.status is status for planned in plan.steps) for status in Status}
    shared = sum(planned.runs > 1 for planned in plan.steps)
    parts = [f"{count[Status.NEW]} new"]
    if count[Status.LIVE]:
        parts.append(f"{count[Status.LIVE]} being computed by others")
    parts.append(f"{count[Status.DONE] + count[Status.UNNEEDED]} done")
    lines = [
        f"{len(plan.runs)} runs, {plan.runs_done} done; {len(plan.steps)} steps: {', '.join(parts)}; "
        f"{shared} shared by several runs"
    ]
    if plan.finished:
        return lines
    lines.append(
        f"about {duration(plan.wall_s)} on {plan.slots} worker{'s' if plan.slots != 1 else ''} "
        f"({duration(plan.work_s)} of work)"
    )
    if plan.alone_s > plan.shared_s:
        saved = plan.alone_s - plan.shared_s
        lines.append(
            f"sharing steps saves {duration(saved)} of {duration(plan.alone_s)} "
            f"({100 * saved / plan.alone_s:.0f} %) against computing every run alone"
        )
    return lines
