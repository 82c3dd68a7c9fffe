"""From composed cells to work that can be planned: assets, runs, and the declaration of every study of a sweep."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlmablate.design.catalogue import Axis
from vlmablate.design.spec import RunSpec
from vlmablate.orchestration.drift import RunDrift, config_drift
from vlmablate.orchestration.estimates import Declared, Estimator, read_estimates
from vlmablate.orchestration.local import count_slots, read_need
from vlmablate.orchestration.milestones import Milestone
from vlmablate.orchestration.parts import Parts
from vlmablate.orchestration.policy import Policy, read_policy
from vlmablate.orchestration.store import Store
from vlmablate.orchestration.study import (
    AssetSource,
    Cell,
    Request,
    Sweep,
    build_runs,
    check_same_study,
    declaration,
    declared_analysis,
    required_assets,
)
from vlmablate.orchestration.wishes import Ahead, Question, wishes
from vlmablate.tracking.settings import Tracking, read_tracking, require_wandb


@dataclass(frozen=True)
class Study:
    """One axis of a sweep: its folder, its runs, its declaration, and what changed since it was last declared.

    Attributes:
        runs: what is compared. trials: what is only made to choose by.
        final: whether scores can change nothing about what is wanted any more.
        lines: what there is to say of how it ended; empty before, and for a fixed grid.
        given_up, watched, ahead: see :class:`vlmablate.orchestration.wishes.Wishes`.
    """

    request: Request
    axis: Axis
    folder: Path
    runs: tuple[RunSpec, ...]
    declared: dict[str, Any]
    drifts: tuple[RunDrift, ...]
    trials: tuple[RunSpec, ...] = ()
    final: bool = True
    lines: tuple[str, ...] = ()
    given_up: frozenset[str] = frozenset()
    watched: Mapping[str, Sequence[Milestone]] = field(default_factory=dict)
    ahead: Callable[[], Ahead] = Ahead

    def done(self, finished: frozenset[str]) -> int:
        """How many of its runs are among the finished ones."""
        return sum(run.run_id in finished for run in self.runs)


@dataclass(frozen=True)
class Work:
    """Everything one command works on, ready to be planned.

    Attributes:
        name: the study's name; of several studies, that of the set.
        command: the words that ask for it again.
        folder: where job files lie.
        studies: one per axis.
        execution, policy: placement, and what to do about failures; the same for all studies.
        declared: what a plan expects while there is no history.
        estimator: what steps cost.
        slots: workers at once.
        tracking: how finished runs are told to a tracker; None: not at all.
    """

    name: str
    command: str
    folder: Path
    studies: tuple[Study, ...]
    execution: dict[str, Any]
    policy: Policy
    declared: Declared
    estimator: Estimator
    slots: int
    tracking: Tracking | None

    @property
    def runs(self) -> list[RunSpec]:
        """The runs of all studies, trials first; what several of them want is there several times. Trials that have
        ended without a score are left out.
        """
        return [
            run
            for study in self.studies
            for run in (*study.trials, *study.runs)
            if run.run_id not in study.given_up
        ]

    @property
    def watched(self) -> dict[str, Sequence[Milestone]]:
        """Trainings of trials, and where their losses are looked at."""
        return {step_id: listed for study in self.studies for step_id, listed in study.watched.items()}

    @property
    def adaptive(self) -> bool:
        """Whether what is wanted depends on scores."""
        return any(study.request.how for study in self.studies)

    @property
    def growing(self) -> bool:
        """Whether some study may want more runs once it has the scores of these."""
        return any(not study.final for study in self.studies)

    @property
    def launcher(self) -> str:
        """The launcher's name."""
        return str(self.execution.get("launcher"))


