"""The analysis of a design: every contrast at every level at which it can be asked, and what goes with it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from vlmablate.stats import companions, levels
from vlmablate.stats.data import Data
from vlmablate.stats.declaration import Design
from vlmablate.stats.families import PRIMARY, Row, adjusted_table
from vlmablate.stats.pairwise import pairwise
from vlmablate.stats.panel import Panels, align
from vlmablate.stats.runs import PooledError
from vlmablate.stats.units import Signal, suite_scores


@dataclass(frozen=True)
class Analysis:
    """What the report is built from; every number in points (0-100) unless it is a p-value or a probability.

    significance: the table (families.COLUMNS). sensitivity: the same columns, the primary contrasts with the suite
    defined otherwise; for reading, not for deciding. pairwise: all pairs of arms on the suite score, at the
    levels items (max-T) and design (adjusted as declared). components: spread of seeds, clusters and examples, and
    what seeds and items contribute to the standard error of a contrast. improvement: probability that a run of
    the arm scores above a run of the baseline. duplicates: questions asked twice about one picture. null_p: runs of
    the baseline arm compared as if they were designs. mde_curve: detectable difference of the suite contrast by
    seeds. run_scores, suite_scores: per run. signal: per benchmark. seed_sd, seed_df, cells: pooled spread between
    seeds of the suite score. family_sizes: family -> tests in it. replication: of an adaptive study what was spent and
    why each contrast stopped, in sentences; empty for a fixed number of seeds.
    """

    design: Design
    significance: pd.DataFrame
    sensitivity: pd.DataFrame
    pairwise: pd.DataFrame
    components: pd.DataFrame
    improvement: pd.DataFrame
    duplicates: pd.DataFrame
    null_p: pd.DataFrame
    mde_curve: pd.DataFrame
    run_scores: pd.DataFrame
    suite_scores: pd.DataFrame
    signal: dict[str, Signal]
    seed_sd: float
    seed_df: int
    cells: int
    family_sizes: dict[str, int]
    replication: tuple[str, ...] = ()


def significance(results: pd.DataFrame, design: Design) -> pd.DataFrame:
    """The significance table of the long table `results` (panel.COLUMNS, scores as fractions): columns
    families.COLUMNS, one row per contrast and level. Raises what `analyse` raises."""
    data = _data(align(results, design.metrics), design)
    return _table(data, levels.both_components(data))[0]


def analyse(results: pd.DataFrame, design: Design) -> Analysis:
    """Test every arm against the baseline at the levels design, items, checkpoint and suite.

    results: the long table, scores as fractions in [0, 1]. Raises DataError for whatever is wrong with scores or
    ids, naming the examples (see panel.align), and for arms, contexts or runs that the design does not allow.
    """
    return analyse_panels(align(results, design.metrics), design)


def analyse_panels(panels: Panels, design: Design) -> Analysis:
    """The same for scores that are aligned already."""
    data = _data(panels, design)
    both = levels.both_components(data)
    table, replication = _table(data, both)
    error = data.error(data.with_signal) if data.with_signal else PooledError(math.nan, 0, 0)
    sizes = table[table["p"].notna()].groupby("family").size()
    return Analysis(
        design=design,
        significance=table,
        sensitivity=adjusted_table(levels.sensitivity_rows(data), design),
        pairwise=pairwise(data),
        components=companions.components(data, both),
        improvement=companions.improvement(data),
        duplicates=panels.duplicates,
        null_p=companions.null_p(data),
        mde_curve=companions.detectable(data, error),
        run_scores=data.run_scores,
        suite_scores=suite_scores(data.run_scores, data.with_signal),
        signal=dict(data.signal),
        seed_sd=error.sd,
        seed_df=error.df,
        cells=error.cells,
        family_sizes={str(family): int(size) for family, size in sizes.items()},
        replication=replication,
    )


def _data(panels: Panels, design: Design) -> Data:
    """The scores; of an adaptive study, benchmarks carry the signal that they had at its first look."""
    data = Data.of(panels, design)
    if design.max_seeds is None:
        return data
    from vlmablate.stats.adaptive import scores

    rule = scores.rule_of(design, design.max_seeds, design.budget)
    signal = scores.first_signal(design, rule, data.run_scores)
    return replace(data, signal=signal) if signal else data


def _table(data: Data, both: levels.Both) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The significance table, and what an adaptive study says about its replication."""
    design = data.design
    table = adjusted_table(_rows(data, both), design)
    if design.max_seeds is None:
        return table, ()
    # Imported here: what an adaptive study expects is simulated by the calibration, which simulates this table.
    from vlmablate.stats.adaptive import conclusions, scores

    rule = scores.rule_of(design, design.max_seeds, design.budget)
    state = scores.follow(design, rule, data.run_scores)
    arms = scores.alternates(design)
    found = {conclusion.arm: conclusion for conclusion in conclusions.conclude(rule, state, arms)}
    rows: list[dict[str, Any]] = [
        {str(name): value for name, value in row.items()} for row in table.to_dict("records")
    ]
    for row in rows:
        if row["family"] == PRIMARY:
            conclusion = found.get(row["arm"])
            row |= conclusions.NOT_LOOKED_AT if conclusion is None else conclusions.columns(rule, conclusion)
    lines = conclusions.report_lines(rule, state, list(found.values())) if found else [conclusions.NO_LOOK]
    return pd.DataFrame(rows, columns=table.columns), tuple(lines)


def _rows(data: Data, both: levels.Both) -> list[Row]:
    items = levels.items_rows(data)
    return [
        *levels.design_rows(data, both),
        *items,
        *levels.checkpoint_rows(data),
        *levels.suite_rows(data, items, both),
    ]
