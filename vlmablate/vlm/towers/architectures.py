"""The reference vision transformers as data: what they are made of, and how their pictures are prepared.

Imports no torch, so that plans and costs can ask. Sources: Radford et al. 2021 (CLIP), Zhai et al. 2023 (SigLIP),
Alabdulmohsin et al. 2023 (the SO400M shape), Oquab et al. 2023 and Darcet et al. 2023 (DINOv2, registers), Steiner et
al. 2021 (the ImageNet ViT), Karamcheti et al. 2024, section 4.2 (which of them, at which sizes, fused how), Bavishi et
al. 2023 (Fuyu: patches without an encoder).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from vlmablate.errors import UserError, unknown_name
from vlmablate.vlm.towers.registry import IMAGENET_MEAN, IMAGENET_STD

Colour = tuple[float, float, float]
ACTIVATIONS = ("gelu", "gelu_tanh", "quick_gelu")
HALF: Colour = (0.5, 0.5, 0.5)
CLIP_MEAN: Colour = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD: Colour = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True, kw_only=True)
class Family:
    """What the members of a family share.

    Attributes:
        activation: of the MLPs; epsilon: of every LayerNorm.
        prefix: tokens before the patches (class token, registers); they are computed with, and dropped at the end.
        patch_bias: the patch embedding has one; pre_norm: a LayerNorm before the first block.
        layer_scale: each residual branch has a learnt factor per channel.
        mean, std: per channel, of pixels in 0..1.
    """

    activation: str
    epsilon: float
    prefix: int
    patch_bias: bool = True
    pre_norm: bool = False
    layer_scale: bool = False
    mean: Colour
    std: Colour


# OpenAI's weights were trained with QuickGELU, x * sigmoid(1.702 x); with the exact GELU they give other features.
CLIP = Family(
    activation="quick_gelu", epsilon=1e-5, prefix=1, patch_bias=False, pre_norm=True, mean=CLIP_MEAN, std=CLIP_STD
)  # fmt: skip
# SigLIP was trained with the tanh form of GELU (transformers agrees). timm's SO400M/14 computes the exact form, and so
# did Prismatic, which used timm: `activation: gelu` in the tower's mapping repeats that.
SIGLIP = Family(activation="gelu_tanh", epsilon=1e-6, prefix=0, mean=HALF, std=HALF)
# A class token and four registers; the registers have no position of their own.
DINOV2 = Family(
    activation="gelu", epsilon=1e-6, prefix=5, layer_scale=True, mean=IMAGENET_MEAN, std=IMAGENET_STD
)
IMAGENET_VIT = Family(activation="gelu", epsilon=1e-6, prefix=1, mean=HALF, std=HALF)


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A vision transformer.

    Attributes:
        image_size: side of the square picture, patch: of a patch, in pixels. A rest of the picture is cut off.
        width, depth, heads, hidden: channels, blocks of the whole encoder, attention heads, channels inside an MLP.
        hub: the repository with its weights (timm's layout), None for a test tower; seed: of random weights.
    """

    name: str
    family: Family
    image_size: int
    patch: int
    width: int
    depth: int
    heads: int
    hidden: int
    hub: str | None = None
    seed: int = 0

    @property
    def mean(self) -> Colour:
        return self.family.mean

    @property
    def std(self) -> Colour:
        return self.family.std

    @property
    def side(self) -> int:
        """Patches along a side."""
        return self.image_size // self.patch

    @property
    def tokens(self) -> int:
        return self.side**2

    @property
    def channels(self) -> int:
        return self.width

    @property
    def layers(self) -> int:
        """Blocks that are computed: all but the last, whose input is the feature."""
        return self.depth - 1

    @property
    def parameters(self) -> int:
        """Parameters of the tower as it is built here: without the last block, final norm, pooling and heads."""
        width, family = self.width, self.family
        block = 4 * width * width + 2 * width * self.hidden + 9 * width + self.hidden
        block += 2 * width * family.layer_scale
        embedding = 3 * self.patch**2 * width + width * (self.tokens + family.prefix)
        return embedding + width * family.patch_bias + 2 * width * family.pre_norm + self.layers * block