def prepare(
    sweep: Sweep,
    composed: Sequence[tuple[Axis, list[Cell]]],
    parts: Parts,
    store: Store,
    fetch: bool,
) -> Work:
    """The work of a sweep.

    Args:
        sweep: what was asked for.
        composed: axis and cells of every request.
        parts: folders and assets.
        store: holds what was computed before.
        fetch: whether missing assets are downloaded; a plan only says which.

    Raises:
        UserError: for a study whose name is taken, arms that are equal, settings that are out of range, and a tracker
            that is not installed.
    """
    cells = [cell for _, of_axis in composed for cell in of_axis]
    tracking = read_tracking(cells[0].config.get("tracking") or {})
    if tracking is not None:
        require_wandb()  # said before hours of work, not after
    source = parts.asset_source()
    names = required_assets(cells, source)
    digests = source.ensure(names, parts.report) if fetch else _fetched(names, source, parts.report)
    config = cells[0].config
    execution = dict(config["execution"])
    slots = count_slots(execution["threads"], execution.get("workers"))
    read_need(execution)  # mistakes are refused before anything is written
    declared = read_estimates(config.get("estimates") or {})
    return Work(
        name=sweep.name,
        command=sweep.command,
        folder=parts.home / "studies" / sweep.name,
        studies=tuple(
            _study(request, axis, of_axis, digests, source, parts.home, store)
            for request, (axis, of_axis) in zip(sweep.requests, composed, strict=True)
        ),
        execution=execution,
        policy=read_policy(config.get("policy") or {}),
        declared=declared,
        estimator=Estimator(store, declared.seconds, declared.throughput, declared.disk_mb),
        slots=1 if execution.get("launcher") == "debug" else slots,
        tracking=tracking,
    )


def _study(
    request: Request,
    axis: Axis,
    cells: list[Cell],
    digests: dict[str, str],
    source: AssetSource,
    home: Path,
    store: Store,
) -> Study:
    used = {name: digests[name] for name in required_assets(cells, source)}
    analysis = declared_analysis(cells)

    def build(cells: Sequence[Cell], seeds: Sequence[int], validation: bool = False) -> list[RunSpec]:
        return build_runs(cells, seeds, used, source, request.scale, validation)

    folder = home / "studies" / request.name
    existing = check_same_study(folder, request)
    wanted = wishes(Question(request, axis, cells, analysis, store, build))
    runs, trials = tuple(wanted.runs), tuple(wanted.trials)
    declared = declaration(request, axis, runs, store, analysis, {"assets": used}, trials)
    declared |= wanted.facts
    if existing is not None and any(not fact["final"] for fact in wanted.facts.values()):
        # More trials, or seeds, are asked for: what was compared before may be wanted again, and `gc` leaves it alone.
        declared["steps"] = {**existing["steps"], **declared["steps"]}
    declared["analysis_history"] = list((existing or {}).get("analysis_history", []))
    # A command that only looks at finished work keeps the provenance, and the words, of the one that did it.
    if existing is not None:
        declared["provenance"] = {**existing.get("provenance", {}), "assets": used}
        # The seeds of an adaptive study grow with every round.
        alike = ["analysis", "replicate", "tune", "space", *(["seeds"] if request.max_seeds is None else [])]
        if all(existing.get(key) == declared.get(key) for key in alike):
            declared["command"] = existing["command"]
    drifts = config_drift(existing, runs, store) if existing is not None else []
    return Study(
        request, axis, folder, runs, declared, tuple(drifts), trials, final=wanted.final, lines=wanted.lines,
        given_up=wanted.given_up, watched=wanted.watched, ahead=wanted.ahead,
    )  # fmt: skip


def _fetched(names: list[str], source: AssetSource, report: Callable[[str], None]) -> dict[str, str]:
    """Digests of the sets that are whole; a plan downloads nothing and says what it would download."""
    rows = {row.name: row for row in source.status()} if names else {}
    missing = [name for name in names if not str(rows[name].state).startswith("ready")]
    if missing:
        size = sum(int(rows[name].bytes) for name in missing) / 1e6
        report(f"to fetch first: {', '.join(missing)} ({size:.0f} MB)")
    present = source.ensure([name for name in names if name not in missing], report)
    return {name: present.get(name, "to be fetched") for name in names}
