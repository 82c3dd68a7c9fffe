"""Jobs: chains of steps that run in one process, so that a run pays for its imports once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from pathlib import Path
from types import MappingProxyType
from typing import Any

from vlmablate.design.spec import RunSpec, StepSpec
from vlmablate.orchestration.lease import HEARTBEAT_S, TTL_S
from vlmablate.orchestration.milestones import Milestone, to_json
from vlmablate.orchestration.store import Store

CHAINED = frozenset({"align", "trunk", "finetune", "evaluate"})
"""Kinds that may follow each other in one process; the others are shared by many runs and go alone."""


@dataclass(frozen=True)
class Job:
    """A chain of steps. ``label`` says in words whose steps they are."""

    name: str
    label: str
    steps: tuple[StepSpec, ...] = field(hash=False)

    @property
    def requires(self) -> frozenset[str]:
        """Ids of the steps outside the job that must be finished before it starts."""
        own = {step.id for step in self.steps}
        return frozenset(dep for step in self.steps for dep in step.deps.values() if dep not in own)


def group(missing: Sequence[StepSpec], runs: Sequence[RunSpec]) -> list[Job]:
    """Group missing steps into jobs, in the order of ``missing``.

    A step joins the job of the step that waits for it when that is the only one and both kinds may be
    chained; so a run's [align, finetune, evaluate] is one job, and an alignment that several runs share is a
    job of its own.
    """
    by_id = {step.id: step for step in missing}
    waiting: dict[str, list[StepSpec]] = {step.id: [] for step in missing}
    for step in missing:
        for dep in set(step.deps.values()) & by_id.keys():
            waiting[dep].append(step)
    chains: dict[str, list[StepSpec]] = {}
    for step in missing:  # dependencies come first in `missing`
        chain = [step]
        for dep in step.deps.values():
            joined = chains.get(dep)
            if joined and step.kind in CHAINED and by_id[dep].kind in CHAINED and len(waiting[dep]) == 1:
                chain = [*joined, step]
                del chains[dep]
                break
        chains[step.id] = chain
    order = {step.id: position for position, step in enumerate(missing)}
    ordered = sorted(chains.values(), key=lambda chain: order[chain[0].id])
    users: dict[str, list[RunSpec]] = {}
    for run in runs:
        for step_id in {step.id for step in run.steps.values()}:
            users.setdefault(step_id, []).append(run)
    return [
        Job(f"{chain[-1].kind}-{chain[-1].id}", _label(chain[-1], users.get(chain[-1].id, [])), tuple(chain))
        for chain in ordered
    ]


def _label(last: StepSpec, users: Sequence[RunSpec]) -> str:
    if last.kind in CHAINED and users:
        more = f" (+{len(users) - 1})" if len(users) > 1 else ""
        return users[0].label + more
    return last.slug


def manifest(
    job: Job,
    *,
    store: Store,
    assets: Path,
    kinds: Mapping[str, str],
    execution: Mapping[str, Any],
    parent: int | None,
    directories: Mapping[str, Path] = MappingProxyType({}),
    milestones: Mapping[str, Sequence[Milestone]] = MappingProxyType({}),
    no_progress_after: int = 0,
    ttl_s: float = TTL_S,
    heartbeat_s: float = HEARTBEAT_S,
) -> dict[str, Any]:
    """Everything a worker needs, as plain JSON values: frozen specs, directories, placement, the kinds'
    functions.

    Args:
        directories: step id -> its folder, for steps that need not be there yet; the others are looked up in the store.
        milestones: step id -> where the loss of a trial is looked at.
        no_progress_after: so many allocations of one job in a row may end without a new checkpoint; 0: any number.
    """
    own = {step.id: directories.get(step.id) or store.directory(step) for step in job.steps}
    steps = []
    for step in job.steps:
        deps = {}
        for role, dep_id in step.deps.items():
            directory = own.get(dep_id) or directories.get(dep_id) or find_dependency(store, dep_id)
            deps[role] = {"id": dep_id, "dir": str(directory)}
        steps.append({"spec": step.to_dict(), "dir": str(own[step.id]), "deps": deps})
    return {
        "job": job.name,
        "home": str(store.home),
        "assets": str(assets),
        "kinds": dict(kinds),
        "execution": dict(execution),
        "parent": parent,
        "no_progress_after": no_progress_after,
        "milestones": to_json({step.id: milestones[step.id] for step in job.steps if step.id in milestones}),
        "lease": {"ttl_s": ttl_s, "heartbeat_s": heartbeat_s},
        "steps": steps,
    }


def find_dependency(store: Store, step_id: str) -> Path:
    """The folder of a finished step by its id alone. Raises FileNotFoundError when there is none."""
    root = store.home / "steps"
    for kind in sorted(path.name for path in root.iterdir() if path.is_dir()):
        found = store.find(kind, step_id)
        if found is not None:
            return found
    raise FileNotFoundError(f"no step with the id {step_id} under {root}")


def makespan(
    jobs: Sequence[Job],
    slots: int,
    seconds: Callable[[StepSpec], float],
    width: Callable[[Job], int] = lambda job: 1,
) -> float:
    """Expected wall time of ``jobs``, by simulating the order in which they would start.

    Args:
        jobs: in the order in which those that are ready start.
        slots: processes at once.
        seconds: expected seconds of a step.
        width: processes of a job; one that takes more than there are slots runs alone.
    """
    maker = {step.id: index for index, job in enumerate(jobs) for step in job.steps}
    waits_for = [{dep for dep in job.requires if dep in maker} for job in jobs]
    waiting: dict[str, list[int]] = {}
    for index, deps in enumerate(waits_for):
        for dep in deps:
            waiting.setdefault(dep, []).append(index)
    ready = [index for index, deps in enumerate(waits_for) if not deps]
    running: list[tuple[float, int, int]] = []  # (end of a step, job, which of its steps)
    clock, free = 0.0, max(1, slots)
    while ready or running:
        while ready and (need := min(width(jobs[ready[0]]), max(1, slots))) <= free:
            index = heappop(ready)
            free -= need
            heappush(running, (clock + seconds(jobs[index].steps[0]), index, 0))
        clock, index, position = heappop(running)
        steps = jobs[index].steps
        for other in waiting.get(steps[position].id, []):
            waits_for[other].discard(steps[position].id)
            if not waits_for[other]:
                heappush(ready, other)
        if position + 1 < len(steps):
            heappush(running, (clock + seconds(steps[position + 1]), index, position + 1))
        else:
            free += min(width(jobs[index]), max(1, slots))
    return clock
