"""The projectors by exact name, with the options of each and their defaults."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch

from vlmablate.errors import UserError, unknown_name
from vlmablate.vlm.projectors.base import Projector, initialise
from vlmablate.vlm.projectors.mlp import FusedMlpProjector, LinearProjector, MlpProjector
from vlmablate.vlm.projectors.perceiver import IdeficsResampler, PerceiverResampler
from vlmablate.vlm.projectors.pooling import LdpProjector, PixelShuffleProjector
from vlmablate.vlm.projectors.qformer import QFormer


@dataclass(frozen=True)
class Row:
    """build(channels, width, side, **options); options: name -> default. What is true or false stays so, a number is
    whole and above 0, and null stands for what the class says."""

    build: Callable[..., Projector]
    options: Mapping[str, Any]


PROJECTORS: Mapping[str, Row] = MappingProxyType(
    {
        "linear": Row(LinearProjector, {"norm": True}),
        "gelu_mlp": Row(MlpProjector, {"norm": True, "hidden": 2}),
        "fused_gelu_mlp": Row(FusedMlpProjector, {"norm": True}),
        "perceiver": Row(
            PerceiverResampler, {"latents": 64, "depth": 6, "heads": 8, "head_width": 64, "inner": None}
        ),
        "perceiver_idefics2": Row(
            IdeficsResampler,
            {
                "norm": True,
                "latents": 64,
                "depth": 3,
                "heads": 16,
                "head_width": 96,
                "groups": 4,
                "inner": None,
            },
        ),
        "qformer": Row(
            QFormer,
            {"norm": True, "queries": 32, "layers": 12, "heads": 12, "cross_every": 2, "inner": None},
        ),
        "pixel_shuffle": Row(PixelShuffleProjector, {"norm": True, "factor": 2, "pad": False}),
        "ldp": Row(LdpProjector, {"norm": True}),
    }
)


def build_projector(
    config: Mapping[str, Any], channels: int, width: int, side: int, generator: torch.Generator
) -> Projector:
    """A projector, initialised from `generator` alone (so its start follows the run's seed).

    Args:
        config: `name` and options; what is left out has the default of its row.
        channels: of each cell of the features.
        width: of the language model.
        side: cells a side of the features' square.

    Raises:
        UserError: for an unknown name or option, a value of the wrong kind, or a grid that the projector cannot take.
    """
    name = str(config["name"])
    if name not in PROJECTORS:
        raise unknown_name("projector", name, PROJECTORS, "projector.name")
    row = PROJECTORS[name]
    options = {**row.options, **{key: value for key, value in config.items() if key != "name"}}
    for key, value in options.items():
        if key not in row.options:
            raise unknown_name("option", key, row.options, f"projector (name: {name})")
        _check(key, value, row.options[key])
    # The layers draw weights of their own, which are overwritten: the caller's random numbers must not move.
    with torch.random.fork_rng(devices=[]):
        projector = row.build(channels, width, side, **options)
    initialise(projector, generator)
    return projector


def _check(key: str, value: Any, default: Any) -> None:
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise UserError(f"projector.{key} is true or false, not {value!r}")
    elif not (value is None and default is None) and (type(value) is not int or value < 1):
        raise UserError(f"projector.{key} is a whole number above 0, not {value!r}")
