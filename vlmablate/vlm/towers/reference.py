"""The reference transformers (CLIP, SigLIP, DINOv2, ImageNet ViT) and raw patches as towers of a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn

from vlmablate.data import weight_files
from vlmablate.data.assets import FILES, HUB
from vlmablate.vlm.towers.base import Tower, made_tower
from vlmablate.vlm.towers.raw_patches import RawPatchTower
from vlmablate.vlm.towers.registry import TowerSettings
from vlmablate.vlm.towers.vision import build_vision
from vlmablate.vlm.towers.vit import VisionTransformer


class ReferenceBackbone(nn.Module):
    """A reference tower whose patches are laid out as a map. Attributes: tower, the module itself."""

    def __init__(self, tower: VisionTransformer | RawPatchTower) -> None:
        super().__init__()
        self.tower = tower

    @property
    def layers(self) -> Sequence[nn.Module]:
        """Its blocks, first to last; none of raw patches."""
        return list(self.tower.layers)

    def forward(self, pixels: Tensor) -> Tensor:
        """[B, 3, S, S] normalised pixels -> [B, C, side, side]."""
        patches: Tensor = self.tower(pixels)
        side = self.tower.side
        return patches.transpose(1, 2).unflatten(2, (side, side))


def load(settings: TowerSettings, weights: Path | None = None) -> ReferenceBackbone:
    """The tower with random weights; `weights` is None."""
    return _backbone(settings, "random")


def load_reference(settings: TowerSettings, source: str) -> Tower:
    """A tower with the weights of a plan: ``random``, ``hub:…``, or ``files:`` and the digest of a user's files.

    Raises UserError for weights that cannot be had, or do not fit.
    """
    if source.startswith(FILES):
        weights = str(weight_files.find(source.removeprefix(FILES)))
    else:
        weights = "pretrained" if source.startswith(HUB) else "random"
    return made_tower(settings, lambda: _backbone(settings, weights))


def _backbone(settings: TowerSettings, weights: str) -> ReferenceBackbone:
    options = {name: value for name, value in settings.options.items() if value is not None}
    written = {"name": settings.name, "image_size": settings.image_size, **options}
    built = build_vision(written, weights=weights)
    assert isinstance(built, VisionTransformer | RawPatchTower)
    return ReferenceBackbone(built)
