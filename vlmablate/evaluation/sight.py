"""What an evaluated model sees: the features that the features step left, or those of the towers it trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vlmablate.data.scenes_store import SceneStore
from vlmablate.training.pictures import PictureStream, SquarePictures
from vlmablate.vlm.features_step import BATCH, PRECISIONS
from vlmablate.vlm.image import Frame
from vlmablate.vlm.model import FusedFeatures, VisionLanguageModel, feature_folders
from vlmablate.vlm.multimodal import MultimodalModel
from vlmablate.vlm.seen import LiveVision


@dataclass(frozen=True)
class Seen:
    """Features of a split: ids and frames of all pictures, and rows -> float32 [len(rows), cells, channels]."""

    ids: Sequence[str]
    frames: Sequence[Frame]
    batch: Callable[[np.ndarray], Tensor]


def features_for(
    model: VisionLanguageModel | MultimodalModel,
    deps: Mapping[str, Path],
    store: SceneStore,
    precision: str,
    threads: int = 1,
    after_batch: Callable[[int], None] = lambda pictures: None,
) -> Seen:
    """The features of a split for a model. Those of its own towers are computed now, once, where the model is, and kept
    in memory.

    Raises UserError for features or pictures that are damaged.
    """
    if model.vision is None:
        features = FusedFeatures(feature_folders(dict(deps)), store.split)
        return Seen(features.ids, features.frames, features.batch)
    vision = model.vision
    assert isinstance(vision, LiveVision)
    pictures = SquarePictures(store, vision.live["image"]["resize"], vision.squares())
    values = _extract(vision, pictures, precision, threads, after_batch)
    return Seen(pictures.ids, pictures.frames, lambda rows: values[torch.from_numpy(rows)])


@torch.inference_mode()
def _extract(
    vision: LiveVision,
    pictures: SquarePictures,
    precision: str,
    threads: int,
    after_batch: Callable[[int], None],
) -> Tensor:
    """float32 [N, cells, channels], in batches that are all equally long, because kernels are chosen by batch size."""
    count = len(pictures.ids)
    values = torch.empty(count, vision.cells, vision.channels)
    device = next(vision.parameters()).device

    def rows_at(step: int) -> np.ndarray:
        return np.minimum(np.arange(step * BATCH, (step + 1) * BATCH), count - 1)

    steps = -(-count // BATCH)
    with PictureStream(pictures.at, rows_at, steps, threads) as stream:
        for step in range(steps):
            dtype = PRECISIONS[precision]
            squares = [tensor.to(device) for tensor in stream.at(step)]
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype is torch.bfloat16):
                features = vision(squares)
            first = step * BATCH
            values[first : first + BATCH] = features[: count - first].float().cpu()
            after_batch(min(first + BATCH, count))
    return values
