"""The vision transformer against those of transformers, timm and open_clip, read from the files that they write."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from vlmablate.vlm.towers.architectures import ACTIVATIONS
from vlmablate.vlm.towers.layouts import resize_positions
from vlmablate.vlm.towers.vision import build_vision

SHAPE = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "patch_size": 14}


def randomised(model: Any) -> Any:
    """Every parameter moved: zeros and ones (registers, layer scales, norms, biases) would hide mistakes."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def pixels(size: int) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(5))


def clip_of_transformers(size: int = 56, **changes: Any) -> Any:
    from transformers import CLIPVisionConfig, CLIPVisionModel

    config = CLIPVisionConfig(**SHAPE, intermediate_size=128, image_size=size, **changes)
    return randomised(CLIPVisionModel(config))


def siglip_of_transformers() -> Any:
    from transformers import SiglipVisionConfig, SiglipVisionModel

    return randomised(SiglipVisionModel(SiglipVisionConfig(**SHAPE, intermediate_size=128, image_size=60)))


def dinov2_of_transformers(size: int = 60) -> Any:
    from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    return randomised(Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**SHAPE, image_size=size)))


def of_timm(tower: str, size: int | None = None) -> Any:
    from timm.layers import LayerNorm, QuickGELU
    from timm.models.vision_transformer import VisionTransformer

    special: dict[str, Any] = {
        "test_clip": {"pre_norm": True, "act_layer": QuickGELU, "norm_layer": partial(LayerNorm, eps=1e-5)},
        "test_siglip": {"class_token": False, "global_pool": "map", "act_layer": "gelu_tanh"},
        "test_dinov2": {"reg_tokens": 4, "no_embed_class": True, "init_values": 1e-5},
        "test_vit": {},
    }[tower]
    own = 60 if tower in ("test_siglip", "test_dinov2") else 56
    return randomised(
        VisionTransformer(
            img_size=size or own, patch_size=14, embed_dim=32, depth=3, num_heads=4, num_classes=0, **special
        )
    )


def of_open_clip() -> Any:
    from open_clip.transformer import QuickGELU, VisionTransformer

    model = VisionTransformer(
        image_size=56, patch_size=14, width=32, layers=3, heads=4, mlp_ratio=4.0, output_dim=16,
        act_layer=QuickGELU,
    )  # fmt: skip
    return randomised(model)


@torch.no_grad()
def penultimate_of_timm(model: Any, pictures: Tensor) -> Tensor:
    features: Tensor = model.get_intermediate_layers(pictures, n={len(model.blocks) - 2})[0]
    return features


@torch.no_grad()
def ours(tower: Any, weights: Path, pictures: Tensor) -> Tensor:
    features: Tensor = build_vision(tower, weights=str(weights))(pictures)
    return features


def saved(model: nn.Module, path: Path) -> Path:
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, path)
    return path


def error(a: Tensor, b: Tensor) -> float:
    """The largest difference, relative to the spread of what is compared."""
    assert a.shape == b.shape
    return float((a - b).abs().max() / b.std())


@pytest.mark.parametrize(
    ("tower", "model", "prefix"),
    [
        ("test_clip", clip_of_transformers, 1),
        ("test_siglip", siglip_of_transformers, 0),
        ("test_dinov2", dinov2_of_transformers, 5),
    ],
)
def test_features_are_the_second_to_last_hidden_states_of_transformers(tower, model, prefix, tmp_path):
    reference = model()
    reference.save_pretrained(tmp_path)
    pictures = pixels(reference.config.image_size)
    with torch.no_grad():
        expected = reference(pictures, output_hidden_states=True).hidden_states[-2][:, prefix:]
    assert error(ours(tower, tmp_path, pictures), expected) < 1e-5


@pytest.mark.parametrize("tower", ["test_clip", "test_siglip", "test_dinov2", "test_vit"])
def test_features_are_the_second_to_last_block_of_timm(tower, tmp_path):
    reference = of_timm(tower)
    pictures = pixels(reference.patch_embed.img_size[0])
    path = saved(reference, tmp_path / "model.safetensors")
    assert error(ours(tower, path, pictures), penultimate_of_timm(reference, pictures)) < 1e-5


