"""Projectors against transformers, timm + torchvision, and plain enumeration; their start, places and options."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from vlmablate.errors import UserError
from vlmablate.vlm.projectors import PROJECTORS, Projector, build_projector
from vlmablate.vlm.projectors.base import OUTPUT_STD, grid_places
from vlmablate.vlm.projectors.pooling import pixel_shuffle

CHANNELS, WIDTH, SIDE = 20, 16, 4
SMALL: Mapping[str, dict[str, Any]] = {
    "linear": {},
    "gelu_mlp": {},
    "fused_gelu_mlp": {},
    "perceiver": {"latents": 3, "depth": 2, "heads": 2, "head_width": 4},
    "perceiver_idefics2": {"latents": 3, "depth": 2, "heads": 4, "head_width": 4, "groups": 2},
    "qformer": {"queries": 3, "layers": 3, "heads": 4},
    "pixel_shuffle": {},
    "ldp": {},
}


def made(name: str, side: int = SIDE, seed: int = 0, **options: Any) -> Projector:
    config = {"name": name, **SMALL[name], **options}
    return build_projector(config, CHANNELS, WIDTH, side, torch.Generator().manual_seed(seed)).eval()


def shaken(module: nn.Module, seed: int = 5) -> None:
    """Random values in every parameter: norms of one and biases of zero would hide what is mixed up."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)


def picture(side: int = SIDE, batch: int = 2) -> Tensor:
    return torch.randn(batch, side * side, CHANNELS, generator=torch.Generator().manual_seed(9))


def moved(projector: Projector, reference: nn.Module, rename: Callable[[str], str | None]) -> None:
    """Give the projector the reference's weights; every one of its own must be met, except what `out` maps."""
    shaken(projector)
    state = {rename(name): value for name, value in reference.state_dict().items()}
    state.pop(None, None)
    own = projector.state_dict()
    assert state.keys() == {name for name in own if name in state}
    assert {name for name in own if name not in state} <= {"out.weight", "out.bias", "queries"}
    projector.load_state_dict(state, strict=False)


def renamed(rules: Mapping[str, str]) -> Callable[[str], str | None]:
    def rename(name: str) -> str | None:
        for pattern, replacement in rules.items():
            name = re.sub(pattern, replacement, name)
        return name

    return rename


@pytest.mark.parametrize("name", PROJECTORS)
def test_the_start_follows_the_generator_alone_and_the_tokens_are_as_loud_as_words(name: str) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = made(name)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    again, other = made(name), made(name, seed=1)
    assert all(
        torch.equal(a, b)
        for a, b in zip(first.state_dict().values(), again.state_dict().values(), strict=True)
    )
    assert any(not torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))
    out = first(picture())
    assert out.shape == (2, first.tokens, WIDTH)
    assert 0.3 * OUTPUT_STD < float(out.detach().std()) < 1.5 * OUTPUT_STD
    assert "places" not in first.state_dict()


@pytest.mark.parametrize("name", PROJECTORS)
def test_every_parameter_learns(name: str) -> None:
    projector = made(name)
    (projector(picture()) * torch.randn(WIDTH, generator=torch.Generator().manual_seed(0))).pow(
        2
    ).sum().backward()
    for part, parameter in projector.named_parameters():
        assert parameter.grad is not None, part
        assert bool(parameter.grad.abs().sum() > 0), part


def test_linear_and_gelu_mlp_start_as_they_always_did() -> None:
    """The old recipe, written out: its stream of numbers, its names, its sums."""
    generator = torch.Generator().manual_seed(3)
    hidden = torch.empty(2 * WIDTH, CHANNELS).normal_(0.0, CHANNELS**-0.5, generator=generator)
    out = torch.empty(WIDTH, 2 * WIDTH).normal_(0.0, 0.1 * (2 * WIDTH) ** -0.5, generator=generator)
    mlp = build_projector({"name": "gelu_mlp"}, CHANNELS, WIDTH, SIDE, torch.Generator().manual_seed(3))
    assert list(mlp.state_dict()) == [
        "norm.weight", "norm.bias", "hidden.weight", "hidden.bias", "out.weight", "out.bias",
    ]  # fmt: skip
    assert torch.equal(mlp.hidden.weight, hidden)
    assert torch.equal(mlp.out.weight, out)
    x = picture()
    expected = functional.gelu(functional.layer_norm(x, (CHANNELS,)) @ hidden.T) @ out.T
    torch.testing.assert_close(mlp(x), expected)
    single = torch.empty(WIDTH, CHANNELS).normal_(
        0.0, 0.1 * CHANNELS**-0.5, generator=torch.Generator().manual_seed(3)
    )
    linear = build_projector({"name": "linear"}, CHANNELS, WIDTH, SIDE, torch.Generator().manual_seed(3))
    assert list(linear.state_dict()) == ["norm.weight", "norm.bias", "out.weight", "out.bias"]
    assert torch.equal(linear.out.weight, single)


