"""One face for every causal language model of transformers: embeddings in, hidden states and logits out.

Attention is whatever mask says, positions are whatever position_ids say: nothing is guessed from either. It runs on
torch's scaled dot product (softmax caps, of Gemma 2, have no such kernel and are computed in full).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class CausalLM(nn.Module):
    """Wraps a transformers ``…ForCausalLM``, kept as ``model``."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    @property
    def config(self) -> Any:
        """The transformers configuration."""
        return self.model.config

    @property
    def width(self) -> int:
        """Channels of embeddings and hidden states."""
        return int(self.config.hidden_size)

    @property
    def layers(self) -> nn.ModuleList:
        """The transformer layers, first to last."""
        found = self.model.get_decoder().layers  # type: ignore[operator]
        assert isinstance(found, nn.ModuleList)
        return found

    def embed(self, tokens: Tensor) -> Tensor:
        """int64 [B, T] -> [B, T, width], as the first layer reads them (Gemma's are scaled by sqrt(width))."""
        embedded: Tensor = self.model.get_input_embeddings()(tokens)  # type: ignore[operator]
        return embedded

    def forward(self, embeddings: Tensor, position_ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Hidden states after the final norm, [B, T, width].

        embeddings: [B, T, width]. position_ids: int64 [B, T]. mask: boolean, True where a row may look, or additive,
        [B, 1, T, T] or [B, T, T]; None is causal. Padding, which may look nowhere, looks at itself. Layers with a
        sliding window look no further back than it, whatever the mask allows.
        """
        if mask is None:
            length = embeddings.shape[1]
            mask = torch.ones(1, length, length, dtype=torch.bool, device=embeddings.device).tril()
        output = self.model.get_decoder()(  # type: ignore[operator]
            inputs_embeds=embeddings,
            position_ids=position_ids,
            attention_mask=self._masks(mask, embeddings),
            use_cache=False,
        )
        hidden: Tensor = output.last_hidden_state
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., width] -> [..., vocabulary]."""
        logits: Tensor = self.model.lm_head(hidden)  # type: ignore[operator]
        cap = getattr(self.config, "final_logit_softcapping", None)
        return logits if cap is None else cap * torch.tanh(logits / cap)

    def _masks(self, mask: Tensor, embeddings: Tensor) -> Tensor | dict[str, Tensor]:
        mask = mask[:, None] if mask.ndim == 3 else mask
        mask = mask.expand(embeddings.shape[0], -1, -1, -1)
        if mask.dtype == torch.bool:
            mask = mask | (
                torch.eye(mask.shape[-1], dtype=torch.bool, device=mask.device) & ~mask.any(-1, True)
            )
        window = getattr(self.config, "sliding_window", None)
        kinds = set(getattr(self.config, "layer_types", None) or ())
        if "sliding_attention" in kinds:
            assert window is not None
            masks = {"full_attention": mask, "sliding_attention": _near(mask, window)}
            return {kind: self._form(part, embeddings) for kind, part in masks.items() if kind in kinds}
        # Without kinds of layers, a window holds for all of them (Mistral).
        return self._form(mask if kinds or window is None else _near(mask, window), embeddings)

    def _form(self, mask: Tensor, embeddings: Tensor) -> Tensor:
        """As the attention takes it: computed in full, it adds the mask to the scores."""
        if mask.dtype != torch.bool:
            return mask.to(embeddings.dtype)
        if self.config._attn_implementation == "sdpa":
            return mask
        lowest = torch.finfo(embeddings.dtype).min
        return torch.zeros(mask.shape, dtype=embeddings.dtype, device=mask.device).masked_fill(~mask, lowest)


def _near(mask: Tensor, window: int) -> Tensor:
    """The mask without what lies ``window`` places back or more."""
    length = mask.shape[-1]
    if length <= window:
        return mask
    places = torch.arange(length, device=mask.device)
    far = places[:, None] - places[None, :] >= window
    return mask & ~far if mask.dtype == torch.bool else mask.masked_fill(far, torch.finfo(mask.dtype).min)
