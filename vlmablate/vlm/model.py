"""The vision-language model of this scale: frozen features, a projector, a language model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from vlmablate.errors import UserError
from vlmablate.vlm.feature_store import FeatureStore, open_features
from vlmablate.vlm.image import Frame
from vlmablate.vlm.language_model import LanguageModel


class VisionLanguageModel(nn.Module):
    """Cells of a picture (projected features) in front of the text of its questions."""

    def __init__(self, projector: nn.Module, language: LanguageModel) -> None:
        super().__init__()
        self.projector = projector
        self.language = language

    def forward(self, features: Tensor, tokens: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        """features [B, cells, C]; the rest as LanguageModel.forward. Returns hidden states [B, T, width]."""
        return self.language(self.projector(features), tokens, positions, mask)


class FusedFeatures:
    """One split of one or several towers; several are joined by channel concatenation, in order.

    All towers share the image transform, hence the frame up to scale; the first tower's frame is used for boxes, in
    shares of its square.
    """

    def __init__(self, folders: Sequence[Path], split: str) -> None:
        self.stores: list[FeatureStore] = [open_features(folder, split) for folder in folders]
        first = self.stores[0]
        for store in self.stores[1:]:
            if list(store.ids) != list(first.ids) or store.features.shape[1] != first.features.shape[1]:
                raise UserError(
                    "the towers' features are not of the same scenes and the same grid; extract them anew"
                )
        self.ids = list(first.ids)
        self.frames: Sequence[Frame] = first.frames
        self.cells = int(first.features.shape[1])
        self.channels = sum(int(store.features.shape[2]) for store in self.stores)

    def batch(self, rows: np.ndarray) -> Tensor:
        """float32 [len(rows), cells, channels]."""
        parts = [store.features[rows].astype(np.float32) for store in self.stores]
        return torch.from_numpy(parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2))


def feature_folders(deps: dict[str, Path]) -> list[Path]:
    """The `features0`, `features1`, … dependencies of a step, in order."""
    roles = sorted(
        (role for role in deps if role.startswith("features")), key=lambda r: int(r[len("features") :])
    )
    return [deps[role] for role in roles]
