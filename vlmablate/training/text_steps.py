"""The steps that train a language model on text: `pretrain`, and `posttrain` on more text or on dialogues."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlmablate.data.lexicon import load_lexicon
from vlmablate.data.mixtures import read_share
from vlmablate.data.scenes_store import read_world
from vlmablate.data.vocabulary import BINS, build_vocabulary
from vlmablate.design.stage_choices import TEXTS
from vlmablate.errors import UserError, unknown_name
from vlmablate.orchestration.context import StepContext
from vlmablate.training.loop import Batch, Recipe, train
from vlmablate.training.operations import text_operations
from vlmablate.training.packing import attention_mask, pack
from vlmablate.training.ranks import ranks_of
from vlmablate.training.steps import load_language_model, save_model, vocabulary_of
from vlmablate.training.text_world import TextExample, dialogues, request_examples, text_examples
from vlmablate.training.visits import order_of, picked
from vlmablate.vlm.features_step import check_precision
from vlmablate.vlm.language_model import LanguageModel, LanguageModelConfig
from vlmablate.vlm.positions import LEARNED

LANGUAGE_MODELS = ("small_causal",)
# Streams of random numbers that must not touch each other, nor those of `training.visits`.
TEXT_STREAM, REQUEST_ROWS_STREAM, DIALOGUE_STREAM = 11, 17, 18


def run_pretrain(
    config: dict[str, Any], deps: dict[str, Path], out: Path, context: StepContext
) -> dict[str, Any]:
    """Language model on scenes written as text (see `training.text_world`). Config: `llm`, `grid`, `rotary`
    (the `position` of the run, None when it is learned), `precision`.

    With `llm.pretrain.text_only` above 0 that share of the rows holds requests without a scene, all of them complied
    with, and the model knows their words.
    """
    llm, recipe, rotary = config["llm"], config["llm"]["pretrain"], config["rotary"]
    if llm["name"] not in LANGUAGE_MODELS:
        raise unknown_name("language model", llm["name"], LANGUAGE_MODELS, "llm.name")
    check_precision(config["precision"], str(context.execution.get("device") or "cpu"))
    source, shapes = read_world(deps["scenes"])
    lexicon = load_lexicon(source)
    asks = read_share(recipe.get("text_only", 0.0), "llm.pretrain.text_only") > 0
    vocabulary = build_vocabulary(lexicon, dialogue=asks)
    card: dict[str, Any] = {
        "vocabulary": len(vocabulary), "grid": int(config["grid"]), "layers": int(llm["layers"]),
        "width": int(llm["width"]), "heads": int(llm["heads"]), "segment": int(llm["segment"]),
        "code_std": float(llm["code_std"]), "bins": BINS, "position": LEARNED,
    }  # fmt: skip
    if rotary is not None:
        card["position"] = rotary["name"]
        if "base" in rotary:
            card["rotary_base"] = float(rotary["base"])
    model = LanguageModel(LanguageModelConfig(**card))
    model.initialise(torch.Generator().manual_seed(int(recipe["seed"])))
    if asks:
        card["dialogue"] = True
    examples = text_examples(
        lexicon, shapes, vocabulary, card["grid"], int(recipe["scenes"]), int(recipe["seed"]) + TEXT_STREAM
    )
    if asks:
        examples += request_examples(
            vocabulary, card["grid"] ** 2, _request_rows(recipe), refuse=False, seed=_request_seed(recipe)
        )
    return _train(model, card, examples, recipe, config["precision"], out, context)


def run_posttrain(
    config: dict[str, Any], deps: dict[str, Path], out: Path, context: StepContext
) -> dict[str, Any]:
    """The pretrained language model trained further. Config: `posttrain` (llm.posttrain), `precision`.

    On `dialogue` it becomes a chat model: the same kind of questions in the template of a chat, half of them behind an
    earlier turn where two fit into a segment (requests seldom do), and harmful requests refused. On `plain` text it
    reads on as in pretraining, behind the same scenes in the same order for as many steps, so that only what was learnt
    differs. Its scenes are not those of `pretrain`.

    Raises UserError for another kind of text, and for a model that does not know the words of requests.
    """
    settings = config["posttrain"]
    if settings["text"] not in TEXTS:
        raise unknown_name("text", settings["text"], TEXTS, "llm.posttrain.text")
    check_precision(config["precision"], str(context.execution.get("device") or "cpu"))
    chat, seed = settings["text"] == "dialogue", int(settings["seed"])
    model, card = load_language_model(deps["language"])
    if not card.get("dialogue"):
        raise UserError(
            "llm.posttrain needs a language model that knows the words of dialogues: set llm.pretrain.text_only above 0"
        )
    card["chat"] = chat
    vocabulary = vocabulary_of(deps["scenes"], card)
    source, shapes = read_world(deps["scenes"])
    cells = card["grid"] ** 2
    examples = text_examples(
        load_lexicon(source), shapes, vocabulary, card["grid"], int(settings["scenes"]), seed + TEXT_STREAM
    )
    examples += request_examples(
        vocabulary, cells, _request_rows(settings), refuse=chat, seed=_request_seed(settings)
    )
    if chat:
        examples = [
            dialogues(example, card["segment"], np.random.default_rng([seed, DIALOGUE_STREAM, index]))
            for index, example in enumerate(examples)
        ]
    return _train(model, card, examples, settings, config["precision"], out, context)


def _request_rows(recipe: Mapping[str, Any]) -> int:
    """Rows of requests beside the scenes, so that they are the declared share of all rows."""
    share = read_share(recipe["text_only"], "text_only")
    return round(int(recipe["scenes"]) * share / (1 - share))


def _request_seed(recipe: Mapping[str, Any]) -> int:
    return int(recipe["seed"]) + REQUEST_ROWS_STREAM


def _train(
    model: LanguageModel,
    card: dict[str, Any],
    examples: Sequence[TextExample],
    recipe: Mapping[str, Any],
    precision: str,
    out: Path,
    context: StepContext,
) -> dict[str, Any]:
    size, visit, seed = int(recipe["batch_scenes"]), int(recipe["questions_per_visit"]), int(recipe["seed"])
    order = order_of(len(examples), int(recipe["steps"]) * size, seed)
    text_only = not all(example.pictured for example in examples)

    with ranks_of(context) as ranks:
        model.to(ranks.device)

        def batch_at(step: int) -> Batch:
            chosen = [examples[i] for i in order[step * size : (step + 1) * size]]
            packed = pack(picked([row.segments for row in chosen], visit, seed, step)).to(ranks.device)

            def hidden(rows: slice) -> Tensor:
                words = torch.from_numpy(np.stack([row.words for row in chosen[rows]])).to(ranks.device)
                weights = torch.from_numpy(np.stack([row.weights for row in chosen[rows]])).to(ranks.device)
                pictured = torch.tensor([row.pictured for row in chosen[rows]], device=ranks.device)
                mask = attention_mask(
                    packed.segments[rows], card["grid"] ** 2, pictured if text_only else None
                )
                cells = model.read_table(words, weights)
                return model(cells, packed.tokens[rows], packed.positions[rows], mask)

            return Batch(packed, hidden, text_operations(model, card["grid"] ** 2, packed))

        payload = train(
            model,
            model.logits,
            batch_at,
            Recipe.read(recipe, int(recipe["steps"])),
            out,
            context,
            precision,
            ranks,
        )
        save_model(model, card, out, ranks)
    return payload
