"""Checkpoints of Prismatic VLMs (Karamcheti et al. 2024): `checkpoints/latest-checkpoint.pt` beside a `config.json`.

The file holds {"model": {"projector", "llm_backbone", maybe "vision_backbone"}}, each a dictionary of tensors. Towers
that stayed frozen are left out: whoever loads the checkpoint takes them from timm. A checkpoint of the alignment has
only the projector.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vlmablate import files
from vlmablate.errors import UserError
from vlmablate.vlm.exports.folders import new_folder
from vlmablate.vlm.exports.language import WORDS, causal_of, language_state, resized, set_rows
from vlmablate.vlm.exports.linears import KINDS, fill, linear_layers, numbered
from vlmablate.vlm.exports.tensors import State, check, plain, read_pickle, strip, tensors_of, under
from vlmablate.vlm.exports.vision import TIMM, family_of, from_layout, to_layout, transformer_of
from vlmablate.vlm.multimodal import MultimodalModel
from vlmablate.vlm.towers.architectures import CLIP
from vlmablate.vlm.towers.fused import FusedVision
from vlmablate.vlm.towers.vit import VisionTransformer

CHECKPOINT = "checkpoints/latest-checkpoint.pt"
CONFIG = "config.json"
PARTS = ("projector", "llm_backbone", "vision_backbone")
COUNTS = (1, 2, 3)
INSTEAD = "train with projector=linear, paper_gelu_mlp or paper_fused_gelu_mlp, and one square per picture"

Checkpoint = Mapping[str, Mapping[str, Mapping[str, Tensor]]]

LLMS: Mapping[str, tuple[str, int]] = {
    "llama2_7b": ("llama2-7b-pure", 32064),
    "llama2_13b": ("llama2-13b-pure", 32064),
    "llama2_chat_7b": ("llama2-7b-chat", 32064),
    "llama2_chat_13b": ("llama2-13b-chat", 32064),
    "vicuna_v1.5_7b": ("vicuna-v15-7b", 32064),
    "vicuna_v1.5_13b": ("vicuna-v15-13b", 32064),
    "mistral_v0.1_7b": ("mistral-v0.1-7b-pure", 32064),
    "mistral_v0.1_instruct_7b": ("mistral-v0.1-7b-instruct", 32064),
    "phi2": ("phi-2-3b", 50304),
}
"""Name here -> name there, and the rows of the vocabulary there: the tokenizer's words and a pad token, filled up to a
multiple of 64. For Phi-2 these are fewer than the rows of the published weights."""

TOWERS: Mapping[str, str] = {
    "clip_vit_l14_224": "clip-vit-l",
    "clip_vit_l14_336": "clip-vit-l-336px",
    "siglip_so400m_224": "siglip-vit-so400m",
    "siglip_so400m_384": "siglip-vit-so400m-384px",
    "dinov2_vit_l14_224": "dinov2-vit-l",
    "in1k_vit_l16_224": "in1k-vit-l",
    "dinov2_clip_336": "dinoclip-vit-l-336px",
    "dinov2_siglip_224": "dinosiglip-vit-so-224px",
    "dinov2_siglip_384": "dinosiglip-vit-so-384px",
}
RESIZES: Mapping[str, str] = {
    "letterbox": "letterbox",
    "letterbox_prismatic": "letterbox",
    "resize_naive": "resize-naive",
    "resize_crop": "resize-crop",
}
_ARCHITECTURES = {"linear": "linear", "gelu_mlp": "gelu-mlp", "fused_gelu_mlp": "fused-gelu-mlp"}


@dataclass(frozen=True)
class Loaded:
    """What a checkpoint filled (of `PARTS`), and the tensors of its towers that nobody reads, by their names there."""

    parts: tuple[str, ...]
    unread: State


def to_prismatic(
    model: MultimodalModel, card: Mapping[str, Any], dtype: str = "float32", unread: State | None = None
) -> dict[str, dict[str, dict[str, Tensor]]]:
    """The checkpoint of a model: its projector, its language model, and its towers if it has them in the loop.

    card: of the model; `llm.name` decides the rows of the vocabulary. unread: of `from_prismatic`, to be written again.

    Raises UserError for a part without a place in the layout.
    """
    layers = linear_layers(model.projector, COUNTS, "prismatic", INSTEAD)
    language = resized(
        language_state(causal_of(model.language)), _rows(card, model.language.config.vocab_size)
    )
    parts: dict[str, dict[str, Tensor]] = {
        "projector": numbered(layers, "projector"),
        "llm_backbone": under("llm.", language),
    }
    if model.vision is not None:
        parts["vision_backbone"] = _vision(model.vision, unread or {})
    return {"model": {name: plain(state, dtype) for name, state in parts.items()}}


def from_prismatic(
    checkpoint: Any, model: MultimodalModel, card: Mapping[str, Any], where: str = "the checkpoint"
) -> Loaded:
    """Load a checkpoint into a model, in place, its vocabulary made as long as the one there.

    A part that the checkpoint lacks stays as it is, except the projector, which it must have.

    Raises UserError, before any change, for tensors that do not fit.
    """
    parts = _parts(checkpoint, where)
    projector = linear_layers(model.projector, COUNTS, "prismatic", INSTEAD)
    check(parts["projector"], numbered(projector, "projector"), f"{where}, projector")
    language = causal_of(model.language)
    if "llm_backbone" in parts:
        state, allowed = (
            parts["llm_backbone"],
            {language.config.vocab_size, _rows(card, language.config.vocab_size)},
        )
        rows = state["llm." + WORDS].shape[0] if "llm." + WORDS in state else 0
        expected = language_state(language)
        check(
            state,
            under("llm.", resized(expected, rows) if rows in allowed else expected),
            f"{where}, llm_backbone",
        )
    unread: State = {}
    if "vision_backbone" in parts:
        unread = _load_vision(parts["vision_backbone"], model.vision, f"{where}, vision_backbone")
    if "llm_backbone" in parts:
        set_rows(language, rows)
        with torch.no_grad():
            for name, tensor in language.model.state_dict().items():
                tensor.copy_(state["llm." + name])
    fill(projector, parts["projector"], "projector", where)
    return Loaded(tuple(name for name in PARTS if name in parts), unread)


def prismatic_config(model: MultimodalModel, card: Mapping[str, Any], name: str) -> dict[str, Any]:
    """`config.json`: what Prismatic's loader asks of a model called `name`.

    A part that Prismatic does not know is called as here, which its loader refuses: card `llm` and `layers`; the towers
    and the resize of card `vision`, or of `towers` and `image` where that is missing.
    """
    seen = card.get("vision") or card
    layers = linear_layers(model.projector, COUNTS, "prismatic", INSTEAD)
    llm = card["llm"]
    known = llm["name"] in LLMS and llm.get("layers") is None
    towers = getattr(model.vision, "name", None) or "+".join(map(_tower_name, seen.get("towers", ())))
    resize = str((seen.get("image") or {}).get("resize"))
    return {
        "model": {
            "model_id": name,
            "arch_specifier": _ARCHITECTURES[KINDS[len(layers)]],
            "vision_backbone_id": TOWERS.get(towers, towers or "unknown"),
            "llm_backbone_id": LLMS[llm["name"]][0] if known else llm["name"],
            "image_resize_strategy": RESIZES.get(resize, resize),
            "llm_max_length": 2048,
        }
    }


def write_prismatic(
    folder: Path,
    model: MultimodalModel,
    card: Mapping[str, Any],
    dtype: str = "float32",
    unread: State | None = None,
) -> None:
    """Write a new folder that Prismatic's `load` takes. Raises UserError as `to_prismatic`, or for one that exists."""
    checkpoint, config = (
        to_prismatic(model, card, dtype, unread),
        prismatic_config(model, card, Path(folder).name),
    )
    with new_folder(folder) as temporary:
        target = temporary / CHECKPOINT
        target.parent.mkdir()
        torch.save(checkpoint, target)
        files.write_json(temporary / CONFIG, config)


