"""Anybody's table of example scores, read into the long table that the analysis works on.

Text is kept as categories (a number per row and each text once) from the moment of reading: ten million rows are a
table of a few hundred megabytes, not of several gigabytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from vlmablate.errors import DataError, UserError, unknown_name
from vlmablate.stats.coded import Coded, encoded, joined
from vlmablate.stats.declaration import Design
from vlmablate.stats.panel import COLUMNS
from vlmablate.stats.settings import Settings
from vlmablate.stats.tablefiles import read_columns

REQUIRED = ("arm", "benchmark", "example_id", "score")
OPTIONAL = ("question", "target")
"""Used if every row has one; left out otherwise."""

DEFAULTS = {"context": "default", "split": "test", "metric": "score"}
KNOWN = (*COLUMNS, *OPTIONAL)

_SHOWN = 5
_WORDS = {"true": 1.0, "false": 0.0, "": np.nan, "na": np.nan, "n/a": np.nan, "null": np.nan, "none": np.nan}


def read_long_table(
    path: Path | str,
    columns: Mapping[str, str] | None = None,
    *,
    score_range: tuple[float, float] = (0.0, 1.0),
    metrics: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """Read the scores of `path` (.csv, .tsv, either with .gz, or .parquet): one row per run, example and metric.

    columns: our name -> the file's column, where they differ. score_range: (low, high) of the file's scores, which
    are brought to fractions in [0, 1]; true and false are 1 and 0. metrics: benchmark -> the metric that decides, where
    it was chosen; scores of its other metrics may lie outside the range, since nothing is done with them.

    Returns panel.COLUMNS and, if every row has one, target and question, in the order of the file: seed whole
    numbers, score float64, metric text, the others categories. What the file lacks: context "default", split "test",
    metric "score", run_id "arm/context/seed", cluster_id "benchmark/example_id" (every example on its own), and seed
    0 if every arm has scored its examples once in a context.

    Raises:
        UserError: for a file that cannot be read, and unknown names in `columns`.
        DataError: for a table without rows or without arm, benchmark, example_id or score; for values that are
            missing or that are no scores, and scores outside the range; for several runs without a seed.
    """
    path = Path(path)
    low, high = score_range
    if not (np.isfinite([low, high]).all() and low < high):
        raise UserError(f"score_range must go from a lower to a higher finite number, got {low:g},{high:g}")
    for name in columns or {}:
        if name not in KNOWN:
            raise unknown_name("column", name, KNOWN, "the tables of this package")
    found = read_columns(path, KNOWN, REQUIRED, columns or {}, numeric="score")
    theirs = {name: (columns or {}).get(name, name) for name in KNOWN}
    rows = len(found["arm"])
    if not rows:
        raise DataError(f"{path} has a header and no rows: there is nothing to compare")
    texts: dict[str, Coded] = {}
    for name in [name for name in found if name not in ("score", "seed")]:
        texts[name] = encoded(found.pop(name))  # each column of the file goes as soon as it is used
        missing = texts[name].codes < 0
        if name in OPTIONAL and missing.any():
            del texts[name]
        else:
            _check_missing(path, theirs[name], missing)
    for name, value in DEFAULTS.items():
        texts.setdefault(name, Coded(np.zeros(rows, dtype=np.int32), [value]))
    if "seed" in found:
        seed = _seeds(path, theirs["seed"], encoded(found.pop("seed")))
    else:
        _check_one_run(path, texts)
        seed = np.zeros(rows, dtype=np.int64)
    if "run_id" not in texts:
        codes, values = pd.factorize(seed)
        seeds = Coded(codes.astype(np.int32), [str(value) for value in values])
        texts["run_id"] = joined(texts["arm"], texts["context"], seeds)
    if "cluster_id" not in texts:
        texts["cluster_id"] = joined(texts["benchmark"], texts["example_id"])
    score = _scores(path, theirs["score"], found.pop("score"))
    _to_fractions(path, theirs["score"], score, (low, high), texts, _deciding(texts, metrics or {}))
    # Columns of categories are comparable only with equal categories, and the panels compare metrics.
    metric = texts.pop("metric")
    table: dict[str, Any] = {"seed": seed, "score": score}
    table["metric"] = pd.Series(metric.texts, dtype="str").array.take(metric.codes)
    table |= {name: column.as_categories() for name, column in texts.items()}
    return pd.DataFrame({name: table[name] for name in KNOWN if name in table}, copy=False)


def design_from_table(
    results: pd.DataFrame,
    *,
    baseline: str | None,
    axis: str = "arm",
    metrics: Mapping[str, str] | None = None,
    majority: Mapping[str, float] | None = None,
    families: Mapping[str, str] | None = None,
    settings: Settings | None = None,
) -> Design:
    """The design of a table (of read_long_table): `baseline` against every other arm, in every context.

    Arms, after the baseline, contexts and benchmarks are in the order in which the table names them first. metrics:
    benchmark -> its metric, needed where a benchmark has several. majority: benchmark -> score of the always-majority
    answer, a fraction. families: benchmark -> family of related benchmarks.

    Raises UserError for a missing or unknown baseline, benchmark or metric, a benchmark with several metrics of which
    none is chosen, and a majority score outside [0, 1].
    """
    arms = _in_order(results["arm"])
    if baseline is None:
        raise UserError(
            f"which arm is the baseline, the one that all others are compared with? Write baseline=ARM; the arms are "
            f"{_listing(arms)}"
        )
    if baseline not in arms:
        raise unknown_name("baseline", baseline, arms, "the arms of the table")
    benchmarks = _in_order(results["benchmark"])
    for what in (metrics, majority, families):
        for name in what or {}:
            if name not in benchmarks:
                raise unknown_name("benchmark", name, benchmarks, "the table")
    for name, value in (majority or {}).items():
        if not 0 <= value <= 1:
            raise UserError(f"the majority score of {name} must be a fraction in [0, 1], got {value:g}")
    return Design(
        axis=axis,
        baseline=baseline,
        arms=(baseline, *(arm for arm in arms if arm != baseline)),
        contexts=tuple(_in_order(results["context"])),
        metrics=_primary_metrics(results, benchmarks, metrics or {}),
        majority=dict(majority or {}),
        families=dict(families or {}),
        settings=settings or Settings(),
    )


def _in_order(column: pd.Series[Any]) -> list[str]:
    return [str(value) for value in column.unique()]


def _listing(names: Sequence[str]) -> str:
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return ", ".join(names[:20]) + more


def _primary_metrics(
    results: pd.DataFrame, benchmarks: Iterable[str], chosen: Mapping[str, str]
) -> dict[str, str]:
    pairs = results[["benchmark", "metric"]].drop_duplicates()
    known: dict[str, list[str]] = {name: [] for name in benchmarks}
    for benchmark, metric in zip(pairs["benchmark"], pairs["metric"], strict=True):
        known[str(benchmark)].append(str(metric))
    for name, metric in chosen.items():
        if metric not in known[name]:
            raise unknown_name("metric", metric, known[name], f"benchmark {name}")
    for name, names in known.items():
        if len(names) > 1 and name not in chosen:
            raise UserError(
                f"benchmark {name} has several metrics ({', '.join(names)}), and one has to decide; choose it before "
                f"looking at the scores: metric.{name}={names[0]}, or metrics={{'{name}': '{names[0]}'}} in Python"
            )
    return {name: chosen.get(name, names[0]) for name, names in known.items()}


def _check_missing(path: Path, column: str, missing: NDArray[np.bool_]) -> None:
    if missing.any():
        raise DataError(
            f"{path}: column '{column}' is empty in {int(missing.sum()):,} of {len(missing):,} rows, first in row "
            f"{int(np.argmax(missing)) + 1:,} (the header not counted); fill it in, or leave these rows out"
        )


def _check_one_run(path: Path, texts: Mapping[str, Coded]) -> None:
    """Raise DataError if an arm scored an example twice: without a seed the two cannot be told apart."""
    combined = np.zeros(len(texts["arm"].codes), dtype=np.int64)
    for name in ("arm", "context", "benchmark", "split", "metric", "example_id"):
        combined = combined * len(texts[name].texts) + texts[name].codes
    twice = pd.Series(combined, copy=False).duplicated().to_numpy()
    if twice.any():
        row = int(np.argmax(twice))
        names = {name: texts[name][row] for name in ("arm", "benchmark", "example_id")}
        raise DataError(
            f"{path}: {int(twice.sum()):,} rows score an example again that their arm has scored already, first row "
            f"{row + 1:,} (the header not counted): arm {names['arm']}, {names['benchmark']}/{names['example_id']}. If "
            "these are several training runs, say which row belongs to which: columns.seed=COLUMN, a whole number for "
            "every run. If they are one run, leave the repetitions out"
        )


def _seeds(path: Path, name: str, column: Coded) -> NDArray[np.int64]:
    _check_missing(path, name, column.codes < 0)
    values = np.empty(len(column.texts), dtype=np.int64)
    for i, text in enumerate(column.texts):
        number = _number(text)
        if number is None or not number.is_integer() or abs(number) > 2**53:
            row = int(np.argmax(column.codes == i)) + 1
            raise DataError(
                f"{path}: column '{name}' must hold a whole number for every training run, got '{text}' in row {row:,} "
                "(the header not counted); number the runs of each arm 0, 1, 2, ..."
            )
        values[i] = int(number)
    return values[column.codes]


def _scores(path: Path, name: str, column: pa.ChunkedArray) -> NDArray[np.float64]:
    """The scores as they are in the file."""
    if pa.types.is_dictionary(column.type):
        score = _scores_from_text(path, name, encoded(column))
    else:
        try:
            score = np.array(pc.cast(column, pa.float64()).to_numpy(), dtype=np.float64)
        except pa.ArrowException:
            raise DataError(f"{path}: column '{name}' holds {column.type}, which is no score") from None
    missing = ~np.isfinite(score)
    if missing.any():
        raise DataError(
            f"{path}: column '{name}' has no score (or an infinite one) in {int(missing.sum()):,} of {len(score):,} "
            f"rows, first in row {int(np.argmax(missing)) + 1:,} (the header not counted); score every example of a "
            "run (a failed one usually counts as wrong), or leave the run out"
        )
    return score


def _scores_from_text(path: Path, name: str, column: Coded) -> NDArray[np.float64]:
    numbers = [_number(text) for text in column.texts]
    bad = [i for i, number in enumerate(numbers) if number is None]
    if bad:
        wrong = np.isin(column.codes, bad)
        shown = ", ".join(f"'{column.texts[i]}'" for i in bad[:_SHOWN])
        raise DataError(
            f"{path}: column '{name}' holds text that is no score in {int(wrong.sum()):,} of {len(wrong):,} rows, "
            f"first in row {int(np.argmax(wrong)) + 1:,} (the header not counted): {shown}. A score is a number, or "
            "true or false; score the answers first, or name the column with the scores: columns.score=COLUMN"
        )
    return np.array([*numbers, np.nan], dtype=np.float64)[column.codes]


def _number(text: str) -> float | None:
    """The number that a text stands for: nan for nothing, None for something else."""
    word = text.strip().lower()
    if word in _WORDS:
        return _WORDS[word]
    try:
        return float(word)
    except ValueError:
        return None


def _deciding(texts: Mapping[str, Coded], metrics: Mapping[str, str]) -> NDArray[np.bool_]:
    """Which rows hold the chosen metric of their benchmark, or belong to one without a choice: [rows]."""
    benchmark, metric = texts["benchmark"], texts["metric"]
    chosen = [[metrics.get(name, other) == other for other in metric.texts] for name in benchmark.texts]
    table = np.array(chosen, dtype=bool)
    return np.asarray(table[benchmark.codes, metric.codes])


def _to_fractions(
    path: Path,
    name: str,
    score: NDArray[np.float64],
    score_range: tuple[float, float],
    texts: Mapping[str, Coded],
    deciding: NDArray[np.bool_],
) -> None:
    """Turn `score` into fractions of the range, in place. Raises DataError if one that may decide lies outside."""
    low, high = score_range
    outside = deciding & ((score < low) | (score > high))
    if outside.any():
        shown = "; ".join(
            f"{score[i]:g} in row {i + 1:,} ({texts['benchmark'][i]}/{texts['example_id'][i]} of arm {texts['arm'][i]})"
            for i in np.flatnonzero(outside)[:_SHOWN]
        )
        smallest, largest = float(score.min()), float(score.max())
        advice = "give the range that scores can have: score_range=LOW,HIGH"
        if (low, high) == (0.0, 1.0) and smallest >= 0 and largest <= 100:
            advice = "they look like points; if they are, write score_range=0,100"
        raise DataError(
            f"{path}: {int(outside.sum()):,} of {len(score):,} scores in column '{name}' lie outside {low:g} to "
            f"{high:g} (smallest {smallest:g}, largest {largest:g}), the first: {shown}; {advice}"
        )
    if (low, high) != (0.0, 1.0):
        score -= low
        score /= high - low
