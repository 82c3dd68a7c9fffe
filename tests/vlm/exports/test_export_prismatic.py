"""Our models as checkpoints of Prismatic and back, against modules with the names that its loader fills."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[3]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from tests.vlm.exports.export_models import card_of, logits, model_of, pictures, same_bytes  # noqa: E402
from vlmablate.errors import UserError  # noqa: E402
from vlmablate.files import read_json  # noqa: E402
from vlmablate.vlm.exports import prismatic  # noqa: E402
from vlmablate.vlm.exports.language import blank_like  # noqa: E402
from vlmablate.vlm.exports.prismatic import (  # noqa: E402
    CHECKPOINT,
    from_prismatic,
    prismatic_config,
    read_prismatic,
    to_prismatic,
    write_prismatic,
)
from vlmablate.vlm.exports.vision import TIMM, from_layout, to_layout  # noqa: E402
from vlmablate.vlm.seen import blank_vision  # noqa: E402

TEXT = [1, *b"In: what is left of the cup?"]
KINDS = ["linear", "gelu_mlp", "fused_gelu_mlp"]
CARD = card_of("test_llama")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def load(path: Path) -> dict[str, dict[str, Tensor]]:
    return torch.load(path, weights_only=True)["model"]


class Held(nn.Module):
    """One module under one name: the state of a part of Prismatic begins with it."""

    def __init__(self, **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)


def projector_there(kind: str, channels: int, width: int) -> nn.Module:
    sizes = {"linear": [], "gelu_mlp": [width], "fused_gelu_mlp": [4 * channels, width]}[kind]
    layers: list[nn.Module] = []
    for size_in, size_out in zip([channels, *sizes], [*sizes, width], strict=True):
        layers += [nn.Linear(size_in, size_out), nn.GELU()]
    return layers[0] if kind == "linear" else nn.Sequential(*layers[:-1])


def timm_there(tower: str) -> Any:
    """As timm builds the published ones, in the sizes of the test towers."""
    from timm.layers import LayerNorm, QuickGELU
    from timm.models.vision_transformer import VisionTransformer

    special: dict[str, dict[str, Any]] = {
        "test_clip": {"pre_norm": True, "act_layer": QuickGELU, "norm_layer": partial(LayerNorm, eps=1e-5)},
        "test_siglip": {"class_token": False, "global_pool": "map", "act_layer": "gelu_tanh"},
        "test_dinov2": {"reg_tokens": 4, "no_embed_class": True, "init_values": 1e-5},
        "test_vit": {},
    }
    size = 60 if tower in ("test_siglip", "test_dinov2") else 56
    return VisionTransformer(
        img_size=size, patch_size=14, embed_dim=32, depth=3, num_heads=4, num_classes=0, **special[tower]
    ).eval()


@torch.no_grad()
def scores_there(parts: dict[str, dict[str, Tensor]], features: Tensor, kind: str, model: Any) -> Tensor:
    """[BOS][patches][text] through modules that were filled strictly from a checkpoint."""
    llm = type(model.language.model)(blank_like(model.language).config).eval()
    assert llm.config._attn_implementation == "sdpa"  # that of transformers, not of the model to be checked
    projector = Held(projector=projector_there(kind, features.shape[2], model.language.width))
    projector.load_state_dict(parts["projector"])
    Held(llm=llm).load_state_dict(parts["llm_backbone"])
    words = llm.get_input_embeddings()(torch.tensor([TEXT]))
    line = torch.cat([words[:, :1], projector.projector(features), words[:, 1:]], dim=1)  # type: ignore[operator]
    return llm(inputs_embeds=line).logits[0]


@pytest.mark.parametrize("kind", KINDS)
def test_modules_with_the_names_of_prismatic_give_the_same_scores(kind: str, tmp_path: Path) -> None:
    model = model_of(None, kind)
    write_prismatic(tmp_path / "out", model, CARD)
    parts = load(tmp_path / "out" / CHECKPOINT)
    assert list(parts) == ["projector", "llm_backbone"]
    features = torch.randn(1, 16, 32, generator=torch.Generator().manual_seed(2))
    expected = scores_there(parts, features, kind, model)
    assert float(expected.std()) > 0.1
    assert float((logits(model, features, TEXT[:1], TEXT[1:]) - expected).abs().max()) <= 1e-5
    names = {"linear": ["weight"], "gelu_mlp": ["0.weight", "2.weight"]}.get(
        kind, ["0.weight", "2.weight", "4.weight"]
    )
    assert [name for name in parts["projector"] if "weight" in name] == [
        f"projector.{name}" for name in names
    ]
    config = read_json(tmp_path / "out" / "config.json")["model"]
    assert config["arch_specifier"] == kind.replace("_", "-")
    assert set(config) == {
        "model_id", "arch_specifier", "vision_backbone_id", "llm_backbone_id", "image_resize_strategy",
        "llm_max_length",
    }  # fmt: skip


@pytest.mark.parametrize("tower", ["test_clip", "test_siglip", "test_dinov2", "test_vit"])
def test_a_trained_tower_is_one_of_timm(tower: str, tmp_path: Path) -> None:
    model = model_of(tower)
    write_prismatic(tmp_path / "out", model, CARD)
    parts = load(tmp_path / "out" / CHECKPOINT)
    there = Held(featurizer=timm_there(tower))
    there.load_state_dict(parts["vision_backbone"])
    seen = pictures(model.vision)
    with torch.no_grad():
        features = there.featurizer.get_intermediate_layers(seen, n={1})[0]  # type: ignore[operator, union-attr]
        assert float((model.vision(seen) - features).abs().max()) <= 1e-5  # type: ignore[misc]
    expected = scores_there(parts, features, "gelu_mlp", model)
    assert float((logits(model, seen, TEXT[:1], TEXT[1:]) - expected).abs().max()) <= 1e-5


def test_fused_towers_have_a_name_each(tmp_path: Path) -> None:
    model = model_of("test_dinov2_siglip", "fused_gelu_mlp")
    write_prismatic(tmp_path / "out", model, CARD)
    parts = load(tmp_path / "out" / CHECKPOINT)
    there = Held(dino_featurizer=timm_there("test_dinov2"), siglip_featurizer=timm_there("test_siglip"))
    there.load_state_dict(parts["vision_backbone"])
    other = model_of("test_dinov2_siglip", "fused_gelu_mlp", seed=9)
    read_prismatic(tmp_path / "out", other, CARD)
    assert same_bytes(other.state_dict(), model.state_dict())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("tower", "kind"), [("test_clip", "gelu_mlp"), ("test_dinov2_siglip", "fused_gelu_mlp"), (None, "linear")]
)
def test_what_was_read_is_written_as_the_same_bytes(
    tower: Any, kind: str, dtype: str, tmp_path: Path
) -> None:
    write_prismatic(tmp_path / "first", model_of(tower, kind), CARD, dtype)
    other = model_of(tower, kind, seed=5)
    loaded = read_prismatic(tmp_path / "first", other, CARD)
    write_prismatic(tmp_path / "second", other, CARD, dtype, loaded.unread)
    first, second = (load(tmp_path / name / CHECKPOINT) for name in ("first", "second"))
    assert list(first) == list(second) == list(loaded.parts)
    for name, state in first.items():
        assert same_bytes(state, second[name]), name
        assert {tensor.dtype for tensor in state.values()} == {getattr(torch, dtype)}
        # Nothing is pickled with the memory of something larger.
        assert all(t.untyped_storage().nbytes() == t.numel() * t.element_size() for t in state.values())


def test_a_foreign_checkpoint_keeps_what_is_never_read(tmp_path: Path) -> None:
    tower = timm_there("test_clip")
    with torch.no_grad():
        for index, parameter in enumerate(tower.parameters()):
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index)))
    checkpoint: dict[str, Any] = to_prismatic(model_of("test_clip"), CARD)
    checkpoint["model"]["vision_backbone"] = Held(featurizer=tower).state_dict()
    model = model_of("test_clip", seed=7)
    loaded = from_prismatic(checkpoint, model, CARD)
    again = to_prismatic(model, CARD, unread=loaded.unread)["model"]["vision_backbone"]
    assert same_bytes(
        dict(sorted(again.items())), dict(sorted(checkpoint["model"]["vision_backbone"].items()))
    )
    seen = pictures(model.vision)
    with torch.no_grad():
        expected = tower.get_intermediate_layers(seen, n={1})[0]
        assert float((model.vision(seen) - expected).abs().max()) <= 1e-5  # type: ignore[misc]


def test_a_tower_takes_exactly_the_tensors_of_the_layout_and_keeps_the_sign_of_zeros() -> None:
    tower: Any = model_of("test_clip").vision
    with torch.no_grad():
        tower.prefix[0, :2] = torch.tensor([0.0, -0.0])
    other: Any = model_of("test_clip", seed=3).vision
    state = to_layout(tower, TIMM, {})
    from_layout(state, other, TIMM, "the file")
    assert same_bytes(other.state_dict(), tower.state_dict())
    del state["norm.weight"]
    with pytest.raises(UserError, match=r"the file does not fit:\n  1 is missing: norm\.weight"):
        from_layout(state, other, TIMM, "the file")


def test_a_checkpoint_of_the_alignment_fills_the_projector_alone() -> None:
    first, second = model_of(None), model_of(None, seed=8)
    before = {name: tensor.clone() for name, tensor in second.language.state_dict().items()}
    checkpoint = {"model": {"projector": to_prismatic(first, CARD)["model"]["projector"]}}
    assert from_prismatic(checkpoint, second, CARD).parts == ("projector",)
    assert same_bytes(first.projector.state_dict(), second.projector.state_dict())
    assert same_bytes(before, second.language.state_dict())


@pytest.mark.parametrize(
    ("there", "llm"), [(384, "test_llama"), (384, "test_qwen2"), (260, "test_llama"), (260, "test_phi")]
)
def test_the_vocabulary_has_the_rows_that_prismatic_gives_it(
    there: int, llm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Filled up (32000 words of Llama 2 to 32064) or cut (Phi-2: 51200 to 50304), and read back into either length."""
    monkeypatch.setattr(prismatic, "LLMS", {llm: ("known", there)})
    model, card = model_of(None, llm=llm), card_of(llm)
    checkpoint = to_prismatic(model, card)
    words = checkpoint["model"]["llm_backbone"]["llm.model.embed_tokens.weight"]
    head = checkpoint["model"]["llm_backbone"]["llm.lm_head.weight"]
    assert len(words) == len(head) == there
    kept = min(there, 320)
    assert torch.equal(words[:kept], model.language.model.get_input_embeddings().weight[:kept])
    if there > 320:
        assert torch.allclose(words[320:], words[:320].mean(0), atol=1e-6)
    other = model_of(None, llm=llm, seed=4)
    from_prismatic(checkpoint, other, card)
    assert other.language.config.vocab_size == there
    again = to_prismatic(other, card)
    assert same_bytes(again["model"]["llm_backbone"], checkpoint["model"]["llm_backbone"])
    features = torch.randn(1, 16, 32, generator=torch.Generator().manual_seed(2))
    ours, theirs = (logits(m, features, TEXT[:1], TEXT[1:])[:, :kept] for m in (model, other))
    assert float((ours - theirs).abs().max()) <= 1e-5


