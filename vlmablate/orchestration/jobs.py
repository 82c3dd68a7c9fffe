"""Jobs: chains of steps that run in one process, so that a run pays for its imports once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlmablate.design.spec import RunSpec, StepSpec
from vlmablate.orchestration.lease import HEARTBEAT_S, TTL_S
from vlmablate.orchestration.store import Store

CHAINED = frozenset({"align", "finetune", "evaluate"})
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
    return [Job(f"{chain[-1].kind}-{chain[-1].id}", _label(chain, runs), tuple(chain)) for chain in ordered]


def _label(chain: Sequence[StepSpec], runs: Sequence[RunSpec]) -> str:
    last = chain[-1]
    users = [run.label for run in runs if any(step.id == last.id for step in run.steps.values())]
    if last.kind in CHAINED and users:
        more = f" (+{len(users) - 1})" if len(users) > 1 else ""
        return users[0] + more
    return last.slug


def manifest(
    job: Job,
    *,
    store: Store,
    assets: Path,
    kinds: Mapping[str, str],
    execution: Mapping[str, Any],
    parent: int | None,
    ttl_s: float = TTL_S,
    heartbeat_s: float = HEARTBEAT_S,
) -> dict[str, Any]:
    """Everything a worker needs, as plain JSON values: frozen specs, directories, placement, the kinds'
    functions.
    """
    dep_kind = {step.id: store.directory(step) for step in job.steps}
    steps = []
    for step in job.steps:
        deps = {}
        for role, dep_id in step.deps.items():
            directory = dep_kind.get(dep_id) or find_dependency(store, dep_id)
            deps[role] = {"id": dep_id, "dir": str(directory)}
        steps.append({"spec": step.to_dict(), "dir": str(store.directory(step)), "deps": deps})
    return {
        "job": job.name,
        "home": str(store.home),
        "assets": str(assets),
        "kinds": dict(kinds),
        "execution": dict(execution),
        "parent": parent,
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


def makespan(jobs: Sequence[Job], slots: int, seconds: Callable[[StepSpec], float]) -> float:
    """Expected wall time of ``jobs`` on ``slots`` workers, by simulating the order in which they
    would start.
    """
    finished: dict[str, float] = {}
    free = [0.0] * max(1, slots)
    inside = {step.id for job in jobs for step in job.steps}
    pending = list(jobs)
    while pending:
        slot = min(range(len(free)), key=free.__getitem__)
        ready = {
            index: max((finished[dep] for dep in job.requires & inside), default=0.0)
            for index, job in enumerate(pending)
            if all(dep in finished for dep in job.requires & inside)
        }
        # The first job in order that could start now; when none could, the one that becomes ready first.
        now = [index for index, at in ready.items() if at <= free[slot]]
        chosen = min(now) if now else min(ready, key=lambda index: (ready[index], index))
        job = pending.pop(chosen)
        clock = max(free[slot], ready[chosen])
        for step in job.steps:
            clock += seconds(step)
            finished[step.id] = clock
        free[slot] = clock
    return max(free)
