"""The reference vision towers by exact name: built, filled with weights, and what their pictures must look like."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vlmablate.errors import UserError
from vlmablate.vlm.image import fill_colour
from vlmablate.vlm.towers.architectures import (
    Architecture,
    Colour,
    Fusion,
    RawPatches,
    Resolved,
    resolve_vision,
)
from vlmablate.vlm.towers.checkpoints import tower_state
from vlmablate.vlm.towers.fused import FusedVision
from vlmablate.vlm.towers.raw_patches import RawPatchTower
from vlmablate.vlm.towers.vit import VisionTransformer, fill_random


@dataclass(frozen=True)
class TransformFacts:
    """How a photograph becomes the input of one tower.

    Attributes:
        image_size: side of the square in pixels; mean, std: per channel, of pixels in 0..1.
    """

    image_size: int
    mean: Colour
    std: Colour

    @property
    def fill(self) -> tuple[int, int, int]:
        """The 8-bit colour beside a letterboxed picture: the tower's mean, rounded down."""
        return fill_colour(self.mean)

    def normalise(self, pictures: Tensor) -> Tensor:
        """uint8 [B, S, S, 3] -> float32 [B, 3, S, S] in the tower's colour scale."""
        mean, std = (torch.tensor(row, device=pictures.device) for row in (self.mean, self.std))
        return ((pictures.float() / 255.0 - mean) / std).permute(0, 3, 1, 2)


def transforms(tower: str | Mapping[str, Any]) -> dict[str, TransformFacts]:
    """What each picture must look like, by tower: one entry for a single tower, one per part of a fusion.

    Raises:
        UserError: as `build_vision`.
    """
    facts = resolve_vision(tower)
    parts = facts.towers if isinstance(facts, Fusion) else (facts,)
    return {part.name: TransformFacts(part.image_size, part.mean, part.std) for part in parts}


def build_vision(
    tower: str | Mapping[str, Any], *, weights: str = "random", device: str = "cpu"
) -> VisionTransformer | RawPatchTower | FusedVision:
    """A vision tower; every parameter is float32 and may be trained (freezing is `training.tuning`'s).

    Args:
        tower: a name or a mapping, see `architectures.resolve_vision`.
        weights: `random` (from the tower's seed), `pretrained` (from the hub, or its local cache), or a folder or file,
            see `checkpoints.tower_state`. For a fusion, a folder with one folder or `.safetensors` file per tower, of
            the tower's name. Raw patches have none, and take only the first two.
        device: where the parameters go. On `meta` nothing is read or drawn, and any tower is there at once.

    Raises:
        UserError: for a tower that cannot be resolved, or weights that cannot be had or do not fit.
    """
    return _build(resolve_vision(tower), weights, device)


def _build(facts: Resolved, weights: str, device: str) -> VisionTransformer | RawPatchTower | FusedVision:
    if isinstance(facts, Fusion):
        parts: dict[str, nn.Module] = {
            part.name: _build(part, _of_part(weights, part), device) for part in facts.towers
        }
        return FusedVision(facts.name, parts)
    if isinstance(facts, RawPatches):
        if weights not in ("random", "pretrained"):
            raise UserError(f"{facts.name} has no weights, so it reads none from {weights}")
        return RawPatchTower(facts)
    with torch.device("meta"):
        built = VisionTransformer(facts)
    if device == "meta":
        return built
    if weights == "random":
        built.to_empty(device=device)
        fill_random(built, facts.seed)
    else:
        built.load_state_dict(tower_state(facts, weights, built.state_dict()), assign=True)
        built.to(device)
    return built


def _of_part(weights: str, part: Architecture | RawPatches) -> str:
    """The weights of one tower of a fusion."""
    if weights in ("random", "pretrained") or isinstance(part, RawPatches):
        return "random" if isinstance(part, RawPatches) else weights
    folder = Path(weights).expanduser()
    if (folder / part.name).is_dir():
        return str(folder / part.name)
    return str(folder / f"{part.name}.safetensors")