def test_the_papers_gelu_mlp_is_that_of_llava() -> None:
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig
    from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

    config = LlavaConfig(
        vision_config=CLIPVisionConfig(hidden_size=CHANNELS, num_attention_heads=4),
        text_config=LlamaConfig(hidden_size=WIDTH, num_attention_heads=4),
    )
    reference = LlavaMultiModalProjector(config)
    shaken(reference)
    projector = made("gelu_mlp", norm=False, hidden=1)
    moved(projector, reference, renamed({"linear_1": "hidden", "linear_2": "out"}))
    torch.testing.assert_close(projector(picture()), reference(picture()), rtol=0, atol=1e-5)


def test_the_papers_sizes_have_the_papers_numbers_of_parameters() -> None:
    def count(name: str, channels: int, **options: Any) -> float:
        with torch.device("meta"):
            module = PROJECTORS[name].build(channels, 4096, 24, norm=False, **options)
        return round(sum(p.numel() for p in module.parameters()) / 1e6, 2)

    assert count("linear", 1024) == 4.20
    assert count("gelu_mlp", 1024, hidden=1) == 20.98
    assert count("gelu_mlp", 1152, hidden=1) == 21.50
    assert count("fused_gelu_mlp", 2048) == 67.13
    assert count("fused_gelu_mlp", 2176) == 71.39


def test_fused_gelu_mlp_is_three_layers_with_two_gelus() -> None:
    projector = made("fused_gelu_mlp", norm=False)
    shaken(projector)
    x = picture()
    for layer in (projector.widen, projector.hidden):
        x = x @ layer.weight.T + layer.bias
        x = x * 0.5 * (1 + torch.erf(x / 2**0.5))
    expected = x @ projector.out.weight.T + projector.out.bias
    torch.testing.assert_close(projector(picture()), expected, rtol=0, atol=1e-5)


def test_the_resampler_of_idefics2_is_that_of_transformers() -> None:
    from transformers.models.idefics2.configuration_idefics2 import Idefics2Config
    from transformers.models.idefics2.modeling_idefics2 import Idefics2Connector

    sizes = {
        "hidden_size": WIDTH, "resampler_n_latents": 3, "resampler_depth": 2, "resampler_n_heads": 4,
        "resampler_head_dim": 4, "num_key_value_heads": 2,
    }  # fmt: skip
    config = Idefics2Config(
        vision_config={"hidden_size": CHANNELS},
        perceiver_config=sizes,
        text_config={"model_type": "mistral", "hidden_size": WIDTH, "intermediate_size": 24},
    )
    reference = Idefics2Connector(config).eval()
    shaken(reference)  # the published start, latents of one, would hide their order
    projector = made("perceiver_idefics2", norm=False, inner=24)
    rules = {
        "modality_projection": "project", r"perceiver_resampler\.": "", "_proj": "",
        "input_context_norm": "norm_features",
        "input_latents_norm": "norm_latents", r"self_attn\.": "", r"\.o\.": ".mixed.", "^norm": "out",
        "post_attention_layernorm": "norm_mlp", r"\.q\.": ".query.", r"\.k\.": ".key.", r"\.v\.": ".value.",
    }  # fmt: skip
    moved(projector, reference, renamed(rules))
    expected = reference(picture(), attention_mask=torch.ones(2, SIDE * SIDE))
    torch.testing.assert_close(projector(picture()), expected, rtol=0, atol=1e-5)


