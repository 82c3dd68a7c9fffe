"""Which language models there are: the rows of registry.yaml, by exact name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from vlmablate.errors import UserError, unknown_name

_FILE = Path(__file__).with_name("registry.yaml")
RANDOM, HUB = "random", "pretrained"
_ROPE = ("rope_theta", "partial_rotary_factor")


@dataclass(frozen=True)
class LlmSpec:
    """One row, joined with its family; the fields are described in registry.yaml."""

    name: str
    architecture: str
    config: Mapping[str, Any]
    tokens: Mapping[str, str | None]
    hub: str | None
    kind: str
    template: str
    gated: bool
    parameters: int
    asset: str | None = None


@cache
def llms() -> Mapping[str, LlmSpec]:
    """Name -> row, in the order of the file."""
    tables = yaml.safe_load(_FILE.read_text(encoding="utf-8"))
    made: dict[str, LlmSpec] = {}
    for name, row in tables["models"].items():
        family = tables["families"][row.pop("family")]
        config = {**family["config"], **row.pop("config")}
        tokens = {**family["tokens"], **row.pop("tokens", {})}
        made[name] = LlmSpec(name, family["architecture"], config, tokens, **row)
    return made


def llm_named(name: str) -> LlmSpec:
    """The row of that exact name. Raises UserError that lists the names there are."""
    if name not in llms():
        raise unknown_name("language model", name, llms(), "llm.name")
    return llms()[name]


def asset_of(name: str) -> str:
    """The asset set with the weights of a row. Raises UserError for a row without one."""
    found = llm_named(name).asset
    if found is None:
        known = [row.name for row in llms().values() if row.asset is not None]
        raise UserError(
            f"no asset set holds the weights of {name} (those there are: {', '.join(known)}); "
            f"use llm.weights={HUB} to take them from the hub, or llm.weights={RANDOM}"
        )
    return found


def source_of(name: str, weights: str) -> str:
    """Where weights that are no asset set are: ``random``, ``pretrained`` (the hub), or a path, checked.

    Raises UserError for anything else, and for a model that is not on the hub.
    """
    if weights == HUB and llm_named(name).hub is None:
        raise UserError(f"{name} has no pretrained weights; use llm.weights={RANDOM}, or another llm.name")
    if weights not in (HUB, RANDOM) and "/" not in weights and not weights.endswith(".gguf"):
        raise unknown_name(
            "source of weights", weights, ("asset", HUB, RANDOM, "a path with a /"), "llm.weights"
        )
    return weights


def hf_config(spec: LlmSpec) -> Any:
    """The transformers configuration of a row. No network."""
    from transformers import AutoConfig

    fields = {key: value for key, value in spec.config.items() if key not in _ROPE}
    rope = {key: spec.config[key] for key in _ROPE if key in spec.config}
    if rope:
        fields["rope_parameters"] = {"rope_type": "default", **rope}
    return AutoConfig.for_model(spec.architecture, **fields)


def differences(spec: LlmSpec, config: Any) -> list[str]:
    """Where a loaded transformers configuration is not that of the row; a larger vocabulary is none, nor are longer
    positions.
    """
    expected = hf_config(spec)
    found: list[str] = []
    for key in spec.config:
        if key == "max_position_embeddings":
            continue
        if key in _ROPE:
            want, have = expected.rope_parameters.get(key), (config.rope_parameters or {}).get(key)
        else:
            want, have = getattr(expected, key), getattr(config, key, None)
        if have == want or (key == "vocab_size" and isinstance(have, int) and have >= want):
            continue
        if isinstance(have, float) and isinstance(want, float) and math.isclose(have, want, rel_tol=1e-6):
            continue  # GGUF keeps single precision
        found.append(f"{key} is {have}, expected {want}")
    if config.model_type != spec.architecture:
        found.insert(0, f"architecture is {config.model_type}, expected {spec.architecture}")
    return found
