"""From a composed configuration to the sizes that its cost follows from. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vlmablate.data.published import mix_size
from vlmablate.design.transformer_costs import Llm, Model, Stage, Vit
from vlmablate.errors import UserError, unknown_name
from vlmablate.vlm.llms.registry import llm_named
from vlmablate.vlm.towers.architectures import Architecture, Fusion, resolve_vision

# Without a gate an MLP has two matrices.
_UNGATED = ("phi",)

Config = Mapping[str, Any]


def llm_shape(name: str) -> Llm:
    """The sizes of a language model of the registry. Raises UserError for an unknown name."""
    spec = llm_named(name)
    config = spec.config
    heads = int(config["num_attention_heads"])
    return Llm(
        width=int(config["hidden_size"]),
        layers=int(config["num_hidden_layers"]),
        heads=heads,
        kv_heads=int(config.get("num_key_value_heads", heads)),
        head=int(config.get("head_dim", config["hidden_size"] // heads)),
        mlp=int(config["intermediate_size"]),
        mlp_matrices=2 if spec.architecture in _UNGATED else 3,
        vocabulary=int(config["vocab_size"]),
        parameters=spec.parameters,
    )


def towers_shape(tower: str | Mapping[str, Any]) -> tuple[tuple[Vit, ...], int]:
    """The transformers of a vision tower and their weights, as far as they are run (all blocks but the last).

    Raises UserError for an unknown name.
    """
    found = resolve_vision(tower)
    parts = found.towers if isinstance(found, Fusion) else (found,)
    shapes = []
    for part in parts:
        if not isinstance(part, Architecture):
            raise UserError(f"the vision tower {part.name} has no price: it is no transformer")
        prefix = part.family.prefix
        shapes.append(Vit(part.width, part.layers, part.hidden, part.patch, part.image_size, prefix))
    return tuple(shapes), found.parameters


_PROJECTORS = {
    "linear": lambda channels, width, hidden: (channels, width),
    "gelu_mlp": lambda channels, width, hidden: (channels, hidden * width, width),
    "fused_gelu_mlp": lambda channels, width, hidden: (channels, 4 * channels, width, width),
}


def model_of(config: Config) -> Model:
    """The model of a configuration. Raises UserError for parts whose size is not known by name."""
    shapes = [towers_shape(tower) for tower in config["vision"]["towers"]]
    vits = tuple(vit for of_tower, _ in shapes for vit in of_tower)
    llm = llm_shape(config["llm"]["name"])
    channels = sum(vit.width for vit in vits)
    projector = config["projector"]
    if projector["name"] not in _PROJECTORS:
        raise unknown_name("projector with a price", projector["name"], _PROJECTORS, "projector.name")
    sizes = _PROJECTORS[projector["name"]](channels, llm.width, int(projector.get("hidden", 1)))
    return Model(vits, sum(weights for _, weights in shapes), sizes, llm)


def stages_of(config: Config, caption: float, picture_text: float, text: float) -> dict[str, Stage]:
    """Name -> stage, of those that train, over published data.

    Args:
        config: composed; `data.mix` and `data.align` name sets of published.yaml.
        caption, picture_text, text: mean text tokens of a sample of the alignment, of one with and of one without a
            picture in finetuning.

    Raises:
        UserError: for data that is not published, whose size is only known once it is made.
    """
    data = config["data"]
    if "mix" not in data or "align" not in data:
        raise UserError(
            f"data={data.get('name')} has no published size; price a model of the paper or scale=7b"
        )
    sets = {"align": ([data["align"]], True), "finetune": (data["mix"], bool(data["language_only"]))}
    found = {}
    for stage, (names, language_only) in sets.items():
        settings = config["stages"][stage]
        if settings is None:
            continue
        pictures, texts = mix_size(names, language_only)
        epochs = float(settings["epochs"])
        found[stage] = Stage(
            pictures=pictures * epochs,
            texts=texts * epochs,
            picture_text=caption if stage == "align" else picture_text,
            text=text,
            vision=settings.get("vision", "frozen") != "frozen",
            language=stage == "finetune" and settings.get("language", "full") != "frozen",
        )
    return found
