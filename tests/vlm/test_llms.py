"""Language models behind one face: counts, parity with transformers, packing, files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from torch import Tensor

from vlmablate.errors import UserError
from vlmablate.training import tuning
from vlmablate.vlm.llms.load import _advice, load_llm
from vlmablate.vlm.llms.model import CausalLM
from vlmablate.vlm.llms.registry import llms
from vlmablate.vlm.llms.unpacked import unpacked
from vlmablate.vlm.prompts import templates

REAL = [name for name, spec in llms().items() if spec.hub is not None]
SMALL = [name for name, spec in llms().items() if spec.hub is None]
# As the papers and model cards print them: billions, to the digits printed.
PUBLISHED = {
    "llama2_7b": 6.738, "llama2_13b": 13.016, "vicuna_v1.5_7b": 6.738, "mistral_v0.1_7b": 7.242, "phi2": 2.780,
    "qwen2.5_0.5b": 0.494, "qwen2.5_1.5b": 1.544, "qwen2.5_3b": 3.086, "qwen2.5_7b": 7.616, "smollm2_135m": 0.1345,
    "smollm2_360m": 0.3618, "gemma_2b": 2.506, "gemma2_2b": 2.614, "gemma3_1b": 1.000, "gemma3_270m": 0.268,
}  # fmt: skip


@pytest.fixture(scope="module")
def built() -> dict[str, CausalLM]:
    made = {name: load_llm(name)[0].eval() for name in SMALL}
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for model in made.values():
            for parameter in model.parameters():  # also norms and biases, which start at ones and zeros
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return made


@pytest.mark.parametrize("name", REAL + SMALL)
def test_every_model_has_as_many_parameters_as_declared(name: str) -> None:
    model, _ = load_llm({"name": name, "vocabulary_multiple": 1}, device="meta")
    spec = llms()[name]
    assert sum(p.numel() for p in model.parameters()) == spec.parameters
    assert len(model.layers) == spec.config["num_hidden_layers"]
    assert model.width == spec.config["hidden_size"]
    assert spec.template in templates()
    assert (spec.kind == "chat") == (spec.template not in ("base", "phi2"))


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_declared_counts_are_the_published_ones(name: str) -> None:
    assert llms()[name].parameters / 1e9 == pytest.approx(PUBLISHED[name], rel=5e-4)


def test_the_vocabulary_is_padded_to_a_multiple_of_64() -> None:
    assert load_llm("llama2_7b", device="meta")[0].config.vocab_size == 32000  # bytes: no pad token beyond it
    model, tokenizer = load_llm({"name": "test_llama", "vocabulary_multiple": 64})
    assert (len(tokenizer), model.config.vocab_size) == (259, 320)
    assert load_llm({"name": "test_llama", "vocabulary_multiple": 1000})[0].config.vocab_size == 1000


def tokens(count: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 259, (1, count), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("form", ["none", "boolean", "three_axes", "additive"])
def test_the_face_computes_what_the_model_itself_does(built, name: str, form: str) -> None:
    """Embedding scale, sliding windows (12 tokens, windows of 6), softmax caps: as transformers decides them."""
    model, ids = built[name], tokens(12)
    causal = torch.ones(1, 1, 12, 12, dtype=torch.bool).tril()
    lowest = torch.finfo(torch.float32).min
    mask = {
        "none": None,
        "boolean": causal,
        "three_axes": causal[:, 0],
        "additive": torch.zeros(1, 1, 12, 12).masked_fill(~causal, lowest),
    }[form]
    with torch.no_grad():
        expected = model.model(input_ids=ids).logits
        found = model.logits(model(model.embed(ids), torch.arange(12)[None], mask))
    assert torch.allclose(found, expected, atol=1e-6, rtol=0)
    assert float(expected.std()) > 1e-2


@pytest.mark.parametrize("name", SMALL)
def test_packed_documents_are_those_that_are_read_alone(built, name: str) -> None:
    model, lengths = built[name], (5, 9, 3)
    parts = [tokens(length, seed) for seed, length in enumerate(lengths)]
    documents = torch.repeat_interleave(torch.arange(3), torch.tensor(lengths))[None]
    padded = torch.cat([documents, torch.full((1, 2), -1)], dim=1)
    row = torch.cat([*parts, torch.zeros(1, 2, dtype=torch.int64)], dim=1)
    positions = torch.cat([torch.arange(length) for length in (*lengths, 2)])[None]
    same = (padded[:, :, None] == padded[:, None, :]) & (padded >= 0)[:, :, None]
    mask = (same & torch.ones(19, 19, dtype=torch.bool).tril())[:, None]
    with torch.no_grad():
        packed = model(model.embed(row), positions, mask)
        naive = model(model.embed(row), torch.arange(19)[None])
        alone = torch.cat([model(model.embed(p), torch.arange(p.shape[1])[None]) for p in parts], dim=1)
    assert torch.isfinite(packed).all()
    assert float((packed[:, :17] - alone).abs().max()) <= 1e-5
    assert float((naive[:, :17] - alone).abs().max()) > 1e-2


@pytest.mark.parametrize("name", SMALL)
def test_gradients_reach_the_embeddings_that_were_put_in(built, name: str) -> None:
    model = built[name]
    embeddings = torch.randn(1, 4, 32, generator=torch.Generator().manual_seed(1)).requires_grad_(True)
    model.logits(model(embeddings, torch.arange(4)[None]))[0, -1, 7].backward()
    assert embeddings.grad is not None
    assert float(embeddings.grad.abs().amax(-1).min()) > 0.0
    model.zero_grad()


def test_random_weights_follow_their_seed_and_leave_other_random_numbers_alone() -> None:
    torch.manual_seed(8)
    before = torch.get_rng_state()
    first, again = load_llm("test_qwen2")[0], load_llm("test_qwen2")[0]
    other = load_llm({"name": "test_qwen2", "seed": 1})[0]
    assert torch.equal(torch.get_rng_state(), before)
    words = [model.model.get_input_embeddings().weight for model in (first, again, other)]
    assert torch.equal(words[0], words[1])
    assert not torch.equal(words[0], words[2])


def test_adapters_of_the_usual_names_fit() -> None:
    model = load_llm("test_llama")[0].eval()
    plain = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    how = {"lora": {"rank": 2, "alpha": 4, "targets": ["q_proj", "v_proj", "down_proj"], "dropout": 0.0}}
    tuning.apply(model, how, tuning.draws(0))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(0.0, 0.1, generator=torch.Generator().manual_seed(2))
        adapted = model(model.embed(tokens(6)), torch.arange(6)[None])
        state = tuning.merged(model.state_dict(), how)
        assert list(state) == list(plain)
        again = load_llm("test_llama")[0].eval()
        again.load_state_dict(state)
        merged = again(again.embed(tokens(6)), torch.arange(6)[None])
    assert float((merged - adapted).abs().max()) <= 1e-6
    tuning.apply(again, {"last": 1})
    assert all(".layers.1." in name for name, p in again.named_parameters() if p.requires_grad)


@pytest.fixture(scope="module")
def folder(built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint as the hub has them: without a pad token, of a vocabulary that is no multiple of 64."""
    path = tmp_path_factory.mktemp("folder")
    model, tokenizer = load_llm({"name": "test_llama", "vocabulary_multiple": 1})
    model.load_state_dict(built["test_llama"].state_dict())
    tokenizer.save_pretrained(path)
    model.model.save_pretrained(path)
    return path


