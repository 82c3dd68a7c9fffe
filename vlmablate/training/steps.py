"""The steps that train behind pictures: `align` (projector only), `finetune` (projector, and of the
language model and the vision towers what `stages.finetune.language` and `stages.finetune.vision` say), and `trunk`, a
piece of finetunings that differ in their length."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vlmablate import files
from vlmablate.data.lexicon import load_lexicon
from vlmablate.data.mixtures import Mixture, source_questions
from vlmablate.data.scenes_store import SceneStore, read_world
from vlmablate.data.vocabulary import Vocabulary, build_vocabulary
from vlmablate.errors import UserError
from vlmablate.orchestration.context import StepContext
from vlmablate.training import tuning
from vlmablate.training.examples import caption_segment, question_segments
from vlmablate.training.loop import Batch, Recipe, train
from vlmablate.training.meters import peak_of
from vlmablate.training.operations import picture_operations, text_operations
from vlmablate.training.packing import Segment, attention_mask, pack
from vlmablate.training.ranks import Ranks, ranks_of
from vlmablate.training.sight import Sight, open_sight, tune_vision
from vlmablate.training.text_world import request_segments
from vlmablate.training.trunks import WHOLE, Piece
from vlmablate.training.visits import Visits
from vlmablate.vlm.features_step import check_precision
from vlmablate.vlm.language_model import LanguageModel, LanguageModelConfig
from vlmablate.vlm.model import VisionLanguageModel
from vlmablate.vlm.projectors import Projector, build_projector
from vlmablate.vlm.seen import blank_vision
from vlmablate.vlm.tiling import TileLayout

MODEL_FILE = "model.safetensors"
MODEL_CARD = "model.json"


def run_align(
    config: dict[str, Any], deps: dict[str, Path], out: Path, context: StepContext
) -> dict[str, Any]:
    """Projector only: describe the scene from left to right, language model frozen (paper, section 4.1)."""
    if config.get("llm") is not None:
        return _causal("align", config, deps, out, context)
    language, card = load_language_model(deps["language"])
    return _train_stage("align", config, deps, out, context, language, card)


def run_finetune(
    config: dict[str, Any], deps: dict[str, Path], out: Path, context: StepContext
) -> dict[str, Any]:
    """Projector and language model on the questions; starts from `align`, or from the language model. Behind a `trunk`
    it goes on from there, and only decays."""
    return _finetune(config, deps, out, context, Piece(deps.get("trunk")))


def run_trunk(
    config: dict[str, Any], deps: dict[str, Path], out: Path, context: StepContext
) -> dict[str, Any]:
    """`finetune` up to its decay, from the trunk of the next shorter length if there is one. What it leaves is the
    state of the training and no model."""
    return _finetune(config, deps, out, context, Piece(deps.get("trunk"), trunk=True))


def _finetune(
    config: dict[str, Any], deps: dict[str, Path], out: Path, context: StepContext, piece: Piece
) -> dict[str, Any]:
    if config.get("llm") is not None:
        return _causal("finetune", config, deps, out, context, piece)
    language, card = load_language_model(deps["init"])
    return _train_stage("finetune", config, deps, out, context, language, card, piece)


def _causal(
    stage: str,
    config: dict[str, Any],
    deps: dict[str, Path],
    out: Path,
    context: StepContext,
    piece: Piece = WHOLE,
) -> dict[str, Any]:
    from vlmablate.training.causal_steps import train_causal  # transformers takes seconds to import

    return train_causal(stage, config, deps, out, context, piece)


def _train_stage(
    stage: str,
    config: dict[str, Any],
    deps: dict[str, Path],
    out: Path,
    context: StepContext,
    language: LanguageModel,
    card: dict[str, Any],
    piece: Piece = WHOLE,
) -> dict[str, Any]:
    check_precision(config["precision"], str(context.execution.get("device") or "cpu"))
    settings, seeds = config["stages"][stage], config["seed"]
    store = SceneStore(deps["scenes"], "train")
    sight = open_sight(config.get("live"), deps, store)
    generator = torch.Generator().manual_seed(int(seeds["init"]))
    aligned = "projector" in card
    seen = {"channels": sight.channels, "side": sight.side, "tiles": sight.tiles.as_card()}
    card = {**card, "projector": config["projector"], **seen}
    projector = _projector(card, generator)
    if aligned:
        _load_into(VisionLanguageModel(projector, language, None, sight.tiles), deps["init"])
    model = VisionLanguageModel(projector, language, sight.vision, sight.tiles)
    if sight.vision is not None:
        tune_vision(sight.vision, settings["vision"])
    how = settings.get("language", "full") if stage == "finetune" else "frozen"
    tuning.apply(language, how, tuning.draws(int(seeds["init"])))
    visits = _visits(stage, settings, int(seeds["order"]), store, sight, vocabulary_of(deps["scenes"], card))
    threads = int(context.execution.get("threads") or 1)
    own_rate = settings.get("vision_learning_rate") if sight.vision is not None else None
    rates = {} if own_rate is None else {"vision": float(own_rate)}

    with (
        ranks_of(context) as ranks,
        sight.stream(visits.pictures_at, visits.steps, ranks, threads) as look_at,
    ):
        model.to(ranks.device)
        # Counted before the model is laid out, and only where somebody can say what the device could have done.
        each_picture = None
        if peak_of(ranks.device) is not None:
            features = (sight.tiles.count, projector.side**2, sight.channels)
            each_picture = picture_operations(sight.vision, projector, features)

        def batch_at(step: int) -> Batch:
            visit, look = visits.at(step), look_at(step)
            packed = pack(visit.segments).to(ranks.device)
            pictured = None if visit.pictured.all() else torch.from_numpy(visit.pictured).to(ranks.device)

            def hidden(rows: slice) -> Tensor:
                seen = None if pictured is None else pictured[rows]
                mask = attention_mask(packed.segments[rows], model.cells, seen)
                return model(model.see(look(rows)), packed.tokens[rows], packed.positions[rows], mask)

            if each_picture is None:
                return Batch(packed, hidden)
            seen = len(packed.tokens) * each_picture
            return Batch(packed, hidden, seen + text_operations(language, model.cells, packed))

        torch.manual_seed(int(seeds["init"]))  # of dropout, which draws from what the process has
        payload = train(
            model,
            language.logits,
            batch_at,
            Recipe.read(settings, visits.steps),
            out,
            context,
            config["precision"],
            ranks,
            rates,
            piece=piece,
        )
        if piece.trunk:
            return payload
        if stage == "finetune":
            payload["mixture"] = visits.counts()
        if sight.vision is not None:
            card["vision"] = sight.vision.live
        save_model(model, card, out, ranks, how)
    return payload


def _visits(
    stage: str,
    settings: Mapping[str, Any],
    seed: int,
    store: SceneStore,
    sight: Sight,
    vocabulary: Vocabulary,
) -> Visits[Segment]:
    """What is asked behind every picture: its description in alignment; in finetuning its questions, and what the
    mixture adds."""
    if list(store.ids) != list(sight.ids):
        raise UserError("the features are not those of these scenes; delete the features step and run again")
    mixture = Mixture.read(settings.get("mixture"))
    base: list[Sequence[Segment]] = []
    sources: dict[str, list[Sequence[Segment]]] = {source: [] for source in mixture.questions}
    lexicon = load_lexicon(read_world(store.folder)[0])
    for number, (scene, frame) in enumerate(zip(store.scenes, sight.frames, strict=True)):
        if stage == "align":
            caption = caption_segment(scene, vocabulary)
            base.append([] if caption is None else [caption])
        else:
            base.append(question_segments(store.questions[scene.id], frame, vocabulary))
        for source, rows in sources.items():
            rows.append(
                question_segments(source_questions(source, scene, number, lexicon), frame, vocabulary)
            )
    if mixture.text_only and not vocabulary.dialogue:
        raise UserError(
            f"stages.{stage}.mixture.text_only asks for requests without a picture, whose words this language model "
            "does not know; use llm=small_text or llm=small_chat"
        )
    return Visits(
        base,
        sources,
        request_segments(vocabulary, refuse=True) if mixture.text_only else [],
        mixture,
        epochs=settings["epochs"],
        batch=int(settings["batch_scenes"]),
        questions=int(settings.get("questions_per_visit", 1)),
        seed=seed,
    )


def vocabulary_of(scenes: Path, card: Mapping[str, Any]) -> Vocabulary:
    """The vocabulary of a language model, by the `scenes` step that it was trained with and its model card."""
    lexicon = load_lexicon(read_world(scenes)[0])
    return build_vocabulary(lexicon, bool(card.get("dialogue")), bool(card.get("chat")))


def save_model(
    model: nn.Module, card: dict[str, Any], out: Path, ranks: Ranks, how: tuning.How = "full"
) -> None:
    """Write the weights and the card of a trained model; all ranks call it, rank 0 writes."""
    state = ranks.full_state(model)
    if ranks.rank:
        return
    write_model(tuning.merged(state, how), card, out)


def write_model(state: Mapping[str, Tensor], card: Mapping[str, Any], out: Path) -> None:
    """Write weights and card. Raises OSError for a full disk, however the library that writes tensors puts it."""
    with files.write_with(out / MODEL_FILE) as target:
        try:
            save_file({name: tensor.contiguous() for name, tensor in state.items()}, target)
        except SafetensorError as error:
            full = os.strerror(errno.ENOSPC)
            raise OSError(errno.ENOSPC, full) if full in str(error) else error from None
    files.write_json(out / MODEL_CARD, card)


def read_card(folder: Path) -> dict[str, Any]:
    """The model card of a finished training step: sizes, words, projector."""
    card: dict[str, Any] = files.read_json(folder / MODEL_CARD)
    return card


def load_language_model(folder: Path) -> tuple[LanguageModel, dict[str, Any]]:
    """The language model of a finished training step, and that step's model card.

    A card from before there was a choice of position codes says nothing of them: the default is meant.
    """
    card = read_card(folder)
    fields = {name: card[name] for name in LanguageModelConfig.__dataclass_fields__ if name in card}
    model = LanguageModel(LanguageModelConfig(**fields))
    state = load_file(folder / MODEL_FILE)
    if "projector" in card:
        state = {n.removeprefix("language."): t for n, t in state.items() if n.startswith("language.")}
    model.load_state_dict(state)
    return model, card


def _load_into(model: VisionLanguageModel, folder: Path) -> None:
    model.load_state_dict(load_file(folder / MODEL_FILE))


def _projector(card: Mapping[str, Any], generator: torch.Generator) -> Projector:
    """The projector of a model card. One from before projectors had options holds a name, and no side of the grid."""
    written = card["projector"]
    config = {"name": written} if isinstance(written, str) else written
    return build_projector(config, card["channels"], card["width"], card.get("side", card["grid"]), generator)


def load_model(folder: Path) -> VisionLanguageModel:
    """The vision-language model of a finished `align` or `finetune` step, in eval mode."""
    language, card = load_language_model(folder)
    projector = _projector(card, torch.Generator())
    vision = blank_vision(card["vision"]) if "vision" in card else None
    model = VisionLanguageModel(projector, language, vision, TileLayout.read(card.get("tiles")))
    _load_into(model, folder)
    return model.eval()
