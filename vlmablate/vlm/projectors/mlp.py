"""One, two or three linear layers, cell by cell."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from vlmablate.vlm.projectors.base import Projector, grid_places, input_norm


class LinearProjector(Projector):
    """One linear layer: the paper's `linear` (section 3) without the norm."""

    def __init__(self, channels: int, width: int, side: int, *, norm: bool) -> None:
        super().__init__(side, side * side, grid_places(side, side))
        self.norm = input_norm(channels, norm)
        self.out = nn.Linear(channels, width)

    def forward(self, features: Tensor) -> Tensor:
        return self.out(self.norm(features))


class MlpProjector(Projector):
    """Linear, GELU (erf), linear. The paper's `gelu-mlp` (section 3) has no norm and a hidden layer of one width."""

    def __init__(self, channels: int, width: int, side: int, *, norm: bool, hidden: int) -> None:
        super().__init__(side, side * side, grid_places(side, side))
        self.norm = input_norm(channels, norm)
        self.hidden = nn.Linear(channels, hidden * width)
        self.out = nn.Linear(hidden * width, width)

    def forward(self, features: Tensor) -> Tensor:
        return self.out(functional.gelu(self.hidden(self.norm(features))))


class FusedMlpProjector(Projector):
    """C -> 4 C, GELU, 4 C -> width, GELU, width -> width: the paper's `fused-gelu-mlp` for joined towers."""

    def __init__(self, channels: int, width: int, side: int, *, norm: bool) -> None:
        super().__init__(side, side * side, grid_places(side, side))
        self.norm = input_norm(channels, norm)
        self.widen = nn.Linear(channels, 4 * channels)
        self.hidden = nn.Linear(4 * channels, width)
        self.out = nn.Linear(width, width)

    def forward(self, features: Tensor) -> Tensor:
        hidden = functional.gelu(self.hidden(functional.gelu(self.widen(self.norm(features)))))
        return self.out(hidden)
