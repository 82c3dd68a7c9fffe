"""A causal language model that goes on where it stopped: keys and values of what it read are kept.

A row is a tree: a trunk, branches that go on from its end, and twigs that go on from the end of a branch, each as if it
were alone. They share what was computed of what they grow from. Nothing that was read is dropped, not even by layers
with a sliding window: how far back a window reaches follows from positions, not from the place in the row.

This is the tree attention of speculative decoding (SpecInfer, arXiv 2305.09781), with questions for guesses.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vlmablate.vlm.llms.attention import PADDING
from vlmablate.vlm.llms.model import CausalLM

TRUNK = -2
TWIGS = 1 << 20
"""The number of a twig is that of its branch, and this once or several times more."""


class Reading:
    """What rows of a batch have read so far."""

    def __init__(self, language: CausalLM, batch: int, device: torch.device) -> None:
        from transformers import DynamicCache

        self._config = language.config
        self._decoder: Any = language.model.get_decoder()  # type: ignore[operator]
        # Without a configuration no layer forgets what left its window.
        self._cache = DynamicCache()
        # The versions of transformers that are supported have two names for it.
        takes = inspect.signature(self._decoder.forward).parameters
        self._argument = "cache" if "cache" in takes else "past_key_values"
        self._positions = torch.empty(batch, 0, dtype=torch.int64, device=device)
        self._branches = self._positions.clone()

    def read(self, embeddings: Tensor, positions: Tensor, branches: Tensor) -> Tensor:
        """Read on; hidden states after the final norm, [B, T, width].

        A place looks at the trunk, at its own branch and, on a twig, at that as well, as far back as its position,
        whether read before or now.

        embeddings: [B, T, width]. positions: int64 [B, T], counted from the start of the trunk. branches: int64 [B, T],
        TRUNK, the number of the branch or twig, or PADDING, which looks at itself: a softmax over nothing is no number.
        """
        before = self._positions.shape[1]
        self._positions = torch.cat([self._positions, positions], dim=1)
        self._branches = torch.cat([self._branches, branches], dim=1)
        queries, keys = branches[:, :, None], self._branches[:, None]
        back = positions[:, :, None] - self._positions[:, None]
        visible = (queries == keys) | (keys == TRUNK) | (keys == queries % TWIGS)
        visible &= (queries != PADDING) & (back >= 0)
        visible[:, :, before:] |= torch.eye(embeddings.shape[1], dtype=torch.bool, device=visible.device)
        output = self._decoder(
            inputs_embeds=embeddings,
            position_ids=positions,
            attention_mask=_masks(self._config, visible[:, None], back[:, None]),
            use_cache=True,
            **{self._argument: self._cache},
        )
        hidden: Tensor = output.last_hidden_state
        return hidden

    def keep(self, rows: Tensor) -> None:
        """Forget all rows but these, int64 [B']."""
        self._positions, self._branches = self._positions[rows], self._branches[rows]
        self._cache.batch_select_indices(rows)


def _masks(config: Any, visible: Tensor, back: Tensor) -> Tensor | Mapping[str, Tensor]:
    """For each kind of layers of a model, where they look; back: how many positions a key lies behind."""
    window = getattr(config, "sliding_window", None)
    kinds = set(getattr(config, "layer_types", None) or ())
    # Without kinds of layers, a window holds for all of them (Mistral).
    if window is None or (kinds and "sliding_attention" not in kinds):
        return visible
    near = visible & (back < window)
    return {"full_attention": visible, "sliding_attention": near} if kinds else near
