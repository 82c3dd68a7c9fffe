"""What every projector is, how it starts, and the places of cells on a grid."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

# The cells of a text scene are mixtures of word embeddings (std 0.1); projected cells start at the same loudness.
OUTPUT_STD = 0.1


class Projector(nn.Module):
    """[B, side * side, C] features in reading order -> [B, tokens, width].

    Attributes:
        side: of the grid that it takes, in cells; tokens: how many it makes of that grid.
        places: [tokens, 2] float (row, column) of each token on the side x side grid, (0, 0) in the middle of the first
            cell; None for tokens that stand nowhere. A buffer that no checkpoint holds.
    """

    places: Tensor | None

    def __init__(self, side: int, tokens: int, places: Tensor | None) -> None:
        super().__init__()
        self.side, self.tokens = side, tokens
        self.register_buffer("places", places, persistent=False)


def grid_places(rows: int, columns: int) -> Tensor:
    """[rows * columns, 2] float places of the cells in reading order."""
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    return torch.stack([row.flatten(), column.flatten()], dim=1).float()


def input_norm(channels: int, norm: bool) -> nn.Module:
    """LayerNorm over the channels, or nothing.

    The norm stands in for the one that a pretrained tower's penultimate layer lacks: towers of different loudness are
    to be compared at the same learning rate. The published projectors go without.
    """
    return nn.LayerNorm(channels) if norm else nn.Identity()


def attention(queries: Tensor, keys: Tensor, values: Tensor, heads: int) -> Tensor:
    """Softmax attention without a mask: [B, Q, heads * d], keys and values [B, K, groups * d] -> [B, Q, heads * d].

    With fewer groups than heads, head h reads the keys of group h // (heads / groups) (grouped-query attention).
    """
    width = queries.shape[2] // heads
    q, k, v = (x.unflatten(2, (-1, width)).transpose(1, 2) for x in (queries, keys, values))
    if k.shape[1] != heads:
        k, v = (x.repeat_interleave(heads // x.shape[1], dim=1) for x in (k, v))
    return functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def initialise(projector: nn.Module, generator: torch.Generator) -> None:
    """Every parameter from `generator` alone, in the order of the modules.

    Weights are normal with variance 1 / inputs, biases zero, norms one, latents and queries standard normal. The
    layer called `out` makes the tokens: it is scaled to OUTPUT_STD.
    """
    with torch.no_grad():
        for part, module in projector.named_modules():
            gain = OUTPUT_STD if part == "out" else 1.0
            if isinstance(module, nn.Linear | nn.Conv2d):
                inputs = module.weight[0].numel()
                module.weight.normal_(0.0, gain * inputs**-0.5, generator=generator)
            elif isinstance(module, nn.LayerNorm | nn.RMSNorm):
                module.weight.fill_(gain)
            else:
                for parameter in module.parameters(recurse=False):
                    parameter.normal_(0.0, 1.0, generator=generator)
                continue
            if getattr(module, "bias", None) is not None:
                module.bias.zero_()
