"""What every vision tower is: square images in, a square grid of penultimate features out; frozen until told else."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from vlmablate.errors import UserError
from vlmablate.vlm.towers.registry import TowerSettings


class Backbone(Protocol):
    """[B, 3, S, S] normalised pixels -> [B, C, g, g], the tower's own feature map without prefix tokens.

    layers: what it computes one after the other; what comes before the first (a stem, an embedding) is in none.
    """

    @property
    def layers(self) -> Sequence[nn.Module]: ...

    def __call__(self, pixels: Tensor) -> Tensor: ...


def pool_grid(features: Tensor, grid: int, pool: str) -> Tensor:
    """[B, C, g, g] -> [B, C', grid, grid] for a g that is a multiple of grid.

    `mean` averages each square of cells (C' = C); `space_to_depth` concatenates their channels (C' = C
    (g/grid)^2), the channels of one cell staying together, cells in reading order.
    """
    batch, channels, rows, _ = features.shape
    factor = rows // grid
    if factor == 1:
        return features
    cells = features.reshape(batch, channels, grid, factor, grid, factor)
    if pool == "mean":
        return cells.mean(dim=(3, 5))
    return cells.permute(0, 3, 5, 1, 2, 4).reshape(batch, factor * factor * channels, grid, grid)


class Tower(nn.Module):
    """A backbone with its preprocessing facts; its weights are frozen when it is made.

    Attributes:
        name, image_size, grid: as in `TowerSettings`; `channels`: of each output cell.
        mean, std: per channel, of pixels in 0..1.
    """

    def __init__(self, settings: TowerSettings, backbone: nn.Module) -> None:
        super().__init__()
        self.settings = settings
        self.name, self.image_size, self.grid = settings.name, settings.image_size, settings.grid
        self.mean, self.std = settings.facts.mean, settings.facts.std
        self.backbone = backbone.eval().requires_grad_(False)
        with torch.inference_mode():
            self.channels = self(torch.zeros(1, 3, self.image_size, self.image_size)).shape[2]

    @property
    def layers(self) -> Sequence[nn.Module]:
        """The layers of the backbone, first to last."""
        return cast(Backbone, self.backbone).layers

    def forward(self, pixels: Tensor) -> Tensor:
        """[B, 3, S, S] normalised pixels -> [B, grid * grid, channels], cells in reading order."""
        pooled = pool_grid(self.backbone(pixels), self.grid, self.settings.pool)
        if pooled.shape[2] != self.grid:
            raise ValueError(f"{self.name} made {pooled.shape[2]} cells a side, expected {self.grid}")
        return pooled.flatten(2).transpose(1, 2)

    def normalise(self, pictures: Tensor) -> Tensor:
        """uint8 [B, S, S, 3] -> float32 [B, 3, S, S] in the tower's colour scale (channels-last memory)."""
        mean, std = (torch.tensor(row, device=pictures.device) for row in (self.mean, self.std))
        scale, shift = 1.0 / (255.0 * std), mean / std
        return (pictures.float() * scale - shift).permute(0, 3, 1, 2)


def load_weights(folder: Path) -> dict[str, Tensor]:
    """The tensors of an asset set with weights. Raises UserError when the file is damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / "weights.safetensors"
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is damaged or missing ({error}); run `vlmablate fetch`") from error


def load_tower(settings: TowerSettings, weights: Path | None) -> Tower:
    """Build a tower; `weights` is the folder of its asset set, None for a random encoder.

    Raises:
        UserError: for a tower that needs weights and got none, or damaged ones.
    """
    if settings.facts.asset is not None and weights is None:
        raise UserError(f"the tower {settings.name} needs the asset set '{settings.facts.asset}'")
    return _build(settings, weights)


def blank_tower(settings: TowerSettings) -> Tower:
    """A tower whose weights mean nothing yet: those of a trained one are about to be loaded into it."""
    return _build(settings, None)


def _build(settings: TowerSettings, weights: Path | None) -> Tower:
    module, _, function = settings.facts.builder.partition(":")
    build: Callable[[TowerSettings, Path | None], Any] = getattr(importlib.import_module(module), function)
    return made_tower(settings, lambda: build(settings, weights))


def made_tower(settings: TowerSettings, build: Callable[[], nn.Module]) -> Tower:
    """The tower around a backbone that is built now."""
    # Modules draw initial weights that are overwritten right away; the caller's random numbers must not move.
    with torch.random.fork_rng(devices=[]):
        return Tower(settings, build())
