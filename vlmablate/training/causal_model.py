"""A vision-language model around a pretrained language model of the registry: built, written, and read again.

A finished step keeps the parts that it trained and a card; the language model that it left as it was is read again from
where its weights are, and checked.

What a configuration calls ``llm`` is {"name", "weights", "layers", "template"}: a row of vlm/llms/registry.yaml; the
SHA-256 of the asset set with its weights, or where else they come from (`data.assets.weights`); how many of its
layers are kept, the first ones, None for all; a prompt template in place of the row's own, None for that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from vlmablate import files
from vlmablate.data import assets, weight_files
from vlmablate.data.conversions import GGUF_FILE
from vlmablate.errors import UserError
from vlmablate.training import tuning
from vlmablate.training.ranks import Ranks
from vlmablate.training.steps import MODEL_CARD, MODEL_FILE, write_model
from vlmablate.vlm.llms.load import load_llm
from vlmablate.vlm.llms.model import CausalLM
from vlmablate.vlm.llms.registry import RANDOM, asset_of, llm_named
from vlmablate.vlm.llms.unpacked import unpacked
from vlmablate.vlm.multimodal import MultimodalModel
from vlmablate.vlm.projectors import Projector, build_projector
from vlmablate.vlm.prompts import Template, template_named
from vlmablate.vlm.seen import LiveVision, blank_vision, open_vision
from vlmablate.vlm.tiling import ONE_SQUARE, TileLayout


@dataclass(frozen=True)
class CausalParts:
    """A model with what its texts need. `card`: what the step that wrote it says of it; `tokens`: of a picture."""

    model: MultimodalModel
    tokenizer: Any
    template: Template
    card: dict[str, Any]
    tokens: int


class TiledProjector(nn.Module):
    """A projector over every tile of a picture: [I, tiles * side * side, C] -> [I, tiles * tokens, W]."""

    def __init__(self, projector: Projector, tiles: TileLayout) -> None:
        super().__init__()
        self.each, self.count = projector, tiles.count
        self.tokens = projector.tokens * tiles.count

    def forward(self, features: Tensor) -> Tensor:
        """See the class."""
        pictures, cells, channels = features.shape
        tiles = features.reshape(pictures * self.count, cells // self.count, channels)
        projected: Tensor = self.each(tiles)
        return projected.reshape(pictures, self.tokens, -1)


def open_language(llm: Mapping[str, Any]) -> tuple[CausalLM, Any]:
    """The language model of a configuration in float32, and its tokenizer.

    Raises UserError for weights that are missing, damaged or others, and for more layers than there are.
    """
    name, source = llm["name"], str(llm["weights"])
    if source == RANDOM:
        language, tokenizer = load_llm(name)
    elif source.startswith(assets.HUB):
        language, tokenizer = load_llm(name, weights="pretrained")
    elif source.startswith(assets.FILES):
        digest = source.removeprefix(assets.FILES)
        where = weight_files.find(digest)
        where = unpacked(name, where, digest) if where.suffix == ".gguf" else where
        language, tokenizer = load_llm(name, weights=str(where))
    else:
        _, folder = assets.use(asset_of(name), source)
        language, tokenizer = load_llm(name, weights=str(unpacked(name, folder / GGUF_FILE, source)))
    keep_layers(language, llm.get("layers"))
    return language, tokenizer


def keep_layers(language: CausalLM, count: int | None) -> None:
    """Leave the first `count` layers of a language model, in place; None leaves all.

    Raises UserError for a number that is not of 1 to as many as there are.
    """
    if count is None:
        return
    have = len(language.layers)
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= have:
        raise UserError(f"llm.layers is how many of its {have} layers are kept, 1 to {have}, not {count!r}")
    decoder: Any = language.model.get_decoder()  # type: ignore[operator]
    decoder.layers = decoder.layers[:count]
    language.config.num_hidden_layers = count
    if getattr(language.config, "layer_types", None):
        language.config.layer_types = language.config.layer_types[:count]


def template_of(llm: Mapping[str, Any]) -> Template:
    """The prompt template of a configuration. Raises UserError for an unknown one."""
    return template_named(llm.get("template") or llm_named(llm["name"]).template)


def assemble(
    card: Mapping[str, Any], language: CausalLM, vision: LiveVision | None, generator: torch.Generator
) -> tuple[MultimodalModel, int]:
    """The model of a card {projector, channels, side, tiles} with a fresh projector, and the tokens of a picture.

    Raises UserError for an unknown projector, or one that does not fit the features.
    """
    projector = build_projector(card["projector"], card["channels"], language.width, card["side"], generator)
    tiles = TileLayout.read(card.get("tiles"))
    joined = projector if tiles == ONE_SQUARE else TiledProjector(projector, tiles)
    return MultimodalModel(vision, joined, language), joined.tokens


def save_causal(
    model: MultimodalModel,
    card: Mapping[str, Any],
    parts: Sequence[str],
    how: tuning.How,
    out: Path,
    ranks: Ranks,
) -> None:
    """Write those parts of a model (``projector``, ``language``, ``vision``) that were trained, and its card.

    All ranks call it, rank 0 writes. how: as the language model was tuned; adapters are merged.
    """
    state = ranks.full_state(model)
    if ranks.rank:
        return
    state = tuning.merged(state, how)
    kept = {name: tensor for name, tensor in state.items() if name.partition(".")[0] in parts}
    for name in _tied(model.language):
        kept.pop(f"language.{name}", None)
    write_model(kept, {**card, "parts": list(parts)}, out)


def read_parts(model: MultimodalModel, folder: Path, parts: Sequence[str]) -> None:
    """Load some parts of a finished step into a model, in place.

    Raises UserError for a file that lacks a weight of these parts or has others.
    """
    state = {
        name: tensor
        for name, tensor in load_file(folder / MODEL_FILE).items()
        if name.partition(".")[0] in parts
    }
    tied = {f"language.{name}" for name in _tied(model.language)}
    wanted = {name for name in model.state_dict() if name.partition(".")[0] in parts} - tied
    if wrong := sorted(wanted ^ set(state)):
        raise UserError(
            f"{folder / MODEL_FILE} does not hold the weights of its model card: {len(wrong)} are missing or too "
            f"many, such as {wrong[0]}. Delete this step directory and start the sweep again."
        )
    model.load_state_dict(state, strict=False)


def load_causal(folder: Path) -> CausalParts:
    """The model of a finished `align` or `finetune` step, in eval mode.

    Raises UserError for weights that are missing, damaged or others.
    """
    card: dict[str, Any] = files.read_json(folder / MODEL_CARD)
    language, tokenizer = open_language(card["llm"])
    vision = None
    if "vision" in card:  # towers that stayed frozen are read from where their weights are
        vision = (blank_vision if "vision" in card["parts"] else open_vision)(card["vision"])
    model, tokens = assemble(card, language, vision, torch.Generator())
    read_parts(model, folder, card["parts"])
    return CausalParts(model.eval(), tokenizer, template_of(card["llm"]), card, tokens)


def _tied(language: CausalLM) -> list[str]:
    """Names of weights that are another name for the words."""
    words = language.model.get_input_embeddings().weight  # type: ignore[operator]
    named = language.named_parameters(remove_duplicate=False)
    return [name for name, parameter in named if parameter is words][1:]
