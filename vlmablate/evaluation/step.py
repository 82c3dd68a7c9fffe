"""The step `evaluate`: every benchmark of one trained model, scored per example.

Config: `benchmark` {names}, `seed`, `precision`. Dependencies: `model`, `scenes`, and for a model whose towers stayed
as they were `features0`….
Output: examples.parquet with the columns of COLUMNS, one row per question, in a fixed order.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vlmablate import files
from vlmablate.data.questions import Question
from vlmablate.data.scenes_store import SceneStore
from vlmablate.data.text_only import refusal_questions
from vlmablate.data.vocabulary import Vocabulary
from vlmablate.errors import UserError
from vlmablate.evaluation.benchmarks import Benchmark, benchmark_named
from vlmablate.evaluation.decoding import NO_PICTURE, decode
from vlmablate.evaluation.sight import features_for
from vlmablate.orchestration.context import StepContext
from vlmablate.training.steps import load_model, read_card, vocabulary_of
from vlmablate.vlm.features_step import check_precision

EXAMPLES_FILE = "examples.parquet"
COLUMNS = ("benchmark", "split", "example_id", "cluster_id", "metric", "score", "prediction", "target")


def run(config: dict[str, Any], deps: dict[str, Path], out: Path, context: StepContext) -> dict[str, Any]:
    """Decode and score. The payload gives, per benchmark, n, the mean score and the score of the best constant answer.

    Raises UserError for an unknown benchmark, or one that has no question in these scenes.
    """
    check_precision(config["precision"], "cpu")
    benchmarks = [benchmark_named(name) for name in config["benchmark"]["names"]]
    model = load_model(deps["model"])
    store = SceneStore(deps["scenes"], "evaluation")
    vocabulary = vocabulary_of(deps["scenes"], read_card(deps["model"]))
    threads = int(context.execution.get("threads") or 1)
    features = features_for(
        model, deps, store, config["precision"], threads, lambda pictures: context.check_stop()
    )
    if list(store.ids) != list(features.ids):
        raise UserError("the features are not those of these scenes; delete the features step and run again")
    row_of = {scene: row for row, scene in enumerate(store.ids)}
    questions = {b.name: _questions(store, b, vocabulary) for b in benchmarks}
    rows: list[tuple[Any, ...]] = []
    summary: dict[str, dict[str, Any]] = {}
    # Benchmarks whose answers are equally long share the pass over the pictures.
    lengths = sorted({benchmark.answer_tokens for benchmark in benchmarks})
    answers: dict[str, str] = {}
    passes: dict[int, dict[str, list[Question]]] = {length: {} for length in lengths}
    for benchmark in benchmarks:
        for question in questions[benchmark.name]:
            passes[benchmark.answer_tokens].setdefault(question.scene, []).append(question)
    total, done = sum(len(asked) for asked in passes.values()), 0
    for length, asked in passes.items():
        prompts = [
            (row_of.get(scene, NO_PICTURE), [tuple(vocabulary.prompt(q.text)) for q in qs])
            for scene, qs in asked.items()
        ]

        def note(pictures: int, base: int = done) -> None:
            context.check_stop()
            context.progress(base + pictures, total)

        decoded = decode(model, features.batch, prompts, length, after_batch=note)
        for qs, replies in zip(asked.values(), decoded, strict=True):
            answers |= {q.example_id: vocabulary.decode(ids) for q, ids in zip(qs, replies, strict=True)}
        done += len(asked)
    context.progress(total, total)
    for benchmark in benchmarks:
        scored = questions[benchmark.name]
        verdicts = [
            benchmark.score(
                q,
                answers[q.example_id],
                features.frames[row_of[q.scene]] if benchmark.pictured else None,
            )
            for q in scored
        ]
        rows += [
            (
                benchmark.name,
                q.subset,
                q.example_id,
                q.scene,
                benchmark.metric,
                v.score,
                v.prediction,
                v.target,
            )
            for q, v in zip(scored, verdicts, strict=True)
        ]
        summary[benchmark.name] = {
            "metric": benchmark.metric,
            "n": len(scored),
            "mean": sum(v.score for v in verdicts) / len(verdicts),
            "majority": benchmark.majority(scored),
        }
    table = pa.table(
        {name: list(column) for name, column in zip(COLUMNS, zip(*rows, strict=True), strict=True)}
    )
    with files.write_with(out / EXAMPLES_FILE) as target:
        pq.write_table(table, target, compression="zstd")
    return {"benchmarks": summary, "precision": config["precision"]}


def _questions(store: SceneStore, benchmark: Benchmark, vocabulary: Vocabulary) -> list[Question]:
    if not benchmark.pictured:
        if not vocabulary.dialogue:
            raise UserError(
                f"benchmark {benchmark.name} asks without a picture, in words that this language model does not know; "
                "use llm=small_text or llm=small_chat, or leave it out of benchmark.names"
            )
        return refusal_questions()
    asked = [q for qs in store.questions.values() for q in qs if q.benchmark == benchmark.name]
    if not asked:
        raise UserError(
            f"benchmark {benchmark.name} has no question in these scenes; raise data.evaluation_scenes or leave it out "
            "of benchmark.names"
        )
    return asked
