"""A small causal language model that reads a picture's cells first and then several questions side by side.

Pre-norm transformer (the GPT-2 layout; equal to transformers' GPT2Model on the same weights, which is a test). The
first positions are *cells*: words of a scene written as a table of text during pretraining, projected visual features
afterwards. Where things stand is said by a learned code, added to words and cells (a row code and a column code, so
both mean a place), or by a rotary code, which turns queries and keys (see `positions`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from vlmablate.errors import unknown_name
from vlmablate.vlm.positions import (
    LEARNED,
    POSITIONS,
    check_head,
    cos_sin,
    frequencies,
    picture_coordinates,
    placed_coordinates,
    run_coordinates,
    text_coordinates,
    turn,
)

WORD_STD = 0.1

Places = Tensor | Literal["grid"] | None
"""Where the cells stand in the picture: the grid of the configuration in reading order, or (row, column) of each as
[P, 2] with (0, 0) in the middle of the first cell and fractions in between, or nowhere."""


@dataclass(frozen=True)
class LanguageModelConfig:
    """Sizes: words in the vocabulary, cells per side of the picture, longest text segment in tokens.

    bins: the last so many words are the bins of a coordinate, in order. code_std: initial loudness of place codes.
    position: one of `positions.POSITIONS`; rotary_base: see `positions.frequencies`, for the rotary ones.
    """

    vocabulary: int
    grid: int
    layers: int
    width: int
    heads: int
    bins: int
    segment: int = 16
    code_std: float = 0.1
    position: str = LEARNED
    rotary_base: float = 10000.0


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


def between(codes: Tensor, at: Tensor) -> Tensor:
    """Codes [count, width] interpolated linearly at the places `at` [P], each in [0, count - 1] -> [P, width].

    A product with the weights of all codes, because an indexed sum has no fixed order of addition on a GPU.
    """
    order = torch.arange(len(codes), device=at.device, dtype=at.dtype)
    weights = (1.0 - (at[:, None] - order).abs()).clamp(min=0.0).to(codes.dtype)
    return (weights[:, :, None] * codes).sum(dim=1)


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

    def forward(self, x: Tensor, mask: Tensor, turned: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """turned: cosines and sines [B, 1, length, width / heads] by which queries and keys are turned, if at all."""
        batch, length, width = x.shape
        qkv = self.qkv(self.norm_attention(x)).view(batch, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        if turned is not None:
            q, k = turn(q, *turned), turn(k, *turned)
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = x + self.attention_out(mixed.transpose(1, 2).reshape(batch, length, width))
        return x + self.mlp_out(functional.relu(self.mlp_in(self.norm_mlp(x))))


class LanguageModel(nn.Module):
    """Words in, words out; input and output embeddings are tied.

    Raises UserError for an unknown position code, and for heads that cannot carry it.
    """

    def __init__(self, config: LanguageModelConfig) -> None:
        super().__init__()
        if config.position not in POSITIONS:
            raise unknown_name("position code", config.position, POSITIONS, "position.name")
        self.config = config
        self.words = nn.Embedding(config.vocabulary, config.width)
        if config.position == LEARNED:
            self.positions = nn.Embedding(config.segment, config.width)
            self.row_codes = nn.Parameter(torch.empty(config.grid, config.width))
            self.column_codes = nn.Parameter(torch.empty(config.grid, config.width))
        else:
            check_head(config.position, config.width // config.heads)
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

    def place_codes(self, places: Tensor | Literal["grid"] = "grid") -> Tensor:
        """Row code plus column code of every place: [grid * grid, width] row-major, or [P, width] of the given ones.

        Between two rows (columns) the code is the linear interpolation of theirs; at whole places it is exactly theirs.
        """
        if isinstance(places, str):
            return (self.row_codes[:, None, :] + self.column_codes[None, :, :]).flatten(0, 1)
        return between(self.row_codes, places[:, 0]) + between(self.column_codes, places[:, 1])

    def forward(
        self, cells: Tensor, tokens: Tensor, positions: Tensor, mask: Tensor, places: Places = "grid"
    ) -> Tensor:
        """Final hidden states of the text part.

        cells: [B, P, width] embeddings without place codes, of any number P; tokens, positions: [B, T] ids and offsets
        inside their segment; mask: [B, 1, P + T, P + T], True where a row may look; places: see `Places`. Returns
        [B, T, width].
        """
        text, turned = self.words(tokens), None
        count = cells.shape[1]
        if self.config.position == LEARNED:
            text = text + self.positions(positions)
            cells = cells if places is None else cells + self.place_codes(places)
        else:
            turned = self.turns(count, positions, places)
        x = torch.cat([cells, text], dim=1)
        for block in self.blocks:
            x = block(x, mask, turned)
        return self.norm(x[:, count:])

    def turns(self, count: int, positions: Tensor, places: Places) -> tuple[Tensor, Tensor]:
        """Cosines and sines [B, 1, count + T, width / heads] of `count` cells with the text behind them.

        Every segment goes on right behind the picture, so it is turned as if it stood there alone.
        """
        config, device = self.config, positions.device
        if places is None:
            prefix, extent = run_coordinates(config.position, count, device)
        elif isinstance(places, str):
            prefix, extent = picture_coordinates(config.position, config.grid, config.grid, device)
        else:
            prefix, extent = placed_coordinates(config.position, places)
        behind = text_coordinates(config.position, positions + extent)
        at = torch.cat([prefix.expand(len(positions), *prefix.shape), behind], dim=1)
        per_step = frequencies(config.width // config.heads, config.rotary_base, device)
        cosines, sines = cos_sin(config.position, at, per_step)
        return cosines[:, None], sines[:, None]

    def read_table(self, words: Tensor, weights: Tensor) -> Tensor:
        """Cells of a scene written as text: [B, cells, K] word ids and weights -> [B, cells, width]."""
        return (self.words(words) * weights[..., None]).sum(dim=2)

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., width] -> [..., vocabulary]."""
        return hidden @ self.words.weight.T
