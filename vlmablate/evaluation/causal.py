"""The evaluation of a model around a pretrained language model: it writes its answers, and they are read back.

All questions about a picture, of every benchmark, are read behind it once (see `evaluation.generation`).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from vlmablate.data import dialogue_text
from vlmablate.data.scenes_store import SceneStore
from vlmablate.evaluation.behaviour import with_verbosity
from vlmablate.evaluation.benchmarks import benchmark_named, examples_of
from vlmablate.evaluation.choices import stops
from vlmablate.evaluation.generation import generate
from vlmablate.evaluation.protocol import Answer, Benchmark, Example, Verdict
from vlmablate.evaluation.scores import picture_rows, write_scores
from vlmablate.evaluation.sight import features_for
from vlmablate.orchestration.context import StepContext
from vlmablate.training.causal_model import CausalParts, load_causal
from vlmablate.training.causal_steps import sample_of
from vlmablate.training.dialogues import encode
from vlmablate.training.precision import computing
from vlmablate.training.ranks import ranks_of
from vlmablate.vlm.features_step import check_precision
from vlmablate.vlm.image import Frame
from vlmablate.vlm.merge import Sample
from vlmablate.vlm.prompts import Turn

ANSWER_TOKENS = 32
"""What an answer about a scene has at most: a box written in bytes has 24, and no other is longer."""


def run_causal(
    config: dict[str, Any], deps: dict[str, Path], out: Path, context: StepContext
) -> dict[str, Any]:
    """Ask, read and score, as `evaluation.step` does for the small language model; the same table and payload.

    Raises UserError for an unknown benchmark, or one that has no question in these scenes.
    """
    precision = config["precision"]
    check_precision(precision, str(context.execution.get("device") or "cpu"))
    benchmarks = [_first_line(benchmark_named(name)) for name in config["benchmark"]["names"]]
    if config["benchmark"].get("verbosity", False):
        benchmarks = [with_verbosity(benchmark) for benchmark in benchmarks]
    store = SceneStore(deps["scenes"], "evaluation")
    asked = [(benchmark, examples_of(store, benchmark)) for benchmark in benchmarks]
    parts = load_causal(deps["model"])
    threads = int(context.execution.get("threads") or 1)
    with ranks_of(context) as ranks:
        parts.model.to(ranks.device)
        seen = features_for(
            parts.model, deps, store, precision, threads, lambda pictures: context.check_stop()
        )
        row_of = picture_rows(store, seen)
        passes = _passes(asked)
        total = sum(len(groups) for groups in passes.values())
        answers: dict[str, Answer] = {}

        def look(pictures: Sequence[Hashable]) -> Tensor:
            rows = np.array([row_of[str(picture)] for picture in pictures])
            return seen.batch(rows).to(ranks.device)

        done = 0
        for limit, groups in passes.items():

            def note(groups: int, base: int = done) -> None:
                context.progress(base + groups, total)

            with computing(precision, ranks.device):
                written = generate(
                    parts.model,
                    look,
                    [[prompt_of(e, b, parts) for b, e in group] for group in groups.values()],
                    parts.tokens,
                    stop=stops(parts.tokenizer, parts.template),
                    limit=limit,
                    after_batch=note,
                    check=context.check_stop,
                )
            for group, found in zip(groups.values(), written, strict=True):
                answers |= {
                    example.example_id: Answer(read(parts, tokens))
                    for (_, example), tokens in zip(group, found, strict=True)
                }
            done += len(groups)
    return {
        "benchmarks": write_scores(asked, answers, seen, row_of, out),
        "precision": precision,
    }


Groups = dict[str, list[tuple[Benchmark, Example]]]
"""Questions about one picture, or one request said in several ways."""


def _passes(asked: Sequence[tuple[Benchmark, Sequence[Example]]]) -> Mapping[int, Groups]:
    """Most tokens of an answer -> the questions that are answered with so many, grouped by what they share."""
    passes: dict[int, Groups] = {}
    for benchmark, examples in asked:
        groups = passes.setdefault(_limit(benchmark), {})
        for example in examples:
            groups.setdefault(example.cluster_id, []).append((benchmark, example))
    return passes


def _first_line(benchmark: Benchmark) -> Benchmark:
    """The benchmark as it scores what the first line says; one of behaviour is about all that was written."""
    if not benchmark.in_suite:
        return benchmark

    def score(example: Example, answer: Answer, frame: Frame | None) -> Verdict:
        return benchmark.score(example, Answer(dialogue_text.read_answer(answer.text)), frame)

    return replace(benchmark, score=score)


def _limit(benchmark: Benchmark) -> int:
    """In tokens; those of the scenes count words, and know no more of the tokens than that these suffice."""
    return ANSWER_TOKENS if benchmark.examples is None else benchmark.answer_tokens


def prompt_of(example: Example, benchmark: Benchmark, parts: CausalParts) -> Sample:
    """What the model reads before it answers; the picture, named by its scene, stands where training puts it."""
    pictured = example.picture is not None
    dialogue = encode(
        parts.tokenizer,
        parts.template,
        [Turn("human", benchmark.prompt(example))],
        image="after_bos" if pictured else "none",
    )
    return sample_of(dialogue, [example.picture] if pictured else [], parts.tokens)


def read(parts: CausalParts, tokens: Sequence[int]) -> str:
    """All that was written."""
    tokenizer: Any = parts.tokenizer
    text = tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return str(text).strip()