@dataclass(frozen=True, kw_only=True)
class RawPatches:
    """Pictures cut into patches and given to the language model as they are (no encoder, no weights).

    Attributes: as of `Architecture`; `channels` are the numbers of one patch.
    """

    name: str
    image_size: int
    patch: int
    mean: Colour = HALF
    std: Colour = HALF

    @property
    def side(self) -> int:
        return self.image_size // self.patch

    @property
    def tokens(self) -> int:
        return self.side**2

    @property
    def channels(self) -> int:
        return 3 * self.patch**2

    @property
    def parameters(self) -> int:
        return 0


@dataclass(frozen=True, kw_only=True)
class Fusion:
    """Towers whose features of the same patch are joined, channels of the first tower first."""

    name: str
    towers: tuple[Architecture | RawPatches, ...]

    @property
    def side(self) -> int:
        return self.towers[0].side

    @property
    def tokens(self) -> int:
        return self.towers[0].tokens

    @property
    def channels(self) -> int:
        return sum(tower.channels for tower in self.towers)

    @property
    def parameters(self) -> int:
        return sum(tower.parameters for tower in self.towers)


def _vit_large(name: str, family: Family, image_size: int, patch: int, hub: str) -> Architecture:
    return Architecture(
        name=name, family=family, image_size=image_size, patch=patch,
        width=1024, depth=24, heads=16, hidden=4096, hub=hub,
    )  # fmt: skip


def _so400m(name: str, image_size: int, hub: str) -> Architecture:
    return Architecture(
        name=name, family=SIGLIP, image_size=image_size, patch=14,
        width=1152, depth=27, heads=16, hidden=4304, hub=hub,
    )  # fmt: skip


def _test(name: str, family: Family, image_size: int) -> Architecture:
    return Architecture(
        name=name, family=family, image_size=image_size, patch=14, width=32, depth=3, heads=4, hidden=128
    )


_DINOV2 = "timm/vit_large_patch14_reg4_dinov2.lvd142m"
ARCHITECTURES: dict[str, Architecture] = {
    architecture.name: architecture
    for architecture in (
        _vit_large("clip_vit_l14_224", CLIP, 224, 14, "timm/vit_large_patch14_clip_224.openai"),
        _vit_large("clip_vit_l14_336", CLIP, 336, 14, "timm/vit_large_patch14_clip_336.openai"),
        _so400m("siglip_so400m_224", 224, "timm/vit_so400m_patch14_siglip_224.webli"),
        # 384 pixels are 27 patches of 14 and a rest of 6.
        _so400m("siglip_so400m_384", 384, "timm/vit_so400m_patch14_siglip_384.webli"),
        # One set of weights, trained at 518 pixels, made again for the size of its partner.
        _vit_large("dinov2_vit_l14_224", DINOV2, 224, 14, _DINOV2),
        _vit_large("dinov2_vit_l14_336", DINOV2, 336, 14, _DINOV2),
        _vit_large("dinov2_vit_l14_384", DINOV2, 384, 14, _DINOV2),
        _vit_large(
            "in1k_vit_l16_224", IMAGENET_VIT, 224, 16, "timm/vit_large_patch16_224.augreg_in21k_ft_in1k"
        ),
        _test("test_clip", CLIP, 56),
        _test("test_siglip", SIGLIP, 60),
        _test("test_dinov2", DINOV2, 60),
        _test("test_vit", IMAGENET_VIT, 56),
    )
}
RAW_PATCHES = RawPatches(name="raw_patches", image_size=336, patch=14)
FUSIONS: dict[str, tuple[str, ...]] = {
    "dinov2_clip_224": ("dinov2_vit_l14_224", "clip_vit_l14_224"),
    "dinov2_clip_336": ("dinov2_vit_l14_336", "clip_vit_l14_336"),
    "dinov2_siglip_224": ("dinov2_vit_l14_224", "siglip_so400m_224"),
    "dinov2_siglip_384": ("dinov2_vit_l14_384", "siglip_so400m_384"),
    "test_dinov2_siglip": ("test_dinov2", "test_siglip"),
}
KNOWN = (*ARCHITECTURES, *FUSIONS, RAW_PATCHES.name)
Resolved = Architecture | RawPatches | Fusion


