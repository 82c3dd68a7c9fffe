"""A small causal language model that reads a picture's cells first and then several questions side by side.

Pre-norm transformer with learned positions (the GPT-2 layout; equal to transformers' GPT2Model on the same weights,
which is a test). The first positions are *cells*: words of a scene written as a table of text during pretraining,
projected visual features afterwards. Each cell carries a row code and a column code, so both mean a place.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

WORD_STD = 0.1


@dataclass(frozen=True)
class LanguageModelConfig:
    """Sizes: words in the vocabulary, cells per side of the picture, longest text segment in tokens.

    bins: the last so many words are the bins of a coordinate, in order. code_std: initial loudness of place codes.
    """

    vocabulary: int
    grid: int
    layers: int
    width: int
    heads: int
    bins: int
    segment: int = 16
    code_std: float = 0.1


def smooth_codes(count: int, width: int, std: float, generator: torch.Generator) -> Tensor:
    """[count, width] codes of `count` ordered places: waves of half a period to two, in random directions.

    The middles of the places are (i + 0.5) / count. Entries have standard deviation `std` over the whole table.
    """
    middles = (torch.arange(count) + 0.5) / count
    periods = torch.tensor([0.5, 1.0, 2.0])
    angles = 2 * math.pi * middles[:, None] * periods
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)
    codes = waves @ torch.randn(waves.shape[1], width, generator=generator)
    return codes * (std / codes.std())


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); ReLU, because GELU takes 15 % of a step on a CPU."""

    def __init__(self, config: LanguageModelConfig) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.norm_attention = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.norm_mlp = nn.LayerNorm(width)
        self.mlp_in = nn.Linear(width, 4 * width)
        self.mlp_out = nn.Linear(4 * width, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        batch, length, width = x.shape
        qkv = self.qkv(self.norm_attention(x)).view(batch, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = x + self.attention_out(mixed.transpose(1, 2).reshape(batch, length, width))
        return x + self.mlp_out(functional.relu(self.mlp_in(self.norm_mlp(x))))


class LanguageModel(nn.Module):
    """Words in, words out; input and output embeddings are tied."""

    def __init__(self, config: LanguageModelConfig) -> None:
        super().__init__()
        self.config = config
        self.words = nn.Embedding(config.vocabulary, config.width)
        self.positions = nn.Embedding(config.segment, config.width)
        self.row_codes = nn.Parameter(torch.empty(config.grid, config.width))
        self.column_codes = nn.Parameter(torch.empty(config.grid, config.width))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)

    def initialise(self, generator: torch.Generator) -> None:
        """Normal weights (0.02; words 0.1; residual outputs scaled by 1/sqrt(2 layers)) and zero biases.

        Rows, columns and the bin words start as smooth codes, because they are ordered: neighbours look alike, so a
        mean of places is a place between them.
        """
        config = self.config
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if name.endswith("_codes"):
                    parameter.copy_(smooth_codes(config.grid, config.width, config.code_std, generator))
                elif "norm" in name:
                    parameter.fill_(1.0 if name.endswith("weight") else 0.0)
                elif name.endswith("bias"):
                    parameter.zero_()
                elif name in ("words.weight", "positions.weight"):
                    parameter.normal_(0.0, WORD_STD, generator=generator)
                else:
                    std = 0.02 / (2 * config.layers) ** 0.5 if "_out" in name else 0.02
                    parameter.normal_(0.0, std, generator=generator)
            if config.bins:
                self.words.weight[-config.bins :] = smooth_codes(
                    config.bins, config.width, WORD_STD, generator
                )

    def place_codes(self) -> Tensor:
        """[grid * grid, width], row-major."""
        return (self.row_codes[:, None, :] + self.column_codes[None, :, :]).flatten(0, 1)

    def forward(self, cells: Tensor, tokens: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        """Final hidden states of the text part.

        cells: [B, grid * grid, width] embeddings without place codes; tokens, positions: [B, T] ids and offsets inside
        their segment; mask: [B, 1, P + T, P + T], True where a row may look. Returns [B, T, width].
        """
        text = self.words(tokens) + self.positions(positions)
        x = torch.cat([cells + self.place_codes(), text], dim=1)
        for block in self.blocks:
            x = block(x, mask)
        return self.norm(x[:, cells.shape[1] :])

    def read_table(self, words: Tensor, weights: Tensor) -> Tensor:
        """Cells of a scene written as text: [B, cells, K] word ids and weights -> [B, cells, width]."""
        return (self.words(words) * weights[..., None]).sum(dim=2)

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., width] -> [..., vocabulary]."""
        return hidden @ self.words.weight.T
