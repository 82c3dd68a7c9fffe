"""Several towers on one picture, joined patch by patch (Karamcheti et al. 2024, section 4.2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class FusedVision(nn.Module):
    """{tower name: normalised pixels [B, 3, S, S]} -> [B, N, sum of channels], channels of the first tower first.

    Every tower has a picture of its own size and colour scale, made of the same photograph. `resolve_vision` has made
    sure that the towers have equally many patches.

    Attributes:
        name, side, tokens, channels; `towers`: by name, in order. Size, mean and std are those of each tower.
    """

    def __init__(self, name: str, towers: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.name = name
        self.towers = nn.ModuleDict(towers)
        parts: list[Any] = list(self.towers.values())
        self.side, self.tokens = int(parts[0].side), int(parts[0].tokens)
        self.channels = sum(int(part.channels) for part in parts)

    @property
    def layers(self) -> nn.ModuleList:
        """The blocks of all towers, tower by tower (a view: they are registered in the towers)."""
        parts: list[Any] = list(self.towers.values())
        return nn.ModuleList(layer for part in parts for layer in part.layers)

    def forward(self, pixels: Mapping[str, Tensor]) -> Tensor:
        """Raises ValueError when the pictures are not exactly those of the towers."""
        if set(pixels) != set(self.towers):
            raise ValueError(f"{self.name} takes pictures for {list(self.towers)}, not for {list(pixels)}")
        return torch.cat([tower(pixels[name]) for name, tower in self.towers.items()], dim=2)
