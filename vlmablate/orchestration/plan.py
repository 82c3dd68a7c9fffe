"""plan = desired - store - live: which steps are wanted, which exist, which someone else computes, what is
left.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType

from vlmablate.design.spec import RunSpec, StepSpec
from vlmablate.orchestration.estimates import Estimator
from vlmablate.orchestration.jobs import Job, group, makespan
from vlmablate.orchestration.lease import RUNNING, Attempt, latest
from vlmablate.orchestration.marks import cancellation
from vlmablate.orchestration.store import ATTEMPTS, RESULT, Inspection, State, Store, inspect_directory


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

    ``note`` says more: who computes it, how its last attempt ended. ``failed``: it was tried before and failed, or was
    cancelled. ``queued``: the job of a step that waits in a queue.
    """

    spec: StepSpec
    status: Status
    runs: int
    seconds: float
    note: str = ""
    failed: bool = False
    queued: str = ""

    @property
    def word(self) -> str:
        """The status for people: also failed and submitted, which are new or live to everyone else."""
        if self.status is Status.NEW and self.queued:
            return "submitted"
        return "failed" if self.failed else str(self.status)


@dataclass(frozen=True)
class Corrupt:
    """A finished step whose files are damaged; it must be moved aside before it can be computed again."""

    directory: Path
    reason: str


@dataclass(frozen=True)
class Plan:
    """The difference between the declaration and the store.

    Attributes:
        runs: every desired run once.
        steps: every desired step once, dependencies first, in the order of the runs.
        jobs: the missing steps, grouped for workers (steps that someone else computes right now included:
            they are followed, and taken over when their owner is gone).
        corrupt: damaged results among the needed steps.
        done: ids of the runs that have their evaluation.
        asked: how many runs were asked for; more than ``runs`` when several studies want the same one.
        alone_steps: how many steps these would need if each were computed alone.
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
    done: frozenset[str]
    asked: int
    alone_steps: int
    alone_s: float
    shared_s: float
    work_s: float
    wall_s: float
    estimator: Estimator = field(compare=False)

    @property
    def runs_done(self) -> int:
        """How many runs have their evaluation."""
        return len(self.done)

    @property
    def missing(self) -> list[StepSpec]:
        """The steps to compute or to follow, dependencies first."""
        return [planned.spec for planned in self.steps if planned.status in (Status.NEW, Status.LIVE)]

    @property
    def finished(self) -> bool:
        """True when every run has its evaluation."""
        return not self.jobs


def unique_steps(runs: Iterable[RunSpec]) -> dict[str, StepSpec]:
    """id -> step over all runs, each once, dependencies first, in the order of the runs."""
    return {step.id: step for run in runs for step in run.steps.values()}


class _Look:
    """The store at one moment: every kind's folder is listed once, and every step is looked at once."""

    def __init__(self, store: Store, kinds: Iterable[str]) -> None:
        self._kinds = {kind: (store.kind_directory(kind), store.listing(kind)) for kind in kinds}
        self._inspected: dict[str, Inspection] = {}

    def inspect(self, step: StepSpec) -> Inspection:
        if step.id not in self._inspected:
            folder = self.folder(step)
            absent = Inspection(State.ABSENT)
            self._inspected[step.id] = inspect_directory(folder, step.id) if folder else absent
        return self._inspected[step.id]

    def folder(self, step: StepSpec) -> Path | None:
        parent, names = self._kinds[step.kind]
        name = names.get(step.id)
        return parent / name if name is not None else None

    def has_result(self, step: StepSpec) -> bool:
        parent, names = self._kinds[step.kind]
        name = names.get(step.id)
        return name is not None and os.path.exists(f"{parent}/{name}/{RESULT}")

    def attempt(self, step: StepSpec) -> Attempt | None:
        folder = self.folder(step)
        return latest(folder / ATTEMPTS) if folder else None

    def planned(self, step: StepSpec, users: int, seconds: float, queued: str) -> tuple[PlannedStep, str]:
        """A needed step, and what is wrong with the files of its result, if anything."""
        found, attempt = self.inspect(step), self.attempt(step)
        if attempt is not None and attempt.alive():
            return PlannedStep(step, Status.LIVE, users, seconds, attempt.describe(), queued=queued), ""
        folder = self.folder(step)
        note, failed = "", False
        if found.state is State.CORRUPT:
            note = f"damaged: {found.reason}"
        elif folder is not None and (who := cancellation(folder)):
            note, failed = f"{who}; vlmablate retry brings it back", True
        elif attempt is not None:
            ended = "was cut off" if attempt.state == RUNNING else attempt.state
            note, failed = f"attempt {attempt.number} {ended}", attempt.state == "failed"
        if queued:
            note = f"job {queued}"
        damage = found.reason if found.state is State.CORRUPT else ""
        return PlannedStep(step, Status.NEW, users, seconds, note, failed and not queued, queued), damage


