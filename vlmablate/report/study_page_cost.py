"""What the axes of a study took, what sharing steps saved, and what more seeds would take: measured, not modelled."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vlmablate.report.study import Study


@dataclass(frozen=True)
class Shared:
    """Work on the steps of some runs, and of the trials of tuned arms, computed once each, against every run and trial
    on its own.

    Attributes:
        runs, runs_done: all runs, and those with scores. A run that several axes or arms have counts for each.
        alone: steps that the runs and trials would compute, each on its own.
        steps, steps_done: different steps, and those with a result.
        seconds: wall time of the finished steps, each once.
        alone_seconds: the same, each as often as a run needs it.
    """

    runs: int
    runs_done: int
    alone: int
    steps: int
    steps_done: int
    seconds: float
    alone_seconds: float

    @property
    def saved(self) -> float:
        """Seconds that sharing saved among the finished steps."""
        return max(0.0, self.alone_seconds - self.seconds)


def shared(studies: Sequence[Study]) -> Shared:
    """The work behind some studies together; steps are the same where their ids are."""
    results = {step_id: result for study in studies for step_id, result in study.results.items()}
    runs = [run for study in studies for run in study.runs]
    needed = [step_id for study in studies for one in study.work for step_id in set(one.steps.values())]
    return Shared(
        runs=len(runs),
        runs_done=sum(run.steps["evaluate"] in results for run in runs),
        alone=len(needed),
        steps=len(set(needed)),
        steps_done=len(set(needed) & results.keys()),
        seconds=math.fsum(_seconds(results[step_id]) for step_id in set(needed) & results.keys()),
        alone_seconds=math.fsum(_seconds(results[step_id]) for step_id in needed if step_id in results),
    )


def _seconds(result: dict[str, Any]) -> float:
    return float(result.get("wall_s") or 0.0)


@dataclass(frozen=True)
class Price:
    """Seconds of steps per run; ``at_most`` where one seed could not show which steps all seeds share."""

    seconds: float
    at_most: bool

    def of(self, runs: int) -> float:
        """Seconds of steps that this many more runs take."""
        return runs * self.seconds


def run_price(study: Study) -> Price | None:
    """What one more run of an axis takes, as its own runs took it; None while no seed is whole.

    The mean, over the seeds whose runs all have scores, of the wall time of the steps that only that seed needs,
    divided by its runs. Steps that several seeds share are there already.
    """
    seeds_of: dict[str, set[int]] = {}
    for run in study.runs:
        for step_id in run.steps.values():
            seeds_of.setdefault(step_id, set()).add(run.seed)
    seeds = sorted({run.seed for run in study.runs})
    prices = []
    for seed in seeds:
        runs = [run for run in study.runs if run.seed == seed]
        if all(run.steps["evaluate"] in study.results for run in runs):
            own = {step_id for run in runs for step_id in run.steps.values() if seeds_of[step_id] == {seed}}
            total = math.fsum(_seconds(study.results[step_id]) for step_id in own & study.results.keys())
            prices.append(total / len(runs))
    if not prices:
        return None
    return Price(math.fsum(prices) / len(prices), at_most=len(seeds) == 1)
