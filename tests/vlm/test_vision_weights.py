"""Where the weights of a reference tower come from, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from vlmablate.errors import UserError
from vlmablate.vlm.towers.architectures import ARCHITECTURES
from vlmablate.vlm.towers.vision import build_vision


def pixels(size: int) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(5))


def tower_file(path: Path, tower: str = "test_vit", seed: int = 9) -> Any:
    """A tower with weights of its own, and its file."""
    built: Any = build_vision({"name": tower, "seed": seed})
    save_file(built.state_dict(), path)
    return built


def test_a_tower_reads_back_what_it_wrote(tmp_path):
    for tower in ("test_clip", "test_dinov2"):
        built = tower_file(tmp_path / "model.safetensors", tower)
        again: Any = build_vision(tower, weights=str(tmp_path))
        for (name, a), b in zip(built.state_dict().items(), again.state_dict().values(), strict=True):
            assert torch.equal(a, b), name
        assert all(parameter.requires_grad for parameter in again.parameters())


def test_half_precision_weights_become_float32(tmp_path):
    built: Any = build_vision("test_vit").half()
    save_file(built.state_dict(), tmp_path / "weights.safetensors")
    again = build_vision("test_vit", weights=str(tmp_path / "weights.safetensors"))
    assert {parameter.dtype for parameter in again.parameters()} == {torch.float32}


def test_a_fusion_reads_one_folder_or_file_per_tower(tmp_path):
    (tmp_path / "test_dinov2").mkdir()
    first = tower_file(tmp_path / "test_dinov2" / "model.safetensors", "test_dinov2")
    second = tower_file(tmp_path / "test_siglip.safetensors", "test_siglip")
    built = build_vision("test_dinov2_siglip", weights=str(tmp_path))
    features = built({"test_dinov2": pixels(60), "test_siglip": pixels(60)})
    assert torch.equal(features, torch.cat([first(pixels(60)), second(pixels(60))], dim=2))
    (tmp_path / "test_siglip.safetensors").unlink()
    with pytest.raises(UserError, match=r"no weights of test_siglip at .*test_siglip\.safetensors"):
        build_vision("test_dinov2_siglip", weights=str(tmp_path))


# --- the hub, out of reach and from its cache -----------------------------------------------------


@pytest.fixture
def offline(monkeypatch, tmp_path) -> Path:
    """The hub's client, forbidden to connect, with a cache of this test."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def test_a_hub_out_of_reach_is_an_error_for_the_user(offline):
    with pytest.raises(UserError) as caught:
        build_vision("clip_vit_l14_336", weights="pretrained")
    assert "timm/vit_large_patch14_clip_336.openai on the Hugging Face hub" in str(caught.value)
    assert "give the folder or the file as weights" in str(caught.value)


def test_pretrained_weights_come_from_the_cache_of_the_hub(offline, monkeypatch):
    published = replace(ARCHITECTURES["test_vit"], hub="timm/test_vit.none")
    monkeypatch.setitem(ARCHITECTURES, "test_vit", published)
    repository = offline / "models--timm--test_vit.none"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    (repository / "snapshots" / ("0" * 40)).mkdir(parents=True)
    built = tower_file(repository / "snapshots" / ("0" * 40) / "model.safetensors")
    again = build_vision("test_vit", weights="pretrained")
    assert torch.equal(again(pixels(56)), built(pixels(56)))


def test_every_published_tower_names_weights_that_timm_knows():
    from timm.models import get_pretrained_cfg

    published = {facts.hub for facts in ARCHITECTURES.values() if facts.hub is not None}
    assert len(published) == 6
    for hub in published:
        known = get_pretrained_cfg(hub.removeprefix("timm/")).hf_hub_id
        assert hub in (known, known + hub.removeprefix("timm/"))


def test_a_test_tower_has_no_published_weights():
    with pytest.raises(UserError, match="has no pretrained weights"):
        build_vision("test_clip", weights="pretrained")


# --- what does not fit ----------------------------------------------------------------------------


def refused(tower: Any, weights: Path) -> str:
    with pytest.raises(UserError) as caught:
        build_vision(tower, weights=str(weights))
    return str(caught.value)


