"""Perceiver resamplers: a fixed number of learned latents reads the features, layer by layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from vlmablate.errors import UserError
from vlmablate.vlm.projectors.base import Projector, attention, input_norm


class FlamingoLayer(nn.Module):
    """latents + attention over [features, latents], then latents + MLP; both behind a LayerNorm, without biases."""

    def __init__(self, width: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_features = nn.LayerNorm(width)
        self.norm_latents = nn.LayerNorm(width)
        self.query = nn.Linear(width, heads * head_width, bias=False)
        self.key_value = nn.Linear(width, 2 * heads * head_width, bias=False)
        self.mixed = nn.Linear(heads * head_width, width, bias=False)
        self.norm_mlp = nn.LayerNorm(width)
        self.mlp_in = nn.Linear(width, 4 * width, bias=False)
        self.mlp_out = nn.Linear(4 * width, width, bias=False)

    def forward(self, features: Tensor, latents: Tensor) -> Tensor:
        normed = self.norm_latents(latents)
        read = torch.cat([self.norm_features(features), normed], dim=1)
        keys, values = self.key_value(read).chunk(2, dim=-1)
        latents = latents + self.mixed(attention(self.query(normed), keys, values, self.heads))
        return latents + self.mlp_out(functional.gelu(self.mlp_in(self.norm_mlp(latents))))


class PerceiverResampler(Projector):
    """The resampler of Flamingo (Alayrac et al. 2022, section 3.1 and appendix A.1.1), then a linear layer.

    width of the latents (`inner`): that of the features as published, or a smaller one that a linear layer brings the
    features to. The published sizes: 64 latents, depth 6, 8 heads of 64.
    """

    def __init__(
        self, channels: int, width: int, side: int, *,
        latents: int, depth: int, heads: int, head_width: int, inner: int | None,
    ) -> None:  # fmt: skip
        super().__init__(side, latents, None)
        size = inner or channels
        self.narrow = (
            nn.Identity()
            if inner is None
            else nn.Sequential(nn.LayerNorm(channels), nn.Linear(channels, size))
        )
        self.latents = nn.Parameter(torch.empty(latents, size))
        self.layers = nn.ModuleList(FlamingoLayer(size, heads, head_width) for _ in range(depth))
        self.norm = nn.LayerNorm(size)
        self.out = nn.Linear(size, width)

    def forward(self, features: Tensor) -> Tensor:
        features = self.narrow(features)
        latents = self.latents.expand(len(features), -1, -1)
        for layer in self.layers:
            latents = layer(features, latents)
        return self.out(self.norm(latents))


class GatedMlp(nn.Module):
    """down(silu(gate(x)) * up(x)), without biases."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.gate = nn.Linear(inputs, hidden, bias=False)
        self.up = nn.Linear(inputs, hidden, bias=False)
        self.down = nn.Linear(hidden, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(functional.silu(self.gate(x)) * self.up(x))


class IdeficsLayer(nn.Module):
    """The Flamingo layer with RMSNorm, a gated MLP, and fewer heads for keys and values than for queries."""

    def __init__(self, width: int, heads: int, head_width: int, groups: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_features = nn.RMSNorm(width, eps=1e-6)
        self.norm_latents = nn.RMSNorm(width, eps=1e-6)
        self.query = nn.Linear(width, heads * head_width, bias=False)
        self.key = nn.Linear(width, groups * head_width, bias=False)
        self.value = nn.Linear(width, groups * head_width, bias=False)
        self.mixed = nn.Linear(heads * head_width, width, bias=False)
        self.norm_mlp = nn.RMSNorm(width, eps=1e-6)
        self.mlp = GatedMlp(width, 4 * width, width)

    def forward(self, features: Tensor, latents: Tensor) -> Tensor:
        normed = self.norm_latents(latents)
        read = torch.cat([self.norm_features(features), normed], dim=1)
        mixed = attention(self.query(normed), self.key(read), self.value(read), self.heads)
        latents = latents + self.mixed(mixed)
        return latents + self.mlp(self.norm_mlp(latents))


class IdeficsResampler(Projector):
    """The connector of Idefics2 (Laurençon et al. 2024): a gated MLP to the language model's width, then a resampler.

    inner: hidden units of the MLP in front; None is 4 widths. The published sizes: 64 latents, depth 3, 16 heads of 96
    in 4 groups, 14336 units in front of a width of 4096. Raises UserError for heads that do not share out.
    """

    def __init__(
        self, channels: int, width: int, side: int, *,
        norm: bool, latents: int, depth: int, heads: int, head_width: int, groups: int, inner: int | None,
    ) -> None:  # fmt: skip
        if heads % groups:
            raise UserError(f"projector.heads={heads} do not form projector.groups={groups} of equal size")
        super().__init__(side, latents, None)
        self.norm = input_norm(channels, norm)
        self.project = GatedMlp(channels, inner or 4 * width, width)
        self.latents = nn.Parameter(torch.empty(latents, width))
        self.layers = nn.ModuleList(IdeficsLayer(width, heads, head_width, groups) for _ in range(depth))
        self.out = nn.RMSNorm(width, eps=1e-6)

    def forward(self, features: Tensor) -> Tensor:
        features = self.project(self.norm(features))
        latents = self.latents.expand(len(features), -1, -1)
        for layer in self.layers:
            latents = layer(features, latents)
        return self.out(latents)
