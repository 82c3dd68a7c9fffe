"""`mm_projector.bin` of the original LLaVA: its projector alone, as alignment leaves it."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from vlmablate.vlm.exports.folders import new_folder
from vlmablate.vlm.exports.linears import fill, linear_layers, numbered, projector_of
from vlmablate.vlm.exports.tensors import State, plain, read_pickle, tensors_of
from vlmablate.vlm.projectors.base import Projector

FILE = "mm_projector.bin"
PREFIX = "model.mm_projector"
COUNTS = (1, 2)


def to_mm_projector(projector: nn.Module, dtype: str = "float32") -> dict[str, Tensor]:
    """`model.mm_projector.{0,2}.weight` and `.bias` of a gelu_mlp, `model.mm_projector.weight` and `.bias` of a linear.

    Raises UserError for another projector.
    """
    return plain(numbered(_layers(projector), PREFIX), dtype)


def from_mm_projector(state: State, projector: nn.Module, where: str = "the checkpoint") -> None:
    """Load such tensors into a projector. Raises UserError, before any change, where they do not fit it."""
    fill(_layers(projector), state, PREFIX, where)


def write_mm_projector(folder: Path, projector: nn.Module, dtype: str = "float32") -> None:
    """Write `mm_projector.bin` into a new folder. Raises UserError for another projector, or a folder that exists."""
    state = to_mm_projector(projector, dtype)
    with new_folder(folder) as temporary:
        torch.save(state, temporary / FILE)


def read_mm_projector(path: Path, side: int) -> Projector:
    """The projector of a `mm_projector.bin`, or of a folder with one, in float32.

    side: of the square of features that it will take, in cells (24 for CLIP ViT-L/14 at 336 pixels).

    Raises UserError for a file that is missing, damaged or no such projector.
    """
    path = Path(path).expanduser()
    path = path / FILE if path.is_dir() else path
    return projector_of(tensors_of(read_pickle(path), str(path)), PREFIX, COUNTS, side, str(path))


def _layers(projector: nn.Module) -> list[nn.Linear]:
    return linear_layers(
        projector,
        COUNTS,
        "mm_projector",
        "the layout prismatic has fused_gelu_mlp; other projectors exist only here",
    )
