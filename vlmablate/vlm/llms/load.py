"""Language models by name, with random weights, those of the hub, or those of a folder or a GGUF file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vlmablate.errors import UserError, unknown_name
from vlmablate.vlm.llms.model import CausalLM
from vlmablate.vlm.llms.registry import LlmSpec, differences, hf_config, llm_named
from vlmablate.vlm.llms.tokenizers import byte_tokenizer, with_special_tokens

OPTIONS = ("name", "vocabulary_multiple", "dtype", "seed")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
VOCABULARY_MULTIPLE = 64


def load_llm(
    name_or_config: str | Mapping[str, Any], *, weights: str = "random", device: str = "cpu"
) -> tuple[CausalLM, Any]:
    """A causal language model, and its tokenizer with the special tokens of the registry.

    Args:
        name_or_config: a name of the registry, or a mapping with ``name`` and options: ``vocabulary_multiple`` (default
            64; the vocabulary is padded to a multiple of it, as 32000 words and a pad token to 32064; 1 pads nothing),
            ``dtype`` (float32, bfloat16), ``seed`` of random weights (default 0).
        weights: ``random`` (with a tokenizer of bytes: no file is read), ``pretrained`` (from the hub), a folder that
            transformers can read, or a ``.gguf`` file.
        device: where the weights go; with random weights also ``meta``, which only counts.

    Raises:
        UserError: for an unknown name or option, weights that are absent, gated or of another model.
    """
    given = {"name": name_or_config} if isinstance(name_or_config, str) else dict(name_or_config)
    for option in given:
        if option not in OPTIONS:
            raise unknown_name("option of a language model", option, OPTIONS, "llm")
    spec = llm_named(str(given["name"]))
    dtype = DTYPES.get(given.get("dtype", "float32"))
    if dtype is None:
        raise unknown_name("number format", str(given["dtype"]), DTYPES, "llm.dtype")
    multiple = int(given.get("vocabulary_multiple", VOCABULARY_MULTIPLE))
    if weights == "random":
        return _random(spec, multiple, dtype, int(given.get("seed", 0)), device)
    source, gguf = _source(spec, weights)
    tokenizer = with_special_tokens(_from_hub("AutoTokenizer", spec, source, gguf), spec)
    model = _from_hub(
        "AutoModelForCausalLM", spec, source, gguf, dtype=dtype, attn_implementation=_attention(spec)
    )
    wrong = differences(spec, model.config)
    if wrong:
        raise UserError(f"the weights in {source} are not of {spec.name}: " + "; ".join(wrong))
    grow_vocabulary(model, _rounded(max(model.config.vocab_size, len(tokenizer)), multiple))
    return CausalLM(model).to(device), tokenizer


def _random(spec: LlmSpec, multiple: int, dtype: torch.dtype, seed: int, device: str) -> tuple[CausalLM, Any]:
    from transformers import AutoModelForCausalLM

    tokenizer = byte_tokenizer(spec)
    config = hf_config(spec)
    config.vocab_size = _rounded(max(config.vocab_size, len(tokenizer)), multiple)
    config.pad_token_id = None  # a row of zeros that learns nothing would be one more rule
    build_on = "meta" if device == "meta" else "cpu"
    with torch.random.fork_rng(devices=[]), torch.device(build_on):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=_attention(spec))
    return CausalLM(model).to(device), tokenizer


def _attention(spec: LlmSpec) -> str:
    return "eager" if spec.config.get("attn_logit_softcapping") else "sdpa"


def _rounded(words: int, multiple: int) -> int:
    if multiple < 1:
        raise UserError(f"llm.vocabulary_multiple must be at least 1, not {multiple}")
    return -(-words // multiple) * multiple


def grow_vocabulary(model: nn.Module, words: int) -> None:
    """Give a transformers model that many words, in place; never fewer than it has.

    New rows, in and out, are the mean of the old ones: a word that nothing was learnt about then takes little from
    the others' probability, and no random number is drawn.
    """
    old: int = model.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
    if words <= old:
        return
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        model.resize_token_embeddings(words, mean_resizing=False)  # type: ignore[operator]
        for part in (model.get_input_embeddings(), model.get_output_embeddings()):  # type: ignore[operator]
            for parameter in part.parameters():
                parameter[old:] = parameter[:old].float().mean(0).to(parameter.dtype)


def _source(spec: LlmSpec, weights: str) -> tuple[str, str | None]:
    """Where transformers reads from: a repository or folder, and the GGUF file in it if it is one."""
    if weights == "pretrained":
        if spec.hub is None:
            raise UserError(f"{spec.name} has no pretrained weights; use weights=random, or another llm.name")
        return spec.hub, None
    path = Path(weights).expanduser()
    if path.is_file() and path.suffix == ".gguf":
        return str(path.parent), path.name
    if path.is_dir():
        return str(path), None
    raise UserError(
        f"no weights of {spec.name} at {weights}: give random, pretrained, an existing folder or a .gguf file"
    )


def _from_hub(loader: str, spec: LlmSpec, source: str, gguf: str | None, **arguments: Any) -> Any:
    import transformers

    arguments |= {"local_files_only": source != spec.hub}
    if gguf is not None:
        arguments["gguf_file"] = gguf
    try:
        return getattr(transformers, loader).from_pretrained(source, **arguments)
    except (OSError, ValueError) as error:
        raise UserError(_advice(spec, source, error)) from error


def _advice(spec: LlmSpec, source: str, error: BaseException) -> str:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if source != spec.hub:
        return f"{spec.name} cannot be read from {source}: {reason}"
    by_hand = f"`hf download {spec.hub} --local-dir FOLDER` where there is a network, then weights=FOLDER"
    if any(type(cause).__name__ == "GatedRepoError" for cause in _causes(error)):
        return (
            f"{spec.hub} is gated: ask for access at https://huggingface.co/{spec.hub}, log in with `hf auth login` "
            f"(or set HF_TOKEN) and run again; or {by_hand}"
        )
    gated = " (it is gated: the hub answers only to an account that has access)" if spec.gated else ""
    return f"{spec.name} cannot be loaded from the hub{gated}: {reason}\nWithout a network here: {by_hand}"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
