"""Gradients of unfrozen towers against references written otherwise."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from tests.vlm.test_towers import published_state, unfolded  # noqa: E402
from vlmablate.vlm.towers import dinov2, efficientnet_lite  # noqa: E402
from vlmablate.vlm.towers.base import load_weights  # noqa: E402


def test_a_folded_tower_learns_as_one_with_frozen_batch_statistics() -> None:
    """With y = f w x + b: the gradient of the plain weight is f times that of the folded one; shifts have the same."""
    scaling = efficientnet_lite.SCALINGS["lite0"]
    state = {name: value.double() for name, value in published_state(scaling).items()}
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)).double()
    network = efficientnet_lite.build("lite0", "head", state)
    network.requires_grad_(True)
    leaves = {n: v.requires_grad_(True) for n, v in state.items() if n.endswith((".weight", ".bias"))}
    weigh = torch.randn(2, 1280, 2, 2, generator=torch.Generator().manual_seed(2)).double()
    (unfolded(state, scaling, x) * weigh).sum().backward()
    (network(x) * weigh).sum().backward()
    pairs = [("stem", "_conv_stem", "_bn0"), ("head", "_conv_head", "_bn1")]
    pairs += [
        (f"blocks.{i}.depthwise", f"_blocks.{i}._depthwise_conv", f"_blocks.{i}._bn1") for i in range(16)
    ]
    pairs += [(f"blocks.{i}.project", f"_blocks.{i}._project_conv", f"_blocks.{i}._bn2") for i in range(16)]
    pairs += [(f"blocks.{i}.expand", f"_blocks.{i}._expand_conv", f"_blocks.{i}._bn0") for i in range(1, 16)]
    for ours, conv, norm in pairs:
        module = network.get_submodule(ours)
        factor = state[f"{norm}.weight"] / (state[f"{norm}.running_var"] + 1e-3).sqrt()
        torch.testing.assert_close(
            leaves[f"{conv}.weight"].grad,
            module.weight.grad * factor.detach()[:, None, None, None],
            rtol=1e-7,
            atol=1e-9,
        )
        torch.testing.assert_close(leaves[f"{norm}.bias"].grad, module.bias.grad, rtol=1e-7, atol=1e-9)


def test_dinov2_has_the_gradients_of_the_reference_and_forgets_no_step(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.Dinov2Config(
        hidden_size=384, num_hidden_layers=3, num_attention_heads=6, image_size=518
    )
    reference = transformers.Dinov2Model(config).eval()
    for parameter in reference.parameters():
        parameter.data = torch.randn_like(parameter) * 0.1
    reference.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "weights.safetensors")
    network = dinov2.DinoV2(block=1)
    network.load_state_dict(dinov2.renamed_state(load_weights(tmp_path), 1))
    x, weigh = torch.randn(2, 3, 70, 70), torch.randn(2, 384, 5, 5)
    for _ in range(2):  # the second time after a step
        expected = reference(x, output_hidden_states=True).hidden_states[-2][:, 1:]
        expected = expected.transpose(1, 2).reshape(2, 384, 5, 5)
        got = network(x)
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
        theirs = torch.autograd.grad(
            (expected * weigh).sum(), list(reference.embeddings.parameters()), allow_unused=True
        )
        names = [name for name, _ in reference.embeddings.named_parameters()]
        table, token, patches = (
            theirs[names.index(n)]
            for n in ("position_embeddings", "cls_token", "patch_embeddings.projection.weight")
        )
        ours = torch.autograd.grad(
            (got * weigh).sum(), [network.positions, network.class_token, network.patches.weight]
        )
        for a, b in zip(ours, (table, token, patches), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3 * float(b.abs().max()))
        with torch.no_grad():
            network.positions -= 1e-2 * ours[0]
            reference.embeddings.position_embeddings -= 1e-2 * ours[0]
