"""How published checkpoints name the tensors of a vision transformer, and the one form that the towers here load.

In the form here (`VisionTransformer.state_dict`) query, key and value are one matrix, and each prefix token contains
its position: layouts that keep a position for the class token are added up. Names of tensors are facts of the files on
disk, which outlive the module names of the libraries that write them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from vlmablate.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One way of naming. Names of single tensors, or of modules that hold `weight` and maybe `bias`.

    Attributes:
        roots: what may stand before every name, tried in order.
        marker: a name that only this layout has.
        prefix: the class token and the registers, as far as the checkpoint has them.
        layer: of block {}; `parts`: the names here -> the names there, inside a block; `qkv`: one module or three.
        scales: the layer scales of the two branches; separator: between `qkv` and `weight` or `bias`.
    """

    name: str
    roots: tuple[str, ...]
    marker: str
    patches: str
    prefix: tuple[str, ...]
    positions: str
    pre_norm: str
    layer: str
    parts: Mapping[str, str]
    qkv: tuple[str, ...]
    scales: tuple[str, str] = ("", "")
    separator: str = "."


_TIMM_PARTS = {"norm1": "norm1", "out": "attn.proj", "norm2": "norm2", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}
LAYOUTS = (
    # timm; DINOv2's own release names its register tokens otherwise; open_clip keeps timm towers in visual.trunk.
    Layout(
        name="timm", roots=("", "visual.trunk.", "module.visual.trunk."), marker="blocks.0.attn.qkv.weight",
        patches="patch_embed.proj", prefix=("cls_token", "reg_token", "register_tokens"), positions="pos_embed",
        pre_norm="norm_pre", layer="blocks.{}.", parts=_TIMM_PARTS, qkv=("attn.qkv",),
        scales=("ls1.gamma", "ls2.gamma"),
    ),
    # OpenAI's CLIP and the towers of open_clip.
    Layout(
        name="open_clip", roots=("", "visual.", "module.visual."), marker="conv1.weight",
        patches="conv1", prefix=("class_embedding",), positions="positional_embedding", pre_norm="ln_pre",
        layer="transformer.resblocks.{}.",
        parts={"norm1": "ln_1", "out": "attn.out_proj", "norm2": "ln_2", "fc1": "mlp.c_fc", "fc2": "mlp.c_proj"},
        qkv=("attn.in_proj",), separator="_",
    ),
    # CLIPModel, CLIPVisionModel, SiglipModel, SiglipVisionModel of transformers. The misspelling is theirs.
    Layout(
        name="transformers", roots=("", "vision_model."), marker="embeddings.patch_embedding.weight",
        patches="embeddings.patch_embedding", prefix=("embeddings.class_embedding",),
        positions="embeddings.position_embedding.weight", pre_norm="pre_layrnorm", layer="encoder.layers.{}.",
        parts={
            "norm1": "layer_norm1", "out": "self_attn.out_proj", "norm2": "layer_norm2", "fc1": "mlp.fc1",
            "fc2": "mlp.fc2",
        },
        qkv=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    ),
    # Dinov2WithRegistersModel of transformers.
    Layout(
        name="transformers DINOv2", roots=("", "dinov2_with_registers."),
        marker="embeddings.patch_embeddings.projection.weight", patches="embeddings.patch_embeddings.projection",
        prefix=("embeddings.cls_token", "embeddings.register_tokens"), positions="embeddings.position_embeddings",
        pre_norm="-", layer="encoder.layer.{}.",
        parts={
            "norm1": "norm1", "out": "attention.output.dense", "norm2": "norm2", "fc1": "mlp.fc1", "fc2": "mlp.fc2",
        },
        qkv=("attention.attention.query", "attention.attention.key", "attention.attention.value"),
        scales=("layer_scale1.lambda1", "layer_scale2.lambda1"),
    ),
)  # fmt: skip


def canonical(state: Mapping[str, Tensor], where: str) -> tuple[dict[str, Tensor], int]:
    """The tensors of a published checkpoint under the names here, and its number of blocks.

    All blocks are kept, the positions keep their grid, and what the towers have no use for (heads, poolers, texts) is
    left out.

    Raises:
        UserError: for a checkpoint in no known layout, or with a tensor missing.
    """
    for layout in LAYOUTS:
        for root in layout.roots:
            if root + layout.marker in state:
                try:
                    return _convert(
                        {k[len(root) :]: v for k, v in state.items() if k.startswith(root)}, layout
                    )
                except KeyError as error:
                    raise UserError(
                        f"the weights in {where} ({layout.name} names) lack the tensor {root}{error.args[0]}"
                    ) from error
    names = ", ".join(layout.name for layout in LAYOUTS)
    raise UserError(
        f"the weights in {where} are in no known layout ({names}); their first tensors are {sorted(state)[:5]}"
    )


def _convert(state: Mapping[str, Tensor], layout: Layout) -> tuple[dict[str, Tensor], int]:
    out: dict[str, Tensor] = {}

    def module(here: str, *there: str, separator: str = ".", optional: bool = False) -> None:
        """Weights, and biases where the first has one, of modules that become one."""
        if optional and f"{there[0]}{separator}weight" not in state:
            return
        for kind in ("weight", "bias"):
            if kind == "weight" or f"{there[0]}{separator}bias" in state:
                out[f"{here}.{kind}"] = torch.cat([state[f"{name}{separator}{kind}"] for name in there])

    module("patches", layout.patches)
    width = out["patches.weight"].shape[0]
    prefix = [state[name].reshape(-1, width) for name in layout.prefix if name in state]
    positions = state[layout.positions].reshape(-1, width)
    if math.isqrt(len(positions)) ** 2 != len(positions) and prefix:  # the class token has a position too
        prefix[0] = prefix[0] + positions[:1]
        positions = positions[1:]
    out["positions"] = positions
    if prefix:
        out["prefix"] = torch.cat(prefix)
    module("pre_norm", layout.pre_norm, optional=True)
    blocks = 0
    while layout.layer.format(blocks) + layout.parts["norm1"] + ".weight" in state:
        here, there = f"layers.{blocks}.", layout.layer.format(blocks)
        module(here + "qkv", *(there + name for name in layout.qkv), separator=layout.separator)
        for name, source in layout.parts.items():
            module(here + name, there + source)
        for index, source in enumerate(layout.scales, start=1):
            if source and there + source in state:
                out[f"{here}scale{index}"] = state[there + source]
        blocks += 1
    return out, blocks


def resize_positions(table: Tensor, side: int) -> Tensor:
    """[g * g, C] positions of a grid of g cells a side -> [side * side, C], float32.

    Bicubic with antialiasing (Pillow's kernel, a = -0.5, its support scaled with a reduction), half-pixel centres: the
    rule of timm's checkpoints and of transformers' DINOv2 with registers. transformers' CLIP and SigLIP interpolate
    without antialiasing (a = -0.75), so their features at a size that is not their own differ from these. A table of
    the same grid is returned as it is.

    Raises:
        UserError: for a table that is no square grid.
    """
    cells, width = table.shape
    old = math.isqrt(cells)
    if old * old != cells:
        raise UserError(f"the weights have positions for {cells} patches, which are no square grid")
    if old == side:
        return table.float()
    grid = table.float().reshape(1, old, old, width).permute(0, 3, 1, 2)
    resized = functional.interpolate(
        grid, size=(side, side), mode="bicubic", align_corners=False, antialias=True
    )
    return resized.permute(0, 2, 3, 1).reshape(side * side, width)
