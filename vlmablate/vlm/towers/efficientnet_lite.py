"""EfficientNet-Lite as a feature tower, in plain torch.

Facts of the architecture (Tan & Le, "EfficientNet", 2019, and the 2020 Lite note): the EfficientNet-B blocks
without squeeze-and-excite, ReLU6 in place of swish, and a stem, a head and first/last stages that are not
scaled with the model. Convolutions pad like TensorFlow ("SAME"): the output has ceil(input / stride) cells,
an odd padding puts the extra row and column at the bottom right, so every input size works.

Each BatchNorm is folded into the convolution before it when the weights are read; `fold_batch_norm` is exact up to
rounding and tested as such. A tower that is trained keeps the statistics it was pretrained with for good: what learns
is the folded convolution, no picture depends on the others of its batch, and a batch may be cut at will.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from vlmablate.errors import unknown_name
from vlmablate.vlm.towers.base import load_weights
from vlmablate.vlm.towers.registry import TowerSettings

BATCH_NORM_EPSILON = 1e-3
STEM_CHANNELS = 32
HEAD_CHANNELS = 1280
LAYERS = ("head", "last_block")
STRIDE = 32
# (repeats, kernel, stride of the first block, expansion, channels) of each stage at width and depth 1.0.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


@dataclass(frozen=True)
class Scaling:
    """Width and depth multipliers of one member of the family, and the input size it was trained at."""

    width: float
    depth: float
    image_size: int


SCALINGS = {"lite0": Scaling(1.0, 1.0, 224), "lite1": Scaling(1.0, 1.1, 240), "lite2": Scaling(1.1, 1.2, 260)}


@dataclass(frozen=True)
class BlockShape:
    """One inverted-residual block: channels in and out, depthwise kernel and stride, expansion factor."""

    inputs: int
    outputs: int
    kernel: int
    stride: int
    expansion: int


def scaled_channels(channels: int, width: float) -> int:
    """`channels * width` to the nearest multiple of 8, never more than 10 % below the exact product."""
    exact = channels * width
    rounded = max(8, int(exact + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * exact else rounded


def block_shapes(scaling: Scaling) -> list[BlockShape]:
    """All blocks in order; the repeats of the first and the last stage are not scaled."""
    shapes: list[BlockShape] = []
    inputs = STEM_CHANNELS
    for index, (repeats, kernel, stride, expansion, channels) in enumerate(STAGES):
        fixed = index in (0, len(STAGES) - 1)
        count = repeats if fixed else math.ceil(repeats * scaling.depth)
        outputs = scaled_channels(channels, scaling.width)
        for position in range(count):
            shapes.append(BlockShape(inputs, outputs, kernel, stride if position == 0 else 1, expansion))
            inputs = outputs
    return shapes


def fold_batch_norm(
    weight: Tensor, mean: Tensor, variance: Tensor, scale: Tensor, shift: Tensor, epsilon: float
) -> tuple[Tensor, Tensor]:
    """Weight [O, I, k, k] and bias [O] of the one convolution that equals convolution + BatchNorm in eval
    mode.

    Computed in float64, so that the folded model differs from the unfolded one by float32 rounding only.
    """
    factor = scale.double() / torch.sqrt(variance.double() + epsilon)
    folded = weight.double() * factor[:, None, None, None]
    return folded.to(weight.dtype), (shift.double() - mean.double() * factor).to(weight.dtype)


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Padding before and after one axis under TensorFlow's SAME rule."""
    total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


