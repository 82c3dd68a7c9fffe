"""From the long table of example scores to matrices: one score for every training run and example.

Nothing is ever paired by row order. Every run has to have scored the same examples, and all runs have to agree
about them; what is missing, doubled or in disagreement is named.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vlmablate.errors import DataError
from vlmablate.stats.groups import Clusters

RUN_COLUMNS = ["arm", "context", "seed", "run_id"]
EXAMPLE_COLUMNS = ["benchmark", "split", "example_id"]
COLUMNS = [*RUN_COLUMNS, *EXAMPLE_COLUMNS, "cluster_id", "metric", "score"]
"""What the long table has to hold. `target` and `question` are used when they are there."""

_SHOWN = 5


@dataclass(frozen=True)
class Run:
    """One training run in its place in the design."""

    arm: str
    context: str
    seed: int
    run_id: str

    def __str__(self) -> str:
        return f"arm {self.arm}, context {self.context}, seed {self.seed}"


@dataclass(frozen=True)
class Panel:
    """One benchmark: scores [runs, examples] as fractions, in the order of `Panels.runs`; the examples' ids [n]
    and clusters [n], numbered across all benchmarks so that a picture that two of them share is one cluster."""

    benchmark: str
    metric: str
    example_ids: NDArray[np.object_]
    cluster_codes: NDArray[np.int64]
    scores: NDArray[np.floating]

    @property
    def n(self) -> int:
        return int(self.scores.shape[1])

    @property
    def clusters(self) -> Clusters:
        """The clusters of this benchmark alone, renumbered without gaps."""
        values, codes = np.unique(self.cluster_codes, return_inverse=True)
        return Clusters(codes.reshape(-1).astype(np.int64), len(values))


@dataclass(frozen=True)
class Panels:
    """All benchmarks of a design on the same runs; `duplicates` tells of questions that are asked twice (columns
    benchmark, n_examples, n_distinct, most_copies, example_ids; empty without a `question` column)."""

    runs: tuple[Run, ...]
    by_benchmark: Mapping[str, Panel]
    duplicates: pd.DataFrame

    def rows(self, arm: str, context: str) -> list[int]:
        """Indices of the runs of one cell."""
        return [i for i, run in enumerate(self.runs) if (run.arm, run.context) == (arm, context)]


def align(results: pd.DataFrame, metrics: Mapping[str, str]) -> Panels:
    """Arrange the rows of each benchmark's primary metric (`metrics`: benchmark -> metric) into panels.

    Raises DataError naming the columns, examples or runs: missing columns or values, scores that are not finite
    or outside [0, 1], an example scored twice by one run or not scored by a run, examples whose cluster or target
    differs between runs, a benchmark without its primary metric.
    """
    absent = [name for name in COLUMNS if name not in results.columns]
    if absent:
        raise DataError(
            f"the table lacks the column(s) {', '.join(absent)}; it has {', '.join(map(str, results))}"
        )
    chosen = _primary_rows(results, metrics)
    used = [*COLUMNS, *(name for name in ("target", "question") if name in results.columns)]
    primary = results[used] if chosen.all() else results.loc[chosen, used]
    if not len(primary):
        raise DataError("the table holds no score of any benchmark's primary metric: " + _pairs(metrics))
    for benchmark in metrics:
        if not (primary["benchmark"] == benchmark).any() and (results["benchmark"] == benchmark).any():
            raise DataError(f"benchmark {benchmark} has no score of its primary metric {metrics[benchmark]}")
    _check_values(primary)
    run_codes, run_keys = _codes(primary, RUN_COLUMNS)
    example_codes, example_keys = _codes(primary, EXAMPLE_COLUMNS)
    runs, examples = len(run_keys), len(example_keys)
    cell = run_codes * examples + example_codes
    _check_complete(cell, run_keys, example_keys)
    first = _first_rows(example_codes, examples)
    for column in ("cluster_id", *used[len(COLUMNS) :]):
        _check_agreement(primary, column, example_codes, first, example_keys)
    scores = np.empty(runs * examples)
    scores[cell] = primary["score"].to_numpy(dtype=np.float64)
    table = scores.reshape(runs, examples)
    clusters, _ = pd.factorize(primary["cluster_id"].to_numpy()[first], sort=True)
    names = example_keys["benchmark"].to_numpy()
    panels = {}
    for benchmark in sorted(set(names)):
        columns = np.flatnonzero(names == benchmark)
        panels[str(benchmark)] = Panel(
            benchmark=str(benchmark),
            metric=str(metrics[benchmark]),
            example_ids=example_keys["example_id"].to_numpy(dtype=object)[columns],
            cluster_codes=clusters[columns].astype(np.int64),
            scores=np.ascontiguousarray(table[:, columns]),
        )
    keys = [Run(str(r.arm), str(r.context), int(r.seed), str(r.run_id)) for r in run_keys.itertuples()]  # type: ignore[arg-type]
    return Panels(tuple(keys), panels, _duplicates(primary.iloc[first]))


def _primary_rows(results: pd.DataFrame, metrics: Mapping[str, str]) -> NDArray[np.bool_]:
    """Which rows hold their benchmark's primary metric: [rows]. Texts are compared once each, not once a row."""
    benchmark_codes, benchmarks = pd.factorize(results["benchmark"])
    metric_codes, names = pd.factorize(results["metric"])
    wanted = [metrics.get(benchmark) for benchmark in benchmarks]
    # The last row and column stand for missing names, whose code is -1.
    table = np.zeros((len(benchmarks) + 1, len(names) + 1), dtype=bool)
    for row, metric in enumerate(wanted):
        table[row, :-1] = [name == metric for name in names]
    return np.asarray(table[benchmark_codes, metric_codes])


