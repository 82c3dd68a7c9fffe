"""Vision transformers under the names of timm and of transformers, and back.

The towers here end before the last block, whose input is the feature. Other libraries build that block, a norm and
maybe a head, and refuse a checkpoint without them, so an export fills them: blocks that add nothing, norms that change
nothing. They are `unread`: whoever takes the second-to-last hidden state never sees them. An import returns those of
the file, and an export that is given them writes them as they were.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from vlmablate.errors import UserError
from vlmablate.vlm.exports.tensors import State, check
from vlmablate.vlm.seen import LiveVision
from vlmablate.vlm.towers.architectures import ARCHITECTURES, CLIP, SIGLIP, Architecture, Family
from vlmablate.vlm.towers.checkpoints import ACTIVATION_NAMES
from vlmablate.vlm.towers.fused import FusedVision
from vlmablate.vlm.towers.layouts import LAYOUTS, Layout, canonical
from vlmablate.vlm.towers.reference import ReferenceBackbone
from vlmablate.vlm.towers.vit import ACTIVATION, VisionTransformer

TIMM, TRANSFORMERS = (next(row for row in LAYOUTS if row.name == name) for name in ("timm", "transformers"))
CLASS_POSITION = "class token's position"
"""In `unread`: the row of the position table that a class token has of its own there, and here is part of it."""


def transformer_of(module: nn.Module | None, layout: str) -> VisionTransformer:
    """The module, if it is a vision transformer of this package. Raises UserError for another."""
    if not isinstance(module, VisionTransformer):
        names = [getattr(tower, "name", "") for tower in getattr(module, "towers", ())]
        what = f"a {type(module).__name__}" + (f" of {', '.join(names)}" if all(names) and names else "")
        if module is None:
            what = "none: its towers stayed frozen, and it was trained on features from disk"
        raise UserError(
            f"the layout {layout} holds the weights of a vision transformer of CLIP, SigLIP, DINOv2 or ImageNet, and "
            f"the vision of this model is {what}. The layout prismatic leaves frozen towers out; mm_projector holds "
            "the projector alone"
        )
    return module


def reference_towers(vision: nn.Module | None) -> nn.Module | None:
    """What a model looks through, with the reference towers of a sweep as they are alone; anything else as it is.

    Towers whose patches a sweep pooled are left as well: the layouts hold no pooling.
    """
    if not isinstance(vision, LiveVision):
        return vision
    parts = {
        tower.name: tower.backbone.tower
        for tower in vision.towers
        if isinstance(tower.backbone, ReferenceBackbone) and tower.grid == tower.backbone.tower.side
    }
    if len(parts) < len(vision.towers):
        return vision
    return next(iter(parts.values())) if len(parts) == 1 else FusedVision("+".join(parts), parts)


def to_layout(tower: VisionTransformer, layout: Layout, unread: State) -> dict[str, Tensor]:
    """All tensors of a tower under the names of timm or transformers, with what is never read.

    unread: from `from_layout`, or empty.
    """
    found = _read(tower, layout, unread)
    for name, tensor in _never_read(tower, layout, found).items():
        found[name] = unread.get(name, tensor)
    return found


def from_layout(state: State, tower: VisionTransformer, layout: Layout, where: str) -> dict[str, Tensor]:
    """Load a tower from the tensors of such a library; returns those that it has no use for, see above.

    Raises UserError, before any change, for tensors that are missing, too many or of another shape.
    """
    check(state, to_layout(tower, layout, {}), where)
    state = {name: tensor.float() for name, tensor in state.items()}
    tensors, _ = canonical(state, where)
    own = tower.state_dict()
    tensors = {name: tensor for name, tensor in tensors.items() if name in own}
    check(tensors, own, where)
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(tensors[name])
    unread = {name: state[name] for name in _never_read(tower, layout, _read(tower, layout, {}))}
    if _class_has_position(tower, layout):
        unread[layout.prefix[0]] = state[layout.prefix[0]]
        unread[CLASS_POSITION] = state[layout.positions].reshape(-1, tower.channels)[:1]
    return unread


def _read(tower: VisionTransformer, layout: Layout, unread: State) -> dict[str, Tensor]:
    """The inverse of `towers.layouts.canonical`."""
    state, width = tower.state_dict(), tower.channels
    found: dict[str, Tensor] = {}

    def module(here: str, *there: str) -> None:
        for kind in ("weight", "bias"):
            if f"{here}.{kind}" in state:
                parts = state[f"{here}.{kind}"].chunk(len(there))
                found.update({f"{name}.{kind}": part for name, part in zip(there, parts, strict=True)})

    module("patches", layout.patches)
    positions = state["positions"]
    if "prefix" in state:
        token, *registers = state["prefix"].split(1)
        position = torch.full_like(token, -0.0)  # adds nothing; 0.0 would turn a -0.0 into 0.0
        if CLASS_POSITION in unread:
            apart = unread[layout.prefix[0]].reshape(1, width), unread[CLASS_POSITION]
            if torch.equal(torch.add(*apart).to(token.dtype), token):
                token, position = apart
        found[layout.prefix[0]] = token
        if registers:
            found[layout.prefix[1]] = torch.cat(registers)
        if _class_has_position(tower, layout):
            positions = torch.cat([position.to(positions.dtype), positions])
    found[layout.positions] = positions
    if layout is TIMM:  # timm keeps an axis for the batch
        for name in (*layout.prefix, layout.positions):
            if name in found:
                found[name] = found[name][None]
    elif "prefix" in state:
        found[layout.prefix[0]] = found[layout.prefix[0]].reshape(width)
    module("pre_norm", layout.pre_norm)
    for index in range(len(tower.layers)):
        here, there = f"layers.{index}.", layout.layer.format(index)
        module(here + "qkv", *(there + name for name in layout.qkv))
        for name, target in layout.parts.items():
            module(here + name, there + target)
        for number, target in enumerate(layout.scales, start=1):
            if f"{here}scale{number}" in state:
                found[there + target] = state[f"{here}scale{number}"]
    return found


def _class_has_position(tower: VisionTransformer, layout: Layout) -> bool:
    """With registers (DINOv2 of timm) no prefix token has one."""
    return tower.prefix is not None and len(tower.prefix) == 1


def _never_read(tower: VisionTransformer, layout: Layout, found: State) -> dict[str, Tensor]:
    """The last block, the norm behind it and the pooling head, so that they do nothing."""
    first, last = layout.layer.format(0), layout.layer.format(len(tower.layers))
    some = next(iter(found.values()))
    shapes = {last + name.removeprefix(first): t.shape for name, t in found.items() if name.startswith(first)}
    width = torch.Size([tower.channels])
    norm = "norm" if layout is TIMM else "post_layernorm"
    shapes |= {f"{norm}.weight": width, f"{norm}.bias": width}
    if layout is TIMM and family_of(tower) is SIGLIP:  # attention pooling, which has no name of the layout
        layer: Any = tower.layers[0]
        hidden = torch.Size([layer.fc1.out_features])
        square = width + width
        shapes |= {
            "attn_pool.latent": torch.Size([1, 1]) + width,
            "attn_pool.q.weight": square, "attn_pool.q.bias": width,
            "attn_pool.kv.weight": torch.Size([2 * tower.channels]) + width,
            "attn_pool.kv.bias": torch.Size([2 * tower.channels]),
            "attn_pool.proj.weight": square, "attn_pool.proj.bias": width,
            "attn_pool.norm.weight": width, "attn_pool.norm.bias": width,
            "attn_pool.mlp.fc1.weight": hidden + width, "attn_pool.mlp.fc1.bias": hidden,
            "attn_pool.mlp.fc2.weight": width + hidden, "attn_pool.mlp.fc2.bias": width,
        }  # fmt: skip
    return {
        name: some.new_full(shape, 1.0 if "norm" in name and name.endswith("weight") else 0.0)
        for name, shape in shapes.items()
    }


def family_of(tower: VisionTransformer) -> Family | None:
    """CLIP or SIGLIP, whatever the activation; None for another. Told by what the towers of a family have."""
    shape = (
        tower.prefix is not None,
        tower.pre_norm is not None,
        tower.patches.bias is not None,
        any("scale" in name for name, _ in tower.named_parameters()),
    )
    return {(True, True, False, False): CLIP, (False, False, True, False): SIGLIP}.get(shape)


def vision_config(tower: VisionTransformer, layout: str) -> Any:
    """The configuration of transformers for a tower. Raises UserError for one that is neither CLIP's nor SigLIP's."""
    from transformers import CLIPVisionConfig, SiglipVisionConfig

    family = family_of(tower)
    if family is None:
        raise UserError(
            f"the layout {layout} takes a vision tower of CLIP or SigLIP, and {tower.name} is neither: "
            "use the layout prismatic"
        )
    layer: Any = tower.layers[0]
    named = {function: name for name, function in ACTIVATION.items()}
    theirs = {ours: name for name, ours in ACTIVATION_NAMES.items()}
    fields = {
        "hidden_size": tower.channels,
        "intermediate_size": layer.fc1.out_features,
        "num_hidden_layers": len(tower.layers) + 1,
        "num_attention_heads": layer.heads,
        "image_size": tower.image_size,
        "patch_size": tower.patches.kernel_size[0],
        "hidden_act": theirs[named[layer.activation]],
        "layer_norm_eps": layer.norm1.eps,
    }
    if family is CLIP:
        return CLIPVisionConfig(**fields)
    return SiglipVisionConfig(**fields, vision_use_head=False)


def tower_of(config: Any, where: str) -> VisionTransformer:
    """An empty tower (on the CPU, weights that mean nothing) for a configuration of transformers.

    Raises UserError for one that is neither CLIP's nor SigLIP's, or has an activation that is not known here.
    """
    families = {"clip_vision_model": ("clip", CLIP), "siglip_vision_model": ("siglip", SIGLIP)}
    if config.model_type not in families:
        raise UserError(
            f"the vision tower of {where} is a {config.model_type}, not one of {', '.join(families)}"
        )
    name, family = families[config.model_type]
    if config.hidden_act not in ACTIVATION_NAMES:
        raise UserError(
            f"the vision tower of {where} has the activation {config.hidden_act}, not one of "
            f"{', '.join(ACTIVATION_NAMES)}"
        )
    architecture = Architecture(
        name=f"{name}_{config.hidden_size}_{config.image_size}",
        family=replace(family, activation=ACTIVATION_NAMES[config.hidden_act], epsilon=config.layer_norm_eps),
        image_size=config.image_size,
        patch=config.patch_size,
        width=config.hidden_size,
        depth=config.num_hidden_layers,
        heads=config.num_attention_heads,
        hidden=config.intermediate_size,
    )
    same = [known.name for known in ARCHITECTURES.values() if _facts(known) == _facts(architecture)]
    with torch.device("meta"):
        built = VisionTransformer(replace(architecture, name=same[0]) if same else architecture)
    return built.to_empty(device="cpu")


def _facts(architecture: Architecture) -> Architecture:
    return replace(architecture, name="", hub=None, seed=0)
