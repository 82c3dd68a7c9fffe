"""DINOv2 ViT-S/14 (Oquab et al., 2023) as a feature tower, in plain torch.

Pre-norm transformer with layer scale, exact (erf) GELU, LayerNorm epsilon 1e-6. The position table of 37x37
patches is resized to the grid of the image by bicubic interpolation without antialiasing (half-pixel centres,
a = -0.75), the class token keeps its own position. Features are the output of an inner block, before the
final norm, without the
class token: the default block 10 of 0..11 is the second to last.

These weights were fine-tuned for saliency, which cost the last block some semantics: another reason not to
use it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from vlmablate.errors import UserError
from vlmablate.vlm.towers.base import load_weights
from vlmablate.vlm.towers.registry import TowerSettings

PATCH = 14
WIDTH = 384
HEADS = 6
BLOCKS = 12
EPSILON = 1e-6


class Block(nn.Module):
    """[B, N, D] -> [B, N, D]."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(WIDTH, eps=EPSILON)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)
        self.scale1 = nn.Parameter(torch.empty(WIDTH))
        self.norm2 = nn.LayerNorm(WIDTH, eps=EPSILON)
        self.fc1 = nn.Linear(WIDTH, 4 * WIDTH)
        self.fc2 = nn.Linear(4 * WIDTH, WIDTH)
        self.scale2 = nn.Parameter(torch.empty(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        qkv = self.qkv(self.norm1(x)).view(batch, tokens, 3, HEADS, WIDTH // HEADS)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        x = x + self.scale1 * self.out(mixed.transpose(1, 2).reshape(batch, tokens, WIDTH))
        return x + self.scale2 * self.fc2(functional.gelu(self.fc1(self.norm2(x))))


class DinoV2(nn.Module):
    """[B, 3, S, S] normalised pixels -> [B, 384, S // 14, S // 14], the output of block `block`."""

    def __init__(self, block: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, PATCH, stride=PATCH)
        self.class_token = nn.Parameter(torch.empty(1, 1, WIDTH))
        self.positions = nn.Parameter(torch.empty(1, 1 + 37 * 37, WIDTH))
        self.blocks = nn.ModuleList(Block() for _ in range(block + 1))

    @property
    def layers(self) -> nn.ModuleList:
        return self.blocks

    def _positions(self, rows: int, columns: int) -> Tensor:
        """[1, 1 + rows * columns, D]."""
        side = int((self.positions.shape[1] - 1) ** 0.5)
        table = self.positions[:, 1:].reshape(1, side, side, WIDTH).permute(0, 3, 1, 2)
        if (rows, columns) != (side, side):
            table = functional.interpolate(table, size=(rows, columns), mode="bicubic", align_corners=False)
        return torch.cat([self.positions[:, :1], table.flatten(2).transpose(1, 2)], dim=1)

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.patches(pixels)
        batch, _, rows, columns = x.shape
        x = torch.cat([self.class_token.expand(batch, -1, -1), x.flatten(2).transpose(1, 2)], dim=1)
        x = x + self._positions(rows, columns)
        for block in self.blocks:
            x = block(x)
        return x[:, 1:].transpose(1, 2).reshape(batch, WIDTH, rows, columns)


def renamed_state(state: Mapping[str, Tensor], block: int) -> dict[str, Tensor]:
    """State of `DinoV2` from the names of the asset set (those of the reference in transformers)."""
    out = {
        "patches.weight": state["embeddings.patch_embeddings.projection.weight"],
        "patches.bias": state["embeddings.patch_embeddings.projection.bias"],
        "class_token": state["embeddings.cls_token"],
        "positions": state["embeddings.position_embeddings"],
    }
    for index in range(block + 1):
        source, target = f"encoder.layer.{index}", f"blocks.{index}"
        out[f"{target}.scale1"] = state[f"{source}.layer_scale1.lambda1"]
        out[f"{target}.scale2"] = state[f"{source}.layer_scale2.lambda1"]
        for kind in ("weight", "bias"):
            parts = [
                state[f"{source}.attention.attention.{name}.{kind}"] for name in ("query", "key", "value")
            ]
            out[f"{target}.qkv.{kind}"] = torch.cat(parts)
            for here, there in (
                ("norm1", "norm1"), ("out", "attention.output.dense"), ("norm2", "norm2"),
                ("fc1", "mlp.fc1"), ("fc2", "mlp.fc2"),
            ):  # fmt: skip
                out[f"{target}.{here}.{kind}"] = state[f"{source}.{there}.{kind}"]
    return out


def load_small(settings: TowerSettings, weights: Path | None) -> DinoV2:
    block = settings.options["block"]
    if not isinstance(block, int) or not 0 <= block < BLOCKS:
        raise UserError(f"the tower {settings.name} has blocks 0 to {BLOCKS - 1}, not {block!r}")
    network = DinoV2(block)
    if weights is not None:
        network.load_state_dict(renamed_state(load_weights(weights), block))
    return network
