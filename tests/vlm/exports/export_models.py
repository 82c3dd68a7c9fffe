"""Small models with loud random weights, and what they say of a picture and a text."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vlmablate.training.sequences import pack
from vlmablate.vlm.llms.load import load_llm
from vlmablate.vlm.merge import IMAGE_MARK, expand
from vlmablate.vlm.multimodal import MultimodalModel
from vlmablate.vlm.projectors import build_projector
from vlmablate.vlm.towers.vision import build_vision

WORDS = 259
"""Of the byte tokenizer of test_llama; the vocabulary has 320 rows."""
PAPER: dict[str, dict[str, Any]] = {
    "linear": {"name": "linear", "norm": False},
    "gelu_mlp": {"name": "gelu_mlp", "norm": False, "hidden": 1},
    "fused_gelu_mlp": {"name": "fused_gelu_mlp", "norm": False},
}


def loud(module: nn.Module, seed: int) -> Any:
    """Every parameter moved: zeros and ones (biases, norms, layer scales) would hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return module.eval()


def card_of(llm: str, **more: Any) -> dict[str, Any]:
    return {"llm": {"name": llm, "weights": "random", "layers": None, "template": None}, **more}


def model_of(
    tower: Any = "test_clip", projector: Any = "gelu_mlp", llm: str = "test_llama", seed: int = 0
) -> MultimodalModel:
    vision = None if tower is None else build_vision(tower)
    channels, side = (32, 4) if vision is None else (vision.channels, vision.side)
    language, _ = load_llm(llm)
    config = PAPER[projector] if isinstance(projector, str) else projector
    made = build_projector(config, channels, language.width, side, torch.Generator().manual_seed(1))
    return loud(MultimodalModel(vision, made, language), seed)


def same_bytes(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """The same names, formats and bits; equality alone would take 0.0 for -0.0."""
    return list(a) == list(b) and all(
        a[name].dtype == b[name].dtype and a[name].numpy().tobytes() == b[name].numpy().tobytes()
        if a[name].dtype != torch.bfloat16
        else torch.equal(a[name].view(torch.int16), b[name].view(torch.int16))
        for name in a
    )


def pictures(tower: Any) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(1, 3, tower.image_size, tower.image_size, generator=generator)


@torch.no_grad()
def logits(model: MultimodalModel, seen: Any, before: list[int], after: list[int]) -> Tensor:
    """[T, vocabulary]: of tokens, a picture, and tokens."""
    patches = model.projector.tokens  # type: ignore[union-attr]
    ids = [*before, IMAGE_MARK, *after]
    batch = pack([expand(ids, [False] * len(ids), [0], int(patches))], [[0]], int(patches))
    return model.logits(model(seen, batch))[0]
