"""Which runs a study wants: a pure function of what is asked and of the scores there are.

A fixed grid wants everything at once. Other ways (adaptive replication, tuning, a search) ask for some runs, and for
more once these have scores; nothing is remembered in between, so the same command after a crash goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from vlmablate.design.catalogue import Axis
from vlmablate.design.spec import RunSpec
from vlmablate.orchestration import adaptive, space, tuned
from vlmablate.orchestration.milestones import Milestone
from vlmablate.orchestration.store import Store
from vlmablate.orchestration.study import Cell, Request


class BuildRuns(Protocol):
    """Cells and seeds -> runs, in the order of seeds, then of cells; with `validation` they are evaluated on scenes
    that no comparison is made on."""

    def __call__(
        self, cells: Sequence[Cell], seeds: Sequence[int], validation: bool = False
    ) -> list[RunSpec]: ...


@dataclass(frozen=True)
class Question:
    """What is asked.

    Attributes:
        request: as on the command line.
        axis, cells: what is compared.
        analysis: the declared settings.
        store: what there is.
        build: makes runs of cells.
    """

    request: Request
    axis: Axis
    cells: Sequence[Cell]
    analysis: Mapping[str, Any]
    store: Store
    build: BuildRuns


@dataclass(frozen=True)
class Ahead:
    """What will be asked for later, as far as can be said now: in words, and runs that cost as much."""

    text: str = ""
    runs: Sequence[RunSpec] = ()


@dataclass(frozen=True)
class Wishes:
    """What is wanted now.

    Attributes:
        runs: what is compared with each other, declared in study.json and reported.
        trials: runs that are only made to choose by.
        final: whether scores can change nothing about it any more.
        lines: what there is to say once it is final (why each contrast stopped, what was chosen).
        facts: further entries of study.json.
        given_up: ids of trials that ended without a score: nothing more is computed for them.
        watched: id of a training of a trial -> where its loss is looked at. Such a training may end without a result.
        ahead: what follows; asked for by a plan only.
    """

    runs: Sequence[RunSpec]
    trials: Sequence[RunSpec] = ()
    final: bool = True
    lines: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    given_up: frozenset[str] = frozenset()
    watched: Mapping[str, Sequence[Milestone]] = field(default_factory=dict)
    ahead: Callable[[], Ahead] = Ahead


def wishes(question: Question) -> Wishes:
    """The runs that are wanted, given the scores there are. Raises UserError for settings that cannot be."""
    request = question.request
    if request.axes:
        return space.wishes(question)
    if request.tune:
        return tuned.wishes(question, replicated)
    return replicated(question)


def replicated(question: Question) -> Wishes:
    """The runs of the cells as they stand: a grid of seeds, or those that adaptive replication pays for."""
    request, axis = question.request, question.axis
    if request.max_seeds is None:
        return Wishes(question.build(question.cells, request.seeds))
    seeds = range(adaptive.most_seeds(axis, request.max_seeds, request.budget, question.analysis))
    candidates = question.build(question.cells, seeds)
    following = adaptive.next_round(
        axis,
        candidates,
        adaptive.finished(candidates, question.store),
        max_seeds=request.max_seeds,
        budget=request.budget,
        analysis=question.analysis,
    )
    return Wishes(following.runs, final=bool(following.lines), lines=following.lines)
