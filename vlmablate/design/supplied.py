"""What the graph of a run supplies to its steps: towers, language model and data in the form that enters ids. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vlmablate.design.identity import canonical
from vlmablate.design.published import is_published
from vlmablate.design.step_table import FROZEN, SEQUENCE, VALIDATION
from vlmablate.errors import UserError, unknown_name


def select(config: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path of a composed configuration. Raises UserError that lists the keys
    there are.
    """
    node: Any = config
    parents: list[str] = []
    for part in path.split("."):
        if not isinstance(node, Mapping) or part not in node:
            names = node if isinstance(node, Mapping) else ()
            raise unknown_name("configuration key", part, names, where=".".join(parents))
        node = node[part]
        parents.append(part)
    return node


def scene_data(config: Mapping[str, Any]) -> dict[str, Any]:
    """What the scenes are composed by: ``data`` without how many there are for validation, which changes no other."""
    return {key: value for key, value in select(config, "data").items() if key != VALIDATION}


def validation_scenes(config: Mapping[str, Any]) -> int:
    """How many scenes trials are evaluated on: as many as comparisons are made on, unless configured.

    Raises UserError for published data, of which nothing is held out, and for what is no number of scenes.
    """
    if is_published(config):
        raise UserError(
            f"data={select(config, 'data.name')} has no scenes to tune on: published benchmarks come as the pictures "
            "that arms are compared on, and nothing of them is held out. Use tune= with data=embedded, and give what "
            "it chooses as overrides"
        )
    count = select(config, "data").get(VALIDATION)
    count = select(config, "data.evaluation_scenes") if count is None else count
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise UserError(f"data.{VALIDATION} must be a whole number of at least 1, or null, not {count!r}")
    return count


def tower_name(tower: str | Mapping[str, Any]) -> str:
    """The name of a tower that is written as a name, or as a mapping with a name and options."""
    return tower if isinstance(tower, str) else str(tower["name"])


def towers(config: Mapping[str, Any]) -> list[str | dict[str, Any]]:
    """The vision towers of a configuration, in order, each a name or a mapping with a ``name``.

    Raises:
        UserError: for anything else, for a tower that occurs twice, and for a fusion that does not fit their
            number.
    """
    listed = select(config, "vision.towers")
    fusion = select(config, "vision.fusion")
    if not isinstance(listed, list) or not listed:
        raise UserError(f"vision.towers must be a list of towers, not {listed!r}")
    for tower in listed:
        if not isinstance(tower, str) and not (isinstance(tower, dict) and "name" in tower):
            raise UserError(f"vision.towers: a tower is a name or a mapping with a name, not {tower!r}")
    if len({canonical(tower) for tower in listed}) != len(listed):
        raise UserError(f"vision.towers names a tower twice: {listed}")
    if fusion == "none" and len(listed) > 1:
        raise UserError(
            f"{len(listed)} towers {listed} need a fusion: add fusion=channel_concat, or keep one tower"
        )
    if fusion != "none" and len(listed) < 2:
        raise UserError(
            f"fusion={fusion} needs two towers or more, vision.towers is {listed}: "
            "use vision.towers=[a,b], or fusion=none"
        )
    return listed


def plain(tower: str | dict[str, Any]) -> str | dict[str, Any]:
    """A tower without where its weights are: a step knows them by content."""
    return tower if isinstance(tower, str) else {key: tower[key] for key in tower if key != "weights"}


def weights_of(tower: str | Mapping[str, Any], weights: Mapping[str, str]) -> str:
    name = tower_name(tower)
    if name not in weights:
        raise unknown_name("tower", name, weights)
    return weights[name]


def causal(config: Mapping[str, Any], weights: Mapping[str, str]) -> dict[str, Any] | None:
    """Which language model of the registry a run reads with; None for the small one that its own steps make.

    Raises UserError for a position code that is not its own.
    """
    llm = select(config, "llm")
    if "weights" not in llm:
        return None
    position = select(config, "position.name")
    if position != SEQUENCE:
        raise UserError(
            f"llm={llm['name']} was pretrained with its own position code, so position={position} cannot be chosen "
            f"for it: use position={SEQUENCE}, or a language model that is pretrained here (llm=small_causal)"
        )
    if llm["name"] not in weights:
        raise unknown_name("language model", llm["name"], weights)
    return {
        "name": llm["name"],
        "weights": weights[llm["name"]],
        "layers": llm.get("layers"),
        "template": llm.get("template"),
    }


def live_towers(
    config: Mapping[str, Any], listed: Sequence[str | dict[str, Any]], weights: Mapping[str, str]
) -> dict[str, Any] | None:
    """What a stage with its towers in the loop must know of them: one that trains them, or learns from published data.
    None for any other.
    """
    trained = select(config, "stages.finetune").get("vision", FROZEN) != FROZEN
    if not trained and not is_published(config):
        return None
    if select(config, "image").get("tiles") is not None:
        if not trained:
            raise UserError(
                "published data are looked at as whole pictures, and image.tiles cuts them: use image=letterbox"
            )
        raise UserError(
            "stages.finetune.vision trains the towers on whole pictures, and image.tiles cuts them: "
            f"use image=letterbox, or stages.finetune.vision={FROZEN}"
        )
    return {
        "towers": [{"tower": plain(tower), "weights": weights_of(tower, weights)} for tower in listed],
        "grid": select(config, "vision.grid"),
        "image": select(config, "image"),
    }
