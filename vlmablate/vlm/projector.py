"""Projectors: from the features of the towers to the width of the language model."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from vlmablate.errors import unknown_name

# The cells of a text scene are mixtures of word embeddings (std 0.1); projected cells start at the same loudness.
OUTPUT_STD = 0.1


class LinearProjector(nn.Module):
    """LayerNorm over the channels, then one linear layer. [..., C] -> [..., width]."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.out = nn.Linear(channels, width)

    def forward(self, features: Tensor) -> Tensor:
        return self.out(self.norm(features))


class MlpProjector(nn.Module):
    """LayerNorm, linear, GELU (erf), linear: the paper's gelu-mlp (section 3), hidden size 2 x width.

    The norm stands in for the one that a pretrained tower's penultimate layer lacks: towers of different loudness
    are to be compared at the same learning rate. [..., C] -> [..., width].
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.hidden = nn.Linear(channels, 2 * width)
        self.out = nn.Linear(2 * width, width)

    def forward(self, features: Tensor) -> Tensor:
        return self.out(functional.gelu(self.hidden(self.norm(features))))


PROJECTORS: dict[str, Callable[[int, int], nn.Module]] = {"linear": LinearProjector, "gelu_mlp": MlpProjector}


def build_projector(name: str, channels: int, width: int, generator: torch.Generator) -> nn.Module:
    """The projector of that exact name, initialised from `generator` (so its start follows the run's seed).

    Weights are normal with variance 1 / inputs, the last layer scaled to OUTPUT_STD. Raises UserError.
    """
    if name not in PROJECTORS:
        raise unknown_name("projector", name, PROJECTORS, "projector.name")
    projector = PROJECTORS[name](channels, width)
    with torch.no_grad():
        for part, module in projector.named_modules():
            if isinstance(module, nn.Linear):
                gain = OUTPUT_STD if part == "out" else 1.0
                module.weight.normal_(0.0, gain * module.in_features**-0.5, generator=generator)
                module.bias.zero_()
    return projector
