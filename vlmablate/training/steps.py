"""The training steps: `pretrain` (language model on text), `align` (projector only), `finetune` (both)."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vlmablate import files
from vlmablate.data.lexicon import load_lexicon
from vlmablate.data.scenes_store import SceneStore, read_world
from vlmablate.data.vocabulary import BINS, Vocabulary, build_vocabulary
from vlmablate.errors import UserError, unknown_name
from vlmablate.orchestration.context import StepContext
from vlmablate.training.examples import caption_segment, question_segments
from vlmablate.training.loop import Batch, Recipe, train
from vlmablate.training.packing import Segment, attention_mask, pack
from vlmablate.training.ranks import Ranks, ranks_of
from vlmablate.training.text_world import text_examples
from vlmablate.vlm.features_step import check_precision
from vlmablate.vlm.language_model import LanguageModel, LanguageModelConfig
from vlmablate.vlm.model import FusedFeatures, VisionLanguageModel, feature_folders
from vlmablate.vlm.projector import build_projector

MODEL_FILE = "model.safetensors"
MODEL_CARD = "model.json"
LANGUAGE_MODELS = ("small_causal",)
POSITIONS = ("learned_2d",)
# Streams of random numbers that must not touch each other.
TEXT_STREAM, ORDER_STREAM, PICK_STREAM = 11, 12, 13


def run_pretrain(
    config: dict[str, Any], deps: dict[str, Path], out: Path, context: StepContext
) -> dict[str, Any]:
    """Language model on scenes written as text (see `training.text_world`). Config: `llm`, `grid`, `precision`."""
    llm, recipe = config["llm"], config["llm"]["pretrain"]
    if llm["name"] not in LANGUAGE_MODELS:
        raise unknown_name("language model", llm["name"], LANGUAGE_MODELS, "llm.name")
    check_precision(config["precision"], str(context.execution.get("device") or "cpu"))
    source, shapes = read_world(deps["scenes"])
    lexicon = load_lexicon(source)
    vocabulary = build_vocabulary(lexicon)
    card: dict[str, Any] = {
        "vocabulary": len(vocabulary), "grid": int(config["grid"]), "layers": int(llm["layers"]),
        "width": int(llm["width"]), "heads": int(llm["heads"]), "segment": int(llm["segment"]),
        "code_std": float(llm["code_std"]), "bins": BINS,
    }  # fmt: skip
    model = LanguageModel(LanguageModelConfig(**card))
    model.initialise(torch.Generator().manual_seed(int(recipe["seed"])))
    examples = text_examples(
        lexicon, shapes, vocabulary, card["grid"], int(recipe["scenes"]), int(recipe["seed"]) + TEXT_STREAM
    )
    size, visit, seed = int(recipe["batch_scenes"]), int(recipe["questions_per_visit"]), int(recipe["seed"])
    order = _order(len(examples), int(recipe["steps"]) * size, seed)

    with ranks_of(context) as ranks:
        model.to(ranks.device)

        def batch_at(step: int) -> Batch:
            chosen = [examples[i] for i in order[step * size : (step + 1) * size]]
            packed = pack(_visit([row.segments for row in chosen], visit, seed, step)).to(ranks.device)

            def hidden(rows: slice) -> Tensor:
                words = torch.from_numpy(np.stack([row.words for row in chosen[rows]])).to(ranks.device)
                weights = torch.from_numpy(np.stack([row.weights for row in chosen[rows]])).to(ranks.device)
                mask = attention_mask(packed.segments[rows], card["grid"] ** 2)
                cells = model.read_table(words, weights)
                return model(cells, packed.tokens[rows], packed.positions[rows], mask)

            return Batch(packed, hidden)

        payload = train(
            model,
            model.logits,
            batch_at,
            Recipe.read(recipe, int(recipe["steps"])),
            out,
            context,
            config["precision"],
            ranks,
        )
        _save(model, card, out, ranks)
    return payload


def run_align(
    config: dict[str, Any], deps: dict[str, Path], out: Path, context: StepContext
) -> dict[str, Any]:
    """Projector only: describe the scene from left to right, language model frozen (paper, section 4.1)."""
    language, card = load_language_model(deps["language"])
    return _train_stage("align", config, deps, out, context, language, card)


def run_finetune(
    config: dict[str, Any], deps: dict[str, Path], out: Path, context: StepContext
) -> dict[str, Any]:
    """Projector and language model together, on the questions; starts from `align` or from `pretrain`."""
    language, card = load_language_model(deps["init"])
    return _train_stage("finetune", config, deps, out, context, language, card)


def _train_stage(
    stage: str,
    config: dict[str, Any],
    deps: dict[str, Path],
    out: Path,
    context: StepContext,
    language: LanguageModel,
    card: dict[str, Any],
) -> dict[str, Any]:
    check_precision(config["precision"], str(context.execution.get("device") or "cpu"))
    if config["position"]["name"] not in POSITIONS:
        raise unknown_name("position code", config["position"]["name"], POSITIONS, "position.name")
    settings, seeds = config["stages"][stage], config["seed"]
    features = FusedFeatures(feature_folders(deps), "train")
    generator = torch.Generator().manual_seed(int(seeds["init"]))
    projector = build_projector(config["projector"]["name"], features.channels, card["width"], generator)
    model = VisionLanguageModel(projector, language)
    if "projector" in card:
        _load_into(model, deps["init"])
    for parameter in language.parameters():
        parameter.requires_grad_(stage == "finetune")
    segments = _segments(stage, SceneStore(deps["scenes"], "train"), features, vocabulary_of(deps["scenes"]))
    rows_with_targets = np.flatnonzero([len(row) > 0 for row in segments])
    size, order_seed = int(settings["batch_scenes"]), int(seeds["order"])
    visit = int(settings.get("questions_per_visit", 1))
    steps = max(1, round(float(settings["epochs"]) * len(rows_with_targets) / size))
    order = rows_with_targets[_order(len(rows_with_targets), steps * size, order_seed)]

    with ranks_of(context) as ranks:
        model.to(ranks.device)

        def batch_at(step: int) -> Batch:
            chosen = order[step * size : (step + 1) * size]
            packed = pack(_visit([segments[i] for i in chosen], visit, order_seed, step)).to(ranks.device)

            def hidden(rows: slice) -> Tensor:
                pixels = features.batch(chosen[rows]).to(ranks.device)
                mask = attention_mask(packed.segments[rows], features.cells)
                return model(pixels, packed.tokens[rows], packed.positions[rows], mask)

            return Batch(packed, hidden)

        payload = train(
            model,
            language.logits,
            batch_at,
            Recipe.read(settings, steps),
            out,
            context,
            config["precision"],
            ranks,
        )
        card = {**card, "projector": config["projector"]["name"], "channels": features.channels}
        _save(model, card, out, ranks)
    return payload


def _segments(
    stage: str, store: SceneStore, features: FusedFeatures, vocabulary: Vocabulary
) -> list[Sequence[Segment]]:
    """What is asked behind every picture: its description in alignment, its questions in finetuning."""
    if store.ids != features.ids:
        raise UserError("the features are not those of these scenes; delete the features step and run again")
    rows: list[Sequence[Segment]] = []
    for scene, frame in zip(store.scenes, features.frames, strict=True):
        if stage == "align":
            caption = caption_segment(scene, vocabulary)
            rows.append([] if caption is None else [caption])
        else:
            rows.append(question_segments(store.questions[scene.id], frame, vocabulary))
    return rows


def _order(count: int, needed: int, seed: int) -> np.ndarray:
    """Indices for `needed` visits: whole epochs, each a fresh permutation drawn from (seed, epoch)."""
    epochs = -(-needed // count)
    drawn = [np.random.default_rng([seed, ORDER_STREAM, epoch]).permutation(count) for epoch in range(epochs)]
    return np.concatenate(drawn)[:needed]


def _visit(rows: Sequence[Sequence[Segment]], limit: int, seed: int, step: int) -> list[list[Segment]]:
    """At most `limit` segments behind each picture, another draw at every visit."""
    rng = np.random.default_rng([seed, PICK_STREAM, step])
    return [[row[i] for i in rng.permutation(len(row))[:limit]] for row in rows]


def vocabulary_of(scenes: Path) -> Vocabulary:
    """The vocabulary of a finished `scenes` step."""
    return build_vocabulary(load_lexicon(read_world(scenes)[0]))


def _save(model: nn.Module, card: dict[str, Any], out: Path, ranks: Ranks) -> None:
    state = ranks.full_state(model)
    if ranks.rank:
        return
    with files.write_with(out / MODEL_FILE) as target:
        try:
            save_file({name: tensor.contiguous() for name, tensor in state.items()}, target)
        except SafetensorError as error:
            full = os.strerror(errno.ENOSPC)
            raise OSError(errno.ENOSPC, full) if full in str(error) else error from None
    files.write_json(out / MODEL_CARD, card)


def load_language_model(folder: Path) -> tuple[LanguageModel, dict[str, Any]]:
    """The language model of a finished training step, and that step's model card."""
    card = files.read_json(folder / MODEL_CARD)
    fields = {name: card[name] for name in LanguageModelConfig.__dataclass_fields__}
    model = LanguageModel(LanguageModelConfig(**fields))
    state = load_file(folder / MODEL_FILE)
    if "projector" in card:
        state = {n.removeprefix("language."): t for n, t in state.items() if n.startswith("language.")}
    model.load_state_dict(state)
    return model, card


def _load_into(model: VisionLanguageModel, folder: Path) -> None:
    model.load_state_dict(load_file(folder / MODEL_FILE))


def load_model(folder: Path) -> VisionLanguageModel:
    """The vision-language model of a finished `align` or `finetune` step, in eval mode."""
    language, card = load_language_model(folder)
    projector = build_projector(card["projector"], card["channels"], card["width"], torch.Generator())
    model = VisionLanguageModel(projector, language)
    _load_into(model, folder)
    return model.eval()
