"""Projectors as a list of linear layers with GELU (erf) between them, which is what other layouts know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from vlmablate.errors import UserError
from vlmablate.vlm.exports.tensors import State, check
from vlmablate.vlm.projectors.base import Projector
from vlmablate.vlm.projectors.mlp import FusedMlpProjector, LinearProjector, MlpProjector

KINDS: Mapping[int, str] = {1: "linear", 2: "gelu_mlp", 3: "fused_gelu_mlp"}
"""Number of layers -> name of the projector here."""


def linear_layers(projector: nn.Module, counts: Sequence[int], layout: str, instead: str) -> list[nn.Linear]:
    """The layers of a projector, first to last.

    counts: how many the layout may have. instead: what to do with others, for the error.

    Raises UserError for what the layout cannot hold.
    """
    allowed = " or ".join(KINDS[count] for count in counts)
    parts: dict[type, tuple[str, ...]] = {
        LinearProjector: ("out",),
        MlpProjector: ("hidden", "out"),
        FusedMlpProjector: ("widen", "hidden", "out"),
    }
    names = parts.get(type(projector))
    if names is None or len(names) not in counts:
        raise UserError(
            f"the layout {layout} has no place for a {type(projector).__name__}: it holds {allowed}; {instead}"
        )
    if not isinstance(getattr(projector, "norm", None), nn.Identity):
        raise UserError(
            f"the layout {layout} has no norm in front of the projector: train with projector.norm=false"
            f"{'' if len(names) != 2 else ' (projector=paper_gelu_mlp)'}"
        )
    layers: list[nn.Linear] = [getattr(projector, name) for name in names]
    width = layers[-1].out_features
    if len(layers) > 1 and layers[-1].in_features != width:
        raise UserError(
            f"the layout {layout} has hidden layers of the language model's width, {width}, and this projector has "
            f"{layers[-1].in_features}: train with projector.hidden=1 (projector=paper_gelu_mlp)"
        )
    return layers


def numbered(layers: Sequence[nn.Linear], prefix: str) -> dict[str, Tensor]:
    """Their tensors as a Sequential with GELUs in between names them: indices 0, 2, 4; a single layer has none."""
    found: dict[str, Tensor] = {}
    for index, layer in enumerate(layers):
        place = prefix if len(layers) == 1 else f"{prefix}.{2 * index}"
        found |= {f"{place}.weight": layer.weight, f"{place}.bias": layer.bias}
    return found


def projector_of(state: State, prefix: str, counts: Sequence[int], side: int, where: str) -> Projector:
    """A projector of the kind and sizes of these tensors, named as by `numbered`, with their weights in float32.

    counts: how many layers the layout may have. side: of the square of features, in cells.

    Raises UserError for tensors of no such projector.
    """
    single = f"{prefix}.weight" in state
    count = 1 if single else sum(f"{prefix}.{2 * index}.weight" in state for index in range(max(counts)))
    first = state.get(f"{prefix}.weight" if single else f"{prefix}.0.weight")
    if first is None or first.ndim != 2 or count not in counts:
        raise UserError(
            f"{where} holds no projector ({' or '.join(KINDS[n] for n in counts)}); its tensors are {sorted(state)[:6]}"
        )
    channels, width = first.shape[1], state.get(f"{prefix}.{2 * (count - 1)}.weight", first).shape[0]
    with torch.random.fork_rng(devices=[]):
        projector: Projector
        if count == 1:
            projector = LinearProjector(channels, width, side, norm=False)
        elif count == 2:
            projector = MlpProjector(channels, width, side, norm=False, hidden=1)
        else:
            projector = FusedMlpProjector(channels, width, side, norm=False)
    fill(linear_layers(projector, counts, where, ""), state, prefix, where)
    return projector


def fill(layers: Sequence[nn.Linear], state: State, prefix: str, where: str) -> None:
    """Load layers from tensors named as by `numbered`. Raises UserError, before any change, where they do not fit."""
    expected = numbered(layers, prefix)
    check(state, expected, where)
    with torch.no_grad():
        for name, parameter in expected.items():
            parameter.copy_(state[name])
