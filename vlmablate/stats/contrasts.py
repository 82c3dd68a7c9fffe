"""One contrast of two arms at the design level, in the way that the design declares."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from vlmablate.stats.components import TwoComponent, two_component_interval
from vlmablate.stats.data import Cell, Data, Stacked
from vlmablate.stats.runs import DesignTest, PooledError, declared_method, design_test, tipping_sd
from vlmablate.stats.settings import Alternative


def compare(
    data: Data,
    cells: Sequence[tuple[Cell, Cell]],
    names: Sequence[str],
    error: PooledError | None,
    family: int,
    alternative: Alternative | None = None,
) -> DesignTest:
    """Mean over `cells`, pairs (alternate, baseline), of the differences of the mean over the benchmarks `names`.

    The method is runs.declared_method's: exact permutation where it could decide in a family of `family` tests,
    otherwise t with `error`. Cells that share training runs do not differ there, and that is known without error.
    alternative: the declared one unless given.
    """
    settings = data.design.settings
    alternative = alternative or settings.alternative
    if any(data.ids(a) & data.ids(b) for a, b in cells):
        return _shared_runs(data, cells, names, error, alternative)
    if settings.paired_seeds:
        rows = [data.matched(a, b) for a, b in cells]
        if not all(a for a, _ in rows):
            return _no_common_seed(data, cells, names, alternative)
    else:
        rows = [(data.cells[a], data.cells[b]) for a, b in cells]
    method = declared_method(
        [len(a) for a, _ in rows],
        [len(b) for _, b in rows],
        family=family,
        paired=settings.paired_seeds,
        alpha=settings.alpha,
    )
    return design_test(
        [data.means(a, names) for a, _ in rows],
        [data.means(b, names) for _, b in rows],
        paired=settings.paired_seeds,
        error=error,
        alternative=alternative,
        method=method,
        alpha=settings.alpha,
    )


def _counts(data: Data, cells: Sequence[tuple[Cell, Cell]]) -> tuple[int, int]:
    return sum(len(data.cells[a]) for a, _ in cells), sum(len(data.cells[b]) for _, b in cells)


def _shared_runs(
    data: Data,
    cells: Sequence[tuple[Cell, Cell]],
    names: Sequence[str],
    error: PooledError | None,
    alternative: Alternative,
) -> DesignTest:
    """Arms that share training runs in some of the `cells`: there the difference is exactly 0 and has no error."""
    apart = [(a, b) for a, b in cells if not data.ids(a) & data.ids(b)]
    if not apart:
        text = "identical runs in both arms"
        return DesignTest(0.0, 0.0, 1, 1.0, (0.0, 0.0), *_counts(data, cells), text, 1.0, 0.0, alternative)
    test = compare(data, apart, names, error, 1, alternative)
    share = len(apart) / len(cells)
    return dataclasses.replace(
        test,
        delta=test.delta * share,
        se=test.se * share,
        ci=(test.ci[0] * share, test.ci[1] * share),
        method=f"{test.method}; {len(cells) - len(apart)} of {len(cells)} contexts have the same runs in both arms",
    )


def _no_common_seed(
    data: Data, cells: Sequence[tuple[Cell, Cell]], names: Sequence[str], alternative: Alternative
) -> DesignTest:
    nan = math.nan
    differences = [float(data.values(a, names).mean() - data.values(b, names).mean()) for a, b in cells]
    delta = sum(differences) / len(cells)
    weights = [1 / (len(data.cells[cell]) * len(cells) ** 2) for pair in cells for cell in pair]
    tipping = tipping_sd(delta, sum(weights), alpha=data.design.settings.alpha)
    text = "no test: seeds were declared to be paired, but the arms share none"
    return DesignTest(
        delta,
        nan,
        0,
        nan,
        (nan, nan),
        *_counts(data, cells),
        text,
        nan,
        tipping,
        alternative,
    )


def new_seeds_and_pictures(
    data: Data, arm: str, contexts: Sequence[str], stacked: Stacked, error: PooledError
) -> TwoComponent | None:
    """The two-component interval of an arm against the baseline; None where it has no simple form (paired seeds, runs
    that both arms share) or no replication of runs."""
    cells = [((arm, context), (data.design.baseline, context)) for context in contexts]
    shared = any(data.ids(a) & data.ids(b) for a, b in cells)
    if shared or data.design.settings.paired_seeds or error.df == 0:
        return None
    return two_component_interval(
        [stacked.scores(data.cells[a]) for a, _ in cells],
        [stacked.scores(data.cells[b]) for _, b in cells],
        stacked.clusters,
        benchmarks=stacked.strata,
        error=error,
        alpha=data.design.settings.alpha,
    )
