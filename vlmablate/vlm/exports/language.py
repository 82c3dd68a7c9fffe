"""The language model of a model here as transformers names it, and the padding of its vocabulary."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from vlmablate.errors import UserError
from vlmablate.vlm.exports.tensors import check
from vlmablate.vlm.llms.load import grow_vocabulary
from vlmablate.vlm.llms.model import CausalLM

HEAD, WORDS = "lm_head.weight", "model.embed_tokens.weight"


def causal_of(module: nn.Module) -> CausalLM:
    """The module, if it is a language model of the registry. Raises UserError for another."""
    if not isinstance(module, CausalLM):
        raise UserError(
            f"the language model is a {type(module).__name__} of this package, and other layouts hold one of "
            "transformers: train with a language model of the registry, such as llm=smollm2_135m or llm=vicuna_v1.5_7b"
        )
    return module


def language_state(language: CausalLM) -> dict[str, Tensor]:
    """All tensors of the `…ForCausalLM`, tied ones under both names.

    Raises UserError for a model with parts that its class does not have, such as adapters that were not merged.
    """
    state: dict[str, Tensor] = language.model.state_dict()
    check(state, blank_like(language).state_dict(), "the language model (are adapters merged?)")
    return state


def blank_like(language: CausalLM) -> nn.Module:
    """The same class and sizes on the meta device."""
    with torch.device("meta"):
        made: nn.Module = type(language.model)(clean_config(language.config))
    return made


def clean_config(config: Any) -> Any:
    """A copy without the attention of this package, which other installations lack."""
    made = copy.deepcopy(config)
    made._attn_implementation = "eager" if getattr(config, "attn_logit_softcapping", None) else "sdpa"
    return made


def resized(state: dict[str, Tensor], rows: int) -> dict[str, Tensor]:
    """The tensors with a vocabulary of so many rows: cut, or filled up with the mean of those there are.

    The same rule as `llms.load.grow_vocabulary`: no random number, and a word that nothing was learnt about takes
    little from the others' probability.
    """
    found = dict(state)
    old = state[WORDS].shape[0]
    for name in (WORDS, HEAD, "lm_head.bias"):
        if name in state and rows < old:
            found[name] = state[name][:rows]
        elif name in state and rows > old:
            mean = state[name].float().mean(0, keepdim=True).to(state[name].dtype)
            found[name] = torch.cat([state[name], mean.expand(rows - old, *mean.shape[1:])])
    return found


def set_rows(language: CausalLM, rows: int) -> None:
    """Give a language model a vocabulary of so many rows, in place."""
    if rows >= language.config.vocab_size:
        grow_vocabulary(language.model, rows)
        return
    with torch.random.fork_rng(devices=[]):
        language.model.resize_token_embeddings(rows, mean_resizing=False)  # type: ignore[operator]