class SameConv(nn.Module):
    """Convolution with SAME padding and bias, optionally followed by ReLU6. [B, I, H, W] -> [B, O, ceil(H/s),
    ...].

    An even input at stride 2 needs one row and column more at the bottom right than at the top left. A kernel
    one cell larger, with zeros in its first row and column, under the larger padding on both sides gives the
    very same sums without copying the input into a padded one (5 to 20 % of the whole tower's time on a CPU).
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1, clip: bool = True
    ) -> None:
        super().__init__()
        self.kernel, self.stride, self.groups, self.clip = kernel, stride, groups, clip
        self.weight = nn.Parameter(torch.empty(outputs, inputs // groups, kernel, kernel))
        self.bias = nn.Parameter(torch.empty(outputs))

    def forward(self, x: Tensor) -> Tensor:
        top, bottom = same_padding(x.shape[2], self.kernel, self.stride)
        left, right = same_padding(x.shape[3], self.kernel, self.stride)
        weight: Tensor = self.weight
        padding = (top, left)
        if (top + 1, left + 1) == (bottom, right):
            weight, padding = functional.pad(weight, (1, 0, 1, 0)), (bottom, right)
        elif (top, left) != (bottom, right):
            padding = (0, 0)
            x = functional.pad(x, (left, right, top, bottom))
        x = functional.conv2d(x, weight, self.bias, self.stride, padding, 1, self.groups)
        return functional.relu6(x, inplace=True) if self.clip else x


class Block(nn.Module):
    """Inverted residual: expand 1x1, depthwise k x k, linear 1x1; added to its input if that fits."""

    def __init__(self, shape: BlockShape) -> None:
        super().__init__()
        hidden = shape.inputs * shape.expansion
        self.expand = SameConv(shape.inputs, hidden, 1) if shape.expansion != 1 else None
        self.depthwise = SameConv(hidden, hidden, shape.kernel, stride=shape.stride, groups=hidden)
        self.project = SameConv(hidden, shape.outputs, 1, clip=False)
        self.residual = shape.stride == 1 and shape.inputs == shape.outputs

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.expand is None else self.expand(x)
        y = self.project(self.depthwise(y))
        return y.add_(x) if self.residual else y


class EfficientNetLite(nn.Module):
    """[B, 3, S, S] normalised pixels -> [B, C, ceil(S/32), ceil(S/32)].

    `layer` names the tap: `last_block` is the output of the last residual block (320 channels x width),
    `head` the 1,280 channels after the head convolution, the last map before the classifier's pooling.
    """

    def __init__(self, scaling: Scaling, layer: str) -> None:
        super().__init__()
        shapes = block_shapes(scaling)
        self.stem = SameConv(3, STEM_CHANNELS, 3, stride=2)
        self.blocks = nn.ModuleList(Block(shape) for shape in shapes)
        self.head = SameConv(shapes[-1].outputs, HEAD_CHANNELS, 1) if layer == "head" else None
        self.channels = HEAD_CHANNELS if layer == "head" else shapes[-1].outputs

    @property
    def layers(self) -> list[nn.Module]:
        return list(self.blocks) if self.head is None else [*self.blocks, self.head]

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.stem(pixels)
        for block in self.blocks:
            x = block(x)
        return x if self.head is None else self.head(x)


def folded_state(state: Mapping[str, Tensor], scaling: Scaling, layer: str) -> dict[str, Tensor]:
    """State of `EfficientNetLite` from the published names (`_conv_stem`, `_bn0`, `_blocks.0.…`)."""
    out: dict[str, Tensor] = {}

    def fold(target: str, conv: str, norm: str) -> None:
        out[f"{target}.weight"], out[f"{target}.bias"] = fold_batch_norm(
            state[f"{conv}.weight"],
            state[f"{norm}.running_mean"],
            state[f"{norm}.running_var"],
            state[f"{norm}.weight"],
            state[f"{norm}.bias"],
            BATCH_NORM_EPSILON,
        )

    fold("stem", "_conv_stem", "_bn0")
    for index, shape in enumerate(block_shapes(scaling)):
        source, target = f"_blocks.{index}", f"blocks.{index}"
        if shape.expansion != 1:
            fold(f"{target}.expand", f"{source}._expand_conv", f"{source}._bn0")
        fold(f"{target}.depthwise", f"{source}._depthwise_conv", f"{source}._bn1")
        fold(f"{target}.project", f"{source}._project_conv", f"{source}._bn2")
    if layer == "head":
        fold("head", "_conv_head", "_bn1")
    return out


def build(variant: str, layer: str, state: Mapping[str, Tensor] | None) -> EfficientNetLite:
    """The folded network in channels-last memory order (the faster one on CPUs), in eval mode.

    state: under the published names; None leaves the weights as they were allocated. Raises KeyError when it lacks a
    tensor, RuntimeError when a shape does not fit.
    """
    scaling = SCALINGS[variant]
    network = EfficientNetLite(scaling, layer)
    if state is not None:
        network.load_state_dict(folded_state(state, scaling, layer), assign=True)
    return network.eval().to(memory_format=torch.channels_last)


def _load(variant: str, settings: TowerSettings, weights: Path | None) -> EfficientNetLite:
    layer = settings.options["layer"]
    if layer not in LAYERS:
        raise unknown_name("layer", layer, LAYERS, f"the tower {settings.name}")
    return build(variant, layer, None if weights is None else load_weights(weights))


def load_lite0(settings: TowerSettings, weights: Path | None) -> EfficientNetLite:
    return _load("lite0", settings, weights)


def load_lite2(settings: TowerSettings, weights: Path | None) -> EfficientNetLite:
    return _load("lite2", settings, weights)
