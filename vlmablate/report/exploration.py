"""A design space: the configurations that were explored, and what their scores say about each axis.

The verdict of such a study is about other runs, those of the best configuration and of the baseline with fresh seeds
(`Study.compared`); nothing here looks at them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from vlmablate.files import write_with
from vlmablate.report.collect import Collected
from vlmablate.report.study import Study
from vlmablate.stats import factorial
from vlmablate.stats.settings import Settings
from vlmablate.stats.table import Analysis

if TYPE_CHECKING:
    from vlmablate.stats.factorial import Selection, Space

TABLES = ("effects", "importance")
"""Tables of a design space that are written as NAME.csv."""


@dataclass(frozen=True)
class Explored:
    """What exploring gave.

    declared: the entry `exploration` of study.json. scores: arm, context, seed, run_id, benchmark, points of the
    explored runs. with_signal: the benchmarks of the suite score, which is that of the comparison, so that all scores
    of a page mean the same. effects, importance, configurations, selection: as :mod:`vlmablate.stats.factorial` gives
    them; means: (axis, other axis) -> suite means of their levels. Without a benchmark with signal there is no suite
    score: selection is None, and importance, configurations and means are empty.
    """

    declared: Mapping[str, Any]
    space: Space
    settings: Settings
    scores: pd.DataFrame
    with_signal: Sequence[str]
    effects: pd.DataFrame
    importance: pd.DataFrame
    configurations: pd.DataFrame
    means: Mapping[tuple[str, str], pd.DataFrame]
    selection: Selection | None

    @property
    def tested(self) -> bool:
        """Whether effects are tested at all; a search, one seed or missing runs allow descriptions only."""
        return bool(self.effects["p"].notna().any())

    @property
    def order(self) -> list[str]:
        """The configurations that have scores, in the order in which they were tried."""
        tried = {run: number for number, run in enumerate(self.declared["explored"])}
        first = self.scores.assign(number=self.scores["run_id"].map(tried)).groupby("arm")["number"].min()
        return [str(arm) for arm in first.sort_values().index]


def explore(study: Study, collected: Collected, analysis: Analysis) -> Explored | None:
    """The exploration of a study; None for a study that explores nothing.

    analysis: of the comparison; its settings, metrics and suite score hold for the explored runs as well. Raises
    DataError for scores that cannot be those of the declared space.
    """
    declared = study.facts.get("exploration")
    if not declared:
        return None
    space, settings = factorial.Space.read(declared), analysis.design.settings
    scores = run_scores(collected.results, analysis.design.metrics, declared["explored"])
    names = [name for name, found in analysis.signal.items() if found.carries]
    steps = {run.run_id: run.steps for run in study.runs}
    effects = factorial.effects(scores, space, settings, with_signal=names, steps=steps)
    pairs = list(combinations([factor.name for factor in space.axes], 2)) if names else []
    return Explored(
        declared=declared,
        space=space,
        settings=settings,
        scores=scores,
        with_signal=names,
        effects=effects,
        importance=factorial.importance(scores, space, settings, with_signal=names, steps=steps),
        configurations=factorial.configurations(scores, space, with_signal=names)
        if names
        else pd.DataFrame(),
        means={
            pair: factorial.level_means(scores, space, settings, *pair, with_signal=names) for pair in pairs
        },
        selection=factorial.curse(scores, space, with_signal=names) if names else None,
    )


def run_scores(results: pd.DataFrame, metrics: Mapping[str, str], run_ids: list[str]) -> pd.DataFrame:
    """Mean of the primary metric of some runs, in points: arm, context, seed, run_id, benchmark, points."""
    primary = results[
        results["run_id"].isin(run_ids) & (results["metric"] == results["benchmark"].map(metrics))
    ]
    keys = ["arm", "context", "seed", "run_id", "benchmark"]
    means = 100 * primary.groupby(keys, sort=True, observed=True)["score"].mean()
    return means.rename("points").reset_index()


def write_exploration(explored: Explored, folder: Path) -> None:
    """Write TABLES into `folder`, each whole or not at all."""
    for name in TABLES:
        with write_with(folder / f"{name}.csv") as temporary:
            getattr(explored, name).to_csv(temporary, index=False, lineterminator="\n")