def _pairs(metrics: Mapping[str, str]) -> str:
    return ", ".join(f"{benchmark}/{metric}" for benchmark, metric in metrics.items())


def _check_values(primary: pd.DataFrame) -> None:
    for column in (*RUN_COLUMNS, *EXAMPLE_COLUMNS, "cluster_id"):
        missing = primary[column].isna().to_numpy()
        if missing.any():
            row = int(np.flatnonzero(missing)[0])
            raise DataError(
                f"{int(missing.sum())} row(s) have no {column}, the first is row {primary.index[row]}"
            )
    score = primary["score"].to_numpy(dtype=np.float64)
    bad = ~np.isfinite(score)
    what = "are missing or not finite; a run that failed on an example has to be scored or left out as a run"
    if not bad.any():
        bad = (score < 0) | (score > 1)
        what = "are outside [0, 1]; scores are fractions, so divide points by 100 (or give their range)"
    if bad.any():
        rows = primary[bad].head(_SHOWN)
        names = "; ".join(
            f"{r.benchmark}/{r.example_id} of arm {r.arm} seed {r.seed}" for r in rows.itertuples()
        )
        raise DataError(f"{int(bad.sum())} score(s) {what}: {names}")


def _codes(table: pd.DataFrame, columns: Sequence[str]) -> tuple[NDArray[np.int64], pd.DataFrame]:
    """(code [rows] of every row's combination of `columns`, the combinations in sorted order)."""
    combined = np.zeros(len(table), dtype=np.int64)
    for column in columns:
        codes, values = pd.factorize(table[column], sort=True)
        combined = combined * max(len(values), 1) + codes
    kept, codes = _compact(combined)
    return codes, table.iloc[_first_rows(codes, len(kept))][list(columns)].reset_index(drop=True)


def _compact(values: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    kept, codes = np.unique(values, return_inverse=True)
    return kept, codes.reshape(-1).astype(np.int64)


def _first_rows(codes: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    first = np.empty(count, dtype=np.int64)
    first[codes[::-1]] = np.arange(len(codes) - 1, -1, -1)
    return first


def _listing(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _names(keys: pd.DataFrame, codes: NDArray[np.int64]) -> list[str]:
    return [f"{row.benchmark}/{row.example_id}" for row in keys.iloc[codes].itertuples()]


def _run_name(keys: pd.DataFrame, code: int) -> str:
    row = keys.iloc[code]
    return f"arm {row['arm']}, context {row['context']}, seed {row['seed']}"


def _check_complete(cell: NDArray[np.int64], runs: pd.DataFrame, examples: pd.DataFrame) -> None:
    """Every run has scored every example exactly once."""
    counts = np.bincount(cell, minlength=len(runs) * len(examples)).reshape(len(runs), len(examples))
    for run, row in enumerate(counts):
        twice = np.flatnonzero(row > 1)
        if len(twice):
            raise DataError(
                f"{len(twice)} example(s) are scored more than once by one run ({_run_name(runs, run)}): "
                f"{_listing(_names(examples, twice))}"
            )
    for run, row in enumerate(counts):
        gone = np.flatnonzero(row == 0)
        if len(gone):
            raise DataError(
                f"{len(gone)} example(s) that other runs have are missing in {_run_name(runs, run)}: "
                f"{_listing(_names(examples, gone))}"
            )


def _check_agreement(
    primary: pd.DataFrame,
    column: str,
    example_codes: NDArray[np.int64],
    first: NDArray[np.int64],
    examples: pd.DataFrame,
) -> None:
    codes, _ = pd.factorize(primary[column])
    differs = np.unique(example_codes[codes != codes[first][example_codes]])
    if len(differs):
        raise DataError(
            f"runs disagree about the {column} of {len(differs)} example(s): {_listing(_names(examples, differs))}; "
            "the same id has to mean the same question"
        )


def _duplicates(examples: pd.DataFrame) -> pd.DataFrame:
    """Questions asked more than once about one picture, per benchmark that has any."""
    columns = ["benchmark", "n_examples", "n_distinct", "most_copies", "example_ids"]
    if "question" not in examples.columns:
        return pd.DataFrame(columns=columns)
    rows = []
    for benchmark, part in examples.groupby("benchmark", sort=True, observed=True):
        part = part[part["question"].notna()]  # an unknown question is no copy of another unknown one
        if part.empty:
            continue
        asked = part.groupby(["cluster_id", "question"], sort=False, observed=True)["example_id"]
        sizes = asked.transform("size").to_numpy()
        if (sizes > 1).any():
            ids = [str(name) for name in part["example_id"].to_numpy()[sizes > 1]]
            rows.append((str(benchmark), len(part), int(asked.ngroups), int(sizes.max()), _listing(ids)))
    return pd.DataFrame(rows, columns=columns)
