"""Floating-point operations of a training step, for the model FLOPs utilisation (see `meters.Meter`).

Text is priced from its shape; what a picture goes through is counted once, by running it on tensors without numbers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from vlmablate.design.transformer_costs import Llm
from vlmablate.training.packing import Packed
from vlmablate.vlm.language_model import LanguageModel
from vlmablate.vlm.llms.model import CausalLM
from vlmablate.vlm.seen import LiveVision


def text_operations(language: LanguageModel, cells: int, packed: Packed) -> float:
    """Forward and backward of a language model that reads `cells` cells of a picture and a row of text, for all rows.

    Padding counts like the tokens that it stands beside: the model computes it. The gradient reaches the cells.
    """
    config = language.config
    block: Any = language.blocks[0]
    shape = Llm(
        width=config.width, layers=config.layers, heads=config.heads, kv_heads=config.heads,
        head=config.width // config.heads, mlp=block.mlp_in.out_features, mlp_matrices=2,
        vocabulary=config.vocabulary, parameters=0,
    )  # fmt: skip
    matrices = {
        name: p.numel() for name, p in language.blocks.named_parameters() if p.ndim == 2 and p.requires_grad
    }
    adapters = sum(count for name, count in matrices.items() if ".lora_" in name)
    rows, length = packed.tokens.shape
    return rows * shape.learning(
        cells + length,
        packed.target_count / rows,
        sum(matrices.values()) - adapters,
        adapters,
        language.words.weight.requires_grad,
    )


def sequence_operations(language: CausalLM, shape: Llm, segments: Tensor, asked: int) -> float:
    """Forward and backward of a language model of the registry over packed sequences: padding counts for nothing.

    Args:
        shape: its sizes (`vlm.sizes.llm_shape`), with as many layers as it has.
        segments: int64 [B, T], see `sequences.Sequences`. asked: targets among them.
    """
    matrices = {
        name: p.numel() for name, p in language.layers.named_parameters() if p.ndim == 2 and p.requires_grad
    }
    adapters = sum(count for name, count in matrices.items() if ".lora_" in name)
    words = language.model.get_input_embeddings().weight.requires_grad  # type: ignore[operator]
    learnt = (sum(matrices.values()) - adapters, adapters, words)
    lengths = [count for row in segments.cpu() for count in torch.bincount(row[row >= 0]).tolist()]
    return sum(shape.learning(length, 0, *learnt) for length in lengths) + shape.learning(0, asked, *learnt)


def picture_operations(
    vision: LiveVision | None, projector: nn.Module, features: tuple[int, int, int]
) -> float:
    """Forward and backward of one picture, up to the cells that the language model reads: the projector, behind the
    towers where they are in the loop. Call it before the model is laid out.

    features: shape of what the projector takes of one picture, [tiles, cells, channels].
    """
    from torch.utils.flop_counter import FlopCounterMode  # a third of a second, for those who know a peak

    with FlopCounterMode(display=False) as counter:
        if vision is None:
            seen = torch.empty(features, device="meta")
        else:
            sides = (side for side, _ in vision.squares())
            squares = [torch.empty(1, side, side, 3, dtype=torch.uint8, device="meta") for side in sides]
            seen = _without_numbers(vision, squares)
        cells = _without_numbers(projector, seen)
        if cells.requires_grad:
            cells.sum().backward()
    return float(counter.get_total_flops())


def _without_numbers(module: nn.Module, given: Tensor | list[Tensor]) -> Tensor:
    """What a module makes of tensors on the meta device: a shape, and a graph for the backward pass."""
    weights = {
        name: torch.empty(p.shape, dtype=p.dtype, device="meta", requires_grad=p.requires_grad)
        for name, p in module.named_parameters()
    }
    buffers = {name: torch.empty(b.shape, dtype=b.dtype, device="meta") for name, b in module.named_buffers()}
    made: Tensor = functional_call(module, {**weights, **buffers}, (given,))
    return made
