"""From a study's run scores to the arrays that the rule follows."""

from __future__ import annotations

import numpy as np
import pandas as pd

from vlmablate.errors import UserError
from vlmablate.stats.adaptive.looks import Floats
from vlmablate.stats.adaptive.replay import State, replay
from vlmablate.stats.adaptive.rule import Rule
from vlmablate.stats.declaration import Design
from vlmablate.stats.units import Signal, find_signal


def alternates(design: Design) -> list[str]:
    """The arms that are compared with the baseline, in the order of Rule's contrasts."""
    return [arm for arm in design.arms if arm != design.baseline]


def rule_of(design: Design, max_seeds: int, budget: int | None) -> Rule:
    """The rule of a declared design. Raises what Rule raises."""
    return Rule(len(alternates(design)), len(design.contexts), max_seeds, budget, design.settings)


def first_signal(design: Design, rule: Rule, run_scores: pd.DataFrame) -> dict[str, Signal]:
    """Which benchmarks carry signal (units.find_signal) by the baseline's runs of the first look.

    Later runs change nothing: what a score means stays the same at all looks. Empty while that look is not there.
    run_scores: data.run_table's columns.
    """
    first = run_scores[(run_scores["arm"] == design.baseline) & (run_scores["seed"] < rule.baseline_looks[0])]
    runs = first[["context", "seed"]].drop_duplicates()
    if len(runs) < rule.runs(rule.baseline_looks[0], 0):
        return {}
    return find_signal(first, design.baseline, design.majority, design.settings.signal_margin)


def suite(design: Design, rule: Rule, run_scores: pd.DataFrame) -> tuple[str, ...]:
    """The benchmarks with signal (first_signal), in order of name."""
    found = first_signal(design, rule, run_scores)
    return tuple(name for name, signal in found.items() if signal.carries)


def suite_arrays(
    design: Design, rule: Rule, run_scores: pd.DataFrame, benchmarks: tuple[str, ...]
) -> tuple[Floats, Floats]:
    """(baseline, arms) of replay.replay for one study: means over `benchmarks` in points, nan for missing runs.

    Seeds are those from 0 on; runs with other seeds are left out. Raises UserError for arms that share training runs:
    they are no replications of two things.
    """
    runs = run_scores[["arm", "context", "run_id"]].drop_duplicates()
    shared = runs[runs.duplicated(["context", "run_id"], keep=False)]
    if len(shared):
        names = ", ".join(sorted(set(shared["arm"])))
        raise UserError(
            f"the arms {names} are the same training runs in context {shared['context'].iloc[0]}, which "
            "replicate=adaptive cannot follow; leave one of them out, or give seeds=N for a fixed grid"
        )
    chosen = run_scores[run_scores["benchmark"].isin(benchmarks)]
    means = chosen.groupby(["arm", "context", "seed"], observed=True, as_index=False)["points"].mean()
    arms = alternates(design)
    baseline = np.full((1, rule.contexts, rule.baseline_looks[-1]), np.nan)
    others = np.full((1, rule.contrasts, rule.contexts, rule.max_seeds), np.nan)
    for arm, context, seed, points in means.to_numpy():
        table = baseline[0] if arm == design.baseline else others[0, arms.index(arm)]
        if seed < table.shape[-1]:
            table[design.contexts.index(context), seed] = points
    return baseline, others


def follow(design: Design, rule: Rule, run_scores: pd.DataFrame) -> State:
    """Where one study stands: replay.replay of its suite scores. Raises what suite_arrays raises."""
    return replay(rule, *suite_arrays(design, rule, run_scores, suite(design, rule, run_scores)))
