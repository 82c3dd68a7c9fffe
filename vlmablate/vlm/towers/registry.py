"""The vision towers by exact name, and what a configuration says about one. Imports no torch.

A tower may be written as its name (`efficientnet_lite0`) or as a mapping with a `name` and any of
`image_size`,
`grid`, `layer`, `pool`, `block`, `channels` and `seed`. `resolve` fills in the rest: a grid decides the image
size and an image size decides the grid. The reference towers of `architectures` may be named as well; they have an
image size of their own, and `weights` says where theirs are (`random`, `pretrained`, or a path).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from vlmablate.errors import UserError, unknown_name

RAW_PATCHES = "raw_patches"
WEIGHTS = "weights"

POOLS = ("mean", "space_to_depth")
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class TowerFacts:
    """What is fixed about a tower.

    Attributes:
        asset: the asset set with its weights; None for a random encoder.
        stride: pixels of the input per cell of its own feature map.
        fine: cells of its own map per cell of the grid, along a side, unless the configuration says
        otherwise.
        defaults: the options it knows, with their defaults.
        rounds_up: a rest of the image below the stride gets a padded cell, else it is dropped.
        image_size: of a reference tower, in pixels; None: as large as the grid asks for.
        hub: of a reference tower, the repository with its weights, None where weights are only random.
        reference: one of `architectures`, whose weights are where the user says (`weights` in its mapping).
    """

    name: str
    asset: str | None
    stride: int
    fine: int
    builder: str
    defaults: Mapping[str, Any] = field(default_factory=dict)
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    rounds_up: bool = False
    image_size: int | None = None
    hub: str | None = None
    reference: bool = False


_TOWERS = "vlmablate.vlm.towers"
TOWERS: dict[str, TowerFacts] = {
    facts.name: facts
    for facts in (
        TowerFacts(
            "efficientnet_lite0", "efficientnet_lite0", 32, 1, f"{_TOWERS}.efficientnet_lite:load_lite0",
            {"layer": "head"}, rounds_up=True,
        ),
        TowerFacts(
            "efficientnet_lite2", "efficientnet_lite2", 32, 1, f"{_TOWERS}.efficientnet_lite:load_lite2",
            {"layer": "head"}, rounds_up=True,
        ),
        # 14-pixel patches are finer than the 32-pixel cells of the CNN: 2x2 of them make one grid cell.
        TowerFacts("dinov2_small", "dinov2_small", 14, 2, f"{_TOWERS}.dinov2:load_small", {"block": 10}),
        TowerFacts("smoke_conv", None, 8, 1, f"{_TOWERS}.smoke:load_conv", {"channels": 32, "seed": 0}),
        TowerFacts("smoke_patch", None, 8, 1, f"{_TOWERS}.smoke:load_patch", {"channels": 48, "seed": 0}),
    )
}  # fmt: skip


@dataclass(frozen=True)
class TowerSettings:
    """A tower with every option decided.

    Attributes:
        image_size: side of the square input in pixels.
        grid: side of the square grid of output cells.
        pool: how a finer native map becomes the grid: `mean`, or `space_to_depth` (channels times factor
        squared).
        options: the tower's own options (layer, block, …).
    """

    name: str
    image_size: int
    grid: int
    pool: str
    options: Mapping[str, Any]

    @property
    def facts(self) -> TowerFacts:
        return facts(self.name)


def facts(name: str) -> TowerFacts:
    """The facts of a tower. Raises UserError that lists the towers there are."""
    if name in TOWERS:
        return TOWERS[name]
    from vlmablate.vlm.towers import architectures

    builder = f"{_TOWERS}.reference:load"
    if name == RAW_PATCHES:
        raw = architectures.RAW_PATCHES
        return TowerFacts(name, None, raw.patch, 1, builder, {"patch": raw.patch}, raw.mean, raw.std)
    if name not in architectures.ARCHITECTURES:
        raise unknown_name("vision tower", name, [*TOWERS, RAW_PATCHES, *architectures.ARCHITECTURES])
    known = architectures.ARCHITECTURES[name]
    options: dict[str, Any] = {"activation": None, "seed": 0}
    return TowerFacts(
        name, None, known.patch, 1, builder, options, known.mean, known.std,
        image_size=known.image_size, hub=known.hub, reference=True,
    )  # fmt: skip


def source_of(tower: str | Mapping[str, Any]) -> str:
    """Where a tower without an asset set has its weights from: ``random``, ``pretrained`` (the hub), or a path.

    Raises UserError for one that has none on the hub and says nothing.
    """
    known = facts(name_of(tower))
    written = None if isinstance(tower, str) else tower.get(WEIGHTS)
    if not known.reference:
        if written is not None:
            raise UserError(f"the tower {known.name} reads no weights from {written}: it has its own")
        return "random"
    if known.hub is None and written in (None, "pretrained"):
        raise UserError(f"the tower {known.name} has no pretrained weights: give weights: random, or a path")
    return str(written or "pretrained")


def name_of(tower: str | Mapping[str, Any]) -> str:
    """The name of a tower that is written as a name or as a mapping."""
    if isinstance(tower, str):
        return tower
    if "name" not in tower:
        raise UserError(f"a vision tower needs a `name`, this one has {sorted(tower)}")
    return str(tower["name"])


def asset_of(tower: str | Mapping[str, Any]) -> str | None:
    """The asset set with a tower's weights, None for a random one. Raises UserError for an unknown tower."""
    return facts(name_of(tower)).asset


def resolve(tower: str | Mapping[str, Any], grid: int | None = None) -> TowerSettings:
    """Every option of a tower decided.

    grid: the grid that the whole model uses, unless the tower's own mapping names one.

    Raises:
        UserError: for an unknown tower, option or pool, or an image size that does not divide into the grid.
    """
    written: dict[str, Any] = {"name": tower} if isinstance(tower, str) else dict(tower)
    written = {key: value for key, value in written.items() if value is not None}
    known = facts(name_of(written))
    unknown = set(written) - {"name", "image_size", "grid", "pool", *known.defaults}
    if unknown:
        names = ["image_size", "grid", "pool", *known.defaults]
        raise unknown_name(f"option of the tower {known.name}", min(unknown), names)
    pool = written.get("pool", "mean")
    if pool not in POOLS:
        raise unknown_name("pool", pool, POOLS, f"the tower {known.name}")
    cells = _positive(written.get("grid", grid), "grid", known)
    size = _positive(written.get("image_size", known.image_size), "image_size", known)
    if "patch" in known.defaults:
        known = replace(known, stride=_positive(written.get("patch", known.stride), "patch", known) or 1)
    if size is None:
        if cells is None:
            raise UserError(f"the tower {known.name} needs a grid (cells a side) or an image_size (pixels)")
        size = known.stride * known.fine * cells
    native = -(-size // known.stride) if known.rounds_up else size // known.stride
    cells = native if cells is None else cells
    if native < 1 or native % cells:
        raise UserError(
            f"the tower {known.name} makes {native}x{native} cells of a {size}-pixel image, which do not "
            f"pool into a {cells}x{cells} grid; an image_size of {known.stride * known.fine * cells} would, "
            f"or a grid that divides {native} (vision.grid={native})"
        )
    options = {key: written.get(key, default) for key, default in known.defaults.items()}
    return TowerSettings(known.name, size, cells, pool, options)


def _positive(value: Any, what: str, known: TowerFacts) -> int | None:
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value > 0):
        return value
    raise UserError(f"{what} of the tower {known.name} must be a whole number above 0, not {value!r}")