def test_published_language_models_have_the_rows_of_the_published_checkpoints() -> None:
    from vlmablate.vlm.llms.registry import llms

    rows = {name: rows for name, (_, rows) in prismatic.LLMS.items()}
    assert all(rows.pop(name) == 32064 for name in list(rows) if name != "phi2")
    assert rows == {"phi2": 50304}
    for name in prismatic.LLMS:  # the words, and a pad token
        assert prismatic.LLMS[name][1] % 64 == 0
        assert abs(llms()[name].config["vocab_size"] - prismatic.LLMS[name][1]) < 1000


def test_parts_are_called_as_prismatic_calls_them() -> None:
    model = model_of(None)

    def config(llm: str, layers: int | None = None, **more: Any) -> dict[str, Any]:
        card = {"llm": {"name": llm, "layers": layers}, **more}
        return prismatic_config(model, card, "run")["model"]

    live = {
        "towers": [{"tower": {"name": "clip_vit_l14_336"}, "weights": ""}],
        "image": {"resize": "letterbox"},
    }
    found = config("vicuna_v1.5_7b", vision=live)
    assert (found["llm_backbone_id"], found["vision_backbone_id"]) == ("vicuna-v15-7b", "clip-vit-l-336px")
    assert (found["image_resize_strategy"], found["model_id"]) == ("letterbox", "run")
    assert config("vicuna_v1.5_7b", layers=8)["llm_backbone_id"] == "vicuna_v1.5_7b"
    found = config("smollm2_135m", towers=["dinov2_siglip_384"], image={"resize": "resize_naive"})
    assert (found["llm_backbone_id"], found["vision_backbone_id"]) == (
        "smollm2_135m",
        "dinosiglip-vit-so-384px",
    )
    assert found["image_resize_strategy"] == "resize-naive"


