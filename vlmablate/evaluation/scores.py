"""What every evaluation writes down, whatever model answers: one row per question and metric, and a summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from vlmablate import files
from vlmablate.data.scenes_store import SceneStore
from vlmablate.errors import UserError
from vlmablate.evaluation.protocol import Answer, Benchmark, Example, Verdict
from vlmablate.vlm.image import Frame

if TYPE_CHECKING:
    from vlmablate.evaluation.sight import Seen  # needs torch

EXAMPLES_FILE = "examples.parquet"
COLUMNS = ("benchmark", "split", "example_id", "cluster_id", "metric", "score", "prediction", "target")


def picture_rows(store: SceneStore, seen: Seen) -> dict[str, int]:
    """Scene -> its row in the features. Raises UserError where the features are of other scenes."""
    if list(store.ids) != list(seen.ids):
        raise UserError("the features are not those of these scenes; delete the features step and run again")
    return {scene: row for row, scene in enumerate(store.ids)}


def score_all(
    benchmark: Benchmark,
    examples: Sequence[Example],
    answers: Sequence[Answer],
    frames: Sequence[Frame | None],
) -> tuple[list[tuple[Any, ...]], dict[str, Any]]:
    """Score the answers to a benchmark.

    Returns the rows of the table with the columns of COLUMNS, those of the metric of the benchmark first, then those of
    each further metric; and metric, n, the mean score, the score of the best constant answer, the mean of every further
    metric, and the figures of all examples. What a benchmark does not have is left out.
    """
    verdicts = [
        benchmark.score(example, answer, frame)
        for example, answer, frame in zip(examples, answers, frames, strict=True)
    ]
    further = list(dict.fromkeys(name for verdict in verdicts for name in verdict.further))
    columns: dict[str, list[float | None]] = {
        benchmark.metric: [verdict.score for verdict in verdicts],
        **{name: [verdict.further.get(name) for verdict in verdicts] for name in further},
    }
    rows = [
        _row(example, metric, score, verdict)
        for metric, scores in columns.items()
        for example, score, verdict in zip(examples, scores, verdicts, strict=True)
        if score is not None
    ]
    summary: dict[str, Any] = {
        "metric": benchmark.metric,
        "n": len(examples),
        "mean": sum(verdict.score for verdict in verdicts) / len(verdicts),
        "majority": benchmark.majority(examples),
    }
    if not benchmark.in_suite:
        summary["suite"] = False
    if further:
        summary["further"] = {name: _mean(columns[name]) for name in further}
    figures = dict(benchmark.summary(examples, answers, verdicts))
    if figures:
        summary["summary"] = figures
    return rows, summary


def write_scores(
    asked: Sequence[tuple[Benchmark, Sequence[Example]]],
    answers: Mapping[str, Answer],
    seen: Seen,
    row_of: Mapping[str, int],
    out: Path,
) -> dict[str, dict[str, Any]]:
    """Score the answers, by example id, and write them in the order of the questions.

    Returns for every benchmark what `score_all` says of it.
    """
    rows: list[tuple[Any, ...]] = []
    summary: dict[str, dict[str, Any]] = {}
    for benchmark, examples in asked:
        frames = [None if e.picture is None else seen.frames[row_of[e.picture]] for e in examples]
        found, summary[benchmark.name] = score_all(
            benchmark, examples, [answers[e.example_id] for e in examples], frames
        )
        rows += found
    write_rows(rows, out)
    return summary


def write_rows(rows: Sequence[tuple[Any, ...]], out: Path) -> None:
    """The table of scores, in the folder `out`."""
    columns = zip(*rows, strict=True)
    table = pa.table({name: list(column) for name, column in zip(COLUMNS, columns, strict=True)})
    with files.write_with(out / EXAMPLES_FILE) as target:
        pq.write_table(table, target, compression="zstd")


def _row(example: Example, metric: str, score: float, verdict: Verdict) -> tuple[Any, ...]:
    return (
        example.benchmark, example.split, example.example_id, example.cluster_id,
        metric, score, verdict.prediction, verdict.target,
    )  # fmt: skip


def _mean(scores: Sequence[float | None]) -> float:
    known = [score for score in scores if score is not None]
    return sum(known) / len(known)
