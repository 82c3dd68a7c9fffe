"""The tokenizers of language models: those of the hub with the rules of the registry, and one that needs no file."""

from __future__ import annotations

from typing import Any

from vlmablate.vlm.llms.registry import LlmSpec


def byte_tokenizer(spec: LlmSpec) -> Any:
    """One token per byte of UTF-8, then the special tokens of the registry. For models with random weights."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    plain = Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(letters)}, merges=[]))
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    plain.decoder = decoders.ByteLevel()
    return with_special_tokens(PreTrainedTokenizerFast(tokenizer_object=plain), spec)


def with_special_tokens(tokenizer: Any, spec: LlmSpec) -> Any:
    """The tokenizer with the roles of the registry, in place. A token that it does not know is added at its end."""
    for role, token in spec.tokens.items():
        if token is None:
            setattr(tokenizer, f"{role}_token", None)
        else:
            tokenizer.add_special_tokens({f"{role}_token": token})
    return tokenizer