def timm_names(depth: int = 3, **more: Tensor) -> dict[str, Tensor]:
    from timm.models.vision_transformer import VisionTransformer

    model = VisionTransformer(
        img_size=56, patch_size=14, embed_dim=32, depth=depth, num_heads=4, num_classes=0
    )
    return {**model.state_dict(), **more}


def test_weights_of_another_depth_width_or_family_are_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file(timm_names(depth=4), path)
    assert "4 blocks, not 3" in refused("test_vit", path)
    save_file(timm_names(depth=2), path)
    assert "2 blocks, not 3" in refused("test_vit", path)
    save_file(timm_names(), path)
    message = refused("test_clip", path)
    assert "an unexpected patches.bias" in message
    assert "no pre_norm.bias" in message
    assert "no layers.0.scale1" in refused("test_dinov2", path)
    assert "an unexpected prefix" in refused("test_siglip", path)
    tower_file(path, "test_dinov2")
    assert "an unexpected layers.0.scale1" in refused("test_vit", path)
    save_file(timm_names(**{"blocks.0.mlp.fc1.weight": torch.zeros(64, 32)}), path)
    assert "layers.0.fc1.weight is [64, 32], not [128, 32]" in refused("test_vit", path)


def test_a_missing_tensor_is_named(tmp_path):
    state = timm_names()
    del state["blocks.1.mlp.fc2.weight"]
    save_file(state, tmp_path / "weights.safetensors")
    assert "lack the tensor blocks.1.mlp.fc2.weight" in refused("test_vit", tmp_path / "weights.safetensors")


def test_positions_of_no_square_grid_are_refused(tmp_path):
    save_file(timm_names(pos_embed=torch.zeros(1, 12, 32)), tmp_path / "weights.safetensors")
    assert "which are no square grid" in refused("test_vit", tmp_path / "weights.safetensors")


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("num_attention_heads", 8, "num_attention_heads 8, not 4"),
        ("layer_norm_eps", 1e-6, "layer_norm_eps 1e-06, not 1e-05"),
        ("patch_size", 16, "patch_size 16, not 14"),
        ("hidden_act", "gelu", "activation gelu, not quick_gelu (`activation: gelu` in"),
    ],
)
@pytest.mark.parametrize("nested", [False, True])
def test_what_no_shape_shows_is_read_from_the_config(key, value, said, nested, tmp_path):
    tower_file(tmp_path / "model.safetensors", "test_clip")
    facts = {"num_attention_heads": 4, "layer_norm_eps": 1e-5, "patch_size": 14, "hidden_act": "quick_gelu"}
    for changed in ({}, {key: value}):
        vision = {"model_type": "clip_vision_model", **facts, **changed}
        config = {"model_type": "clip", "vision_config": vision} if nested else vision
        (tmp_path / "config.json").write_text(json.dumps(config))
        if not changed:
            build_vision("test_clip", weights=str(tmp_path))
    assert said in refused("test_clip", tmp_path)
    if key == "hidden_act":  # and what the message proposes works
        build_vision({"name": "test_clip", "activation": "gelu"}, weights=str(tmp_path))


def test_what_is_no_weights_at_all_says_so(tmp_path):
    assert "give random, pretrained, an existing folder or a file" in refused("test_vit", tmp_path / "absent")
    assert "holds no weights: none of model.safetensors" in refused("test_vit", tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"broken")
    assert "cannot be read as weights" in refused("test_vit", tmp_path)
    (tmp_path / "weights.pt").write_bytes(b"broken")
    assert "cannot be read as weights" in refused("test_vit", tmp_path / "weights.pt")
    torch.save([1, 2], tmp_path / "weights.pt")
    assert "holds a list, not tensors by name" in refused("test_vit", tmp_path / "weights.pt")
    torch.save({"conv.weight": torch.ones(1)}, tmp_path / "weights.pt")
    assert "in no known layout (timm, open_clip, transformers," in refused(
        "test_vit", tmp_path / "weights.pt"
    )
    (tmp_path / "config.json").write_text("{")
    assert "is not JSON" in refused("test_vit", tmp_path / "weights.pt")
    assert "raw_patches has no weights" in refused("raw_patches", tmp_path)
