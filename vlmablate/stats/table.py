"""The analysis of a design: every contrast at every level at which it can be asked, and what goes with it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from vlmablate.stats import companions, levels
from vlmablate.stats.data import Data
from vlmablate.stats.declaration import Design
from vlmablate.stats.families import Row, adjusted_table
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
    seeds of the suite score. family_sizes: family -> tests in it.
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


def significance(results: pd.DataFrame, design: Design) -> pd.DataFrame:
    """The significance table of the long table `results` (panel.COLUMNS, scores as fractions): columns
    families.COLUMNS, one row per contrast and level. Raises what `analyse` raises."""
    data = Data.of(align(results, design.metrics), design)
    return adjusted_table(_rows(data, levels.both_components(data)), design)


def analyse(results: pd.DataFrame, design: Design) -> Analysis:
    """Test every arm against the baseline at the levels design, items, checkpoint and suite.

    results: the long table, scores as fractions in [0, 1]. Raises DataError for whatever is wrong with scores or
    ids, naming the examples (see panel.align), and for arms, contexts or runs that the design does not allow.
    """
    return analyse_panels(align(results, design.metrics), design)


def analyse_panels(panels: Panels, design: Design) -> Analysis:
    """The same for scores that are aligned already."""
    data = Data.of(panels, design)
    both = levels.both_components(data)
    table = adjusted_table(_rows(data, both), design)
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
    )


def _rows(data: Data, both: levels.Both) -> list[Row]:
    items = levels.items_rows(data)
    return [
        *levels.design_rows(data, both),
        *items,
        *levels.checkpoint_rows(data),
        *levels.suite_rows(data, items, both),
    ]