def test_the_perceiver_is_flamingos_written_out_for_one_head_and_one_token_at_a_time() -> None:
    projector = made("perceiver")
    shaken(projector)
    features = picture(batch=1)[0]
    latents = projector.latents

    def normed(x: Tensor, norm: nn.LayerNorm) -> Tensor:
        mean, variance = x.mean(-1, keepdim=True), x.var(-1, unbiased=False, keepdim=True)
        return (x - mean) / (variance + 1e-5).sqrt() * norm.weight + norm.bias

    for layer in projector.layers:
        seen = normed(latents, layer.norm_latents)
        read = torch.cat([normed(features, layer.norm_features), seen])
        rows = []
        for own in seen:
            heads = []
            for head in range(2):
                part = slice(4 * head, 4 * head + 4)
                query = layer.query.weight[part] @ own
                keys = read @ layer.key_value.weight[:8][part].T
                values = read @ layer.key_value.weight[8:][part].T
                shares = torch.softmax(keys @ query / 4**0.5, dim=0)
                heads.append((shares[:, None] * values).sum(0))
            rows.append(layer.mixed.weight @ torch.cat(heads))
        latents = latents + torch.stack(rows)
        hidden = normed(latents, layer.norm_mlp) @ layer.mlp_in.weight.T
        latents = latents + functional.gelu(hidden) @ layer.mlp_out.weight.T
    expected = normed(latents, projector.norm) @ projector.out.weight.T + projector.out.bias
    torch.testing.assert_close(projector(features[None])[0], expected, rtol=0, atol=1e-5)


def test_the_perceiver_may_work_at_its_own_width() -> None:
    projector = made("perceiver", inner=8)
    assert projector.latents.shape == (3, 8)
    assert projector(picture()).shape == (2, 3, WIDTH)


def test_the_qformer_is_that_of_transformers() -> None:
    from transformers import Blip2QFormerConfig
    from transformers.models.blip_2.modeling_blip_2 import Blip2QFormerModel

    config = Blip2QFormerConfig(
        hidden_size=WIDTH, num_hidden_layers=3, num_attention_heads=4, intermediate_size=4 * WIDTH,
        encoder_hidden_size=CHANNELS, cross_attention_frequency=2,
    )  # fmt: skip
    reference = Blip2QFormerModel(config).eval()
    shaken(reference)
    projector = made("qformer", norm=False)
    rules = {
        r"^layernorm": "norm_queries", r"encoder\.layer": "layers", r"crossattention\.": "cross_attention.",
        r"\.attention\.(attention|output)": r".self_attention.\1", r"attention\.attention": "attention",
        r"attention\.output\.dense": "attention.mixed", r"attention\.output\.LayerNorm": "attention.norm",
        r"intermediate_query\.dense": "mlp_in", r"output_query\.dense": "mlp_out", r"output_query\.LayerNorm": "norm",
    }  # fmt: skip
    moved(projector, reference, renamed(rules))
    assert [layer.cross_attention is not None for layer in projector.layers] == [True, False, True]
    queries = projector.queries.expand(2, -1, -1)
    hidden = reference(query_embeds=queries, encoder_hidden_states=picture()).last_hidden_state
    torch.testing.assert_close(projector(picture()), projector.out(hidden), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("side", "factor"), [(4, 2), (6, 2), (6, 3), (4, 4)])
def test_pixel_shuffle_is_that_of_idefics3(side: int, factor: int) -> None:
    from transformers.models.idefics3.modeling_idefics3 import Idefics3Connector

    x = picture(side)
    assert torch.equal(pixel_shuffle(x, factor), Idefics3Connector.pixel_shuffle(None, x, factor))


def test_a_padded_token_holds_zeros_and_stands_in_the_middle_of_its_cells() -> None:
    projector = made("pixel_shuffle", side=5, pad=True, norm=False)
    x = picture(5)
    square = torch.zeros(2, 6, 6, CHANNELS)
    square[:, :5, :5] = x.unflatten(1, (5, 5))
    expected = projector.out(pixel_shuffle(square.flatten(1, 2), 2))
    torch.testing.assert_close(projector(x), expected)
    assert projector.tokens == 9
    assert projector.places is not None
    assert projector.places[[0, 1, 2, 8]].tolist() == [[0.5, 0.5], [0.5, 2.5], [0.5, 4.0], [4.0, 4.0]]


