"""The step `evaluate`: every benchmark of one trained model, scored per example. Here those of a small language model
that answers about scenes; `evaluation.causal` has those of other models, `evaluation.published` the published ones.

Config: `benchmark` {names}, `seed`, `precision`; published ones have {names, variants, frames, slim, digests}, the last
of their questions. Dependencies: `model`; for benchmarks about scenes `scenes`, and for a model whose towers stayed as
they were `features0`….
Output: examples.parquet (see `evaluation.scores`), one row per question, in a fixed order.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vlmablate.data.scenes_store import SceneStore
from vlmablate.data.vocabulary import Vocabulary
from vlmablate.errors import UserError
from vlmablate.evaluation.behaviour.captioning import as_long_as_reference
from vlmablate.evaluation.benchmarks import benchmark_named, examples_of
from vlmablate.evaluation.decoding import NO_PICTURE, decode
from vlmablate.evaluation.protocol import Answer, Benchmark, Example
from vlmablate.evaluation.scores import picture_rows, write_scores
from vlmablate.evaluation.sight import features_for
from vlmablate.orchestration.context import StepContext
from vlmablate.training.steps import load_model, read_card, vocabulary_of
from vlmablate.vlm.features_step import check_precision


def run(config: dict[str, Any], deps: dict[str, Path], out: Path, context: StepContext) -> dict[str, Any]:
    """Decode and score. The payload gives, per benchmark, n, the mean score and the score of the best constant answer.

    Raises UserError for an unknown benchmark, or one that has no question in these scenes.
    """
    if "scenes" not in deps:
        from vlmablate.evaluation.published import run_published
        from vlmablate.evaluation.tasks.folders import find

        folders = {name: find(name, digest) for name, digest in config["benchmark"]["digests"].items()}
        return run_published(config, deps["model"], folders, out, context)
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
    asked = [(benchmark, _examples(store, benchmark, vocabulary)) for benchmark in benchmarks]
    # Benchmarks whose answers are equally long share the pass over the pictures.
    lengths = sorted({benchmark.answer_tokens for benchmark in benchmarks})
    answers: dict[str, Answer] = {}
    passes: dict[int, dict[str, list[Example]]] = {length: {} for length in lengths}
    for benchmark, of_benchmark in asked:
        for example in of_benchmark:
            passes[benchmark.answer_tokens].setdefault(example.cluster_id, []).append(example)
    total, done = sum(len(groups) for groups in passes.values()), 0
    for length, groups in passes.items():
        prompts = [
            (row_of.get(scene, NO_PICTURE), [tuple(vocabulary.prompt(e.question)) for e in examples])
            for scene, examples in groups.items()
        ]

        def note(pictures: int, base: int = done) -> None:
            context.check_stop()
            context.progress(base + pictures, total)

        decoded = decode(model, features.batch, prompts, length, after_batch=note)
        for examples, replies in zip(groups.values(), decoded, strict=True):
            answers |= {
                example.example_id: Answer(as_long_as_reference(example, vocabulary.decode(ids)))
                for example, ids in zip(examples, replies, strict=True)
            }
        done += len(groups)
    context.progress(total, total)
    summary = write_scores(asked, answers, features, row_of, out)
    return {"benchmarks": summary, "precision": config["precision"]}


def _examples(store: SceneStore, benchmark: Benchmark, vocabulary: Vocabulary) -> list[Example]:
    """What a benchmark asks. Raises UserError for one that needs words that the model does not know."""
    if benchmark.examples is not None:
        raise UserError(
            f"benchmark {benchmark.name} asks in natural language, which this language model does not read; choose one "
            "of the registry, such as llm=smollm2_135m, or leave it out of benchmark.names"
        )
    if not benchmark.pictured and not vocabulary.dialogue:
        raise UserError(
            f"benchmark {benchmark.name} asks without a picture, in words that this language model does not know; "
            "use llm=small_text or llm=small_chat, or leave it out of benchmark.names"
        )
    return examples_of(store, benchmark)
