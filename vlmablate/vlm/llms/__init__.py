"""Causal language models of transformers, behind one face: a registry by exact name, loading, one wrapper."""

from vlmablate.vlm.llms.load import load_llm
from vlmablate.vlm.llms.model import CausalLM
from vlmablate.vlm.llms.registry import LlmSpec, llm_named, llms

__all__ = ["CausalLM", "LlmSpec", "llm_named", "llms", "load_llm"]