def test_a_folder_is_read_as_it_was_written(built, folder: Path) -> None:
    model, tokenizer = load_llm("test_llama", weights=str(folder))
    theirs = built["test_llama"].state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in model.state_dict().items())
    assert tokenizer.decode(
        tokenizer("Où? <s>", add_special_tokens=False, split_special_tokens=True).input_ids
    ) == ("Où? <s>")
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == ("<s>", "</s>", "<pad>")


def test_a_grown_vocabulary_starts_at_the_mean_of_the_old_one(built, folder: Path) -> None:
    model, _ = load_llm({"name": "test_llama", "vocabulary_multiple": 128}, weights=str(folder))
    assert model.config.vocab_size == 384
    theirs = built["test_llama"]
    for ours, old in (
        (model.model.get_input_embeddings(), theirs.model.get_input_embeddings()),
        (model.model.get_output_embeddings(), theirs.model.get_output_embeddings()),
    ):
        assert torch.equal(ours.weight[:320], old.weight)
        assert torch.allclose(ours.weight[320:], old.weight.mean(0).expand(64, -1), atol=1e-6)
    assert model.logits(torch.zeros(1, 1, 32)).shape == (1, 1, 384)


def test_a_folder_of_another_model_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match=r"not of smollm2_135m: .*hidden_size is 32, expected 576"):
        load_llm("smollm2_135m", weights=str(folder))
    with pytest.raises(UserError, match="architecture is llama, expected qwen2"):
        load_llm("test_qwen2", weights=str(folder))


