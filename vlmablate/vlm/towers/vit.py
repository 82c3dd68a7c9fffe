"""A vision transformer up to its second-to-last block: CLIP, SigLIP, DINOv2 and the ImageNet ViT in one module.

The feature of the towers here is the output of the second-to-last block without a final norm, patches only
(transformers' `hidden_states[-2]`; Karamcheti et al. 2024, appendix). What comes after it is not built: a parameter
that the loss cannot see would have no gradient, and a sharded optimiser would still carry it.

Nothing here is computed ahead and kept, so every parameter may be trained: the position table has the size of the grid
(a table of another grid is resized once, when weights are read), and each prefix token is one parameter that already
contains its position.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from vlmablate.vlm.towers.architectures import Architecture


def quick_gelu(x: Tensor) -> Tensor:
    """x * sigmoid(1.702 x), the approximation that CLIP was trained with (Hendrycks and Gimpel 2016, section 2)."""
    return x * torch.sigmoid(1.702 * x)


def gelu_tanh(x: Tensor) -> Tensor:
    return functional.gelu(x, approximate="tanh")


ACTIVATION: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "gelu_tanh": gelu_tanh,
    "quick_gelu": quick_gelu,
}


class Layer(nn.Module):
    """A pre-norm transformer block, [B, T, W] -> [B, T, W]; every token sees every other."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        width, family = architecture.width, architecture.family
        self.heads = architecture.heads
        self.activation = ACTIVATION[family.activation]
        self.norm1 = nn.LayerNorm(width, eps=family.epsilon)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, eps=family.epsilon)
        self.fc1 = nn.Linear(width, architecture.hidden)
        self.fc2 = nn.Linear(architecture.hidden, width)
        self.scale1 = nn.Parameter(torch.ones(width)) if family.layer_scale else None
        self.scale2 = nn.Parameter(torch.ones(width)) if family.layer_scale else None

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        qkv = self.qkv(self.norm1(x)).view(batch, tokens, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        attended = self.out(mixed.transpose(1, 2).reshape(batch, tokens, width))
        x = x + (attended if self.scale1 is None else self.scale1 * attended)
        thought = self.fc2(self.activation(self.fc1(self.norm2(x))))
        return x + (thought if self.scale2 is None else self.scale2 * thought)


class VisionTransformer(nn.Module):
    """Normalised pixels [B, 3, S, S] -> penultimate patch features [B, N, C], patches in reading order.

    Attributes:
        name, image_size (S, pixels), side (patches along a side), tokens (N), channels (C), mean, std.
        layers: the blocks, first to last; the embedding before the first is in none.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        family, width = architecture.family, architecture.width
        self.name, self.image_size = architecture.name, architecture.image_size
        self.side, self.tokens, self.channels = architecture.side, architecture.tokens, width
        self.mean, self.std = family.mean, family.std
        self.patches = nn.Conv2d(
            3, width, architecture.patch, stride=architecture.patch, bias=family.patch_bias
        )
        self.prefix = nn.Parameter(torch.zeros(family.prefix, width)) if family.prefix else None
        self.positions = nn.Parameter(torch.zeros(self.tokens, width))
        self.pre_norm = nn.LayerNorm(width, eps=family.epsilon) if family.pre_norm else None
        self.layers = nn.ModuleList(Layer(architecture) for _ in range(architecture.layers))

    def forward(self, pixels: Tensor) -> Tensor:
        """Raises ValueError for pictures of another size: another size needs another table of positions."""
        if tuple(pixels.shape[1:]) != (3, self.image_size, self.image_size):
            raise ValueError(
                f"{self.name} takes [B, 3, {self.image_size}, {self.image_size}], not {list(pixels.shape)}"
            )
        x = self.patches(pixels.to(self.patches.weight.dtype)).flatten(2).transpose(1, 2) + self.positions
        prefix = 0
        if self.prefix is not None:
            prefix = self.prefix.shape[0]
            x = torch.cat([self.prefix.expand(x.shape[0], -1, -1), x], dim=1)
        if self.pre_norm is not None:
            x = self.pre_norm(x)
        for layer in self.layers:
            x = layer(x)
        return x[:, prefix:]


@torch.no_grad()
def fill_random(tower: VisionTransformer, seed: int) -> None:
    """Normal weights of std 0.02, biases 0, norms and layer scales 1, from a generator of their own.

    The numbers are drawn on the CPU in the order of the parameters: the same seed gives the same tower everywhere, and
    the caller's random numbers do not move.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in tower.named_parameters():
        last = name.rpartition(".")[2]
        if parameter.dim() > 1:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.02)
        else:
            parameter.fill_(0.0 if last == "bias" else 1.0)
