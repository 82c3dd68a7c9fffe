"""Vision towers: registry, shapes, folding and padding in plain torch, golden features of the real ones."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from torch.nn import functional  # noqa: E402

from vlmablate import paths  # noqa: E402
from vlmablate.data.asset_cache import Cache  # noqa: E402
from vlmablate.data.conversions import _MATMUL_NODE  # noqa: E402
from vlmablate.data.onnx_reader import OnnxError, read_graph  # noqa: E402
from vlmablate.errors import UserError  # noqa: E402
from vlmablate.vlm.towers import dinov2, efficientnet_lite  # noqa: E402
from vlmablate.vlm.towers.base import load_tower, load_weights, pool_grid  # noqa: E402
from vlmablate.vlm.towers.registry import TOWERS, asset_of, resolve  # noqa: E402


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


# ---- names and options


def test_a_grid_decides_the_image_size_and_the_other_way_round() -> None:
    assert resolve("efficientnet_lite0", 5).image_size == 160
    assert resolve({"name": "efficientnet_lite0", "image_size": 192}).grid == 6
    assert resolve("dinov2_small", 5).image_size == 140
    assert resolve({"name": "dinov2_small", "image_size": 224}, 8).grid == 8
    assert resolve({"name": "efficientnet_lite0", "image_size": 180}).grid == 6


@pytest.mark.parametrize(
    ("tower", "grid", "message"),
    [
        ("efficientnet_lit0", 5, r"did you mean 'efficientnet_lite0'"),
        ({"name": "smoke_conv", "layers": 3}, 5, r"option of the tower smoke_conv 'layers'"),
        ({"name": "smoke_conv", "pool": "max"}, 5, r"unknown pool 'max'"),
        ({"name": "efficientnet_lite0", "image_size": 160}, 4, r"5x5 cells .* an image_size of 128 would"),
        ("smoke_conv", None, r"needs a grid"),
        ({"name": "smoke_conv", "image_size": 0}, 5, r"whole number above 0"),
        ({"image_size": 32}, 5, r"needs a `name`"),
    ],
)
def test_a_mistake_in_a_tower_is_explained(tower: object, grid: int | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolve(tower, grid)  # type: ignore[arg-type]


def test_only_random_encoders_need_no_asset() -> None:
    assert {name for name in TOWERS if asset_of(name) is None} == {"smoke_conv", "smoke_patch"}


def test_a_tower_without_its_weights_says_which_it_needs() -> None:
    with pytest.raises(UserError, match="asset set 'dinov2_small'"):
        load_tower(resolve("dinov2_small", 5), None)


# ---- smoke towers and pooling


@pytest.mark.parametrize("name", ["smoke_conv", "smoke_patch"])
def test_smoke_towers_are_seeded_and_shaped(name: str) -> None:
    state = torch.random.get_rng_state()
    first, same, other = (load_tower(resolve({"name": name, "seed": s}, 4), None) for s in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), state), "the global seed must not be touched"
    x = torch.randn(2, 3, first.image_size, first.image_size)
    assert first(x).shape == (2, 16, first.channels)
    assert torch.equal(first(x), same(x))
    assert not torch.allclose(first(x), other(x))
    assert 0.1 < float(first(x).std()) < 10
    assert not any(parameter.requires_grad for parameter in first.parameters())


def test_cells_are_in_reading_order() -> None:
    tower = load_tower(resolve("smoke_conv", 4), None)
    x = torch.zeros(1, 3, 32, 32)
    x[..., 8:16, 24:32] = 1.0
    changed = (tower(x) != tower(torch.zeros_like(x))).any(dim=2).nonzero()[:, 1].tolist()
    assert changed == [7]


def test_pooling_keeps_squares_of_cells_together() -> None:
    cells = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert pool_grid(cells, 2, "mean")[0, 0].tolist() == [[2.5, 4.5], [10.5, 12.5]]
    assert pool_grid(cells, 2, "space_to_depth")[0, :, 0, 1].tolist() == [2.0, 3.0, 6.0, 7.0]
    assert pool_grid(cells, 4, "mean") is cells


def test_normalise_is_what_torchvision_does() -> None:
    v2 = pytest.importorskip("torchvision.transforms.v2.functional")
    tower = load_tower(resolve("smoke_conv", 4), None)
    pictures = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    scaled = pictures.permute(0, 3, 1, 2).float() / 255
    expected = v2.normalize(scaled, list(tower.mean), list(tower.std))
    torch.testing.assert_close(tower.normalise(pictures), expected, rtol=1e-5, atol=1e-5)


# ---- EfficientNet-Lite


def published_state(scaling: efficientnet_lite.Scaling) -> dict[str, torch.Tensor]:
    """Random weights under the published names, with batch statistics that are far from neutral."""
    generator = torch.Generator().manual_seed(0)
    state: dict[str, torch.Tensor] = {}

    def layer(conv: str, norm: str, outputs: int, inputs: int, kernel: int) -> None:
        fan_in = inputs * kernel * kernel
        weight = torch.randn(outputs, inputs, kernel, kernel, generator=generator)
        state[f"{conv}.weight"] = weight * (2 / fan_in) ** 0.5
        state[f"{norm}.running_mean"] = torch.randn(outputs, generator=generator) * 0.3
        state[f"{norm}.running_var"] = torch.rand(outputs, generator=generator) * 2 + 0.1
        state[f"{norm}.weight"] = torch.rand(outputs, generator=generator) + 0.5
        state[f"{norm}.bias"] = torch.randn(outputs, generator=generator) * 0.3

    layer("_conv_stem", "_bn0", 32, 3, 3)
    for index, shape in enumerate(efficientnet_lite.block_shapes(scaling)):
        name, hidden = f"_blocks.{index}", shape.inputs * shape.expansion
        if shape.expansion != 1:
            layer(f"{name}._expand_conv", f"{name}._bn0", hidden, shape.inputs, 1)
        layer(f"{name}._depthwise_conv", f"{name}._bn1", hidden, 1, shape.kernel)
        layer(f"{name}._project_conv", f"{name}._bn2", shape.outputs, hidden, 1)
    layer("_conv_head", "_bn1", 1280, efficientnet_lite.block_shapes(scaling)[-1].outputs, 1)
    return state


def unfolded(
    state: dict[str, torch.Tensor], scaling: efficientnet_lite.Scaling, x: torch.Tensor
) -> torch.Tensor:
    """EfficientNet-Lite written out: pad, convolve, normalise, clip; nothing folded, nothing widened."""

    def layer(x: torch.Tensor, conv: str, norm: str, stride: int = 1, groups: int = 1, clip: bool = True):
        weight = state[f"{conv}.weight"]
        total = [max((-(-n // stride) - 1) * stride + weight.shape[-1] - n, 0) for n in x.shape[2:]]
        x = functional.pad(
            x, (total[1] // 2, total[1] - total[1] // 2, total[0] // 2, total[0] - total[0] // 2)
        )
        x = functional.conv2d(x, weight, None, stride, 0, 1, groups)
        names = ("running_mean", "running_var", "weight", "bias")
        x = functional.batch_norm(x, *(state[f"{norm}.{name}"] for name in names), eps=1e-3)
        return functional.relu6(x) if clip else x

    x = layer(x, "_conv_stem", "_bn0", 2)
    for index, shape in enumerate(efficientnet_lite.block_shapes(scaling)):
        name, hidden, y = f"_blocks.{index}", shape.inputs * shape.expansion, x
        if shape.expansion != 1:
            y = layer(y, f"{name}._expand_conv", f"{name}._bn0")
        y = layer(y, f"{name}._depthwise_conv", f"{name}._bn1", shape.stride, hidden)
        y = layer(y, f"{name}._project_conv", f"{name}._bn2", clip=False)
        x = x + y if shape.stride == 1 and shape.inputs == shape.outputs else y
    return layer(x, "_conv_head", "_bn1")


@pytest.mark.parametrize("size", [64, 96, 75])
def test_folding_and_widening_change_nothing(size: int) -> None:
    scaling = efficientnet_lite.SCALINGS["lite0"]
    # In float64, so that only the algebra is compared and not the rounding that a random network amplifies.
    state = {name: value.double() for name, value in published_state(scaling).items()}
    x = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1)).double()
    with torch.inference_mode():
        expected = unfolded(state, scaling, x)
        got = efficientnet_lite.build("lite0", "head", state)(x)
    assert float(expected.std()) > 0.1
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


def test_the_family_has_its_published_sizes() -> None:
    counts = {}
    for name, scaling in efficientnet_lite.SCALINGS.items():
        network = efficientnet_lite.EfficientNetLite(scaling, "head")
        weights = sum(p.numel() for n, p in network.named_parameters() if n.endswith("weight"))
        norms = 2 * sum(p.numel() for n, p in network.named_parameters() if n.endswith("bias"))
        counts[name] = weights + norms + 1280 * 1000 + 1000
    assert counts == {"lite0": 4_652_008, "lite1": 5_416_680, "lite2": 6_092_072}


def test_the_padding_rule_is_tensorflows() -> None:
    assert efficientnet_lite.same_padding(224, 3, 2) == (0, 1)
    assert efficientnet_lite.same_padding(7, 3, 2) == (1, 1)
    assert efficientnet_lite.same_padding(56, 5, 2) == (1, 2)
    assert efficientnet_lite.same_padding(14, 5, 1) == (2, 2)


# ---- DINOv2


def test_dinov2_is_the_reference_of_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.Dinov2Config(
        hidden_size=384, num_hidden_layers=3, num_attention_heads=6, image_size=518
    )
    reference = transformers.Dinov2Model(config).eval()
    for parameter in reference.parameters():
        parameter.data = torch.randn_like(parameter) * 0.1
    reference.save_pretrained(tmp_path)  # the file has the published names, whatever the class calls them
    (tmp_path / "model.safetensors").rename(tmp_path / "weights.safetensors")
    network = dinov2.DinoV2(block=1)
    network.load_state_dict(dinov2.renamed_state(load_weights(tmp_path), 1))
    x = torch.randn(2, 3, 70, 70)
    with torch.inference_mode():
        expected = reference(x, output_hidden_states=True).hidden_states[-2][:, 1:]
        got = network(x).flatten(2).transpose(1, 2)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_dinov2_drops_the_class_token_and_stops_at_its_block() -> None:
    network = dinov2.DinoV2(block=0)
    for parameter in network.parameters():
        parameter.data.zero_()
    network.class_token.data.fill_(5.0)
    network.positions.data[:, 1:] = 2.0
    torch.testing.assert_close(network(torch.zeros(1, 3, 42, 42)), torch.full((1, 384, 3, 3), 2.0))
    assert len(network.blocks) == 1


# ---- the ONNX reader


def _varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def _field(number: int, value: bytes | int) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def tiny_onnx() -> bytes:
    """A model with one node, a raw matrix, a vector in `float_data`, and an int64 tensor that is skipped."""
    matrix = _field(1, 2) + _field(1, 3) + _field(2, 1) + _field(8, b"onnx::MatMul_7")
    matrix += _field(9, struct.pack("<6f", *range(6)))
    vector = (
        _field(1, _varint(2)) + _field(2, 1) + _field(4, struct.pack("<2f", 0.5, -1)) + _field(8, b"bias")
    )
    shape = _field(1, 1) + _field(2, 7) + _field(8, b"shape") + _field(9, bytes(8))
    node = _field(1, b"x") + _field(1, b"onnx::MatMul_7") + _field(2, b"y")
    node += _field(3, b"/backbone/encoder/layer.3/mlp/fc1/MatMul") + _field(4, b"MatMul")
    graph = _field(1, node) + _field(2, b"graph") + b"".join(_field(5, t) for t in (matrix, vector, shape))
    return _field(1, 8) + _field(2, b"made by hand") + _field(7, graph)


def test_the_onnx_reader_reads_a_file_made_by_hand() -> None:
    graph = read_graph(tiny_onnx())
    assert sorted(graph.tensors) == ["bias", "onnx::MatMul_7"]
    assert graph.tensors["onnx::MatMul_7"].shape == (2, 3)
    assert struct.unpack("<6f", graph.tensors["onnx::MatMul_7"].data) == (0, 1, 2, 3, 4, 5)
    assert struct.unpack("<2f", graph.tensors["bias"].data) == (0.5, -1)
    (node,) = graph.nodes
    assert (node.operator, node.inputs, node.outputs) == ("MatMul", ("x", "onnx::MatMul_7"), ("y",))
    match = _MATMUL_NODE.fullmatch(node.name)
    assert match is not None
    assert match.groups() == ("layer.3", "mlp/fc1")


@pytest.mark.parametrize("keep", [1, 20, 60, -1])
def test_a_truncated_onnx_file_is_refused(keep: int) -> None:
    with pytest.raises(OnnxError):
        read_graph(tiny_onnx()[:keep])


def test_a_file_that_is_not_onnx_is_refused() -> None:
    with pytest.raises(OnnxError):
        read_graph(b"\x80\x02}q\x00(X\x05\x00\x00\x00hello")


# ---- the real weights, where they are


def waves(size: int) -> torch.Tensor:
    ramp = torch.arange(size, dtype=torch.float64) / size
    planes = [torch.sin(9 * ramp[:, None] + k) * torch.cos(7 * ramp[None, :] - k) for k in range(3)]
    return torch.stack(planes)[None].float()


# Parity by which these numbers were frozen: EfficientNet-Lite against its reference package (largest
# difference 3e-5), DINOv2 against the ONNX file run by onnxruntime at 140, 224 and 518 pixels (9e-6).
GOLDEN = [
    ("efficientnet_lite0", {}, (25, 1280), 0.1250918, 0.5664192, [0.0, 0.5619314, 0.0]),
    (
        "efficientnet_lite0",
        {"layer": "last_block"},
        (25, 320),
        -0.0095328,
        2.1533887,
        [-0.2137393, 4.0804195, -1.4699831],
    ),
    ("efficientnet_lite2", {}, (25, 1280), 0.1942220, 0.7391358, [0.0, 0.0, 0.0]),
    ("dinov2_small", {}, (25, 384), -0.0289235, 0.4733157, [-0.1398049, -0.3948902, -0.6698329]),
]


def cached_weights(name: str) -> Path:
    cache = Cache(paths.cache_dir())
    problem = cache.problem(name)
    if problem is not None:
        pytest.skip(f"the asset set {name} is not in the cache ({problem}); `vlmablate fetch` brings it")
    return cache.folder(name)


@pytest.mark.parametrize(("name", "options", "shape", "mean", "std", "corner"), GOLDEN)
def test_golden_features(
    name: str, options: dict[str, str], shape: tuple[int, int], mean: float, std: float, corner: list[float]
) -> None:
    tower = load_tower(resolve({"name": name, **options}, 5), cached_weights(name))
    with torch.inference_mode():
        features = tower(waves(tower.image_size))[0]
    assert tuple(features.shape) == shape == (tower.grid**2, tower.channels)
    got = [float(features.mean()), float(features.std()), *features[[0, 12, 24], [0, 7, 100]].tolist()]
    assert got == pytest.approx([mean, std, *corner], abs=1e-4)


def test_a_damaged_weights_file_is_explained(tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{}")
    with pytest.raises(UserError, match="vlmablate fetch"):
        load_tower(resolve("efficientnet_lite0", 5), tmp_path)
