"""What every evaluation asks and writes down, whatever model answers: one row per question, and a summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vlmablate import files
from vlmablate.data.questions import Question
from vlmablate.data.scenes_store import SceneStore
from vlmablate.data.text_only import refusal_questions
from vlmablate.errors import UserError
from vlmablate.evaluation.benchmarks import Benchmark
from vlmablate.evaluation.sight import Seen

EXAMPLES_FILE = "examples.parquet"
COLUMNS = ("benchmark", "split", "example_id", "cluster_id", "metric", "score", "prediction", "target")


def questions_of(store: SceneStore, benchmark: Benchmark) -> list[Question]:
    """The questions of a benchmark. Raises UserError where these scenes have none."""
    if not benchmark.pictured:
        return refusal_questions()
    asked = [q for qs in store.questions.values() for q in qs if q.benchmark == benchmark.name]
    if not asked:
        raise UserError(
            f"benchmark {benchmark.name} has no question in these scenes; raise data.evaluation_scenes or leave it out "
            "of benchmark.names"
        )
    return asked


def picture_rows(store: SceneStore, seen: Seen) -> dict[str, int]:
    """Scene -> its row in the features. Raises UserError where the features are of other scenes."""
    if list(store.ids) != list(seen.ids):
        raise UserError("the features are not those of these scenes; delete the features step and run again")
    return {scene: row for row, scene in enumerate(store.ids)}


def write_scores(
    questions: Sequence[tuple[Benchmark, Sequence[Question]]],
    answers: Mapping[str, str],
    seen: Seen,
    row_of: Mapping[str, int],
    out: Path,
) -> dict[str, dict[str, Any]]:
    """Score the answers, by example id, and write them in the order of the questions, with the columns of COLUMNS.

    Returns for every benchmark its metric, n, the mean score and the score of the best constant answer.
    """
    rows: list[tuple[Any, ...]] = []
    summary: dict[str, dict[str, Any]] = {}
    for benchmark, asked in questions:
        frames = [seen.frames[row_of[q.scene]] if benchmark.pictured else None for q in asked]
        verdicts = [
            benchmark.score(q, answers[q.example_id], frame) for q, frame in zip(asked, frames, strict=True)
        ]
        rows += [
            (
                benchmark.name, q.subset, q.example_id, q.scene,
                benchmark.metric, v.score, v.prediction, v.target,
            )
            for q, v in zip(asked, verdicts, strict=True)
        ]  # fmt: skip
        summary[benchmark.name] = {
            "metric": benchmark.metric,
            "n": len(asked),
            "mean": sum(v.score for v in verdicts) / len(verdicts),
            "majority": benchmark.majority(asked),
        }
    columns = zip(*rows, strict=True)
    table = pa.table({name: list(column) for name, column in zip(COLUMNS, columns, strict=True)})
    with files.write_with(out / EXAMPLES_FILE) as target:
        pq.write_table(table, target, compression="zstd")
    return summary
