"""GGUF files unpacked once: transformers takes half a minute of a core to read one, and a second to read its own form.

What is unpacked is a copy that can be deleted: the identity of the weights is that of the GGUF file.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from safetensors.torch import save_file

from vlmablate import paths
from vlmablate.vlm.llms.load import load_llm
from vlmablate.vlm.llms.registry import hf_config, llm_named

_FOLDER = "unpacked"


def unpacked(name: str, gguf: Path, digest: str) -> Path:
    """A folder that transformers can read, with the float32 weights and the tokenizer of a GGUF file.

    Args:
        name: of the model in the registry, whose weights these must be.
        digest: of the file; it names the folder in the cache.

    Raises UserError for weights of another model.
    """
    folder = paths.cache_dir() / _FOLDER / digest
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f"{digest[:8]}-", suffix=".tmp", dir=folder.parent))
    try:
        language, tokenizer = load_llm({"name": name, "vocabulary_multiple": 1}, weights=str(gguf))
        tokenizer.save_pretrained(made)
        # Not by save_pretrained: to transformers a model out of a GGUF file stays one that cannot be written.
        config = hf_config(llm_named(name))
        config.vocab_size = language.config.vocab_size
        config.save_pretrained(made)
        state = language.model.state_dict()
        if config.tie_word_embeddings:
            del state["lm_head.weight"]
        save_file(state, made / "model.safetensors", {"format": "pt"})
        os.rename(made, folder)
    except OSError:
        if not folder.is_dir():  # else another process was faster
            raise
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return folder
