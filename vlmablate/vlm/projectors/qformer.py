"""The Q-Former of BLIP-2 (Li et al. 2023, section 3.1), its path for queries: no text goes in."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from vlmablate.errors import UserError
from vlmablate.vlm.projectors.base import Projector, attention, input_norm

EPS = 1e-12
"""Of the norms, as in BERT, whose layout this is."""


class Attention(nn.Module):
    """norm(x + attention of x over what it reads), the norm behind the sum."""

    def __init__(self, width: int, read_width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(read_width, width)
        self.value = nn.Linear(read_width, width)
        self.mixed = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=EPS)

    def forward(self, x: Tensor, read: Tensor) -> Tensor:
        return self.norm(
            x + self.mixed(attention(self.query(x), self.key(read), self.value(read), self.heads))
        )


class QFormerLayer(nn.Module):
    """Queries read each other, then (in a layer that crosses) the features, then an MLP."""

    def __init__(self, width: int, channels: int, heads: int, crosses: bool) -> None:
        super().__init__()
        self.self_attention = Attention(width, width, heads)
        self.cross_attention = Attention(width, channels, heads) if crosses else None
        self.mlp_in = nn.Linear(width, 4 * width)
        self.mlp_out = nn.Linear(4 * width, width)
        self.norm = nn.LayerNorm(width, eps=EPS)

    def forward(self, queries: Tensor, features: Tensor) -> Tensor:
        queries = self.self_attention(queries, queries)
        if self.cross_attention is not None:
            queries = self.cross_attention(queries, features)
        return self.norm(queries + self.mlp_out(functional.gelu(self.mlp_in(queries))))


class QFormer(Projector):
    """Learned queries, layers of which every `cross_every`-th (from the first) reads the features, a linear layer.

    inner: width of the queries; None is that of the language model. norm: over the features, BLIP-2's own. The
    published sizes: 32 queries of width 768, 12 layers, 12 heads, features read in every second layer. Raises UserError
    for heads that do not divide the width.
    """

    def __init__(
        self, channels: int, width: int, side: int, *,
        norm: bool, queries: int, layers: int, heads: int, cross_every: int, inner: int | None,
    ) -> None:  # fmt: skip
        size = inner or width
        if size % heads:
            raise UserError(
                f"projector.heads={heads} do not divide the width of the queries, {size}: change it, or projector.inner"
            )
        super().__init__(side, queries, None)
        self.norm = input_norm(channels, norm)
        self.queries = nn.Parameter(torch.empty(queries, size))
        self.norm_queries = nn.LayerNorm(size, eps=EPS)
        self.layers = nn.ModuleList(
            QFormerLayer(size, channels, heads, index % cross_every == 0) for index in range(layers)
        )
        self.out = nn.Linear(size, width)

    def forward(self, features: Tensor) -> Tensor:
        features = self.norm(features)
        queries = self.norm_queries(self.queries).expand(len(features), -1, -1)
        for layer in self.layers:
            queries = layer(queries, features)
        return self.out(queries)
