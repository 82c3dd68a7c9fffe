"""No encoder: the pixels of each patch are its features, and the projector is the strided patch embedding.

Bavishi et al. 2023 (Fuyu): patches go through one linear layer straight into the language model.
"""

from __future__ import annotations

from torch import Tensor, nn

from vlmablate.vlm.towers.architectures import RawPatches


class RawPatchTower(nn.Module):
    """Normalised pixels [B, 3, S, S] -> [B, N, 3 p p], patches in reading order.

    The numbers of a patch are ordered by row, column, colour, as Fuyu's are. A linear projector on them equals a
    convolution with kernel and stride p.

    Attributes: as of `VisionTransformer`; there are no parameters, and `layers` is empty.
    """

    def __init__(self, facts: RawPatches) -> None:
        super().__init__()
        self.name, self.image_size, self.patch = facts.name, facts.image_size, facts.patch
        self.side, self.tokens, self.channels = facts.side, facts.tokens, facts.channels
        self.mean, self.std = facts.mean, facts.std
        self.layers = nn.ModuleList()

    def forward(self, pixels: Tensor) -> Tensor:
        """Raises ValueError for pictures of another size."""
        if tuple(pixels.shape[1:]) != (3, self.image_size, self.image_size):
            raise ValueError(
                f"{self.name} takes [B, 3, {self.image_size}, {self.image_size}], not {list(pixels.shape)}"
            )
        side, patch = self.side, self.patch
        cells = pixels.reshape(len(pixels), 3, side, patch, side, patch)
        return cells.permute(0, 2, 4, 3, 5, 1).reshape(len(pixels), self.tokens, self.channels)
