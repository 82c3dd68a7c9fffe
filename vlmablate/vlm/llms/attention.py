"""Causal attention inside documents: what packing saves must not be spent on masks.

The documents of a batch are laid end to end on one line, without padding. Each is attended alone: scores of length
squared of a document, never of a row, and no mask in memory. On a GPU one call of flex_attention skips the blocks in
which nothing may look; elsewhere a call of torch's scaled dot product is made for every run of documents of one length.

transformers finds :func:`attend` under the name ``NAME`` in its attention interface. Its decoder layers hand on what
they do not know, so the documents reach it as a keyword of the decoder, through layers that are recomputed, compiled or
sharded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

NAME = "vlmablate_documents"
PADDING = -1


@dataclass(frozen=True, eq=False)
class Documents:
    """The documents of rows [B, T], end to end on a line of N places.

    Attributes:
        lengths: of each document, in the order of the line; they sum to N.
        shape: (B, T).
        places: int64 [N], where in the flat rows each place of the line comes from; None when all B * T are on it, in
            their order.
        device: of the line.
    """

    lengths: tuple[int, ...]
    shape: tuple[int, int]
    places: Tensor | None
    device: torch.device
    _masks: dict[int | None, BlockMask] = field(default_factory=dict, repr=False)

    @staticmethod
    def of(segments: Tensor) -> Documents:
        """A document is a run of one number in a row of segments, int64 [B, T]; PADDING belongs to none.

        A row without any place keeps its first one, so that nothing is ever computed of no tokens at all when a rank
        has nothing to do.
        """
        device, (batch, width) = segments.device, segments.shape
        segments = segments.cpu()
        real = segments != PADDING
        if batch and width and not bool(real.any()):
            real[0, 0] = True
        # A document begins where the number changes, and with every row.
        begins = torch.ones_like(real)
        begins[:, 1:] = segments[:, 1:] != segments[:, :-1]
        on_line = real.flatten()
        starts = begins.flatten()[on_line].nonzero().flatten().tolist()
        total = int(on_line.sum())
        lengths = tuple(b - a for a, b in zip(starts, [*starts[1:], total], strict=True))
        places = None if total == batch * width else on_line.nonzero().flatten().to(device)
        return Documents(lengths, (batch, width), places, device)

    @staticmethod
    def whole(batch: int, width: int, device: torch.device) -> Documents:
        """Every row is one document."""
        return Documents((width,) * batch, (batch, width), None, device)

    def line(self, rows: Tensor) -> Tensor:
        """[B, T, …] -> [1, N, …]."""
        flat = rows.flatten(0, 1)
        return (flat if self.places is None else flat[self.places])[None]

    def rows(self, line: Tensor) -> Tensor:
        """[1, N, …] -> [B, T, …], zero in padding."""
        if self.places is None:
            return line.view(*self.shape, *line.shape[2:])
        flat = line.new_zeros(self.shape[0] * self.shape[1], *line.shape[2:])
        return flat.index_copy(0, self.places, line[0]).view(*self.shape, *line.shape[2:])

    def mask(self, window: int | None) -> BlockMask:
        """For flex_attention; made once for each window."""
        if window not in self._masks:
            self._masks[window] = block_mask(self.numbers[None], window)
        return self._masks[window]

    @property
    def numbers(self) -> Tensor:
        """int64 [N]: the document of each place."""
        lengths = torch.tensor(self.lengths, device=self.device)
        return torch.arange(len(self.lengths), device=self.device).repeat_interleave(
            lengths, output_size=sum(self.lengths)
        )


def block_mask(documents: Tensor, window: int | None = None) -> BlockMask:
    """Where a place of documents [B, T] may look, for flex_attention, which skips blocks in which it may look nowhere:
    its own document, not ahead, and less than ``window`` places back."""
    batch, length = documents.shape

    def visible(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        seen = (query >= key) & (documents[row, query] == documents[row, key])
        return seen if window is None else seen & (query - key < window)

    create = _flexible("create_block_mask", documents.device.type)
    made: BlockMask = create(visible, batch, None, length, length, device=documents.device)
    return made


@cache
def register() -> str:
    """Make `attend` known to transformers, once; returns its name there."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    # A compiled layer would be compiled again for every new list of lengths.
    AttentionInterface.register(NAME, torch.compiler.disable(attend))
    AttentionMaskInterface.register(NAME, sdpa_mask)
    return NAME


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    documents: Documents | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """As transformers' decoder layers call it: query [B, H, T, D], key and value [B, H / groups, T, D] -> [B, T, H, D].

    documents: given, B is 1, T the line, and attention_mask is not looked at. Without them, the mask (boolean, or
    added to the scores) says everything, windows too; None is causal.
    """
    if documents is not None:
        if query.device.type == "cuda" and not dropout:  # flex_attention has none
            return _flex(query, key, value, documents, scaling, sliding_window, softcap), None
        return _one_by_one(query, key, value, documents, scaling, dropout, sliding_window, softcap), None
    if softcap is not None:
        visible = attention_mask
        if visible is None:
            visible = _causal(query.shape[2], key.shape[2], None, query.device)
        capped = _capped(query, key, value, visible, scaling, dropout, softcap)
        return capped.transpose(1, 2).contiguous(), None
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **others)