def test_clip_is_the_second_to_last_block_of_open_clip(tmp_path):
    reference = of_open_clip()
    with torch.no_grad():
        expected = reference.forward_intermediates(
            pixels(56), indices=[1], normalize_intermediates=False, intermediates_only=True, output_fmt="NLC"
        )["image_intermediates"][0]
    path = tmp_path / "open_clip_pytorch_model.bin"
    torch.save(
        {f"visual.{k}": v for k, v in reference.state_dict().items()} | {"logit_scale": torch.ones(())}, path
    )
    assert error(ours("test_clip", path, pixels(56)), expected) < 1e-5
    assert error(ours("test_clip", tmp_path, pixels(56)), expected) < 1e-5


def test_a_whole_contrastive_model_gives_its_vision_tower(tmp_path):
    from transformers import SiglipConfig, SiglipModel

    text = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4,
            "vocab_size": 50000}  # fmt: skip
    vision = {**SHAPE, "intermediate_size": 128, "image_size": 60}
    reference = randomised(SiglipModel(SiglipConfig(vision_config=vision, text_config=text)))
    reference.save_pretrained(tmp_path, max_shard_size="200KB")
    assert (tmp_path / "model.safetensors.index.json").is_file()
    with torch.no_grad():
        expected = reference.vision_model(pixels(60), output_hidden_states=True).hidden_states[-2]
    assert error(ours("test_siglip", tmp_path, pixels(60)), expected) < 1e-5


def test_the_release_of_dinov2_and_timms_copy_of_it_are_one_tower(tmp_path):
    """The release keeps a position for the class token; timm's copy has it added already."""
    timm_state = of_timm("test_dinov2").state_dict()
    release = dict(timm_state)
    release["register_tokens"] = release.pop("reg_token")
    position = torch.randn(1, 1, 32)
    release["cls_token"] = release["cls_token"] - position
    release["pos_embed"] = torch.cat([position, release["pos_embed"]], dim=1)
    torch.save(release, tmp_path / "release.pth")
    save_file(timm_state, tmp_path / "timm.safetensors")
    a, b = (ours("test_dinov2", tmp_path / name, pixels(60)) for name in ("release.pth", "timm.safetensors"))
    assert error(a, b) < 1e-5


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_activation_is_that_of_the_weights_and_another_one_shows(activation, tmp_path):
    name = {"gelu_tanh": "gelu_pytorch_tanh"}.get(activation, activation)
    reference = clip_of_transformers(hidden_act=name)
    reference.save_pretrained(tmp_path)
    (tmp_path / "config.json").unlink()  # which would refuse the other two
    with torch.no_grad():
        expected = reference(pixels(56), output_hidden_states=True).hidden_states[-2][:, 1:]
    for candidate in ACTIVATIONS:
        found = error(ours({"name": "test_clip", "activation": candidate}, tmp_path, pixels(56)), expected)
        assert (found < 1e-5) if candidate == activation else (found > 1e-4)


@pytest.mark.parametrize("size", [28, 84, 112])
@pytest.mark.parametrize("tower", ["test_clip", "test_siglip", "test_dinov2", "test_vit"])
def test_a_tower_of_another_size_is_the_one_that_timm_makes(tower, size, tmp_path):
    from timm.models.vision_transformer import checkpoint_filter_fn

    source = of_timm(tower)
    path = saved(source, tmp_path / "model.safetensors")
    reference = of_timm(tower, size)
    reference.load_state_dict(checkpoint_filter_fn(dict(source.state_dict()), reference))
    expected = penultimate_of_timm(reference, pixels(size))
    assert error(ours({"name": tower, "image_size": size}, path, pixels(size)), expected) < 1e-5


@pytest.mark.parametrize("size", [28, 84, 112])
def test_dinov2_of_another_size_is_the_one_that_transformers_interpolates(size, tmp_path):
    reference = dinov2_of_transformers()
    reference.save_pretrained(tmp_path)
    with torch.no_grad():
        expected = reference(pixels(size), output_hidden_states=True).hidden_states[-2][:, 5:]
    assert error(ours({"name": "test_dinov2", "image_size": size}, tmp_path, pixels(size)), expected) < 1e-5


def test_positions_of_the_same_grid_are_untouched_and_a_plane_stays_a_plane_inside():
    table = torch.randn(16, 8)
    assert torch.equal(resize_positions(table, 4), table)
    row, column = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    half = resize_positions((row + 10 * column).reshape(256, 1), 8).reshape(8, 8)
    row, column = torch.meshgrid(2 * torch.arange(8) + 0.5, 2 * torch.arange(8) + 0.5, indexing="ij")
    assert torch.allclose(half[2:-2, 2:-2], (row + 10 * column)[2:-2, 2:-2], atol=1e-4)
