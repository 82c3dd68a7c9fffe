"""Tuned arms: what was tried for each, what was chosen, and how much of the choice is luck.

Everything is read from the entry `tuning` of study.json; the scores of trials are those of validation pictures and
stand in no table of the comparison.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from vlmablate.report.study import Study
from vlmablate.stats.runs import pooled_error
from vlmablate.stats.student import t_critical

STATES = {"finished": "finished", "censored": "pruned", "failed": "failed", "running": "not finished yet"}
"""State of a trial -> the word for it on the page."""


@dataclass(frozen=True)
class Trial:
    """One training with one proposal. score: points on validation pictures, nan without; share: of its training that it
    got to (1 when finished)."""

    number: int
    values: Mapping[str, Any]
    state: str
    score: float
    share: float
    why: str


@dataclass(frozen=True)
class Cell:
    """The tuning of one arm in one context. chosen is None while, or because, no trial was chosen."""

    arm: str
    context: str
    configured: Mapping[str, Any]
    chosen: Mapping[str, Any] | None
    trials: tuple[Trial, ...]

    @property
    def finished(self) -> list[Trial]:
        """The trials that have a score."""
        return [trial for trial in self.trials if trial.state == "finished" and math.isfinite(trial.score)]

    @property
    def chosen_trial(self) -> Trial | None:
        """The trial whose values were chosen."""
        if self.chosen is None:
            return None
        return next((trial for trial in self.finished if trial.values == self.chosen), None)

    @property
    def configured_trial(self) -> Trial | None:
        """The finished trial of the values as they were configured."""
        return next((trial for trial in self.finished if trial.values == self.configured), None)

    def count(self, state: str) -> int:
        """How many trials are in a state."""
        return sum(trial.state == state for trial in self.trials)


@dataclass(frozen=True)
class Tuning:
    """What was tuned and how. space: the name of the file in conf/search; parameters: setting -> its range, as in that
    file (`range_of`: in numbers); budget: trials of every cell; final: whether nothing can change about it any more."""

    space: str
    method: str
    parameters: Mapping[str, Mapping[str, Any]]
    budget: int
    seed: int
    split: str
    final: bool
    cells: tuple[Cell, ...]

    @property
    def whole(self) -> bool:
        """Whether every cell has its chosen values."""
        return self.final and all(cell.chosen is not None for cell in self.cells)

    def name(self, cell: Cell) -> str:
        """The cell's arm, with its context where there are several."""
        several = len({other.context for other in self.cells}) > 1
        return f"{cell.arm} / {cell.context}" if several else cell.arm

    def range_of(self, cell: Cell, parameter: str) -> Mapping[str, Any]:
        """The range of a parameter for a cell: multiples of the value that it is configured with become numbers."""
        found = self.parameters[parameter]
        if not found.get("relative"):
            return found
        ends = {end: found[end] * cell.configured[parameter] for end in ("low", "high")}
        return {**found, **ends, "relative": False}

    def short(self, parameter: str) -> str:
        """'learning rate' for 'stages.finetune.learning_rate', unless another parameter ends alike."""
        last = parameter.rpartition(".")[2]
        alone = sum(name.rpartition(".")[2] == last for name in self.parameters) == 1
        return last.replace("_", " ") if alone else parameter


def read_tuning(study: Study) -> Tuning | None:
    """The tuning of a study; None where nothing was tuned."""
    facts = study.facts.get("tuning")
    if not facts:
        return None
    return Tuning(
        space=str(facts["space"]["name"]),
        method=str(facts["space"]["method"]),
        parameters=facts["space"]["parameters"],
        budget=int(facts["trials"]),
        seed=int(facts["seed"]),
        split=str(facts["split"]),
        final=bool(facts["final"]),
        cells=tuple(
            Cell(
                arm=str(cell["arm"]),
                context=str(cell["context"]),
                configured=cell["configured"],
                chosen=cell["chosen"],
                trials=tuple(_trial(trial) for trial in cell["trials"]),
            )
            for cell in facts["cells"]
        ),
    )


def _trial(facts: Mapping[str, Any]) -> Trial:
    score = facts.get("score")
    return Trial(
        number=int(facts["number"]),
        values=facts["values"],
        state=str(facts["state"]),
        score=math.nan if score is None else float(score),
        share=float(facts.get("share") or 0.0),
        why=str(facts.get("why") or ""),
    )


def best_of(count: int) -> float:
    """Expected largest of `count` independent standard normal numbers: by so many SDs the best of equally good
    configurations looks better than it is.

    The integral of x d(Φ(x)^count), by the midpoint rule: 1.163 for 5, 1.867 for 20, 2.249 for 50.
    """
    from scipy.special import ndtr

    edges = np.linspace(-9.0, 9.0, 3601)
    return float(np.sum((edges[1:] + edges[:-1]) / 2 * np.diff(ndtr(edges) ** count)))


@dataclass(frozen=True)
class Noise:
    """What retraining alone moves the mean over all benchmarks by, measured in the runs of the comparison: SD between
    seeds in points with its degrees of freedom, and the difference that two trainings of one configuration exceed with
    probability alpha. All nan while no cell has two runs."""

    sd: float
    df: int
    difference: float


def noise(run_scores: pd.DataFrame, alpha: float) -> Noise:
    """The noise that a trial's score has, as far as the comparison shows it.

    run_scores: arm, context, seed, run_id, benchmark, points of the compared runs; a run that two cells share counts
    once. difference = t(1 − alpha/2, df) · √2 · sd.
    """
    once = run_scores.drop_duplicates(["run_id", "benchmark"])
    means = once.groupby(["arm", "context", "seed"], observed=True)["points"].mean()
    cells = [part.to_numpy(dtype=float) for _, part in means.groupby(level=["arm", "context"], observed=True)]
    if not any(len(cell) > 1 for cell in cells):
        return Noise(math.nan, 0, math.nan)
    error = pooled_error(cells)
    return Noise(error.sd, error.df, t_critical(alpha / 2, error.df) * math.sqrt(2) * error.sd)
