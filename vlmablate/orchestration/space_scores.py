"""Which configuration of a design space is best, by the scores of the runs that were explored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vlmablate.design.spec import RunSpec
from vlmablate.orchestration.adaptive import Facts
from vlmablate.orchestration.tuning_trials import nothing_to_choose_by

_POINTS = 100.0
_DIGITS = 9
"""Of a score in points: configurations that differ by less are equally good."""


def suite_means(
    runs: Sequence[RunSpec], facts: Mapping[str, Facts], baseline: str, analysis: Mapping[str, Any]
) -> dict[str, float]:
    """Arm -> mean suite score of its runs in points.

    The suite is that of the report: the benchmarks in which the baseline's runs among these beat the best constant
    answer (all of them where it does so in none), each with the same weight.

    Args:
        runs: the baseline's among them.
        facts: run id -> benchmarks of its evaluation, for every run.
        baseline: an arm.
        analysis: the declared settings.

    Raises:
        DataError: for a run that lacks a benchmark that others have.
        UserError: where none of the benchmarks is part of the suite.
    """
    import pandas as pd

    from vlmablate.stats.declaration import read_analysis
    from vlmablate.stats.units import find_signal, suite_scores

    records, majority = [], {}
    for run in runs:
        for name, entry in facts[run.run_id].items():
            if entry.get("suite", True):
                points = _POINTS * float(entry["mean"])
                records.append((run.arm, run.context, run.seed, run.run_id, name, points))
                if entry.get("majority") is not None:
                    majority[name] = float(entry["majority"])
    if not records:
        raise nothing_to_choose_by({name for run in runs for name in facts[run.run_id]})
    table = pd.DataFrame(records, columns=["arm", "context", "seed", "run_id", "benchmark", "points"])
    settings, _ = read_analysis(analysis)
    signal = find_signal(table, baseline, majority, settings.signal_margin)
    suite = [name for name, found in signal.items() if found.carries] or list(signal)
    means = suite_scores(table, suite).groupby("arm", observed=True)["points"].mean()
    return {str(arm): float(points) for arm, points in means.items()}


def ranked(arms: Sequence[str], scores: Mapping[str, float]) -> list[str]:
    """The arms that have scores, the best first; equally good ones in the order of ``arms``."""
    return sorted((arm for arm in arms if arm in scores), key=lambda arm: -round(scores[arm], _DIGITS))