def refused(checkpoint: Any, model: Any = None) -> str:
    model = model_of(None, seed=6) if model is None else model
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(UserError) as caught:
        from_prismatic(checkpoint, model, CARD)
    assert same_bytes(before, model.state_dict()), "a refused checkpoint changed the model"
    return str(caught.value)


def test_what_is_missing_too_much_or_of_another_shape_is_named() -> None:
    good = to_prismatic(model_of("test_clip"), CARD)["model"]

    def changed(part: str, drop: tuple[str, ...] = (), **more: Tensor) -> dict[str, Any]:
        state = {name: tensor for name, tensor in good[part].items() if name not in drop}
        return {
            "model": {**good, part: {**state, **{name.replace("__", "."): t for name, t in more.items()}}}
        }

    full = model_of("test_clip", seed=6)
    layer = tuple(name for name in good["llm_backbone"] if "layers.1." in name)
    said = refused(changed("llm_backbone", layer), full)
    assert f"{len(layer)} is missing: {', '.join(layer[:4])}, and {len(layer) - 4} more" in said
    assert "the checkpoint, llm_backbone" in said
    assert "1 is not expected: llm.extra" in refused(changed("llm_backbone", llm__extra=torch.zeros(2)), full)
    said = refused(changed("projector", projector__2__bias=torch.zeros(5)), full)
    assert "projector.2.bias [5], not [32]" in said
    said = refused(changed("vision_backbone", ("featurizer.norm.bias",)), full)
    assert "featurizer.norm.bias" in said
    said = refused(changed("vision_backbone", featurizer__pos_embed=torch.zeros(1, 10, 32)), full)
    assert "featurizer.pos_embed [1, 10, 32], not [1, 17, 32]" in said
    said = refused(changed("llm_backbone", llm__model__norm__weight=torch.zeros(32, dtype=torch.int8)), full)
    assert "llm.model.norm.weight (torch.int8)" in said
    said = refused(changed("llm_backbone", llm__model__embed_tokens__weight=torch.zeros(9, 32)), full)
    assert "llm.model.embed_tokens.weight [9, 32], not [320, 32]" in said
    assert "features from disk" in refused({"model": good})
    assert 'no ["model"]["projector"]' in refused({"state_dict": {}})
    assert "parts that Prismatic does not: ['optimizer']" in refused({"model": {**good, "optimizer": {}}})
    assert "no dictionary of tensors" in refused({"model": {"projector": {"projector.weight": 3}}})