def read_prismatic(path: Path, model: MultimodalModel, card: Mapping[str, Any]) -> Loaded:
    """Load a folder of Prismatic, or a checkpoint file of one, into a model. Raises UserError as `from_prismatic`."""
    path = Path(path).expanduser()
    path = path / CHECKPOINT if path.is_dir() else path
    return from_prismatic(read_pickle(path), model, card, str(path))


def _parts(checkpoint: Any, where: str) -> dict[str, dict[str, Tensor]]:
    parts = checkpoint.get("model") if isinstance(checkpoint, Mapping) else None
    if not isinstance(parts, Mapping) or "projector" not in parts:
        raise UserError(f'{where} is no checkpoint of Prismatic: it has no ["model"]["projector"]')
    if more := [name for name in parts if name not in PARTS]:
        raise UserError(f"{where} has parts that Prismatic does not: {more}; known are {list(PARTS)}")
    return {name: tensors_of(state, f"{where}, {name}") for name, state in parts.items()}


def _rows(card: Mapping[str, Any], have: int) -> int:
    return LLMS.get(card["llm"]["name"], ("", have))[1]


def _tower_name(tower: Any) -> str:
    tower = tower.get("tower", tower) if isinstance(tower, Mapping) else tower
    return str(tower["name"] if isinstance(tower, Mapping) else tower)


def _featurizers(vision: nn.Module | None) -> dict[str, VisionTransformer]:
    """The towers by the prefix that Prismatic gives them."""
    if not isinstance(vision, FusedVision):
        return {"featurizer.": transformer_of(vision, "prismatic")}
    towers = {name: transformer_of(tower, "prismatic") for name, tower in vision.towers.items()}
    return {f"{_short(name, tower)}_featurizer.": tower for name, tower in towers.items()}


def _short(name: str, tower: VisionTransformer) -> str:
    """What Prismatic calls a tower of a fusion, by what it is made of; those that it has none of keep their names."""
    family = family_of(tower)
    if family is None:
        return "dino" if tower.prefix is not None and len(tower.prefix) > 1 else name
    return "clip" if family is CLIP else "siglip"


def _vision(vision: nn.Module, unread: State) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for prefix, tower in _featurizers(vision).items():
        found |= under(prefix, to_layout(tower, TIMM, strip(unread, prefix)))
    return found


def _load_vision(state: State, vision: nn.Module | None, where: str) -> dict[str, Tensor]:
    towers = _featurizers(vision)
    expected: dict[str, Tensor] = {}
    for prefix, tower in towers.items():
        expected |= under(prefix, to_layout(tower, TIMM, {}))
    check(state, expected, where)
    unread: dict[str, Tensor] = {}
    for prefix, tower in towers.items():
        unread |= under(prefix, from_layout(strip(state, prefix), tower, TIMM, where))
    return unread
