"""The evaluation of a model around a pretrained language model: it writes its answers, and they are read back.

All questions about a picture, of every benchmark, are read behind it once (see `evaluation.generation`).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from vlmablate.data import dialogue_text
from vlmablate.data.questions import Question
from vlmablate.data.scenes_store import SceneStore
from vlmablate.errors import UserError
from vlmablate.evaluation.benchmarks import benchmark_named
from vlmablate.evaluation.generation import generate
from vlmablate.evaluation.scores import picture_rows, questions_of, write_scores
from vlmablate.evaluation.sight import features_for
from vlmablate.orchestration.context import StepContext
from vlmablate.training.causal_model import CausalParts, load_causal
from vlmablate.training.causal_steps import sample_of
from vlmablate.training.dialogues import encode
from vlmablate.training.precision import computing
from vlmablate.training.ranks import ranks_of
from vlmablate.vlm.features_step import check_precision
from vlmablate.vlm.merge import Sample
from vlmablate.vlm.prompts import Turn, stop_token

ANSWER_TOKENS = 32
"""What an answer has at most: a box written in bytes has 24, and no other is longer."""


def run_causal(
    config: dict[str, Any], deps: dict[str, Path], out: Path, context: StepContext
) -> dict[str, Any]:
    """Ask, read and score, as `evaluation.step` does for the small language model; the same table and payload.

    Raises UserError for an unknown benchmark, or one that has no question in these scenes.
    """
    precision = config["precision"]
    check_precision(precision, str(context.execution.get("device") or "cpu"))
    benchmarks = [benchmark_named(name) for name in config["benchmark"]["names"]]
    store = SceneStore(deps["scenes"], "evaluation")
    questions = [(benchmark, questions_of(store, benchmark)) for benchmark in benchmarks]
    pictured = {benchmark.name for benchmark in benchmarks if benchmark.pictured}
    parts = load_causal(deps["model"])
    threads = int(context.execution.get("threads") or 1)
    with ranks_of(context) as ranks:
        parts.model.to(ranks.device)
        seen = features_for(
            parts.model, deps, store, precision, threads, lambda pictures: context.check_stop()
        )
        row_of = picture_rows(store, seen)
        # Questions about one picture, or one request said in several ways.
        groups: dict[str, list[Question]] = {}
        for _, asked in questions:
            for question in asked:
                groups.setdefault(question.scene, []).append(question)

        def look(pictures: Sequence[Hashable]) -> Tensor:
            rows = np.array([row_of[str(picture)] for picture in pictures])
            return seen.batch(rows).to(ranks.device)

        prompts = [
            [prompt_of(question, parts, pictured=question.benchmark in pictured) for question in asked]
            for asked in groups.values()
        ]
        with computing(precision, ranks.device):
            written = generate(
                parts.model,
                look,
                prompts,
                parts.tokens,
                stop=stops(parts),
                limit=ANSWER_TOKENS,
                after_batch=lambda done: context.progress(done, len(groups)),
                check=context.check_stop,
            )
    answers = {
        question.example_id: read(parts, tokens)
        for asked, found in zip(groups.values(), written, strict=True)
        for question, tokens in zip(asked, found, strict=True)
    }
    return {
        "benchmarks": write_scores(questions, answers, seen, row_of, out),
        "precision": precision,
    }


def prompt_of(question: Question, parts: CausalParts, *, pictured: bool) -> Sample:
    """What the model reads before it answers; the picture, named by its scene, stands where training puts it."""
    dialogue = encode(
        parts.tokenizer,
        parts.template,
        [Turn("human", dialogue_text.asked(question))],
        image="after_bos" if pictured else "none",
    )
    return sample_of(dialogue, [question.scene] if pictured else [], parts.tokens)


def stops(parts: CausalParts) -> set[int]:
    """The tokens that end an answer: that of the prompt template, and that of the language model.

    Raises UserError for a template without any.
    """
    eos = parts.tokenizer.eos_token
    tokens = {token for token in (stop_token(parts.template, eos), eos) if token}
    if not tokens:
        raise UserError(f"nothing ends an answer in the prompt template {parts.template.name}")
    return {int(parts.tokenizer.convert_tokens_to_ids(token)) for token in tokens}


def read(parts: CausalParts, tokens: Sequence[int]) -> str:
    """The answer in the form that is scored."""
    tokenizer: Any = parts.tokenizer
    text = tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return dialogue_text.read_answer(text)
