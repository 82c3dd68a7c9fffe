"""The significance table: every contrast of a study, at every level at which it can be asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from vlmablate.errors import UserError
from vlmablate.stats import benchmarks as benchmark_level
from vlmablate.stats import clusters as items_level
from vlmablate.stats import seeds as design_level
from vlmablate.stats.families import PRIMARY, Row, adjusted_table, silent
from vlmablate.stats.settings import Settings
from vlmablate.stats.units import (
    ALL_CONTEXTS,
    SUITE,
    SUITE_METRIC,
    Signal,
    as_cells,
    find_signal,
    primary_scores,
    run_scores,
    suite_scores,
)


@dataclass(frozen=True)
class Analysis:
    """What the report is built from.

    significance: the table (COLUMNS). sensitivity: the same columns, the primary contrasts with the suite
    defined otherwise; for reading, not for deciding. run_scores, suite_scores: per run, in points. signal:
    per benchmark. seed_sd, seed_df, cells: pooled spread between seeds of the suite score. family_sizes:
    family -> tests in it.
    """

    significance: pd.DataFrame
    sensitivity: pd.DataFrame
    run_scores: pd.DataFrame
    suite_scores: pd.DataFrame
    signal: dict[str, Signal]
    seed_sd: float
    seed_df: int
    cells: int
    family_sizes: dict[str, int]


@dataclass(frozen=True)
class _Study:
    """The tables and names that every level needs; `examples` has one row per example of any run."""

    primary: pd.DataFrame
    examples: pd.DataFrame
    scores: pd.DataFrame
    metrics: Mapping[str, str]
    signal: Mapping[str, Signal]
    baseline: str
    arms: Sequence[str]
    contexts: Sequence[str]
    settings: Settings

    @property
    def with_signal(self) -> list[str]:
        return [name for name, signal in self.signal.items() if signal.carries]

    def of(self, arm: str, context: str) -> pd.DataFrame:
        return self.primary[(self.primary["arm"] == arm) & (self.primary["context"] == context)]

    def pairs(self) -> list[tuple[str, str]]:
        """(alternate, context) pairs for which both arms have a finished run."""
        present = set(zip(self.scores["arm"], self.scores["context"], strict=True))
        return [
            (arm, context)
            for arm in self.arms
            for context in self.contexts
            if arm != self.baseline and (arm, context) in present and (self.baseline, context) in present
        ]


def analyse(
    results: pd.DataFrame,
    *,
    axis: str,
    baseline: str,
    arms: Sequence[str],
    contexts: Sequence[str],
    metrics: Mapping[str, str],
    majority: Mapping[str, float],
    settings: Settings,
) -> Analysis:
    """Test every arm against the baseline at the levels design, items, checkpoint and suite.

    results: the long results table, scores as fractions. metrics: benchmark -> its primary metric; majority:
    benchmark -> score of the always-majority answer (fraction). arms and contexts give the order of the rows.
    Raises UserError for scores outside [0, 1] and whatever the levels find wrong with the ids.
    """
    if not results["score"].between(0.0, 1.0).all():
        raise UserError("the results table holds scores outside [0, 1]; scores are fractions, not points")
    primary = primary_scores(results, metrics)
    scores = run_scores(primary)
    signal = find_signal(scores, baseline, majority, settings.signal_margin)
    examples = primary[[*items_level.EXAMPLE_KEY, "cluster_id"]].drop_duplicates()
    study = _Study(primary, examples, scores, metrics, signal, baseline, arms, contexts, settings)
    suite = suite_scores(scores, study.with_signal)
    rows = [*_design(study), *_items(study), *_checkpoints(study), *_suite(study)]
    error = design_level.cell_error(as_cells(suite))
    table = adjusted_table(rows, axis, baseline, settings)
    sizes = table[table["p"].notna()].groupby("family").size()
    return Analysis(
        significance=table,
        sensitivity=adjusted_table(_sensitivity(study), axis, baseline, settings),
        run_scores=scores,
        suite_scores=suite,
        signal=signal,
        seed_sd=error.sd,
        seed_df=error.df,
        cells=error.cells,
        family_sizes={str(family): int(size) for family, size in sizes.items()},
    )


def _counts(
    study: _Study, arm: str, contexts: Sequence[str], benchmarks: Sequence[str]
) -> tuple[int, int, int]:
    """Examples, clusters and seeds (the smaller arm's, of the poorest context) behind a contrast."""
    examples = study.examples[study.examples["benchmark"].isin(list(benchmarks))]
    pair = study.scores["arm"].isin([arm, study.baseline]) & study.scores["context"].isin(list(contexts))
    seeds = study.scores[pair].groupby(["arm", "context"])["run_id"].nunique().min() if pair.any() else 0
    return len(examples), int(examples["cluster_id"].nunique()), int(seeds)


def _design_rows(
    study: _Study, values: pd.DataFrame, benchmark: str, terms: Sequence[str], families: tuple[str, str]
) -> list[Row]:
    """Contrasts of run-level `values`: averaged over contexts (families[0]) and, if several, each
    (families[1])."""
    cells, rows = as_cells(values), []
    metric = study.metrics.get(benchmark, SUITE_METRIC)
    for arm in study.arms:
        contexts = [context for alternate, context in study.pairs() if alternate == arm]
        if len(study.contexts) > 1:
            groups = [
                (ALL_CONTEXTS, contexts, families[0]),
                *((name, [name], families[1]) for name in contexts),
            ]
        else:
            groups = [(name, [name], families[0]) for name in contexts]
        for name, members, family in groups if contexts else []:
            weights = {(study.baseline, context): -1.0 / len(members) for context in members}
            weights |= {(arm, context): 1.0 / len(members) for context in members}
            estimate = design_level.contrast(cells, weights, study.settings.alpha)
            counts = _counts(study, arm, members, terms)
            family = family.format(arm=arm, context=name)
            rows.append(Row(arm, name, "design", benchmark, metric, *counts, estimate, family))
    return rows


def _design(study: _Study) -> list[Row]:
    rows = []
    if study.with_signal:
        suite = suite_scores(study.scores, study.with_signal)
        rows += _design_rows(study, suite, SUITE, study.with_signal, (PRIMARY, "contexts"))
    for benchmark, signal in study.signal.items():
        values = study.scores[study.scores["benchmark"] == benchmark]
        family = "design:{arm}:{context}"
        family = family if signal.carries else silent(family)
        rows += _design_rows(study, values, benchmark, [benchmark], (family, family))
    return rows


def _paired_rows(
    study: _Study, arm: str, context: str, level: str, family: str, sides: tuple[pd.DataFrame, pd.DataFrame]
) -> list[Row]:
    """One row per benchmark from example-wise differences of the two sides."""
    differences = items_level.paired_differences(*sides)
    seeds = min(side["run_id"].nunique() for side in sides)
    rows = []
    for benchmark, signal in study.signal.items():
        part = differences[differences["benchmark"] == benchmark]
        values, labels = part["difference"].to_numpy(), part["cluster_id"].to_numpy()
        estimate = items_level.cluster_mean(values, labels, study.settings.alpha)
        counts = (len(part), len(set(labels)), seeds)
        name = family if signal.carries else silent(family)
        rows.append(Row(arm, context, level, benchmark, study.metrics[benchmark], *counts, estimate, name))
    return rows


def _items(study: _Study) -> list[Row]:
    rows: list[Row] = []
    for arm, context in study.pairs():
        sides = (study.of(arm, context), study.of(study.baseline, context))
        rows += _paired_rows(study, arm, context, "items", f"items:{arm}:{context}", sides)
    return rows


def _checkpoints(study: _Study) -> list[Row]:
    rows: list[Row] = []
    for arm, context in study.pairs():
        alternate, baseline = study.of(arm, context), study.of(study.baseline, context)
        for seed in sorted(set(alternate["seed"]) & set(baseline["seed"])):
            family = f"checkpoint:{arm}:{context}:seed={seed}"
            sides = (alternate[alternate["seed"] == seed], baseline[baseline["seed"] == seed])
            rows += _paired_rows(study, arm, context, "checkpoint", family, sides)
    return rows


def _suite(study: _Study) -> list[Row]:
    rows = []
    for arm, context in study.pairs() if study.with_signal else []:
        scores = study.scores[study.scores["context"] == context]
        means = scores.groupby(["arm", "benchmark"])["points"].mean()
        deltas = [means[(arm, name)] - means[(study.baseline, name)] for name in study.with_signal]
        estimate = benchmark_level.benchmark_mean(deltas, study.settings.alpha)
        counts = _counts(study, arm, [context], study.with_signal)
        rows.append(Row(arm, context, "suite", SUITE, SUITE_METRIC, *counts, estimate, "suite"))
    return rows


def _sensitivity(study: _Study) -> list[Row]:
    """The primary contrasts with other suites: every benchmark, and each benchmark with signal left out."""
    suites = {"suite of all benchmarks": list(study.signal)}
    if len(study.with_signal) > 1:
        for left_out in study.with_signal:
            suites[f"suite without {left_out}"] = [name for name in study.with_signal if name != left_out]
    rows = []
    for name, terms in suites.items():
        values = suite_scores(study.scores, terms)
        rows += _design_rows(
            study, values, name, terms, (f"sensitivity: {name}", f"sensitivity: {name}, contexts")
        )
    return rows
