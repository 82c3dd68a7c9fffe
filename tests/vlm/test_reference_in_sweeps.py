"""Reference towers and raw patches where a sweep uses towers: as features, and in the loop."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from tests.training.vision_world import World, work  # noqa: E402
from vlmablate.data import assets  # noqa: E402
from vlmablate.errors import UserError  # noqa: E402
from vlmablate.vlm.features_step import load_configured  # noqa: E402
from vlmablate.vlm.towers.registry import resolve  # noqa: E402
from vlmablate.vlm.towers.vision import build_vision, transforms  # noqa: E402

CLIP = {"name": "test_clip", "weights": "random"}


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLMABLATE_CACHE", str(tmp_path / "cache"))
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("reference"))


def weights(tower: Any) -> dict[str, str]:
    return assets.weights({"vision": {"towers": [tower]}}, {})


@pytest.mark.parametrize("name", ["test_clip", "test_siglip", "test_dinov2", "test_vit"])
def test_a_reference_tower_sees_what_it_sees_alone(name: str) -> None:
    tower, alone = load_configured(resolve(name, 4), "random"), build_vision(name)
    pictures = torch.randint(0, 256, (2, alone.image_size, alone.image_size, 3), dtype=torch.uint8)
    with torch.no_grad():
        ours = tower(tower.normalise(pictures))
        theirs = alone(transforms(name)[name].normalise(pictures))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    assert not any(parameter.requires_grad for parameter in tower.parameters())
    assert len(tower.layers) == len(alone.layers) == 2


def test_a_grid_pools_the_patches_and_one_that_does_not_divide_them_is_told() -> None:
    assert load_configured(resolve("test_clip", 2), "random").grid == 2
    with pytest.raises(UserError, match=r"4x4 cells of a 56-pixel image.*vision\.grid=4"):
        resolve("test_clip", 3)
    assert resolve("siglip_so400m_384", 27).image_size == 384  # 27 patches and a rest of 6 pixels


def test_weights_in_a_file_are_known_by_content_and_used(tmp_path: Path) -> None:
    saved = build_vision({"name": "test_clip", "seed": 7})
    save_file(saved.state_dict(), tmp_path / "tower.safetensors")
    written = {"name": "test_clip", "weights": str(tmp_path / "tower.safetensors")}
    named = weights(written)["test_clip"]
    assert named.startswith("files:")
    shutil.copy(tmp_path / "tower.safetensors", tmp_path / "copy.safetensors")
    assert weights({**written, "weights": str(tmp_path / "copy.safetensors")})["test_clip"] == named
    tower = load_configured(resolve("test_clip", 4), named)
    for name, tensor in saved.state_dict().items():
        assert torch.equal(tower.backbone.tower.state_dict()[name], tensor), name


def test_what_cannot_be_had_is_told() -> None:
    assert weights(CLIP) == {"test_clip": "random"}
    assert weights("clip_vit_l14_336") == {"clip_vit_l14_336": "hub:timm/vit_large_patch14_clip_336.openai"}
    for tower, message in (
        ("test_clip", "has no pretrained weights: give weights: random, or a path"),
        ({"name": "smoke_conv", "weights": "random"}, "reads no weights from random"),
        ({"name": "test_clip", "weights": "/nowhere"}, "no weights at /nowhere"),
    ):
        with pytest.raises(UserError, match=message):
            weights(tower)


def test_where_weights_are_is_no_part_of_a_step(world: World) -> None:
    one = world.plan("vision.towers=[{name: test_clip, weights: random}]")
    other = world.plan("vision.towers=[{name: test_clip, weights: /some/where}]")
    assert one == other
    assert one.steps["features0"].config["tower"] == {"name": "test_clip"}
    live = ("stages.finetune.vision=full", "stages=single")
    first = world.plan("vision.towers=[{name: test_clip, weights: random}]", *live)
    assert first == world.plan("vision.towers=[{name: test_clip}]", *live)


@pytest.mark.parametrize(
    "overrides",
    [
        ("vision.towers=[{name: raw_patches, image_size: 32, patch: 8}]",),
        (
            "vision.towers=[{name: test_dinov2, weights: random}, {name: test_siglip, weights: random}]",
            "fusion=channel_concat",
        ),
        (
            "vision.towers=[{name: test_clip, weights: random}]",
            "stages.finetune.vision={last: 1}",
            "stages=single",
            "llm=random_llama",
            "position=rope_1d",
        ),
    ],
)
def test_a_run_with_reference_towers_is_trained_and_scored(
    world: World, tmp_path: Path, overrides: tuple[str, ...]
) -> None:
    run = world.plan(*overrides)
    payload = work(out=str(tmp_path), **world.job(run, "evaluate"))
    assert payload["benchmarks"]["existence"]["n"] > 0
    assert (tmp_path / "examples.parquet").is_file()