def _permuted(weight: Tensor, heads: int) -> Tensor:
    """The order in which llama.cpp keeps the rotary halves of a head."""
    rows, columns = weight.shape
    return weight.view(heads, 2, rows // heads // 2, columns).transpose(1, 2).reshape(rows, columns)


def write_gguf(path: Path, state: dict[str, Tensor], vocabulary: list[str]) -> None:
    """The small Llama as a GGUF file of float32, with a vocabulary of bytes."""
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(4096)
    writer.add_embedding_length(32)
    writer.add_block_count(2)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(vocabulary))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(vocabulary)
    writer.add_token_types([1] * 256 + [3] * (len(vocabulary) - 256))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(256)
    writer.add_eos_token_id(257)
    plain = {"embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output"}
    inside = {
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    }  # fmt: skip
    for name, tensor in state.items():
        name = name.removeprefix("model.").removeprefix("model.").removesuffix(".weight")
        if name.startswith("layers."):
            _, layer, part = name.split(".", 2)
            heads = {"self_attn.q_proj": 4, "self_attn.k_proj": 2}.get(part)
            tensor = tensor if heads is None else _permuted(tensor, heads)
            target = f"blk.{layer}.{inside[part]}"
        else:
            target = plain[name]
        writer.add_tensor(f"{target}.weight", tensor.detach().contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_file_is_read(built, tmp_path: Path) -> None:
    theirs, tokenizer = built["test_llama"], load_llm("test_llama")[1]
    words = [tokenizer.convert_ids_to_tokens(i) for i in range(259)]
    vocabulary = words + ["ab", "<|endoftext|>"] + [f"<unused{i}>" for i in range(59)]
    write_gguf(tmp_path / "small.gguf", theirs.state_dict(), vocabulary)
    model, read = load_llm("test_llama", weights=str(tmp_path / "small.gguf"))
    ids = read("a b </s>", add_special_tokens=False).input_ids
    assert ids == tokenizer("a b </s>", add_special_tokens=False).input_ids
    with torch.no_grad():
        ours = model.logits(model(model.embed(tokens(9)), torch.arange(9)[None]))
        expected = theirs.logits(theirs(theirs.embed(tokens(9)), torch.arange(9)[None]))
    assert torch.allclose(ours, expected, atol=1e-6)


def test_a_gguf_file_is_unpacked_once(built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLMABLATE_CACHE", str(tmp_path / "cache"))
    tokenizer = load_llm("test_llama")[1]
    words = [tokenizer.convert_ids_to_tokens(i) for i in range(259)]
    vocabulary = words + ["ab", "<|endoftext|>"] + [f"<unused{i}>" for i in range(59)]
    write_gguf(tmp_path / "small.gguf", built["test_llama"].state_dict(), vocabulary)
    folder = unpacked("test_llama", tmp_path / "small.gguf", "digest")
    direct, read = load_llm("test_llama", weights=str(tmp_path / "small.gguf"))
    (tmp_path / "small.gguf").unlink()
    assert unpacked("test_llama", tmp_path / "small.gguf", "digest") == folder
    again, read_again = load_llm("test_llama", weights=str(folder))
    assert again.state_dict().keys() == direct.state_dict().keys()
    assert all(torch.equal(tensor, direct.state_dict()[name]) for name, tensor in again.state_dict().items())
    assert read_again.get_vocab() == read.get_vocab()
    assert read_again("a b </s>").input_ids == read("a b </s>").input_ids
    assert [path.name for path in folder.parent.iterdir()] == ["digest"]


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        ("llama2-7b", "random", "unknown language model 'llama2-7b'.*did you mean 'llama2_7b'"),
        ({"name": "test_llama", "vocab": 3}, "random", "unknown option of a language model 'vocab'"),
        ({"name": "test_llama", "dtype": "fp16"}, "random", "unknown number format 'fp16'"),
        ({"name": "test_llama", "vocabulary_multiple": 0}, "random", "must be at least 1, not 0"),
        ("test_llama", "pretrained", "test_llama has no pretrained weights"),
        ("test_llama", "/nowhere", "give random, pretrained, an existing folder or a .gguf file"),
    ],
)
def test_a_wrong_request_says_what_is_right(name: Any, weights: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_llm(name, weights=weights)


def test_an_unreadable_folder_says_so(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(UserError, match="test_llama cannot be read from"):
        load_llm("test_llama", weights=str(tmp_path))


def test_what_the_hub_refuses_comes_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers

    class GatedRepoError(OSError):
        pass

    def refuse(*_: Any, **__: Any) -> None:
        try:
            raise GatedRepoError("403")
        except GatedRepoError as error:
            raise OSError("You are trying to access a gated repo.") from error

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", refuse)
    with pytest.raises(UserError, match=r"Llama-2-7b-hf is gated: ask for access at https://.*hf auth login"):
        load_llm("llama2_7b", weights="pretrained")
    offline = _advice(llms()["phi2"], "microsoft/phi-2", OSError("We couldn't connect\nmore"))
    assert "We couldn't connect\n" in offline
    assert "hf download microsoft/phi-2 --local-dir FOLDER" in offline
    assert "gated" not in offline
    assert "it is gated" in _advice(llms()["gemma_2b"], "google/gemma-2b", OSError("no"))