def resolve_vision(tower: str | Mapping[str, Any]) -> Resolved:
    """The facts of a tower as a configuration writes it.

    tower: a name of `KNOWN`, or a mapping. With `name` and any of `image_size` (pixels) and, for a transformer,
        `activation` and `seed` (of random weights), for raw patches `patch` (pixels). With `towers` (a list of towers
        in either form) a fusion of those.

    Raises:
        UserError: for an unknown name, option or activation, a size that does not fit the patches, or towers that
            cannot be fused.
    """
    written = {"name": tower} if isinstance(tower, str) else dict(tower)
    if "towers" in written:
        _only(written, ("towers",), "a fusion of vision towers")
        return _fusion("+".join(_name(part) for part in written["towers"]), written["towers"])
    name = _name(written)
    if name in FUSIONS:
        _only(written, ("name",), name)
        return _fusion(name, FUSIONS[name])
    if name == RAW_PATCHES.name:
        _only(written, ("name", "image_size", "patch"), name)
        patch = _whole(written.get("patch", RAW_PATCHES.patch), "patch", name)
        size = _whole(written.get("image_size", RAW_PATCHES.image_size), "image_size", name)
        _fits(name, size, patch)
        return replace(RAW_PATCHES, image_size=size, patch=patch)
    if name not in ARCHITECTURES:
        raise unknown_name("vision tower", name, KNOWN, "vision.towers")
    _only(written, ("name", "image_size", "activation", "seed"), name)
    known = ARCHITECTURES[name]
    size = _whole(written.get("image_size", known.image_size), "image_size", name)
    if size != known.image_size:  # the size of the reference may leave a rest, as it did there
        _fits(name, size, known.patch)
    activation = written.get("activation", known.family.activation)
    if activation not in ACTIVATIONS:
        raise unknown_name("activation", str(activation), ACTIVATIONS, f"the vision tower {name}")
    seed = written.get("seed", known.seed)
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise UserError(f"seed of the vision tower {name} must be a whole number from 0, not {seed!r}")
    family = replace(known.family, activation=activation)
    return replace(known, family=family, image_size=size, seed=seed)


def _fusion(name: str, towers: Any) -> Fusion:
    parts: list[Architecture | RawPatches] = []
    for tower in towers:
        part = resolve_vision(tower)
        if isinstance(part, Fusion):
            raise UserError(f"{name} fuses {part.name}, which is a fusion already: name its towers instead")
        parts.append(part)
    names = [part.name for part in parts]
    if len(parts) < 2 or len(set(names)) < len(names):
        raise UserError(f"a fusion needs two or more different vision towers, not {names}")
    if len({part.tokens for part in parts}) > 1:
        sizes = ", ".join(
            f"{part.name} makes {part.side}x{part.side} at {part.image_size} pixels" for part in parts
        )
        raise UserError(
            f"fused towers join patch by patch, so they need equally many: {sizes}; set their image_size"
        )
    return Fusion(name=name, towers=tuple(parts))


def _name(written: str | Mapping[str, Any]) -> str:
    if isinstance(written, str):
        return written
    if "name" not in written:
        raise UserError(f"a vision tower needs a `name`, this one has {sorted(written)}")
    return str(written["name"])


def _only(written: Mapping[str, Any], options: tuple[str, ...], where: str) -> None:
    for option in written:
        if option not in options:
            raise unknown_name("option", option, options, f"the vision tower {where}")


def _whole(value: Any, what: str, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError(
            f"{what} of the vision tower {name} must be a whole number of pixels above 0, not {value!r}"
        )
    return value


def _fits(name: str, size: int, patch: int) -> None:
    if size % patch:
        below, above = size // patch * patch, -(-size // patch) * patch
        near = f"{below} or {above}" if below else str(above)
        raise UserError(
            f"image_size {size} of the vision tower {name} leaves a rest of {size % patch} pixels beside its patches "
            f"of {patch}; {near} would fit"
        )