def _one_by_one(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    documents: Documents,
    scaling: float | None,
    dropout: float,
    window: int | None,
    softcap: float | None,
) -> Tensor:
    """[1, H, N, D] -> [1, N, H, D], a call for every run of documents of one length."""
    runs = [(length, len(list(same))) for length, same in groupby(documents.lengths)]
    sizes = [length * count for length, count in runs]
    pieces = []
    parts = zip(*(x[0].transpose(0, 1).split(sizes) for x in (query, key, value)), runs, strict=True)
    groups = query.shape[1] // key.shape[1]
    for q, k, v, (length, count) in parts:
        q, k, v = (x.unflatten(0, (count, length)).transpose(1, 2) for x in (q, k, v))
        if softcap is not None:
            near = _causal(length, length, window, query.device)
            done = _capped(q, k, v, near, scaling, dropout, softcap)
        else:
            far = window is not None and length > window
            mask = _causal(length, length, window, query.device) if far else None
            done = functional.scaled_dot_product_attention(
                q, k, v, mask, dropout, mask is None, scale=scaling, enable_gqa=groups > 1
            )
        pieces.append(done.transpose(1, 2).flatten(0, 1))
    return torch.cat(pieces)[None]


def _causal(queries: int, keys: int, window: int | None, device: torch.device) -> Tensor:
    """Booleans [queries, keys]: not ahead and less than ``window`` places back; the last query sees the last key."""
    mask = torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)
    return mask if window is None else mask.triu(keys - queries - window + 1)


def _capped(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor,
    scaling: float | None,
    dropout: float,
    cap: float,
) -> Tensor:
    """Scores through cap * tanh(score / cap), which no kernel has: in full, with a softmax in float32 (Gemma 2)."""
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = cap * torch.tanh(query @ key.transpose(2, 3) * scale / cap)
    lowest = torch.finfo(scores.dtype).min
    scores = scores.masked_fill(~mask, lowest) if mask.dtype == torch.bool else scores + mask
    weights = functional.softmax(scores, -1, dtype=torch.float32).to(query.dtype)
    return functional.dropout(weights, dropout) @ value


def _flex(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    documents: Documents,
    scaling: float | None,
    window: int | None,
    softcap: float | None,
) -> Tensor:
    """[1, H, N, D] -> [1, N, H, D] by one call of flex_attention."""
    device = query.device.type
    # The autocast of older releases of torch knows the other kernels, but not this one; rotated queries and keys may be
    # wider than values.
    kind = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else value.dtype
    query, key, value = query.to(kind), key.to(kind), value.to(kind)
    score = None
    if softcap is not None:

        def score(value: Tensor, row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return softcap * torch.tanh(value / softcap)

    kernel = _flexible("flex_attention", device)
    mask = documents.mask(window)
    attended: Tensor = kernel(query, key, value, score, mask, scaling, query.shape[1] != key.shape[1])
    return attended.transpose(1, 2)


@cache
def _flexible(name: str, device: str) -> Callable[..., Any]:
    """A function of flex_attention's module, compiled on a GPU: as it stands, it makes [N, N] scores or booleans."""
    from torch.nn.attention import flex_attention  # half a second that others need not pay

    plain: Callable[..., Any] = getattr(flex_attention, name)
    return torch.compile(plain) if device == "cuda" else plain
