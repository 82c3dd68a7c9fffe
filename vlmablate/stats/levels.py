"""The contrasts of a design at the four levels, each with its own unit of replication.

design: retraining, unit training run. items: new pictures, checkpoints fixed, unit picture. checkpoint: two
checkpoints on these examples. suite: other benchmarks, unit benchmark family.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from vlmablate.stats.components import TwoComponent
from vlmablate.stats.contrasts import compare, new_seeds_and_pictures
from vlmablate.stats.data import Cell, Data, Stacked, stack
from vlmablate.stats.families import PRIMARY, Row, silent
from vlmablate.stats.meta import random_effects
from vlmablate.stats.paired import paired_test
from vlmablate.stats.units import ALL_CONTEXTS, SUITE, SUITE_METRIC

Both = Mapping[tuple[str, str, str], TwoComponent]
"""(arm, context or ALL_CONTEXTS, benchmark or SUITE) -> interval over new seeds and new pictures."""


def groups_of_contexts(data: Data, arm: str) -> list[tuple[str, list[str]]]:
    """(name, contexts) of the contrasts of an arm: averaged over its contexts if the design has several, and each."""
    contexts = [context for alternate, context in data.pairs if alternate == arm]
    each = [(context, [context]) for context in contexts]
    return [(ALL_CONTEXTS, contexts), *each] if len(data.design.contexts) > 1 and contexts else each


def both_components(data: Data) -> dict[tuple[str, str, str], TwoComponent]:
    """The two-component interval of every contrast that has one."""
    stacks: dict[str, Stacked] = dict(data.of_benchmark)
    if data.suite is not None:
        stacks[SUITE] = data.suite
    errors = {name: data.error(stacked.names) for name, stacked in stacks.items()}
    found = {}
    for arm in data.design.arms:
        for name, contexts in groups_of_contexts(data, arm):
            for benchmark, stacked in stacks.items():
                interval = new_seeds_and_pictures(data, arm, contexts, stacked, errors[benchmark])
                if interval is not None:
                    found[arm, name, benchmark] = interval
    return found


def _metric(data: Data, benchmark: str) -> str:
    return data.design.metrics.get(benchmark, SUITE_METRIC)


def _seeds(data: Data, arm: str, contexts: Sequence[str]) -> int:
    """Runs of the smaller arm in the poorest context."""
    cells = [(name, context) for context in contexts for name in (arm, data.design.baseline)]
    return min(len(data.cells[cell]) for cell in cells)


def _rows_of(
    data: Data, benchmark: str, stacked: Stacked, families: tuple[str, str], both: Both, size: int
) -> list[Row]:
    """Contrasts of every arm on one benchmark or a suite: over all contexts (families[0]) and, if there are several,
    each (families[1]). size: least number of tests in these families."""
    error = data.error(stacked.names)
    planned = []
    for arm in data.design.arms:
        for name, contexts in groups_of_contexts(data, arm):
            single = len(data.design.contexts) > 1 and name != ALL_CONTEXTS
            family = families[1 if single else 0].format(arm=arm, context=name)
            planned.append((arm, name, contexts, family))
    rows = []
    for arm, name, contexts, family in planned:
        members = max(size, sum(other[3] == family for other in planned))
        cells = [((arm, context), (data.design.baseline, context)) for context in contexts]
        test = compare(data, cells, stacked.names, error, members)
        interval = both.get((arm, name, benchmark))
        counts = (stacked.n, stacked.clusters.count, _seeds(data, arm, contexts))
        ci = interval.ci if interval else (math.nan, math.nan)
        rows.append(Row(arm, name, "design", benchmark, _metric(data, benchmark), *counts, test, family, ci))
    return rows


def design_rows(data: Data, both: Both) -> list[Row]:
    """The suite score (families "primary" and "contexts") and every benchmark, with the training run as the unit."""
    rows = []
    if data.suite is not None:
        rows += _rows_of(data, SUITE, data.suite, (PRIMARY, "contexts"), both, 1)
    for name, signal in data.signal.items():
        family = "design:{arm}:{context}"
        family = family if signal.carries else silent(family)
        # Such a family holds one contrast of each benchmark with signal.
        rows += _rows_of(data, name, data.of_benchmark[name], (family, family), both, len(data.with_signal))
    return rows


def _paired_row(
    data: Data, pair: Cell, level: str, benchmark: str, family: str, rows: tuple[Sequence[int], Sequence[int]]
) -> Row:
    settings = data.design.settings
    stacked = data.suite if benchmark == SUITE else data.of_benchmark[benchmark]
    assert stacked is not None
    test = paired_test(
        stacked.mean(rows[0]),
        stacked.mean(rows[1]),
        stacked.clusters,
        strata=stacked.strata if benchmark == SUITE else None,
        alternative=settings.alternative,
        interval="t" if level == "items" else "flips",
        alpha=settings.alpha,
        seed=settings.seed,
    )
    counts = (stacked.n, stacked.clusters.count, min(len(rows[0]), len(rows[1])))
    return Row(*pair, level, benchmark, _metric(data, benchmark), *counts, test, family)


def items_rows(data: Data) -> list[Row]:
    """The suite score and every benchmark, averaged over the seeds of a cell, with the cluster as the unit."""
    made: list[Row] = []
    for arm, context in data.pairs:
        rows = data.cells[(arm, context)], data.cells[(data.design.baseline, context)]
        if data.suite is not None:
            made.append(_paired_row(data, (arm, context), "items", SUITE, f"items:suite:{context}", rows))
        for benchmark, signal in data.signal.items():
            family = f"items:{arm}:{context}"
            family = family if signal.carries else silent(family)
            made.append(_paired_row(data, (arm, context), "items", benchmark, family, rows))
    return made


def checkpoint_rows(data: Data) -> list[Row]:
    """Every benchmark for every two checkpoints of one seed."""
    made: list[Row] = []
    for arm, context in data.pairs:
        for first, second in zip(*data.matched((arm, context), (data.design.baseline, context)), strict=True):
            seed = data.panels.runs[first].seed
            for benchmark, signal in data.signal.items():
                family = f"checkpoint:{arm}:{context}:seed={seed}"
                family = family if signal.carries else silent(family)
                rows = ([first], [second])
                made.append(_paired_row(data, (arm, context), "checkpoint", benchmark, family, rows))
    return made


def suite_rows(data: Data, items: Sequence[Row], both: Both) -> list[Row]:
    """Random effects over the benchmarks with signal.

    A benchmark's standard error is that of its two-component interval, or of its row in `items` where runs were not
    repeated. The row's interval over new seeds and pictures is the prediction interval of one more benchmark.
    """
    if data.suite is None:
        return []
    errors = {(row.arm, row.context, row.benchmark): row.test.se for row in items}
    errors |= {key: interval.se for key, interval in both.items() if math.isfinite(interval.se)}
    families = [data.design.families.get(name, name) for name in data.with_signal]
    rows = []
    for arm, context in data.pairs:
        a, b = (arm, context), (data.design.baseline, context)
        deltas = [
            float(data.values(a, [name]).mean() - data.values(b, [name]).mean()) for name in data.with_signal
        ]
        ses = [errors[arm, context, name] for name in data.with_signal]
        effect = random_effects(deltas, ses, families=families, alpha=data.design.settings.alpha)
        counts = (data.suite.n, data.suite.clusters.count, _seeds(data, arm, [context]))
        rows.append(
            Row(arm, context, "suite", SUITE, SUITE_METRIC, *counts, effect, "suite", effect.prediction)
        )
    return rows


def sensitivity_rows(data: Data) -> list[Row]:
    """The primary contrasts with other suites: every benchmark, and each benchmark with signal left out."""
    suites: dict[str, Sequence[str]] = {"suite of all benchmarks": list(data.signal)}
    if len(data.with_signal) > 1:
        for left_out in data.with_signal:
            suites[f"suite without {left_out}"] = [name for name in data.with_signal if name != left_out]
    rows = []
    for name, terms in suites.items():
        families = (f"sensitivity: {name}", f"sensitivity: {name}, contexts")
        rows += _rows_of(data, name, stack(data.panels, terms), families, {}, 1)
    return rows
