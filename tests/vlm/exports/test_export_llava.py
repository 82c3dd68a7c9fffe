"""Our models as transformers' LLaVA and back: scores, bytes, and what is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

ROOT = Path(__file__).resolve().parents[3]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from tests.vlm.exports.export_models import WORDS, logits, loud, model_of, pictures, same_bytes  # noqa: E402
from tests.vlm.llava_twin import reference  # noqa: E402
from vlmablate.errors import UserError  # noqa: E402
from vlmablate.vlm.exports.llava_hf import (  # noqa: E402
    from_llava_hf,
    read_llava_hf,
    to_llava_hf,
    write_llava_hf,
)
from vlmablate.vlm.image import transform_named  # noqa: E402
from vlmablate.vlm.llms.load import load_llm  # noqa: E402
from vlmablate.vlm.llms.registry import llms  # noqa: E402
from vlmablate.vlm.towers.vision import transforms  # noqa: E402

TEXT = [1, *b"What is left of the cup? Out: "]
TOWERS = ["test_clip", "test_siglip", {"name": "test_siglip", "activation": "gelu"}]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def hub(folder: Path) -> Any:
    from transformers import LlavaForConditionalGeneration

    return LlavaForConditionalGeneration.from_pretrained(folder).eval()


@torch.no_grad()
def theirs(llava: Any, pixels: Tensor, before: list[int], after: list[int]) -> Tensor:
    config = llava.config
    ids = torch.tensor([[*before, *[config.image_token_index] * config.image_seq_length, *after]])
    return llava(input_ids=ids, pixel_values=pixels).logits[0]


@pytest.mark.parametrize("tower", TOWERS, ids=["clip", "siglip", "siglip_gelu"])
def test_transformers_gives_the_same_scores_in_both_layouts(tower: Any, tmp_path: Path) -> None:
    model = model_of(tower)
    write_llava_hf(tmp_path / "out", model, WORDS)
    llava, seen = hub(tmp_path / "out"), pictures(model.vision)
    config = llava.config
    assert (config.vision_feature_layer, config.projector_hidden_act, config.image_token_index) == (
        -2,
        "gelu",
        259,
    )
    # The reference attends by itself, and so does the configuration that it is built from.
    assert config.text_config._attn_implementation == "sdpa"
    assert to_llava_hf(model, WORDS).config.text_config._attn_implementation in (None, "sdpa")
    assert config.vision_feature_select_strategy == ("default" if tower == "test_clip" else "full")
    for before, after in (
        (TEXT[:1], TEXT[1:]),
        (TEXT[:6], TEXT[6:]),
    ):  # behind BOS, and in the middle of the text
        expected = theirs(llava, seen, before, after)
        assert float(expected.std()) > 0.1
        assert float((logits(model, seen, before, after) - expected).abs().max()) <= 1e-5
    blind = theirs(llava, torch.zeros_like(seen), TEXT[:1], TEXT[1:])
    assert float((blind - theirs(llava, seen, TEXT[:1], TEXT[1:])).abs().max()) > 1e-2


@pytest.mark.parametrize("llm", [name for name, spec in llms().items() if spec.hub is None])
def test_every_kind_of_language_model_has_the_same_scores_or_is_refused(llm: str, tmp_path: Path) -> None:
    model, words = model_of("test_clip", llm=llm), len(load_llm(llm)[1])
    if llm in ("test_phi", "test_gemma2"):
        with pytest.raises(UserError, match="use prismatic"):
            to_llava_hf(model, words)
        return
    write_llava_hf(tmp_path / "out", model, words)
    seen = pictures(model.vision)
    expected = theirs(hub(tmp_path / "out"), seen, TEXT[:1], TEXT[1:])
    assert float((logits(model, seen, TEXT[:1], TEXT[1:]) - expected).abs().max()) <= 1e-5
    again = read_llava_hf(tmp_path / "out").model
    assert same_bytes(again.state_dict(), model.state_dict())
    assert torch.equal(logits(again, seen, TEXT[:1], TEXT[1:]), logits(model, seen, TEXT[:1], TEXT[1:]))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("tower", TOWERS[:2])
def test_what_was_read_is_written_as_the_same_bytes(tower: str, dtype: str, tmp_path: Path) -> None:
    write_llava_hf(tmp_path / "first", model_of(tower), WORDS, dtype)
    read = read_llava_hf(tmp_path / "first")
    assert read.model.vision.name == tower  # type: ignore[union-attr]
    write_llava_hf(tmp_path / "second", read.model, read.image_token, dtype, read.unread)
    write_llava_hf(tmp_path / "third", read.model, read.image_token, dtype)
    first, second, third = (
        load_file(tmp_path / name / "model.safetensors") for name in ("first", "second", "third")
    )
    assert {tensor.dtype for tensor in first.values()} == {getattr(torch, dtype)}
    assert same_bytes(first, second)
    assert same_bytes(first, third)
    configs = [json.loads((tmp_path / name / "config.json").read_text()) for name in ("first", "second")]
    assert configs[0] == configs[1]
    assert "vlmablate" not in json.dumps(configs[0])


def test_a_foreign_model_is_read_and_written_with_all_its_bytes(tmp_path: Path) -> None:
    """Also the last block and the class token's own position, of which models here know nothing."""
    llava = reference()
    llava.save_pretrained(tmp_path / "theirs")
    read = read_llava_hf(tmp_path / "theirs")
    seen = pictures(read.model.vision)
    expected = theirs_at(llava, seen)
    assert float((logits(read.model, seen, [1], [5, 6, 7]) - expected).abs().max()) <= 1e-5
    write_llava_hf(tmp_path / "ours", read.model, read.image_token, "float32", read.unread)
    ours, foreign = (load_file(tmp_path / name / "model.safetensors") for name in ("ours", "theirs"))
    assert same_bytes(dict(sorted(ours.items())), dict(sorted(foreign.items())))
    with torch.no_grad():  # a class token that learnt is written as it is now
        read.model.vision.prefix.add_(1.0)  # type: ignore[union-attr, operator]
    write_llava_hf(tmp_path / "moved", read.model, read.image_token, "float32", read.unread)
    again = read_llava_hf(tmp_path / "moved").model.vision
    assert torch.equal(again.prefix, read.model.vision.prefix)  # type: ignore[union-attr, arg-type]


