"""Rotary position codes for text with pictures: where every token stands, and how its query and key are turned.

Every token stands at one coordinate per axis of the code. A text token has the same number on all axes, so text alone
is ordinary RoPE whatever the code. What differs is where the tokens of a picture of h rows and w columns stand, and how
far behind them the text goes on. With `start` for the number that a text token in place of the picture would have had,
and i, j for row and column counted from 0:

| code | axes | token (i, j) | the text goes on at |
|---|---|---|---|
| rope_1d | 1 | start + i w + j | start + h w |
| rope_tie | 2 | start - 1 + (i + 1)(w + 1), start - 1 + (j + 1)(h + 1) | start - 1 + (h + 1)(w + 1) |
| rope_tie_wh | 2 | start - 1 + (i + 1)(h w + 1)/(h + 1), start - 1 + (j + 1)(h w + 1)/(w + 1) | start + h w |
| rope_tie_v2 | 2 | start + (h w - h)/2 + i, start + (h w - w)/2 + j | start + h w |
| m_rope | 3 | start, start + i, start + j | start + max(h, w) |

RoPE-Tie and its form that takes h w numbers are from Su, kexue.fm/archives/10040, RoPE-Tie-v2 (also RoPE-TV) from
kexue.fm/archives/10352; M-RoPE is that of Qwen2-VL (arXiv 2409.12191, section 2.1).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor, nn

from vlmablate.errors import UserError, unknown_name

LEARNED = "learned_2d"
"""The code that is added to embeddings; the only one that is not rotary (see `language_model`)."""

Part = int | tuple[int, int]
"""A number of text tokens, or (rows, columns) of a picture whose tokens come in reading order."""


@dataclass(frozen=True)
class RotaryCode:
    """What tells one code from another.

    Attributes:
        token: (i, j, h, w) -> the coordinates, one per axis, of tokens in rows i and columns j [P] of a picture of h
            rows and w columns, counted from the picture's start.
        extent: (h, w) -> how many numbers the picture takes before text goes on.
        sections: number of frequencies -> the axis, as an index, that each of them turns by.
    """

    token: Callable[[Tensor, Tensor, int, int], tuple[Tensor, ...]]
    extent: Callable[[int, int], int]
    sections: Callable[[int], list[int]]


def _one_axis(frequencies: int) -> list[int]:
    return [0] * frequencies


def _in_turns(frequencies: int) -> list[int]:
    """Rows take the frequencies 0, 2, 4, … and columns the others, so that both have high and low ones."""
    return [index % 2 for index in range(frequencies)]


def _blocks(frequencies: int) -> list[int]:
    """A block each for time, rows and columns; 16, 24, 24 of 64, as in Qwen2-VL, and in that proportion elsewhere."""
    sides = 3 * frequencies // 8
    return [0] * (frequencies - 2 * sides) + [1] * sides + [2] * sides


def _count(h: int, w: int) -> int:
    return h * w


ROTARY: Mapping[str, RotaryCode] = MappingProxyType(
    {
        "rope_1d": RotaryCode(lambda i, j, h, w: (i * w + j,), _count, _one_axis),
        "rope_tie": RotaryCode(
            lambda i, j, h, w: ((i + 1) * (w + 1) - 1, (j + 1) * (h + 1) - 1),
            lambda h, w: (h + 1) * (w + 1) - 1,
            _in_turns,
        ),
        "rope_tie_wh": RotaryCode(
            lambda i, j, h, w: ((i + 1) * (h * w + 1) / (h + 1) - 1, (j + 1) * (h * w + 1) / (w + 1) - 1),
            _count,
            _in_turns,
        ),
        "rope_tie_v2": RotaryCode(
            lambda i, j, h, w: ((h * w - h) / 2 + i, (h * w - w) / 2 + j), _count, _in_turns
        ),
        "m_rope": RotaryCode(lambda i, j, h, w: (torch.zeros_like(i), i, j), max, _blocks),
    }
)

POSITIONS = (LEARNED, *ROTARY)


def rotary_code(name: str) -> RotaryCode:
    """The rotary code of that exact name. Raises UserError."""
    if name not in ROTARY:
        raise unknown_name("rotary position code", name, ROTARY, "position.name")
    return ROTARY[name]


def axes_of(name: str) -> int:
    """How many coordinates a token has."""
    one = torch.zeros(1)
    return len(rotary_code(name).token(one, one, 1, 1))


def text_coordinates(name: str, numbers: Tensor) -> Tensor:
    """Coordinates of text tokens with these numbers: [...] -> [..., axes], float32."""
    return numbers.float()[..., None].expand(*numbers.shape, axes_of(name))


def picture_coordinates(
    name: str, rows: int, columns: int, device: torch.device | None = None
) -> tuple[Tensor, int]:
    """Coordinates of a picture's tokens in reading order [rows * columns, axes], from its start on, and its extent."""
    order = torch.arange(rows * columns, device=device)
    return _placed(name, order // columns, order % columns, rows, columns)


def placed_coordinates(name: str, places: Tensor) -> tuple[Tensor, int]:
    """As `picture_coordinates`, for tokens that stand, in any order, at (row, column) [P, 2]; fractions are allowed.

    What counts is the order of their rows and columns: pooled tokens are a picture of fewer rows and columns.

    Raises:
        UserError: when the tokens do not fill all rows and columns, each place once.
    """
    rows, i = places[:, 0].unique(return_inverse=True)
    columns, j = places[:, 1].unique(return_inverse=True)
    filled = len((i * len(columns) + j).unique())
    if not filled == len(places) == len(rows) * len(columns):
        raise UserError(
            f"position={name} needs visual tokens that fill rows and columns: {len(places)} tokens at {filled} places "
            f"do not fill {len(rows)} rows x {len(columns)} columns. Choose another projector, or position={LEARNED}"
        )
    return _placed(name, i, j, len(rows), len(columns))


def run_coordinates(name: str, count: int, device: torch.device | None = None) -> tuple[Tensor, int]:
    """As `picture_coordinates`, for visual tokens that stand nowhere in the picture: they count on like text."""
    return text_coordinates(name, torch.arange(count, device=device)), count


def _placed(name: str, i: Tensor, j: Tensor, rows: int, columns: int) -> tuple[Tensor, int]:
    code = rotary_code(name)
    at = code.token(i.float(), j.float(), rows, columns)
    return torch.stack(at, dim=-1), code.extent(rows, columns)


def coordinates(name: str, parts: Sequence[Part], start: int = 0) -> Tensor:
    """Coordinates [T, axes], float32, of a sequence of text and pictures whose first token has the number `start`.

    A picture right behind another starts where text would have. The gap between the two is then not the gap that either
    has to text; where that matters a text token must stand between them (kexue.fm/archives/10040 marks every picture
    with one before and one behind).
    """
    found: list[Tensor] = []
    for part in parts:
        if isinstance(part, int):
            block, extent = run_coordinates(name, part)
        else:
            block, extent = picture_coordinates(name, *part)
        found.append(block + start)
        start += extent
    return torch.cat(found) if found else torch.zeros(0, axes_of(name))


def frequencies(head: int, base: float = 10000.0, device: torch.device | None = None) -> Tensor:
    """[head / 2] angles per step: base ** (-2 k / head) (RoFormer, arXiv 2104.09864, equation 15).

    Computed as transformers does, to the last bit.
    """
    return 1.0 / base ** (torch.arange(0, head, 2, dtype=torch.float32, device=device) / head)


def check_head(name: str, head: int) -> None:
    """Raises UserError when a head of so many channels cannot carry the code: pairs, and a frequency for every axis."""
    if head % 2 or len(set(rotary_code(name).sections(head // 2))) < axes_of(name):
        raise UserError(
            f"position={name} cannot turn heads of {head} channels: it needs an even number that gives each of its "
            f"{axes_of(name)} axes a pair. Change llm.width or llm.heads"
        )


def cos_sin(name: str, at: Tensor, per_step: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines [..., T, head] for tokens at coordinates [..., T, axes].

    per_step: [head / 2] angles per step (see `frequencies`). Channel k is turned with channel k + head / 2, as Llama's.
    """
    sections = torch.tensor(rotary_code(name).sections(len(per_step)), device=at.device)
    angles = at.float()[..., sections] * per_step.float()
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def turn(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Queries or keys [..., T, head] turned by `cos_sin`; computed in float32, given back as they came."""
    first, second = x.chunk(2, dim=-1)
    return (x * cosines + torch.cat([-second, first], dim=-1) * sines).to(x.dtype)


def rotate(q: Tensor, k: Tensor, at: Tensor, name: str, per_step: Tensor) -> tuple[Tensor, Tensor]:
    """Queries and keys [B, heads, T, head] turned by the coordinates [B, T, axes] of their tokens.

    A product of a turned query and a turned key depends on the difference of their coordinates only.
    """
    cosines, sines = (part[:, None] for part in cos_sin(name, at, per_step))
    return turn(q, cosines, sines), turn(k, cosines, sines)


def position_embeddings(
    rotary: nn.Module, name: str, at: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """The `position_embeddings` that the layers of a Llama-like model of transformers take, from coordinates.

    rotary: the model's `rotary_emb` (its `inv_freq` and `attention_scaling` are used, so scaled frequencies stay what
    they are); at: [B, T, axes]; dtype: that of the hidden states. Returns cosines and sines [B, T, head].
    """
    inverse, scale = rotary.inv_freq, rotary.attention_scaling
    assert isinstance(inverse, Tensor)
    assert isinstance(scale, float | int)
    cosines, sines = cos_sin(name, at, inverse.to(at.device))
    return (cosines * scale).to(dtype), (sines * scale).to(dtype)
