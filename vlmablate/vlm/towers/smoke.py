"""Two small random encoders for tests and the smoke scale: seeded, without assets, different in kind."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from vlmablate.vlm.towers.registry import TowerSettings


def _fill(module: nn.Module, seed: int) -> None:
    """Variance-preserving normal weights from a generator of their own; the global seed is untouched."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        if parameter.dim() > 1:
            fan_in = parameter[0].numel()
            parameter.data = torch.randn(parameter.shape, generator=generator) * (2.0 / fan_in) ** 0.5
        else:
            parameter.data.zero_()


class SmokeConv(nn.Module):
    """Three strided convolutions: [B, 3, S, S] -> [B, C, S/8, S/8]."""

    def __init__(self, channels: int, seed: int) -> None:
        super().__init__()
        widths = (3, 12, 24, channels)
        self.layers = nn.ModuleList(nn.Conv2d(widths[i], widths[i + 1], 2, stride=2) for i in range(3))
        _fill(self, seed)

    def forward(self, pixels: Tensor) -> Tensor:
        x = pixels
        for layer in self.layers:
            x = functional.relu(layer(x))
        return x


class SmokePatch(nn.Module):
    """8-pixel patches through a two-layer perceptron: [B, 3, S, S] -> [B, C, S/8, S/8]."""

    def __init__(self, channels: int, seed: int) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 64, 8, stride=8)
        self.mix = nn.Conv2d(64, channels, 1)
        _fill(self, seed + 1)

    @property
    def layers(self) -> list[nn.Module]:
        return [self.embed, self.mix]

    def forward(self, pixels: Tensor) -> Tensor:
        return self.mix(torch.tanh(self.embed(pixels)))


def load_conv(settings: TowerSettings, weights: Path | None) -> SmokeConv:
    return SmokeConv(settings.options["channels"], settings.options["seed"])


def load_patch(settings: TowerSettings, weights: Path | None) -> SmokePatch:
    return SmokePatch(settings.options["channels"], settings.options["seed"])