def make_plan(
    runs: Sequence[RunSpec],
    store: Store,
    estimator: Estimator,
    slots: int,
    queued: Mapping[str, str] = MappingProxyType({}),
) -> Plan:
    """Compare the desired runs with the store.

    Only what a missing evaluation needs is planned: when an evaluation is there, the steps behind it may be
    gone, and damage to them is not looked for. The store is only read; nothing is moved or claimed.

    Args:
        runs: what is wanted; the same run may be wanted by several studies.
        store: what there is.
        estimator: what steps cost.
        slots: workers at once.
        queued: step id -> job, for the steps that wait in a queue.
    """
    once = list({run.run_id: run for run in runs}.values())
    desired = unique_steps(once)
    look = _Look(store, {step.kind for step in desired.values()})
    needed: set[str] = set()
    done: set[str] = set()
    todo = [run.run_id for run in once]
    while todo:
        step_id = todo.pop()
        if step_id in needed or step_id in done:
            continue
        if look.inspect(desired[step_id]).state is State.DONE:
            done.add(step_id)
            continue
        needed.add(step_id)
        todo.extend(desired[step_id].deps.values())

    users: dict[str, int] = dict.fromkeys(desired, 0)
    for run in once:
        for step_id in {step.id for step in run.steps.values()}:
            users[step_id] += 1

    corrupt, steps = [], []
    for step_id, step in desired.items():
        if step_id in needed:
            planned, damage = look.planned(
                step, users[step_id], estimator.seconds(step), queued.get(step_id, "")
            )
            if damage and planned.status is Status.NEW:
                corrupt.append(Corrupt(store.directory(step), damage))
        else:
            there = step_id in done or look.has_result(step)
            planned = PlannedStep(step, Status.DONE if there else Status.UNNEEDED, users[step_id], 0.0)
        steps.append(planned)

    jobs = group([desired[planned.spec.id] for planned in steps if planned.spec.id in needed], once)
    # On the path of a finished study nothing is estimated, so the history is not even read.
    shared = sum(estimator.seconds(step) for step in desired.values()) if jobs else 0.0
    alone = sum(estimator.seconds(step) for run in runs for step in run.steps.values()) if jobs else 0.0
    return Plan(
        runs=tuple(once),
        steps=tuple(steps),
        jobs=tuple(jobs),
        corrupt=tuple(corrupt),
        slots=slots,
        done=frozenset(run.run_id for run in once) & done,
        asked=len(runs),
        alone_steps=sum(len(run.steps) for run in runs),
        alone_s=alone,
        shared_s=shared,
        work_s=sum(planned.seconds for planned in steps),
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
            rows.append((planned.spec.kind, planned.spec.slug, planned.word, used, time, planned.note))
    else:
        words = ("new", "failed", "submitted", "live", "done")
        head = ("step", "steps", *words, "shared", "time")
        for kind in dict.fromkeys(planned.spec.kind for planned in plan.steps):
            of_kind = [planned for planned in plan.steps if planned.spec.kind == kind]
            count = _count(of_kind)
            shared = sum(planned.runs > 1 for planned in of_kind)
            seconds = sum(planned.seconds for planned in of_kind)
            numbers = (len(of_kind), *(count[word] for word in words), shared)
            rows.append((kind, *map(str, numbers), f"~{duration(seconds)}" if seconds else ""))
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (head, *rows)
    ]


def _count(steps: Iterable[PlannedStep]) -> dict[str, int]:
    """How many steps of each status; what is not needed any more counts as done."""
    count = dict.fromkeys(("new", "failed", "submitted", "live", "done"), 0)
    for planned in steps:
        count["done" if planned.status is Status.UNNEEDED else planned.word] += 1
    return count


def summary(plan: Plan) -> list[str]:
    """Counts, the time estimate, and what sharing saves, in one to three lines."""
    count = _count(plan.steps)
    shared = sum(planned.runs > 1 for planned in plan.steps)
    parts = [f"{count['new']} new"]
    if count["failed"]:
        parts.append(f"{count['failed']} failed before")
    if count["submitted"]:
        parts.append(f"{count['submitted']} submitted")
    if count["live"]:
        parts.append(f"{count['live']} being computed by others")
    parts.append(f"{count['done']} done")
    asked = f" ({plan.asked} asked for)" if plan.asked > len(plan.runs) else ""
    lines = [
        f"{len(plan.runs)} runs{asked}, {plan.runs_done} done; {len(plan.steps)} steps: {', '.join(parts)}; "
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
            f"sharing steps saves {plan.alone_steps - len(plan.steps)} of {plan.alone_steps} steps and "
            f"{duration(saved)} of {duration(plan.alone_s)} "
            f"({100 * saved / plan.alone_s:.0f} %) against computing every run alone"
        )
    return lines
