"""Projectors that make fewer tokens than there are cells and keep them in the picture: pixel shuffle, and LDP."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from vlmablate.errors import UserError
from vlmablate.vlm.projectors.base import Projector, grid_places, input_norm


def pixel_shuffle(features: Tensor, factor: int) -> Tensor:
    """[B, s * s, C] -> [B, (s / factor)^2, factor^2 * C]: the cells of each square side by side, in reading order.

    The order of Idefics3 and nanoVLM; InternVL's first version swaps rows and columns.
    """
    batch, cells, channels = features.shape
    side = round(cells**0.5)
    squares = features.reshape(batch, side // factor, factor, side // factor, factor, channels)
    return squares.transpose(2, 3).reshape(batch, (side // factor) ** 2, factor * factor * channels)


class PixelShuffleProjector(Projector):
    """Pixel shuffle, then one linear layer without bias (Idefics3, nanoVLM).

    pad: fill a grid that the factor does not divide with zeros at the bottom and on the right. The place of a token is
    the middle of the cells that it holds.

    Raises UserError for such a grid without `pad`, and for one smaller than the factor.
    """

    def __init__(self, channels: int, width: int, side: int, *, norm: bool, factor: int, pad: bool) -> None:
        rest = -side % factor
        if side < factor or (rest and not pad):
            divisors = [str(n) for n in range(2, side + 1) if side % n == 0]
            choices = [f"projector.factor={' or '.join(divisors)}"] if divisors else []
            choices += ["projector.pad=true"] if side > factor else []
            raise UserError(
                f"the projector pixel_shuffle cannot join {factor}x{factor} cells of a grid of {side}x{side}: use "
                + ", ".join([*choices, f"a vision.grid that {factor} divides, or projector=linear"])
            )
        middles = torch.arange(0, side, factor)
        middles = (middles + (middles + factor - 1).clamp(max=side - 1)) / 2
        tokens = len(middles)
        places = middles[grid_places(tokens, tokens).long()]
        super().__init__(side, tokens * tokens, places)
        self.factor, self.rest = factor, rest
        self.norm = input_norm(channels, norm)
        self.out = nn.Linear(factor * factor * channels, width, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        features = self.norm(features)
        if self.rest:
            square = features.unflatten(1, (self.side, self.side))
            features = functional.pad(square, (0, 0, 0, self.rest, 0, self.rest)).flatten(1, 2)
        return self.out(pixel_shuffle(features, self.factor))


class DepthwiseBlock(nn.Module):
    """3x3 depthwise, norm, hard swish, squeeze and excitation, pointwise: a MobileNetV3 block without expansion.

    [B, rows, columns, width], channels last; a stride of 2 leaves ceil(n / 2) cells a side.
    """

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        squeezed = max(8, (width // 4 + 4) // 8 * 8)
        if squeezed < 0.9 * (
            width // 4
        ):  # the rounding of MobileNet: to multiples of 8, never down by a tenth
            squeezed += 8
        self.depthwise = nn.Conv2d(width, width, 3, stride, padding=1, groups=width, bias=False)
        self.norm = nn.LayerNorm(width)
        self.squeeze = nn.Linear(width, squeezed)
        self.excite = nn.Linear(squeezed, width)
        self.pointwise = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.depthwise(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        x = functional.hardswish(self.norm(x))
        scale = functional.relu(self.squeeze(x.mean(dim=(1, 2), keepdim=True)))
        return self.pointwise(x * functional.hardsigmoid(self.excite(scale)))


class LdpProjector(Projector):
    """MobileVLM's lightweight downsample projector (Chu et al. 2023, section 3.4): a quarter of the tokens.

    Linear, GELU, linear; a depthwise block with a way around it; one with stride 2. Token (i, j) has its middle on cell
    (2 i, 2 j), so a grid of any side above 1 will do. Raises UserError for a grid of one cell.
    """

    def __init__(self, channels: int, width: int, side: int, *, norm: bool) -> None:
        if side < 2:
            raise UserError(
                "the projector ldp halves the grid, and a grid of 1x1 has no half: use a larger vision.grid, "
                "or projector=linear"
            )
        half = (side + 1) // 2
        super().__init__(side, half * half, 2 * grid_places(half, half))
        self.norm = input_norm(channels, norm)
        self.hidden = nn.Linear(channels, width)
        self.mixed = nn.Linear(width, width)
        self.keep = DepthwiseBlock(width, 1)
        self.norm_keep = nn.LayerNorm(width)
        self.halve = DepthwiseBlock(width, 2)
        self.out = nn.LayerNorm(width)

    def forward(self, features: Tensor) -> Tensor:
        x = self.mixed(functional.gelu(self.hidden(self.norm(features))))
        x = x.unflatten(1, (self.side, self.side))
        x = x + self.norm_keep(self.keep(x))
        return self.out(self.halve(x)).flatten(1, 2)
