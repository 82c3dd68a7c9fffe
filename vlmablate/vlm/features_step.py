"""The step `features`: every scene through one image transform and one frozen tower, once for all runs that
need it.

Config: `tower` (name or mapping, see `towers.registry`), `grid`, `image` {resize, fill, and `tiles` {side, thumbnail}
where pictures are cut into tiles}, `precision`, `weights`.
Dependency: `scenes`. Output: see `feature_store`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vlmablate.errors import UserError, unknown_name
from vlmablate.orchestration.context import StepContext
from vlmablate.vlm.feature_store import write_tiles, writing_features
from vlmablate.vlm.image import Colour, Frame, fill_colour, transform_named
from vlmablate.vlm.tiling import Tile, TileLayout, fixed_tiles
from vlmablate.vlm.towers.base import Tower, load_tower
from vlmablate.vlm.towers.registry import TowerSettings, resolve

BATCH = 8
"""Larger batches are slower on a CPU: their activations fall out of the cache and cost page faults."""

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


def cpu_has_amx_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """True when the CPU multiplies bfloat16 matrices in hardware; False also where that cannot be told."""
    try:
        return "amx_bf16" in cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False


def check_precision(precision: str, device: str) -> torch.dtype:
    """The number format of the arithmetic. Raises UserError for an unknown one, or bf16 without hardware."""
    if precision not in PRECISIONS:
        raise unknown_name("precision", precision, PRECISIONS)
    if precision == "bf16" and device == "cpu" and not cpu_has_amx_bf16():
        raise UserError(
            "precision=bf16 needs a CPU with amx_bf16 (not among the flags in /proc/cpuinfo) or a GPU: "
            "without it bf16 is slower than fp32. Use precision=fp32."
        )
    return PRECISIONS[precision]


def fill_of(image: Mapping[str, Any], tower: Tower) -> Colour:
    """The colour around a picture. Raises UserError for what is no colour."""
    declared = image.get("fill", "mean")
    if declared == "mean":
        return fill_colour(tower.mean)
    values = list(declared) if isinstance(declared, list | tuple) else []
    if len(values) != 3 or not all(isinstance(value, int) and 0 <= value <= 255 for value in values):
        raise UserError(f"image.fill must be `mean` or three numbers 0 to 255, not {declared!r}")
    return values[0], values[1], values[2]


def load_configured(settings: TowerSettings, digest: str | None) -> Tower:
    """A tower with its pretrained weights: `digest` of those in the asset cache, None for whatever is there, or where
    those of a reference tower are.

    Raises UserError when they are missing, damaged or others.
    """
    if settings.facts.reference:
        from vlmablate.vlm.towers.reference import load_reference

        return load_reference(settings, digest or "random")
    if settings.facts.asset is None:
        return load_tower(settings, None)
    # Imported here: a random encoder must work where no asset cache exists.
    from vlmablate.data import assets

    _, folder = assets.use(settings.facts.asset, digest)
    return load_tower(settings, folder)


def _prepared(
    count: int, cut: Callable[[int], tuple[list[Tile], Frame]], overlap: bool
) -> Iterator[tuple[int, np.ndarray, list[Frame]]]:
    """(first row, uint8 [b, tiles, S, S, 3], frames) of each batch; with `overlap` the next is made meanwhile."""

    def prepare(first: int) -> tuple[int, np.ndarray, list[Frame]]:
        pairs = [cut(row) for row in range(first, min(first + BATCH, count))]
        pixels = np.stack([[np.asarray(tile.picture) for tile in tiles] for tiles, _ in pairs])
        return first, pixels, [frame for _, frame in pairs]

    starts = range(0, count, BATCH)
    if not overlap:
        yield from map(prepare, starts)
        return
    with ThreadPoolExecutor(1, thread_name_prefix="pictures") as pool:
        # Two batches in flight bound the memory; decoding and resizing release the interpreter lock.
        waiting = [pool.submit(prepare, first) for first in starts[:2]]
        for first in [*starts[2:], None, None][: len(starts)]:
            batch = waiting.pop(0).result()
            if first is not None:
                waiting.append(pool.submit(prepare, first))
            yield batch


def run(config: dict[str, Any], deps: dict[str, Path], out: Path, context: StepContext) -> dict[str, Any]:
    """Extract the features of the splits of the scenes. The payload tells what was made and how fast.

    Raises:
        UserError: for an unknown tower, transform or precision, or damaged weights.
        StepStopped: when asked to stop; nothing half-written stays.
    """
    from vlmablate.data.scenes_store import SceneStore, splits_in

    device = str(context.execution.get("device") or "cpu")
    precision = str(config.get("precision") or "fp32")
    dtype = check_precision(precision, device)
    settings = resolve(config["tower"], config.get("grid"))
    transform = transform_named(config["image"]["resize"])
    tower = load_configured(settings, config.get("weights") or None).to(device)
    fill = fill_of(config["image"], tower)
    layout = TileLayout.read(config["image"].get("tiles"))
    stores = {split: SceneStore(deps["scenes"], split) for split in splits_in(deps["scenes"])}
    total, done, began = sum(map(len, stores.values())), 0, time.perf_counter()
    overlap = int(context.execution.get("threads") or 1) > 1
    write_tiles(out, layout)
    for split, store in stores.items():
        cells = layout.count * settings.grid**2

        def cut(row: int, store: SceneStore = store) -> tuple[list[Tile], Frame]:
            return fixed_tiles(store.image(row), settings.image_size, layout, transform, fill)

        with writing_features(out, split, list(store.ids), cells, tower.channels) as (features, frames):
            for first, pixels, batch_frames in _prepared(len(store), cut, overlap):
                context.check_stop()
                rows = slice(first, first + len(pixels))
                squares = pixels.reshape(-1, *pixels.shape[2:])
                parts = [
                    _extract(tower, squares[start : start + BATCH], dtype, device)
                    for start in range(0, len(squares), BATCH)
                ]
                features[rows] = np.concatenate(parts).reshape(len(pixels), cells, tower.channels)
                frames[rows] = [frame.as_row() for frame in batch_frames]
                done += len(pixels)
                context.progress(done, total, images_per_s=done / (time.perf_counter() - began))
    return {
        "tower": settings.name,
        "image_size": settings.image_size,
        "grid": settings.grid,
        "channels": tower.channels,
        "options": {"pool": settings.pool, **settings.options},
        "fill": list(fill),
        "resize": config["image"]["resize"],
        "tiles": layout.count,
        "precision": precision,
        "images": {split: len(store) for split, store in stores.items()},
        "images_per_s": round(total / (time.perf_counter() - began), 2),
    }


def _extract(tower: Tower, pixels: np.ndarray, dtype: torch.dtype, device: str) -> np.ndarray:
    """uint8 [b, S, S, 3] -> float16 [b, cells, channels].

    A short last batch is filled up, because kernels are chosen by batch size: the same picture then gives the
    same features wherever it stands. Raises FloatingPointError for features that float16 cannot hold.
    """
    filled = np.concatenate([pixels, np.repeat(pixels[-1:], BATCH - len(pixels), axis=0)])
    with (
        torch.inference_mode(),
        torch.autocast(device, dtype=torch.bfloat16, enabled=dtype is torch.bfloat16),
    ):
        normalised = tower.normalise(torch.from_numpy(filled)).to(device)
        values = tower(normalised)[: len(pixels)].to(torch.float16)
    if not bool(torch.isfinite(values).all()):
        raise FloatingPointError(f"features of {tower.name} are outside the range of float16")
    return values.cpu().numpy()