class Sneaky:
    """What a pickle can do: run code of its choice when it is read."""

    def __reduce__(self) -> Any:
        return Path.touch, (Path("ran-code-of-the-file"),)


def test_a_pickle_runs_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model": {"projector": Sneaky()}}, tmp_path / "evil.pt")
    with pytest.raises(UserError, match="could run code and are not read"):
        read_prismatic(tmp_path / "evil.pt", model_of(None), CARD)
    assert not (tmp_path / "ran-code-of-the-file").exists()
    (tmp_path / "half.pt").write_bytes((tmp_path / "evil.pt").read_bytes()[:300])
    with pytest.raises(UserError, match=r"cannot be read|damaged"):
        read_prismatic(tmp_path / "half.pt", model_of(None), CARD)
    with pytest.raises(UserError, match="there is no file"):
        read_prismatic(tmp_path / "nothing.pt", model_of(None), CARD)


def test_what_has_no_place_is_refused() -> None:
    for name in ("ldp", "qformer"):
        config = {"name": name, **({"layers": 1, "heads": 2} if name == "qformer" else {})}
        with pytest.raises(UserError, match="one square per picture"):
            to_prismatic(model_of(None, config), CARD)
    with pytest.raises(UserError, match=r"projector\.norm=false"):
        to_prismatic(model_of(None, {"name": "linear"}), CARD)
    model = model_of(None)
    model.language.model.adapter = nn.Linear(2, 2)
    with pytest.raises(UserError, match=r"2 is not expected: adapter\.weight"):
        to_prismatic(model, CARD)
    model = model_of(None)
    live = {
        "towers": [{"tower": "smoke_conv", "weights": "random"}],
        "grid": 4,
        "image": {"resize": "letterbox"},
    }
    model.vision = blank_vision(live)
    with pytest.raises(UserError, match="a LiveVision of smoke_conv"):
        to_prismatic(model, CARD)
    model.vision = nn.Linear(2, 2)
    with pytest.raises(UserError, match="the vision of this model is a Linear"):
        to_prismatic(model, CARD)