@torch.no_grad()
def theirs_at(llava: Any, pixels: Tensor) -> Tensor:
    ids = torch.tensor([[1, *[llava.config.image_token_index] * 16, 5, 6, 7]])
    return llava(input_ids=ids, pixel_values=pixels).logits[0]


def test_a_full_vocabulary_grows_by_a_row_for_the_image_token(tmp_path: Path) -> None:
    for llm in ("test_llama", "test_qwen2"):  # apart, and tied
        model = model_of("test_clip", llm=llm)
        write_llava_hf(tmp_path / llm, model, 320)
        llava, seen = hub(tmp_path / llm), pictures(model.vision)
        assert (llava.config.text_config.vocab_size, llava.config.image_token_index) == (384, 320)
        expected = theirs(llava, seen, TEXT[:1], TEXT[1:])[:, :320]
        assert float((logits(model, seen, TEXT[:1], TEXT[1:]) - expected).abs().max()) <= 1e-5


def test_the_tokenizer_knows_the_image_token(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    _, tokenizer = load_llm("test_llama")
    write_llava_hf(tmp_path / "out", model_of(), len(tokenizer), tokenizer=tokenizer)
    again = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert again("ab<image>c", add_special_tokens=False).input_ids == [
        *tokenizer("ab", add_special_tokens=False).input_ids,
        WORDS,
        *tokenizer("c", add_special_tokens=False).input_ids,
    ]
    assert len(tokenizer) == WORDS
    with pytest.raises(UserError, match="was to have it at 300"):
        write_llava_hf(tmp_path / "other", model_of(), 300, tokenizer=tokenizer)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("tower", TOWERS[:2])
@pytest.mark.parametrize("resize", ["letterbox", "resize_naive", "resize_crop"])
def test_the_processor_prepares_pictures_and_texts_as_models_here_read_them(
    tower: str, resize: str, tmp_path: Path
) -> None:
    import numpy as np
    from PIL import Image
    from transformers import AutoProcessor
    from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

    model, (_, tokenizer) = model_of(tower), load_llm("test_llama")
    write_llava_hf(tmp_path / "out", model, WORDS, tokenizer=tokenizer, image={"resize": resize})
    noise = np.random.default_rng(0).integers(0, 256, (43, 90, 3), dtype=np.uint8)
    photo = Image.fromarray(noise).resize((160, 80) if resize == "resize_crop" else (180, 87))
    facts = transforms(tower)[tower]
    square, _ = transform_named(resize)(photo, facts.image_size, facts.fill)
    seen = facts.normalise(torch.from_numpy(np.asarray(square).copy())[None])
    processor = AutoProcessor.from_pretrained(tmp_path / "out")
    made = processor(images=photo, text="<s><image>" + bytes(TEXT[1:]).decode(), return_tensors="pt")
    level = 1.01 / 255 / min(facts.std)  # its own resize rounds some pixels to the next 8-bit level
    assert float((made.pixel_values - seen).abs().max()) <= level
    exact = LlavaImageProcessorPil.from_pretrained(tmp_path / "out")(photo, return_tensors="pt")
    assert float((torch.as_tensor(exact.pixel_values) - seen).abs().max()) <= 1e-6
    with torch.no_grad():
        found = hub(tmp_path / "out")(input_ids=made.input_ids, pixel_values=seen).logits[0]
    text = tokenizer(bytes(TEXT[1:]).decode(), add_special_tokens=False).input_ids
    expected = logits(model, seen, [tokenizer.bos_token_id], text)
    assert float((found - expected).abs().max()) <= 1e-5


@pytest.mark.parametrize(
    "image", [{"resize": "letterbox_prismatic"}, {"resize": "letterbox", "fill": [0, 0, 0]}]
)
def test_without_its_transform_in_transformers_there_is_no_processor(image: Any, tmp_path: Path) -> None:
    _, tokenizer = load_llm("test_llama")
    write_llava_hf(tmp_path / "out", model_of(), WORDS, tokenizer=tokenizer, image=image)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert "tokenizer.json" in names
    assert not [name for name in names if "processor" in name]


def refused(model: Any) -> str:
    with pytest.raises(UserError) as caught:
        to_llava_hf(model, WORDS)
    return str(caught.value)


def test_what_has_no_place_is_refused_with_what_to_use_instead() -> None:
    for projector in ("linear", "fused_gelu_mlp"):
        assert "use the layout prismatic" in refused(model_of(projector=projector))
    for name in ("perceiver", "pixel_shuffle"):
        config = {"name": name, **({"depth": 1, "heads": 1} if name == "perceiver" else {"norm": False})}
        assert "it holds gelu_mlp" in refused(model_of(projector=config))
    assert "projector.norm=false" in refused(model_of(projector={"name": "gelu_mlp", "hidden": 1}))
    assert "projector.hidden=1" in refused(model_of(projector={"name": "gelu_mlp", "norm": False}))
    for tower in ("test_dinov2", "test_vit"):
        assert "use the layout prismatic" in refused(model_of(tower))
    assert "a FusedVision" in refused(model_of("test_dinov2_siglip"))
    assert "features from disk" in refused(model_of(None))
    model = model_of()
    model.language = model.projector
    assert "language model of the registry" in refused(model)
    with pytest.raises(UserError, match="unknown number format 'float16'"):
        to_llava_hf(model_of(), WORDS, "float16")


def test_a_folder_of_other_tensors_is_refused(tmp_path: Path) -> None:
    write_llava_hf(tmp_path / "out", model_of(), WORDS)
    weights = tmp_path / "out" / "model.safetensors"
    good = load_file(weights)
    names = [name for name in good if "layers.0.self_attn" in name and "language" in name]

    def said(state: dict[str, Tensor]) -> str:
        save_file(state, weights, metadata={"format": "pt"})
        with pytest.raises(UserError) as caught:
            read_llava_hf(tmp_path / "out")
        return str(caught.value)

    assert "4 missing: model.language_model.layers.0.self_attn.k_proj.weight" in said(
        {name: tensor for name, tensor in good.items() if name not in names}
    )
    assert "1 not expected: " in said({**good, "language_model.model.layers.7.norm.weight": torch.zeros(3)})
    wider = {**good, "multi_modal_projector.linear_1.bias": torch.zeros(5)}
    assert "multi_modal_projector.linear_1.bias [5], not [32]" in said(wider)
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match="cannot be read as a LLaVA"):
        read_llava_hf(tmp_path / "out")
    with pytest.raises(UserError, match=r"no config\.json"):
        read_llava_hf(tmp_path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("vision_feature_layer", -1),
        ("vision_feature_layer", [-2]),
        ("vision_feature_select_strategy", "full"),
        ("projector_hidden_act", "relu"),
    ],
)
def test_a_llava_that_computes_something_else_is_refused(field: str, value: Any) -> None:
    llava = reference()
    setattr(llava.config, field, value)
    with pytest.raises(UserError, match=field):
        from_llava_hf(llava)


def test_an_export_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import LlavaForConditionalGeneration

    written = LlavaForConditionalGeneration.save_pretrained

    def full(self: Any, folder: Path) -> None:
        written(self, folder)
        raise RuntimeError("No space left on device (os error 28)")

    monkeypatch.setattr(LlavaForConditionalGeneration, "save_pretrained", full)
    with pytest.raises(UserError, match="nothing half-written was kept"):
        write_llava_hf(tmp_path / "out", model_of(), WORDS)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    write_llava_hf(tmp_path / "out", model_of(), WORDS)
    with pytest.raises(UserError, match="exists already"):
        write_llava_hf(tmp_path / "out", loud(model_of(), 3), WORDS)
