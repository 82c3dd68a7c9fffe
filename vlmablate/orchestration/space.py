"""A design space of several axes: what is explored, what is best, and how that is judged.

Exploring ranks configurations. The best of many is best partly by luck, so it is never judged by the runs it was
chosen by: once all of these have scores, the best configuration and the baseline are run again with seeds of their own,
and the verdict is about those runs alone.

Everything follows from the scores there are. More seeds, or more trials, are explored beside what is there; when
another configuration leads then, that one is compared, and what was computed for the former stays in the store.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vlmablate.design.crossing import CrossedAxis
from vlmablate.design.seeds import FRESH
from vlmablate.design.spec import RunSpec
from vlmablate.errors import UserError
from vlmablate.orchestration.space_explored import Explored, explore, searches
from vlmablate.orchestration.space_scores import ranked
from vlmablate.orchestration.space_words import course, ended

if TYPE_CHECKING:
    from vlmablate.orchestration.study import Request
    from vlmablate.orchestration.wishes import Ahead, Question, Wishes


def wishes(question: Question) -> Wishes:
    """The runs that a design space wants, given the scores there are.

    Raises:
        UserError: for seeds that are kept for the comparison, a search of which nothing but the baseline could be
            trained, and what `explore` refuses.
    """
    from vlmablate.orchestration.wishes import Ahead, Wishes

    space, request = question.axis, question.request
    assert isinstance(space, CrossedAxis)
    _check_seeds(request)
    explored = explore(question, space)
    order = ranked([arm.name for arm in space.arms], explored.scores)
    best = next((arm for arm in order if arm != space.baseline), None)
    if order and best is None:
        raise UserError(
            f"beside the baseline none of the combinations that were tried can be trained; the first one: "
            f"{next(iter(explored.failed.values()))}"
        )
    confirmed = _fresh_runs(question, space, best) if best is not None else []
    return Wishes(
        [*explored.runs, *confirmed],
        trials=explored.lost,
        final=best is not None,
        lines=ended(space, request, explored, order, best) if best is not None else (),
        facts={"exploration": _record(space, request, explored, order, best, confirmed)},
        given_up=frozenset(run.run_id for run in explored.lost),
        watched=dict.fromkeys(explored.watched, ()),
        ahead=lambda: _ahead(question, space, explored) if best is None else Ahead(),
    )


def _check_seeds(request: Request) -> None:
    latest = max(request.seeds)
    if latest >= FRESH:
        raise UserError(
            f"seed {latest}: seeds from {FRESH} on are kept for the comparison at the end of a design space; explore "
            "with smaller ones"
        )


def _fresh_runs(question: Question, space: CrossedAxis, best: str) -> list[RunSpec]:
    """The runs that are compared: the baseline and another configuration, with fresh seeds."""
    cells = [cell for cell in question.cells if cell.arm in (space.baseline, best)]
    return question.build(cells, _fresh(question.request))


def _fresh(request: Request) -> range:
    return range(FRESH, FRESH + request.confirm)


def _record(
    space: CrossedAxis,
    request: Request,
    explored: Explored,
    order: Sequence[str],
    best: str | None,
    confirmed: Sequence[RunSpec],
) -> dict[str, Any]:
    """The entry ``exploration`` of study.json: what was explored, and what is compared.

    ``search`` is empty where every combination is tried; ``order`` and ``best`` (None before) are there once all that
    is explored has scores, and ``failed`` says why combinations of a search have none.
    """
    searched = searches(space, request)
    return {
        "axes": [
            {
                "name": axis.name,
                "question": axis.question,
                "baseline": axis.baseline,
                "levels": [
                    {"name": arm.name, "label": arm.label, "overrides": list(arm.overrides)}
                    for arm in axis.arms
                ],
                "context": list(axis.contexts[0].overrides),
            }
            for axis in space.axes
        ],
        "search": request.search if searched else "",
        "trials": request.trials if searched else len(space.arms),
        "levels": {
            arm: {axis: level.name for axis, level in space.levels(arm).items()} for arm in explored.arms
        },
        "baseline": space.baseline,
        "explored": [run.run_id for run in explored.runs],
        "failed": dict(explored.failed),
        "order": list(order),
        "best": best,
        "baseline_leads": bool(order) and order[0] == space.baseline,
        "confirm_seeds": list(_fresh(request)),
        "confirmed": [run.run_id for run in confirmed],
        "final": best is not None,
    }


def _ahead(question: Question, space: CrossedAxis, explored: Explored) -> Ahead:
    """What follows the runs that are known; any configuration costs what the best one will."""
    from vlmablate.orchestration.wishes import Ahead

    other = next(arm.name for arm in space.arms if arm.name != space.baseline)
    later = [*explored.later, *_fresh_runs(question, space, other)]
    return Ahead(course(space, question.request), later)