@pytest.mark.parametrize("side", [4, 5, 6, 7])
def test_ldp_is_that_of_mobilevlm(side: int) -> None:
    """Its blocks are torchvision's MobileNetV3 blocks with a LayerNorm over the channels in place of a BatchNorm."""
    layers = pytest.importorskip("timm.layers")
    mobile = pytest.importorskip("torchvision.models.mobilenetv3")
    from functools import partial

    from torchvision.ops.misc import SqueezeExcitation

    norm = partial(layers.LayerNormAct2d, apply_act=False)
    excite = partial(SqueezeExcitation, scale_activation=nn.Hardsigmoid)
    width = 48  # 48 / 4 = 12 rounds to 16 channels

    def block(stride: int) -> nn.Module:
        return mobile.InvertedResidual(
            mobile.InvertedResidualConfig(width, 3, width, width, True, "HS", stride, 1, 1), norm, excite
        ).eval()

    mlp = nn.Sequential(nn.Linear(CHANNELS, width), nn.GELU(), nn.Linear(width, width))
    reference = nn.ModuleDict({"mlp": mlp, "keep": block(1), "halve": block(2)})
    shaken(reference)
    projector = build_projector({"name": "ldp", "norm": False}, CHANNELS, width, side, torch.Generator())
    shaken(projector)
    state = {}
    for name, value in reference.state_dict().items():
        name = (
            name.replace("mlp.0", "hidden").replace("mlp.2", "mixed").replace("keep.block.2.1", "norm_keep")
        )
        name = (
            name.replace("halve.block.2.1", "out")
            .replace("block.0.0", "depthwise")
            .replace("block.0.1", "norm")
        )
        name = name.replace("block.1.fc1", "squeeze").replace("block.1.fc2", "excite")
        name = name.replace("block.2.0", "pointwise")
        state[name] = value.flatten(1) if value.ndim == 4 and "depthwise" not in name else value
    projector.load_state_dict(state)
    x = picture(side)
    grid = mlp(x).transpose(1, 2).unflatten(2, (side, side))
    expected = reference["halve"](reference["keep"](grid)).flatten(2).transpose(1, 2)
    assert expected.shape[1] == projector.tokens == ((side + 1) // 2) ** 2
    torch.testing.assert_close(projector(x), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("side", [4, 5])
@pytest.mark.parametrize("name", PROJECTORS)
def test_a_token_stands_where_it_looks(name: str, side: int) -> None:
    """What moves most when one cell changes is the token whose place is nearest to that cell."""
    if name == "pixel_shuffle":
        projector = made(name, side, pad=side % 2 == 1)
    else:
        projector = made(name, side)
    if name == "ldp":  # a kernel may weigh a neighbour most: only the middle shows where it stands
        with torch.no_grad():
            for block in (projector.keep, projector.halve):
                middle = block.depthwise.weight[:, :, 1, 1].clone()
                block.depthwise.weight.zero_()[:, :, 1, 1] = middle
    if projector.places is None:
        assert name in ("perceiver", "perceiver_idefics2", "qformer")
        return
    assert projector.places.shape == (projector.tokens, 2)
    assert float(projector.places.min()) >= 0.0
    assert float(projector.places.max()) <= side - 1
    cells = grid_places(side, side)
    x = picture(side, batch=1)
    for token, place in enumerate(projector.places):
        nearest = int((cells - place).abs().sum(1).argmin())
        changed = x.clone()
        changed[0, nearest] = -x[0, nearest]
        assert int((projector(changed) - projector(x))[0].norm(dim=1).argmax()) == token


@pytest.mark.parametrize(
    ("config", "side", "message"),
    [
        ({"name": "gelu_mpl"}, 4, "did you mean 'gelu_mlp'"),
        ({"name": "linear", "hidden": 2}, 4, "unknown option 'hidden'"),
        ({"name": "gelu_mlp", "hidden": 0}, 4, "projector.hidden is a whole number above 0, not 0"),
        ({"name": "gelu_mlp", "hidden": True}, 4, "projector.hidden is a whole number above 0, not True"),
        ({"name": "gelu_mlp", "norm": 1}, 4, "projector.norm is true or false, not 1"),
        (
            {"name": "pixel_shuffle"},
            5,
            r"grid of 5x5: use projector.factor=5, projector.pad=true, a vision.grid",
        ),
        ({"name": "pixel_shuffle", "factor": 4}, 6, "projector.factor=2 or 3 or 6, projector.pad=true"),
        ({"name": "pixel_shuffle", "pad": True}, 1, "grid of 1x1: use a vision.grid that 2 divides"),
        ({"name": "ldp"}, 1, "a larger vision.grid"),
        ({"name": "qformer", "heads": 5}, 4, "projector.heads=5 do not divide the width of the queries, 16"),
        ({"name": "perceiver_idefics2", "heads": 4, "groups": 3}, 4, "projector.groups=3"),
    ],
)
def test_a_mistake_is_explained(config: dict[str, Any], side: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_projector(config, CHANNELS, WIDTH, side, torch.Generator())
