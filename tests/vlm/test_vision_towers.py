"""The reference towers by name: their facts, sizes, fusion, raw patches, training, and the errors for users."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vlmablate.errors import UserError
from vlmablate.vlm.towers.architectures import ARCHITECTURES, FUSIONS, KNOWN, resolve_vision
from vlmablate.vlm.towers.vision import build_vision, transforms

TESTS = ("test_clip", "test_siglip", "test_dinov2", "test_vit")


def pixels(size: int, batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(5))


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# --- the full-size architectures, on no memory ----------------------------------------------------


@pytest.mark.parametrize(
    ("tower", "channels", "tokens"),
    [
        ("clip_vit_l14_224", 1024, 256),
        ("clip_vit_l14_336", 1024, 576),
        ("siglip_so400m_224", 1152, 256),
        ("siglip_so400m_384", 1152, 729),
        ("dinov2_vit_l14_224", 1024, 256),
        ("dinov2_vit_l14_336", 1024, 576),
        ("dinov2_vit_l14_384", 1024, 729),
        ("in1k_vit_l16_224", 1024, 196),
        ("dinov2_clip_224", 2048, 256),
        ("dinov2_clip_336", 2048, 576),
        ("dinov2_siglip_224", 2176, 256),
        ("dinov2_siglip_384", 2176, 729),
        ("raw_patches", 588, 576),
    ],
)
def test_every_published_tower_has_its_published_shape(tower, channels, tokens):
    built: Any = build_vision(tower, weights="pretrained", device="meta")
    sizes = {name: facts.image_size for name, facts in transforms(tower).items()}
    pictures = {name: torch.empty(2, 3, size, size, device="meta") for name, size in sizes.items()}
    features = built(pictures if tower in FUSIONS else pictures[tower])
    assert features.shape == (2, tokens, channels)
    facts = resolve_vision(tower)
    assert (built.channels, built.tokens, built.side**2) == (channels, tokens, tokens)
    assert (facts.channels, facts.tokens, facts.parameters) == (channels, tokens, count(built))


def clip_on_meta() -> Any:
    from transformers import CLIPVisionConfig, CLIPVisionModel

    shape = {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
    }
    return CLIPVisionModel(CLIPVisionConfig(**shape, image_size=336, patch_size=14))


def siglip_on_meta() -> Any:
    from transformers import SiglipVisionConfig, SiglipVisionModel

    shape = {
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_hidden_layers": 27,
        "num_attention_heads": 16,
    }
    return SiglipVisionModel(SiglipVisionConfig(**shape, image_size=384, patch_size=14))


def of_timm_on_meta(name: str, **options: Any) -> Any:
    import timm

    return timm.create_model(name, num_classes=0, **options)


@pytest.mark.parametrize(
    ("tower", "reference", "millions", "folded"),
    [
        # the class token and its position are one parameter here
        ("clip_vit_l14_336", clip_on_meta, 303.5, 1024),
        ("siglip_so400m_384", siglip_on_meta, 428.2, 0),
        (
            "dinov2_vit_l14_384",
            lambda: of_timm_on_meta("vit_large_patch14_reg4_dinov2", img_size=384),
            303.7,
            0,
        ),
        ("in1k_vit_l16_224", lambda: of_timm_on_meta("vit_large_patch16_224"), 303.3, 1024),
    ],
)
def test_a_tower_is_the_reference_without_what_follows_the_second_to_last_block(
    tower, reference, millions, folded
):
    with torch.device("meta"):
        whole = reference()
    assert round(count(whole) / 1e6, 1) == millions
    built: Any = build_vision(tower, device="meta")
    after = count(built.layers[0]) + 2 * built.channels  # the last block and the norm after it
    head = count(whole.head) if hasattr(whole, "head") else 0
    assert count(whole) - after - head - folded == count(built)
    assert len(built.layers) == ARCHITECTURES[tower].depth - 1


# --- what the pictures look like ------------------------------------------------------------------


def test_each_tower_of_a_fusion_has_its_own_picture():
    facts = transforms("dinov2_siglip_384")
    assert list(facts) == ["dinov2_vit_l14_384", "siglip_so400m_384"]
    assert [part.image_size for part in facts.values()] == [384, 384]
    assert [part.fill for part in facts.values()] == [(123, 116, 103), (127, 127, 127)]
    assert transforms("clip_vit_l14_336")["clip_vit_l14_336"].fill == (122, 116, 104)
    assert transforms("in1k_vit_l16_224")["in1k_vit_l16_224"].fill == (127, 127, 127)


def test_colours_are_those_of_the_published_weights():
    import timm

    for name, facts in ARCHITECTURES.items():
        if facts.hub is not None:
            published = timm.get_pretrained_cfg(facts.hub.removeprefix("timm/"))
            assert (published.mean, published.std) == (facts.mean, facts.std), name


def test_pictures_are_normalised_per_channel():
    facts = transforms("test_clip")["test_clip"]
    pictures = torch.randint(0, 256, (2, 56, 56, 3), dtype=torch.uint8)
    normal = facts.normalise(pictures)
    assert normal.shape == (2, 3, 56, 56)
    assert normal.dtype == torch.float32
    expected = (pictures[1, 7, 9, 2].item() / 255 - facts.mean[2]) / facts.std[2]
    assert normal[1, 2, 7, 9].item() == pytest.approx(expected, abs=1e-6)


# --- fusion and raw patches -----------------------------------------------------------------------


def test_a_fusion_joins_the_channels_in_order():
    built: Any = build_vision("test_dinov2_siglip")
    pictures = {"test_siglip": pixels(60), "test_dinov2": pixels(60) + 1}
    expected = [build_vision(name)(pictures[name]) for name in ("test_dinov2", "test_siglip")]
    assert torch.equal(built(pictures), torch.cat(expected, dim=2))
    assert (built.channels, built.tokens, built.side) == (64, 16, 4)
    listed = build_vision({"towers": ["test_siglip", {"name": "test_dinov2", "image_size": 56}]})
    assert listed({"test_siglip": pixels(60), "test_dinov2": pixels(56)}).shape == (2, 16, 64)
    assert [*built.layers] == [*built.towers["test_dinov2"].layers, *built.towers["test_siglip"].layers]
    assert len(built.state_dict()) == sum(len(part.state_dict()) for part in built.towers.values())
    with pytest.raises(ValueError, match="takes pictures for"):
        built({"test_siglip": pixels(60)})


def test_raw_patches_are_ordered_as_fuyus_and_a_linear_projector_is_a_convolution():
    from transformers.models.fuyu.image_processing_fuyu import FuyuImageProcessor

    tower: Any = build_vision({"name": "raw_patches", "image_size": 56, "patch": 14})
    pictures = pixels(56)
    expected = FuyuImageProcessor(patch_size={"height": 14, "width": 14}).patchify_image(pictures)
    features = tower(pictures)
    assert torch.equal(features, expected)
    assert (features.shape[1:], count(tower), len(tower.layers)) == ((16, 588), 0, 0)
    convolution = nn.Conv2d(3, 8, 14, stride=14)
    weight = convolution.weight.permute(0, 2, 3, 1).reshape(8, -1)
    by_projector = nn.functional.linear(features, weight, convolution.bias)
    assert torch.allclose(by_projector, convolution(pictures).flatten(2).mT, atol=1e-5)


# --- training -------------------------------------------------------------------------------------


@pytest.mark.parametrize("tower", TESTS)
def test_every_parameter_has_a_gradient_also_at_another_size(tower):
    built = build_vision({"name": tower, "image_size": 84})
    built(pixels(84)).pow(2).sum().backward()
    for name, parameter in built.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("tower", TESTS)
def test_a_step_of_training_changes_the_next_features_and_nothing_is_stale(tower):
    built = build_vision(tower)
    pictures = pixels(resolve_vision(tower).image_size)  # type: ignore[union-attr]
    with torch.no_grad():
        before = built(pictures)
        built.positions.add_(torch.randn(built.positions.shape))
        after = built(pictures)
    assert not torch.allclose(before, after, atol=1e-2)
    copy = build_vision(tower)
    copy.load_state_dict(built.state_dict())
    assert torch.equal(copy(pictures), after)


def test_layers_shard_and_the_gradients_are_those_of_the_whole(tmp_path: Path):
    from torch import distributed
    from torch.distributed.fsdp import fully_shard

    whole = build_vision("test_dinov2_siglip")
    pictures = {"test_dinov2": pixels(60), "test_siglip": pixels(60)}
    expected = whole(pictures)
    expected.pow(2).sum().backward()
    store = distributed.FileStore(str(tmp_path / "store"), 1)
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        mesh = distributed.init_device_mesh("cpu", (1,))
        built: Any = build_vision("test_dinov2_siglip")
        for layer in built.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(built, mesh=mesh)
        features = built(pictures)
        features.pow(2).sum().backward()
        assert torch.equal(features, expected)
        for (name, a), b in zip(built.named_parameters(), whole.parameters(), strict=True):
            assert torch.allclose(a.grad.full_tensor(), b.grad, atol=1e-6), name
    finally:
        distributed.destroy_process_group()


def test_a_tower_of_bfloat16_takes_pictures_of_float32():
    features = build_vision("test_clip").to(torch.bfloat16)(pixels(56))
    assert features.dtype == torch.bfloat16
    assert (features.float() - build_vision("test_clip")(pixels(56))).abs().max() < 0.05


def test_random_weights_follow_their_seed_and_leave_other_random_numbers_alone():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    towers = [build_vision(tower) for tower in ("test_vit", "test_vit", {"name": "test_vit", "seed": 1})]
    assert torch.equal(torch.rand(3), expected)
    first, again, other = (tower(pixels(56)) for tower in towers)
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


# --- errors for users -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tower", "message"),
    [
        ("clip_vit_l14", "did you mean 'clip_vit_l14_"),
        ({"image_size": 56}, "needs a `name`"),
        ({"name": "test_clip", "layer": -2}, "unknown option 'layer'"),
        ({"name": "test_clip", "activation": "relu"}, "unknown activation 'relu'"),
        ({"name": "test_clip", "image_size": 60}, "a rest of 4 pixels beside its patches of 14; 56 or 70"),
        ({"name": "test_clip", "image_size": 5}, "; 14 would fit"),
        ({"name": "test_clip", "image_size": 0}, "must be a whole number of pixels"),
        ({"name": "test_clip", "image_size": 56.0}, "must be a whole number of pixels"),
        ({"name": "test_clip", "seed": -1}, "whole number from 0"),
        ({"name": "raw_patches", "image_size": 56, "patch": 15}, "; 45 or 60 would fit"),
        (
            {"towers": ["test_clip", {"name": "test_vit", "image_size": 84}]},
            "test_vit makes 6x6 at 84 pixels",
        ),
        ({"towers": ["dinov2_vit_l14_336", "siglip_so400m_384"]}, "27x27 at 384 pixels"),
        ({"towers": ["test_clip", "test_clip"]}, "two or more different"),
        ({"towers": ["test_clip"]}, "two or more different"),
        ({"towers": ["test_clip", "test_dinov2_siglip"]}, "a fusion already"),
        ({"towers": ["test_clip", "test_vit"], "image_size": 84}, "unknown option 'image_size'"),
        ({"name": "dinov2_clip_336", "image_size": 224}, "unknown option 'image_size'"),
    ],
)
def test_what_cannot_be_built_says_why(tower, message):
    with pytest.raises(UserError) as caught:
        build_vision(tower, device="meta")
    assert message in str(caught.value)


def test_an_unknown_tower_lists_all_that_exist():
    with pytest.raises(UserError) as caught:
        build_vision("vit")
    assert all(f"\n  {name}" in str(caught.value) for name in KNOWN)


def test_pictures_of_another_size_are_refused():
    for tower in ("test_siglip", "raw_patches"):
        with pytest.raises(ValueError, match="takes"):
            build_vision(tower)(pixels(70))
