"""What is explored of a design space: every combination, or those that a search proposes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vlmablate.design.crossing import CrossedAxis
from vlmablate.design.spec import RunSpec
from vlmablate.errors import UserError
from vlmablate.orchestration import adaptive
from vlmablate.orchestration.space_scores import suite_means
from vlmablate.orchestration.trial_batches import next_batch
from vlmablate.orchestration.tuning_trials import end_of, own_trainings
from vlmablate.search.proposals import Trial, TrialState, propose
from vlmablate.search.space import Categorical, Space

if TYPE_CHECKING:
    from vlmablate.orchestration.study import Request
    from vlmablate.orchestration.wishes import Question

BATCH = 4
"""Combinations that are proposed together, after those that start a search."""


@dataclass(frozen=True)
class Explored:
    """What is looked at to choose by.

    Attributes:
        arms: combinations, in the order in which they are asked for, without those that failed.
        runs: theirs.
        scores: combination -> mean suite score in points; empty while a score is missing, or more will be proposed.
        failed: combination of which a training diverged -> what happened, in words; of a search only.
        lost: the runs of those.
        watched: ids of the trainings that may diverge without an end to the study.
        later: runs that cost as much as what the search has not proposed yet.
    """

    arms: tuple[str, ...]
    runs: tuple[RunSpec, ...]
    scores: Mapping[str, float]
    failed: Mapping[str, str] = field(default_factory=dict)
    lost: tuple[RunSpec, ...] = ()
    watched: frozenset[str] = frozenset()
    later: tuple[RunSpec, ...] = ()


def searches(space: CrossedAxis, request: Request) -> bool:
    """Whether combinations are proposed: a search that may try all of them has nothing to look for."""
    return bool(request.search) and request.trials < len(space.arms)


def explore(question: Question, space: CrossedAxis) -> Explored:
    """The runs to choose by, given the scores there are.

    Raises:
        UserError: for combinations that are one configuration, and a search whose baseline diverged.
    """
    return _search(question, space) if searches(space, question.request) else _every(question, space)


def _every(question: Question, space: CrossedAxis) -> Explored:
    """Every combination with every seed."""
    runs = question.build(question.cells, question.request.seeds)
    facts = adaptive.finished(runs, question.store)
    whole = len(facts) == len({run.run_id for run in runs})
    scores = suite_means(runs, facts, space.baseline, question.analysis) if whole else {}
    return Explored(tuple(arm.name for arm in space.arms), tuple(runs), scores)


def _search(question: Question, space: CrossedAxis) -> Explored:
    """The combinations that are proposed, batch after batch; every seed counts in the score of one."""
    request, seed = question.request, question.request.seeds[0]
    cells = {cell.arm: cell for cell in question.cells}
    levels, baseline = level_choices(space, request.search), {of.name: of.baseline for of in space.axes}
    trials: list[Trial] = []
    runs: list[RunSpec] = []
    facts: dict[str, adaptive.Facts] = {}
    failed: dict[str, str] = {}
    scores: dict[str, float] = {}
    waiting = False
    while not waiting:
        batch = next_batch(levels, baseline, trials, request.trials, BATCH, seed)
        if not batch:
            break
        new = question.build([cells[space.named(made["values"])] for made in batch], request.seeds)
        runs += new
        facts |= adaptive.finished(new, question.store)
        failed |= _failures(new, facts, question)
        if space.baseline in failed:
            raise UserError(
                f"the baseline {space.baseline} cannot be trained, so there is nothing to compare with: "
                f"{failed[space.baseline]}"
            )
        waiting = any(run.arm not in failed and run.run_id not in facts for run in new)
        if not waiting:
            scored = [run for run in runs if run.arm not in failed]
            scores = suite_means(scored, facts, space.baseline, question.analysis)
        trials += [_trial(made, space.named(made["values"]), scores, failed, waiting) for made in batch]
    missing = [run for run in runs if waiting and run.arm not in failed and run.run_id not in facts]
    asked = [space.named(trial.values) for trial in trials]
    running = [Trial(trial.number, trial.values, TrialState.RUNNING) for trial in trials]
    later = propose(levels, running, request.trials - len(trials), seed) if waiting else []
    return Explored(
        arms=tuple(arm for arm in asked if arm not in failed),
        runs=tuple(run for run in runs if run.arm not in failed),
        scores={} if waiting else scores,
        failed=failed,
        lost=tuple(run for run in runs if run.arm in failed),
        watched=frozenset(step.id for run in missing for step in own_trainings(run)),
        later=tuple(question.build([cells[space.named(made["values"])] for made in later], request.seeds)),
    )


def _failures(runs: list[RunSpec], facts: Mapping[str, adaptive.Facts], question: Question) -> dict[str, str]:
    """Arm -> why one of its runs has no scores and never will have."""
    ends = [(run.arm, end_of(run, None, question.store)) for run in runs if run.run_id not in facts]
    return {arm: end.why for arm, end in ends if end.state is not TrialState.RUNNING}


def _trial(
    made: Mapping[str, object],
    arm: str,
    scores: Mapping[str, float],
    failed: Mapping[str, str],
    waiting: bool,
) -> Trial:
    number, values = int(str(made["number"])), made["values"]
    assert isinstance(values, Mapping)
    if waiting:
        return Trial(number, values, TrialState.RUNNING)
    if arm in failed:
        return Trial(number, values, TrialState.FAILED)
    return Trial(number, values, TrialState.FINISHED, scores[arm])


def level_choices(space: CrossedAxis, method: str) -> Space:
    """The levels of every axis, as what a search may propose."""
    return Space({of.name: Categorical(tuple(arm.name for arm in of.arms)) for of in space.axes}, method)
