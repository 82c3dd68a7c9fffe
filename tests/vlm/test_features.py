"""The features step on a made-up scene store, and the files it leaves."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")

from vlmablate.errors import UserError  # noqa: E402
from vlmablate.orchestration.context import StepContext, StepStopped  # noqa: E402
from vlmablate.vlm import features_step  # noqa: E402
from vlmablate.vlm.feature_store import open_features, writing_features  # noqa: E402
from vlmablate.vlm.image import letterbox  # noqa: E402
from vlmablate.vlm.tiling import TileLayout, fixed_tiles  # noqa: E402
from vlmablate.vlm.towers.base import load_tower  # noqa: E402
from vlmablate.vlm.towers.registry import resolve  # noqa: E402

COUNTS = {"train": 19, "evaluation": 5}
CONFIG: dict[str, Any] = {
    "tower": "smoke_conv",
    "grid": 4,
    "image": {"resize": "letterbox", "fill": [9, 8, 7]},
    "precision": "fp32",
    "weights": "random",
}


def scene(split: str, index: int) -> Image.Image:
    rng = np.random.default_rng([index, len(split)])
    width, height = (int(side) for side in rng.integers(20, 90, 2))
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


class FakeStore:
    def __init__(self, folder: Path, split: str) -> None:
        self.split = split
        self.ids = [f"{split}-{index}" for index in range(COUNTS[split])]

    def __len__(self) -> int:
        return COUNTS[self.split]

    def image(self, index: int) -> Image.Image:
        return scene(self.split, index)


@pytest.fixture(autouse=True)
def _scenes(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    module = types.ModuleType("vlmablate.data.scenes_store")
    module.SceneStore = FakeStore  # type: ignore[attr-defined]
    module.splits_in = lambda folder: ["train", "evaluation"]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vlmablate.data.scenes_store", module)


def extract(out: Path, stop: bool = False, threads: int = 1, **changes: Any) -> dict[str, Any]:
    out.mkdir(exist_ok=True)
    context = StepContext(
        execution={"threads": threads}, attempt=1, assets=out, out=out, stop_requested=lambda: stop
    )
    return features_step.run({**CONFIG, **changes}, {"scenes": out / "scenes"}, out, context)


def test_rows_are_scenes_in_order_with_their_frames(tmp_path: Path) -> None:
    payload = extract(tmp_path)
    assert payload["images"] == COUNTS
    assert (payload["grid"], payload["channels"], payload["fill"]) == (4, 32, [9, 8, 7])
    tower = load_tower(resolve("smoke_conv", 4), None)
    for split, count in COUNTS.items():
        store = open_features(tmp_path, split)
        assert store.features.shape == (count, 16, 32)
        assert store.features.dtype == np.float16
        assert list(store.ids) == [f"{split}-{index}" for index in range(count)]
        for index in range(count):
            square, frame = letterbox(scene(split, index), 32, (9, 8, 7))
            assert store.frames[index] == frame
            with torch.inference_mode():
                expected = tower(tower.normalise(torch.from_numpy(np.asarray(square)[None].copy())))[0]
            np.testing.assert_allclose(store.features[index], expected.numpy(), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("thumbnail", [True, False])
def test_the_cells_of_tiles_lie_one_tile_behind_the_other(tmp_path: Path, thumbnail: bool) -> None:
    image = {"resize": "letterbox", "fill": [9, 8, 7], "tiles": {"side": 2, "thumbnail": thumbnail}}
    layout = TileLayout(2, thumbnail)
    assert extract(tmp_path, image=image)["tiles"] == layout.count
    tower = load_tower(resolve("smoke_conv", 4), None)
    for split, count in COUNTS.items():
        store = open_features(tmp_path, split)
        assert store.features.shape == (count, layout.count * 16, 32)
        assert store.tiles == layout
        for index in range(count):
            tiles, frame = fixed_tiles(scene(split, index), 32, layout, letterbox, (9, 8, 7))
            assert store.frames[index] == frame
            pixels = torch.from_numpy(np.stack([np.asarray(tile.picture) for tile in tiles]))
            with torch.inference_mode():
                expected = tower(tower.normalise(pixels)).flatten(0, 1)
            np.testing.assert_allclose(store.features[index], expected.numpy(), rtol=2e-3, atol=2e-3)
    (tmp_path / "tiles.json").write_text("{")
    with pytest.raises(UserError, match="start the sweep again"):
        open_features(tmp_path, "train")


def test_preparing_ahead_changes_nothing(tmp_path: Path) -> None:
    extract(tmp_path / "one")
    extract(tmp_path / "two", threads=2)
    for name in ("train.features.npy", "train.frames.npy", "evaluation.features.npy", "evaluation.ids.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_the_mean_colour_of_the_tower_fills_by_default(tmp_path: Path) -> None:
    assert extract(tmp_path, image={"resize": "letterbox", "fill": "mean"})["fill"] == [123, 116, 103]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tower": "smoke_con"}, "did you mean 'smoke_conv'"),
        ({"image": {"resize": "stretch"}}, "unknown image transform 'stretch'"),
        ({"image": {"resize": "letterbox", "fill": "pink"}}, "image.fill must be"),
        ({"image": {"resize": "letterbox", "tiles": {"side": 1}}}, "image.tiles needs a side"),
        ({"precision": "fp8"}, "unknown precision 'fp8'"),
    ],
)
def test_a_mistake_is_explained(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        extract(tmp_path, **change)


def test_bf16_needs_the_hardware(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = tmp_path / "cpuinfo"
    flags.write_text("flags : fpu avx2 amx_bf16 amx_tile\n")
    assert features_step.cpu_has_amx_bf16(flags)
    flags.write_text("flags : fpu avx2 avx512_bf16\n")
    assert not features_step.cpu_has_amx_bf16(flags)
    assert not features_step.cpu_has_amx_bf16(tmp_path / "absent")
    monkeypatch.setattr(features_step, "cpu_has_amx_bf16", lambda: False)
    with pytest.raises(UserError, match="amx_bf16"):
        features_step.check_precision("bf16", "cpu")
    assert features_step.check_precision("bf16", "cuda") is torch.bfloat16


def test_a_stop_leaves_no_half_written_file(tmp_path: Path) -> None:
    with pytest.raises(StepStopped):
        extract(tmp_path, stop=True)
    assert not list(tmp_path.glob("*.npy"))
    assert not list(tmp_path.glob(".tmp-*"))


@pytest.mark.parametrize("name", ["train.features.npy", "train.frames.npy"])
@pytest.mark.parametrize("keep", [-1, 140, 3, 0])
def test_a_truncated_file_is_found_when_it_is_opened(tmp_path: Path, name: str, keep: int) -> None:
    extract(tmp_path)
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match=f"{name}(.|\n)*start the sweep again"):
        open_features(tmp_path, "train")


def test_files_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    extract(tmp_path)
    (tmp_path / "train.ids.json").write_text('["one"]')
    with pytest.raises(UserError, match="do not belong together"):
        open_features(tmp_path, "train")
    (tmp_path / "train.ids.json").unlink()
    with pytest.raises(UserError, match=r"train\.ids\.json"):
        open_features(tmp_path, "train")


def test_an_error_while_writing_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), writing_features(tmp_path, "train", ["a"], 4, 3) as (features, _):
        features[0] = 1 / 0
    assert list(tmp_path.iterdir()) == []
