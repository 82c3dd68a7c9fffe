"""Towers in the loop: pictures in, features out, gradients back into as much of the towers as a stage trains.

A stage that leaves the towers as they are reads their features from disk instead (`vlm.features_step`).

What a configuration calls ``live`` is {"towers": [{"tower", "weights"}, …], "grid", "image"}: the towers as written in
``vision.towers`` with the SHA-256 of their pretrained weights, and the transform that makes pictures square.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from vlmablate.vlm.features_step import fill_of, load_configured
from vlmablate.vlm.image import Colour
from vlmablate.vlm.towers.base import Tower, blank_tower
from vlmablate.vlm.towers.registry import resolve


class LiveVision(nn.Module):
    """One or several towers whose features are joined by channel concatenation, in order.

    Attributes:
        live: what they were made from, see above.
        towers: the towers, a list of modules.
        cells, channels: of the features.
    """

    towers: Sequence[Tower]

    def __init__(self, towers: Sequence[Tower], live: Mapping[str, Any]) -> None:
        super().__init__()
        self.live = live
        # Sharded weights must lie row by row; a convolution goes by the memory order of its pixels anyway.
        rows = (tower.to(memory_format=torch.contiguous_format) for tower in towers)
        self.towers = cast(Sequence[Tower], nn.ModuleList(rows))
        self.cells = towers[0].grid ** 2
        self.channels = sum(tower.channels for tower in towers)

    def forward(self, squares: Sequence[Tensor]) -> Tensor:
        """For each tower uint8 [B, S, S, 3] -> [B, cells, channels]."""
        parts = [tower(tower.normalise(x)) for tower, x in zip(self.towers, squares, strict=True)]
        return torch.cat(parts, dim=2)

    def squares(self) -> list[tuple[int, Colour]]:
        """Side in pixels and fill colour of the square that each tower takes."""
        return [(tower.image_size, fill_of(self.live["image"], tower)) for tower in self.towers]


def open_vision(live: Mapping[str, Any]) -> LiveVision:
    """The pretrained towers of a configuration, frozen. Raises UserError for weights that are missing or damaged."""
    rows = live["towers"]
    return LiveVision(
        [load_configured(resolve(row["tower"], live["grid"]), row["weights"]) for row in rows], live
    )


def blank_vision(live: Mapping[str, Any]) -> LiveVision:
    """The same towers with weights that mean nothing: those of a trained model are about to be loaded."""
    return LiveVision([blank_tower(resolve(row["tower"], live["grid"])) for row in live["towers"]], live)
