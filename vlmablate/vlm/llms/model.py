"""One face for every causal language model of transformers: embeddings in, hidden states and logits out.

Attention is whatever segments or mask say, positions are whatever position_ids say: nothing is guessed from either.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vlmablate.vlm.llms.attention import Documents, register


class CausalLM(nn.Module):
    """Wraps a transformers ``…ForCausalLM``, kept as ``model``."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        # Once and for all: layers that are computed a second time in the backward must find the same attention.
        model.set_attn_implementation(register())  # type: ignore[operator]

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

    def forward(
        self,
        embeddings: Tensor,
        position_ids: Tensor,
        mask: Tensor | None = None,
        segments: Tensor | None = None,
    ) -> Tensor:
        """Hidden states after the final norm, [B, T, width].

        Attention is causal inside the documents of `segments`, int64 [B, T]: a document is a run of one number in a
        row, -1 is padding, which is not computed at all and comes back as zeros. Without segments and mask every row is
        one document. A mask takes their place where attention is anything else, and is slower: boolean, True where a
        row may look, or additive, [B, 1, T, T] or [B, T, T]; padding, which may look nowhere, looks at itself. Layers
        with a sliding window look no further back than it, whatever the mask allows.

        embeddings: [B, T, width]. position_ids: int64 [B, T] or [1, T]. Raises ValueError for segments and a mask.
        """
        if mask is not None:
            if segments is not None:
                raise ValueError("attention follows segments or a mask, not both")
            return self._decoded(embeddings, position_ids, self._masks(mask, embeddings))
        batch, length = embeddings.shape[:2]
        if segments is None:
            documents = Documents.whole(batch, length, embeddings.device)
        else:
            documents = Documents.of(segments)
        # transformers makes a mask of its own, unless it gets one of four axes.
        unread = torch.empty(1, 1, 0, 0, dtype=torch.bool, device=embeddings.device)
        line = documents.line(embeddings), documents.line(position_ids.expand(batch, -1))
        return documents.rows(self._decoded(*line, unread, documents=documents))

    def _decoded(self, embeddings: Tensor, position_ids: Tensor, mask: Any, **named: Any) -> Tensor:
        output = self.model.get_decoder()(  # type: ignore[operator]
            inputs_embeds=embeddings,
            position_ids=position_ids,
            attention_mask=mask,
            use_cache=False,
            **named,
        )
        hidden: Tensor = output.last_hidden_state
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., width] -> [..., vocabulary]."""
        logits: Tensor = self.model.lm_head(hidden)  # type: ignore[operator]
        cap = getattr(self.config, "final_logit_softcapping", None)
        return logits if cap is None else cap * torch.tanh(logits / cap)

    def _masks(self, mask: Tensor, embeddings: Tensor) -> Tensor | dict[str, Tensor]:
        """For each kind of layers, where they look."""
        mask = mask[:, None] if mask.ndim == 3 else mask
        mask = mask.expand(embeddings.shape[0], -1, -1, -1)
        if mask.dtype == torch.bool:
            mask = mask | (
                torch.eye(mask.shape[-1], dtype=torch.bool, device=mask.device) & ~mask.any(-1, True)
            )
        else:
            mask = mask.to(embeddings.dtype)
        window = getattr(self.config, "sliding_window", None)
        kinds = set(getattr(self.config, "layer_types", None) or ())
        if "sliding_attention" in kinds:
            assert window is not None
            masks = {"full_attention": mask, "sliding_attention": _near(mask, window)}
            return {kind: part for kind, part in masks.items() if kind in kinds}
        # Without kinds of layers, a window holds for all of them (Mistral).
        return mask if kinds or window is None else _near(mask, window)


def _near(mask: Tensor, window: int) -> Tensor:
    """The mask without what lies ``window`` places back or more."""
    length = mask.shape[-1]
    if length <= window:
        return mask
    places = torch.arange(length, device=mask.device)
    far = places[:, None] - places[None, :] >= window
    return mask & ~far if mask.dtype == torch.bool else mask.masked_fill(far, torch.finfo(mask.dtype).min)
