"""A folder that `LlavaForConditionalGeneration.from_pretrained` of transformers takes, and such folders read.

The names of the tensors are those of the modules of the transformers that is installed; what a file calls them is left
to its `save_pretrained` and `from_pretrained`. The picture is as many image tokens as it has patches: in
[BOS, image token x N, text] they stand where Prismatic has them, and anywhere else where LLaVA does.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlmablate.errors import UserError
from vlmablate.vlm.exports.folders import new_folder
from vlmablate.vlm.exports.language import HEAD, WORDS, causal_of, clean_config, language_state, resized
from vlmablate.vlm.exports.linears import fill, linear_layers
from vlmablate.vlm.exports.processor import processor_of, select_strategy, with_image_token
from vlmablate.vlm.exports.tensors import State, check, plain, strip, under
from vlmablate.vlm.exports.vision import (
    TRANSFORMERS,
    from_layout,
    to_layout,
    tower_of,
    transformer_of,
    vision_config,
)
from vlmablate.vlm.llms.model import CausalLM
from vlmablate.vlm.multimodal import MultimodalModel
from vlmablate.vlm.projectors.mlp import MlpProjector

FEATURE_LAYER = -2
INSTEAD = "for linear and fused_gelu_mlp use the layout prismatic; others exist only here"
_MULTIPLE = 64

_TOWER, _PROJECTOR, _LANGUAGE = "model.vision_tower.", "model.multi_modal_projector.", "model.language_model."


@dataclass(frozen=True)
class Llava:
    """A model in this layout. `config`: a LlavaConfig of transformers; `state`: names of its modules -> tensors."""

    config: Any
    state: dict[str, Tensor]


@dataclass(frozen=True)
class Imported:
    """A model that was read, in float32 and eval mode.

    unread: tensors of the tower that nobody reads, by their names in it; image_token: the id that stands for a patch.
    """

    model: MultimodalModel
    unread: State
    image_token: int


def to_llava_hf(
    model: MultimodalModel, words: int, dtype: str = "float32", unread: State | None = None
) -> Llava:
    """A model as transformers' LLaVA.

    Args:
        words: of the tokenizer. The image token has the id that follows; where the vocabulary has no row for it, it
            grows to the next multiple of 64.
        unread: of `from_llava_hf`, to be written again.

    Raises:
        UserError: for a part without a place in the layout.
    """
    from transformers import LlavaConfig

    layers = linear_layers(model.projector, (2,), "llava_hf", INSTEAD)
    tower = transformer_of(model.vision, "llava_hf")
    seen = vision_config(tower, "llava_hf")
    language = causal_of(model.language)
    state, text = language_state(language), clean_config(language.config)
    _refuse(state, text)
    if words >= text.vocab_size:
        text.vocab_size = -(-(words + 1) // _MULTIPLE) * _MULTIPLE
        state = resized(state, text.vocab_size)
    config = LlavaConfig(
        vision_config=seen,
        text_config=text,
        image_token_index=words,
        image_seq_length=tower.tokens,
        projector_hidden_act="gelu",
        vision_feature_select_strategy=select_strategy(tower),
        vision_feature_layer=FEATURE_LAYER,
        multimodal_projector_bias=True,
        tie_word_embeddings=bool(text.tie_word_embeddings),
    )
    tensors = under(_TOWER, to_layout(tower, TRANSFORMERS, unread or {}))
    for number, layer in enumerate(layers, start=1):
        tensors |= under(f"{_PROJECTOR}linear_{number}.", {"weight": layer.weight, "bias": layer.bias})
    tensors |= under(_LANGUAGE, strip(state, "model."))
    tensors[HEAD] = state[HEAD]
    return Llava(config, plain(tensors, dtype))


def from_llava_hf(llava: Any, where: str = "the model") -> Imported:
    """A model of this package from a `LlavaForConditionalGeneration`, whose language model it takes over.

    Raises UserError for an architecture that has no equivalent here.
    """
    from transformers import AutoModelForCausalLM

    config = llava.config
    tower = tower_of(config.vision_config, where)
    _expect(config, tower, where)
    state: dict[str, Tensor] = llava.state_dict()
    unread = from_layout(strip(state, _TOWER), tower, TRANSFORMERS, where)
    width = config.text_config.hidden_size
    with torch.random.fork_rng(devices=[]):
        projector = MlpProjector(tower.channels, width, tower.side, norm=False, hidden=1)
    names = {"linear_1": "projector.0", "linear_2": "projector.2"}
    parts = {
        f"{names[name.split('.')[0]]}.{name.split('.')[1]}": tensor
        for name, tensor in strip(state, _PROJECTOR).items()
    }
    fill(linear_layers(projector, (2,), "llava_hf", INSTEAD), parts, "projector", where)
    with torch.device("meta"):
        causal = AutoModelForCausalLM.from_config(copy.deepcopy(config.text_config))
    causal.config = llava.model.language_model.config
    setattr(causal, causal.base_model_prefix, llava.model.language_model)
    causal.lm_head = llava.lm_head
    language = CausalLM(causal)
    language_state(language)
    model = MultimodalModel(tower, projector, language).float().eval()
    return Imported(model, unread, int(config.image_token_index))


def write_llava_hf(
    folder: Path,
    model: MultimodalModel,
    words: int,
    dtype: str = "float32",
    unread: State | None = None,
    tokenizer: Any = None,
    image: Mapping[str, Any] | None = None,
) -> None:
    """Write a new folder for `from_pretrained`.

    tokenizer: written too, with `<image>` as its next word. image: {resize, fill} of the pictures; with it the folder
    is one for `AutoProcessor` as well, where transformers has that transform (see `processor_of`).

    Raises UserError as `to_llava_hf`, or for a folder that exists.
    """
    from transformers import LlavaForConditionalGeneration

    made = to_llava_hf(model, words, dtype, unread)
    with torch.device("meta"):
        twin = LlavaForConditionalGeneration(made.config)
    check(made.state, twin.state_dict(), "the export")
    twin.load_state_dict(made.state, assign=True)
    if made.config.tie_word_embeddings:
        twin.tie_weights()
    beside = [] if tokenizer is None else [with_image_token(tokenizer, words)]
    if beside and image is not None:
        tower = transformer_of(model.vision, "llava_hf")
        beside += filter(None, [processor_of(beside[0], tower, image)])
    with new_folder(folder) as temporary:
        twin.save_pretrained(temporary)
        for part in beside:
            part.save_pretrained(temporary)


def read_llava_hf(folder: Path) -> Imported:
    """The model of such a folder; its weights in safetensors, in any floating-point format.

    Raises UserError for a folder that is no such model, or whose tensors are not exactly those of its configuration.
    """
    from safetensors import SafetensorError
    from transformers import LlavaForConditionalGeneration

    reader: Any = LlavaForConditionalGeneration
    folder = Path(folder).expanduser()
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} is no model of transformers: it has no config.json")
    try:
        llava, found = reader.from_pretrained(
            folder,
            dtype=torch.float32,
            local_files_only=True,
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"{folder} cannot be read as a LLaVA of transformers: {error}") from error
    wrong = []
    for kind, words in (
        ("missing_keys", "missing"), ("unexpected_keys", "not expected"), ("mismatched_keys", "of another shape"),
    ):  # fmt: skip
        if names := sorted(map(_named, found[kind])):
            more = f", and {len(names) - 4} more" if len(names) > 4 else ""
            wrong.append(f"  {len(names)} {words}: {', '.join(names[:4])}{more}")
    if wrong:
        raise UserError(f"the tensors in {folder} are not those of its config.json:\n" + "\n".join(wrong))
    return from_llava_hf(llava, str(folder))


def _named(key: Any) -> str:
    """A name, or a name with two shapes."""
    return key if isinstance(key, str) else f"{key[0]} {list(key[1])}, not {list(key[2])}"


def _refuse(state: Mapping[str, Tensor], text: Any) -> None:
    """Language models whose scores LLaVA of transformers computes otherwise."""
    if "lm_head.bias" in state or WORDS not in state:
        raise UserError(
            f"the layout llava_hf has no bias in the head, as {text.model_type} has: use prismatic"
        )
    if getattr(text, "final_logit_softcapping", None) is not None:
        raise UserError(f"the layout llava_hf does not cap scores, as {text.model_type} does: use prismatic")


def _expect(config: Any, tower: Any, where: str) -> None:
    """Raises UserError where a LLaVA of transformers computes what no model here does."""
    layers = config.vision_config.num_hidden_layers
    said = {
        "vision_feature_layer": (config.vision_feature_layer, (FEATURE_LAYER, layers - 1)),
        "vision_feature_select_strategy": (
            config.vision_feature_select_strategy,
            (select_strategy(tower),),
        ),
        "projector_hidden_act": (config.projector_hidden_act, ("gelu",)),
        "multimodal_projector_bias": (config.multimodal_projector_bias, (True,)),
    }
    for key, (has, known) in said.items():
        if has not in known:
            raise UserError(f"{where} has {key}={has!r}, and models here have {known[0]!r}")
