"""The step `evaluate`: every benchmark of one trained model, scored per example.

Config: `benchmark` {names}, `seed`, `precision`. Dependencies: `model`, `scenes`, and for a model whose towers stayed
as they were `features0`….
Output: examples.parquet (see `evaluation.scores`), one row per question, in a fixed order.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vlmablate.data.questions import Question
from vlmablate.data.scenes_store import SceneStore
from vlmablate.data.vocabulary import Vocabulary
from vlmablate.errors import UserError
from vlmablate.evaluation.benchmarks import Benchmark, benchmark_named
from vlmablate.evaluation.decoding import NO_PICTURE, decode
from vlmablate.evaluation.scores import picture_rows, questions_of, write_scores
from vlmablate.evaluation.sight import features_for
from vlmablate.orchestration.context import StepContext
from vlmablate.training.steps import load_model, read_card, vocabulary_of
from vlmablate.vlm.features_step import check_precision


def run(config: dict[str, Any], deps: dict[str, Path], out: Path, context: StepContext) -> dict[str, Any]:
    """Decode and score. The payload gives, per benchmark, n, the mean score and the score of the best constant answer.

    Raises UserError for an unknown benchmark, or one that has no question in these scenes.
    """
    if read_card(deps["model"]).get("llm") is not None:
        from vlmablate.evaluation.causal import run_causal  # transformers takes seconds to import

        return run_causal(config, deps, out, context)
    check_precision(config["precision"], "cpu")
    benchmarks = [benchmark_named(name) for name in config["benchmark"]["names"]]
    model = load_model(deps["model"])
    store = SceneStore(deps["scenes"], "evaluation")
    vocabulary = vocabulary_of(deps["scenes"], read_card(deps["model"]))
    threads = int(context.execution.get("threads") or 1)
    features = features_for(
        model, deps, store, config["precision"], threads, lambda pictures: context.check_stop()
    )
    row_of = picture_rows(store, features)
    questions = [(benchmark, _questions(store, benchmark, vocabulary)) for benchmark in benchmarks]
    # Benchmarks whose answers are equally long share the pass over the pictures.
    lengths = sorted({benchmark.answer_tokens for benchmark in benchmarks})
    answers: dict[str, str] = {}
    passes: dict[int, dict[str, list[Question]]] = {length: {} for length in lengths}
    for benchmark, of_benchmark in questions:
        for question in of_benchmark:
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
    summary = write_scores(questions, answers, features, row_of, out)
    return {"benchmarks": summary, "precision": config["precision"]}


def _questions(store: SceneStore, benchmark: Benchmark, vocabulary: Vocabulary) -> list[Question]:
    if not benchmark.pictured and not vocabulary.dialogue:
        raise UserError(
            f"benchmark {benchmark.name} asks without a picture, in words that this language model does not know; "
            "use llm=small_text or llm=small_chat, or leave it out of benchmark.names"
        )
    return questions_of(store, benchmark)
