"""Sentences about the tables beside the verdicts: pairs, improvement, calibration, duplicates, missing runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vlmablate.report.calibration_plot import null_p_values
from vlmablate.report.formatting import (
    decimals_for,
    listing,
    plural,
    points,
    probability,
    probability_interval,
    share,
    title,
)
from vlmablate.report.improvement_plot import MEANINGFUL
from vlmablate.report.pairs import Pairs, context_name
from vlmablate.stats.table import Analysis


def spread_sentence(analysis: Analysis) -> str:
    """How far apart runs of one configuration lie; empty while no cell has two runs."""
    if not analysis.seed_df:
        return ""
    what = (
        "differences between runs of the same seed vary"
        if analysis.design.settings.paired_seeds
        else "runs of the same configuration differ"
    )
    sd = points(analysis.seed_sd, decimals=decimals_for(analysis.seed_sd))
    return f"Pooled over {plural(analysis.cells, 'cell')}, {what} by an SD of {sd} points (df = {analysis.seed_df:g})."


def no_curve_sentence(analysis: Analysis) -> str:
    """Why there is no curve of what more seeds would show; empty if there is one."""
    if len(analysis.mde_curve):
        return ""
    if not math.isfinite(analysis.seed_sd):
        return "The spread between seeds is unknown, so nothing can be planned from it."
    return "No curve: with paired seeds it depends on which arms share their seeds."


def calibration_sentence(analysis: Analysis) -> str:
    """How often two runs of one configuration would have been called different; empty without pairs."""
    p = null_p_values(analysis)
    if not len(p):
        return ""
    settings = analysis.design.settings
    pairs = len(analysis.null_p[["context", "seed_a", "seed_b"]].drop_duplicates())
    below = int(np.sum(p <= settings.alpha))
    return (
        f"{plural(pairs, 'pair')} of runs of {analysis.design.baseline} that differ in the seed only were "
        f"compared question by question, as if they were two designs: {share(below, len(p))} of these tests give "
        f"p ≤ {settings.alpha:g}, where {100 * settings.alpha:g} % would do so if retraining changed nothing. The "
        "test is right about these checkpoints; it says nothing about the design that they share. That is why the "
        "verdicts take the training run, not the question, as their unit. (The tests share runs and are not "
        "independent of each other, so the share itself is only a guide.)"
    )


def improvement_sentence(row: Mapping[str, Any], baseline: str) -> str:
    """One row of the improvement table in words; directions only from where its interval lies."""
    value, low, high = row["p_improvement"], row["ci_low"], row["ci_high"]
    runs = f"{row['n_alternate']} against {row['n_baseline']} runs"
    if not (math.isfinite(low) and math.isfinite(high)):  # one run against one would look like certainty
        return f"{row['arm']}: no estimate ({row['method']})."
    start = (
        f"A run of {row['arm']} scores above a run of {baseline} with probability {probability(value)} "
        f"{probability_interval(low, high)} ({runs})"
    )
    if not low <= value <= high:
        raise ValueError(f"the probability {value} of {row['arm']} lies outside its interval {low}, {high}")
    if low > MEANINGFUL:
        return f"{start}, clearly above {MEANINGFUL:g}."
    if high < MEANINGFUL:
        return f"{start}, which stays below {MEANINGFUL:g}."
    return f"{start}; the interval includes {MEANINGFUL:g}" + (" and chance." if low <= 0.5 <= high else ".")


def groups_sentence(found: Pairs, contexts: int) -> str:
    """Which arms share a letter, in words."""
    members: dict[str, list[str]] = {}
    for arm in found.arms:
        for letter in found.letters[arm]:
            members.setdefault(letter, []).append(arm)
    where = "" if contexts == 1 else f" ({context_name(found.context)})"
    groups = [arms for arms in members.values() if len(arms) > 1]
    if not groups:
        return f"At the {found.level} level{where} all arms are told apart from each other."
    if len(groups) == 1 and len(groups[0]) == len(found.arms):
        return (
            f"At the {found.level} level{where} no two arms are told apart; that is not evidence of equality."
        )
    told = "; ".join(listing(arms) for arms in groups)
    return f"At the {found.level} level{where} these are not told apart: {told}. That is not evidence of equality."


def duplicate_sentences(analysis: Analysis) -> list[str]:
    """A sentence per benchmark that asks the same question more than once."""
    found = []
    for row in analysis.duplicates.itertuples():
        if int(row.n_distinct) < int(row.n_examples):  # type: ignore[arg-type]
            found.append(
                f"{title(str(row.benchmark))}: {int(row.n_examples):,} examples are {int(row.n_distinct):,} "  # type: ignore[arg-type]
                f"distinct ones; the most repeated occurs {int(row.most_copies)} times."  # type: ignore[arg-type]
            )
    return found


def missing_seeds(analysis: Analysis) -> list[str]:
    """Cells that lack a seed that other cells have, or that have no run at all, as 'arm / context: seed 2'."""
    design, scores = analysis.design, analysis.run_scores
    seeds = {
        (str(arm), str(context)): {int(seed) for seed in part["seed"]}
        for (arm, context), part in scores.groupby(["arm", "context"], observed=True)
    }
    everywhere = set().union(*seeds.values()) if seeds else set()
    notes = []
    for context in design.contexts:
        for arm in design.arms:
            lacking = sorted(everywhere - seeds.get((arm, context), set()))
            if lacking:
                name = arm if len(design.contexts) == 1 else f"{arm} / {context}"
                what = "seed" if len(lacking) == 1 else "seeds"
                notes.append(f"{name}: {what} {listing([str(seed) for seed in lacking])}")
    return notes


def missing_seeds_sentence(notes: Sequence[str]) -> str:
    """The cells of `missing_seeds` as a caveat; empty if there are none."""
    if not notes:
        return ""
    return (
        f"Not every cell has every seed; missing: {'; '.join(notes)}. All runs with scores enter the analysis and "
        "none is left out; if runs are missing because they failed, the remaining ones are a selection."
    )
