"""What is tuned on a cell: the values that it is configured with, the space around them, and what cannot be tuned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from vlmablate.design.seeds import FRESH
from vlmablate.design.stage_choices import check_stages
from vlmablate.design.supplied import select, validation_scenes
from vlmablate.design.trunks import SETTING as BRANCHES
from vlmablate.errors import UserError
from vlmablate.orchestration.study import Cell
from vlmablate.search.space import Space, around

if TYPE_CHECKING:
    from vlmablate.orchestration.wishes import Question

SEED = 2000
"""Training seed of all trials, and seed of their proposals: what the tuned settings do not touch is shared by the
trials of an arm, and arms differ in nothing that chance decides."""
UNSPLIT = ("refusal",)
"""Benchmarks that ask the same whatever the scenes are: there is nothing of them to tune on."""


@dataclass(frozen=True)
class Tunable:
    """A cell, the values that it has, and the space around them."""

    cell: Cell
    configured: Mapping[str, Any]
    space: Space


def tunable_cells(question: Question, space: Space) -> list[Tunable]:
    """The cells of a question with what is tuned on them.

    Raises:
        UserError: for a parameter that an arm does not have (lists what is there), seeds that are kept for tuning,
            benchmarks and data of which nothing is held out, and arms that differ in nothing but what is tuned.
    """
    request = question.request
    late = [seed for seed in request.seeds if seed >= FRESH]
    if late:
        raise UserError(
            f"seeds={list(late)}: seeds from {FRESH} on are kept for what is chosen by scores (tune=); compare with "
            "smaller ones"
        )
    cells = []
    for cell in question.cells:
        try:
            validation_scenes(cell.config)
            _check_whole(cell.config)
            _tuned_benchmarks(cell.config)
            configured = {path: select(cell.config, path) for path in space.parameters}
            cells.append(Tunable(cell, configured, around(space, configured)))
        except UserError as error:
            raise UserError(f"tune={request.tune} cannot tune the arm {cell.arm}: {error}") from error
    _check_apart(question, cells)
    return cells


def with_values(cell: Cell, values: Mapping[str, Any]) -> Cell:
    """The cell with other values at dotted paths. Raises UserError for what stages refuse."""
    config = cell.config
    for path, value in values.items():
        config = _placed(config, path.split("."), value)
    check_stages(config)
    return replace(cell, config=config)


def for_trial(cell: Cell, values: Mapping[str, Any]) -> Cell:
    """The cell as a trial evaluates it: with the benchmarks that have scenes of their own to be tuned on."""
    names = _tuned_benchmarks(cell.config)
    return with_values(replace(cell, config=_placed(cell.config, ["benchmark", "names"], names)), values)


def label_of(cell: Cell) -> str:
    """The arm, and the context unless it is the default one."""
    return cell.arm if cell.context == "default" else f"{cell.arm}/{cell.context}"


def _tuned_benchmarks(config: Mapping[str, Any]) -> list[str]:
    names = [name for name in select(config, "benchmark.names") if name not in UNSPLIT]
    if not names:
        raise UserError(
            f"benchmark.names holds only {', '.join(UNSPLIT)}, which asks the same questions in tuning and comparison"
        )
    return names


def _check_whole(config: Mapping[str, Any]) -> None:
    """Raises UserError for a training on a trunk: what several trials share can neither be tuned nor stopped early."""
    if select(config, f"stages.finetune.{BRANCHES}") is not None:
        raise UserError(
            "its trainings branch from one trunk (stages.finetune.branches), which the trials would share; add "
            "stages.finetune.branches=null"
        )


def _placed(config: Mapping[str, Any], path: Sequence[str], value: Any) -> dict[str, Any]:
    """A copy with one place changed; what lies beside the way there is shared."""
    key, *rest = path
    return {**config, key: _placed(config[key], rest, value) if rest else value}


def _check_apart(question: Question, cells: Sequence[Tunable]) -> None:
    """Raises UserError for two arms that are the same configuration once both have the same tuned values."""
    question.build(question.cells, (SEED,))  # arms that are equal as they stand are told first
    like = {cell.cell.context: cell.configured for cell in reversed(cells)}
    seen: dict[tuple[str, str], str] = {}
    for one in cells:
        cell = with_values(one.cell, like[one.cell.context])
        (run,) = question.build([cell], (SEED,))
        other = seen.setdefault((cell.context, run.run_id), cell.arm)
        if other != cell.arm:
            raise UserError(
                f"tune={question.request.tune} tunes {', '.join(like[cell.context])}, and in nothing else do the arms "
                f"{other} and {cell.arm} of axis={question.axis.name} differ: tuning would undo the choice that is "
                "compared. Leave tune= out, or tune something else (conf/search)"
            )
