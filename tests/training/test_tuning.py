"""What trains and what does not; adapters, and how they become plain weights again."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vlmablate.errors import UserError
from vlmablate.orchestration.context import StepContext
from vlmablate.training import loop, tuning
from vlmablate.training.packing import Segment, attention_mask, pack
from vlmablate.vlm.language_model import LanguageModel, LanguageModelConfig

CARD = LanguageModelConfig(vocabulary=13, grid=2, layers=3, width=16, heads=2, bins=0, segment=8)
LORA: dict[str, Any] = {"lora": {"rank": 4, "alpha": 6, "targets": ["qkv", "mlp_out"], "dropout": 0.0}}


def language() -> LanguageModel:
    model = LanguageModel(CARD)
    model.initialise(torch.Generator().manual_seed(0))
    return model


def adapted(seed: int = 0) -> LanguageModel:
    model = language()
    tuning.apply(model, LORA, torch.Generator().manual_seed(seed))
    return model


def randomise_b(model: nn.Module) -> None:
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(0.0, 0.2, generator=generator)


def answer(model: LanguageModel) -> Tensor:
    generator = torch.Generator().manual_seed(9)
    packed = pack([[Segment((1, 2, 3), (4, 5)), Segment((6,), (7, 8))]])
    cells = torch.randn(1, 4, 16, generator=generator)
    mask = attention_mask(packed.segments, 4)
    return model.logits(model(cells, packed.tokens, packed.positions, mask))


def trained(model: nn.Module) -> set[str]:
    return {name for name, p in model.named_parameters() if p.requires_grad}


def test_frozen_trains_nothing_and_full_everything() -> None:
    model = language()
    tuning.apply(model, "frozen")
    assert trained(model) == set()
    tuning.apply(model, "full")
    assert trained(model) == {name for name, _ in model.named_parameters()}


def test_the_last_layers_are_the_last_of_the_longest_list() -> None:
    model = nn.Module()
    model.towers = nn.ModuleList(nn.Linear(2, 2) for _ in range(2))
    model.language = language()
    tuning.apply(model, {"last": 2})
    names = trained(model)
    assert names
    assert {name.split(".")[:3][-1] for name in names} == {"1", "2"}
    assert all(name.startswith("language.blocks.") for name in names)
    with pytest.raises(UserError, match="4 layers cannot train, LanguageModel has 3"):
        tuning.apply(model.language, {"last": 4})


def test_adapters_start_without_effect_and_are_all_that_trains() -> None:
    model = adapted()
    assert torch.equal(answer(model), answer(language()))
    assert len(trained(model)) == 3 * 2 * 2
    assert all(".lora_A." in name or ".lora_B." in name for name in trained(model))
    answer(model).square().sum().backward()
    for name, parameter in model.named_parameters():
        # At B = 0 the gradient reaches B alone.
        assert (parameter.grad is not None) == (name in trained(model)), name
        if ".lora_B." in name:
            assert float(parameter.grad.abs().max()) > 0, name


def test_merged_weights_are_those_of_the_formula_and_compute_the_same() -> None:
    model = adapted()
    randomise_b(model)
    state = tuning.merged(model.state_dict(), LORA)
    plain = language()
    before = {name: tensor.clone() for name, tensor in plain.state_dict().items()}
    assert list(state) == list(before)
    plain.load_state_dict(state)
    with torch.no_grad():
        assert float((answer(plain) - answer(model)).abs().max()) <= 1e-6
        assert float((answer(plain) - answer(language())).abs().max()) > 1e-2
    layer = model.blocks[1].qkv
    expected = (
        before["blocks.1.qkv.weight"] + 6 / 4 * layer.lora_B.default.weight @ layer.lora_A.default.weight
    )
    assert torch.allclose(state["blocks.1.qkv.weight"], expected, atol=1e-7)
    assert torch.equal(state["blocks.1.mlp_in.weight"], before["blocks.1.mlp_in.weight"])


def test_merged_weights_are_those_that_peft_merges_itself() -> None:
    model = adapted()
    randomise_b(model)
    ours = tuning.merged(model.state_dict(), LORA)
    for name in tuning.targets_of(language(), LORA["lora"]["targets"]):
        layer = model.get_submodule(name)
        layer.merge()
        assert torch.allclose(layer.base_layer.weight, ours[f"{name}.weight"], atol=1e-7)


def test_a_bfloat16_weight_does_not_round_the_change_away() -> None:
    model = adapted()
    randomise_b(model)
    tuning.master_weights(model, torch.bfloat16)
    state = tuning.merged(model.state_dict(), LORA)
    assert state["blocks.0.qkv.weight"].dtype == torch.float32
    assert state["blocks.0.mlp_in.weight"].dtype == torch.bfloat16
    layer = model.blocks[0].qkv
    change = state["blocks.0.qkv.weight"] - layer.base_layer.weight.float()
    assert torch.allclose(change, 1.5 * layer.lora_B.default.weight @ layer.lora_A.default.weight, atol=1e-7)


def test_the_start_of_adapters_follows_the_generator_alone() -> None:
    model = language()
    torch.manual_seed(1)
    before = torch.get_rng_state()
    tuning.apply(model, LORA, torch.Generator().manual_seed(3))
    first = model.state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    again, other = adapted(3).state_dict(), adapted(4).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    drawn = [name for name in first if ".lora_A." in name]
    assert not any(torch.equal(first[name], other[name]) for name in drawn)
    bound = CARD.width**-0.5
    a = torch.cat([first[name].flatten() for name in drawn if "qkv" in name])
    assert 0.9 * bound < float(a.abs().max()) <= bound
    assert float(a.std()) == pytest.approx(bound / 3**0.5, rel=0.15)
    draws = [tuning.draws(seed).initial_seed() for seed in range(5)]
    assert len(set(draws)) == 5


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("ful", "did you mean 'full'"),
        ("lora", "unknown way to train a module 'lora'"),
        ({"loar": {}}, "did you mean 'lora'"),
        ({"last": 0}, "last must be a whole number of at least 1"),
        ({"last": True}, "last must be a whole number"),
        ({"last": 1, "lora": {}}, "not {'last': 1"),
        ({"lora": {"rank": 8}}, "exactly the settings rank, alpha, targets, dropout"),
        ({"lora": {**LORA["lora"], "rank": 0}}, "lora.rank must be a whole number of at least 1"),
        ({"lora": {**LORA["lora"], "targets": []}}, "list of names of linear layers"),
        ({"lora": {**LORA["lora"], "targets": "qkv"}}, "list of names of linear layers"),
        ({"lora": {**LORA["lora"], "dropout": 1.0}}, "lora.dropout must be a share"),
        ({"lora": {**LORA["lora"], "targets": ["qkv", "q_proj"]}}, "unknown LoRA target 'q_proj'"),
        ({"lora": {**LORA["lora"], "targets": ["kv"]}}, "unknown LoRA target 'kv'"),
    ],
)
def test_a_wrong_way_is_an_error_that_says_what_is_right(how: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        tuning.apply(language(), how, torch.Generator())


def test_a_target_is_an_exact_name_or_its_end() -> None:
    found = tuning.targets_of(language(), ["1.qkv", "blocks.0.mlp_out"])
    assert found == ["blocks.1.qkv", "blocks.0.mlp_out"]


def test_a_layer_that_shares_its_weight_cannot_be_adapted() -> None:
    model = nn.Module()
    model.words, model.head = nn.Embedding(5, 4), nn.Linear(4, 5, bias=False)
    model.head.weight = model.words.weight
    with pytest.raises(UserError, match="shares its weight"):
        tuning.apply(model, {"lora": {**LORA["lora"], "targets": ["head"]}}, torch.Generator())


def test_parts_have_their_own_rates_and_every_parameter_is_in_one_group() -> None:
    projector, model = nn.Linear(4, 16), adapted()
    recipe = {"learning_rate": 2e-5, "weight_decay": 0.1, "learning_rates": {"projector": 1e-3}}
    groups = tuning.parameter_groups({"projector": projector, "language": model, "again": projector}, recipe)
    assert [group["name"] for group in groups] == ["projector", "projector.no_decay", "language"]
    assert [group["lr"] for group in groups] == [1e-3, 1e-3, 2e-5]
    assert [group["scale"] for group in groups] == pytest.approx([50.0, 50.0, 1.0])
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0, 0.1]
    params = [id(p) for group in groups for p in group["params"]]
    assert len(params) == len(set(params)) == 2 + 12
    with pytest.raises(UserError, match="did you mean 'projector'"):
        tuning.parameter_groups({"projector": projector}, {**recipe, "learning_rates": {"projectr": 1.0}})


def test_what_trains_is_float32_and_a_bfloat16_master_is_refused() -> None:
    model = language().to(torch.bfloat16)
    tuning.apply(model, {"last": 1})
    with pytest.raises(ValueError, match=r"blocks\.2\.norm_attention\.weight"):
        tuning.check_master_weights(model)
    tuning.master_weights(model, torch.bfloat16)
    tuning.check_master_weights(model)
    kinds = {name: p.dtype for name, p in model.named_parameters()}
    assert {kinds[name] for name in trained(model)} == {torch.float32}
    assert {dtype for name, dtype in kinds.items() if name not in trained(model)} == {torch.bfloat16}


class _Killed(BaseException):
    pass


def _train(out: Path, model: LanguageModel, killed_at: int | None = None) -> None:
    def batch_at(step: int) -> loop.Batch:
        if step == killed_at:
            raise _Killed
        word = step % 12
        packed = pack([[Segment((1, 2), (word,)), Segment((3,), (word, 4))]])
        cells = torch.randn(1, 4, 16, generator=torch.Generator().manual_seed(step))
        mask = attention_mask(packed.segments, 4)
        return loop.Batch(packed, lambda rows: model(cells, packed.tokens, packed.positions, mask))

    out.mkdir(exist_ok=True)
    context = StepContext(execution={"save_every": 5}, attempt=1, assets=out, out=out)
    recipe = loop.Recipe(12, 0.02, 0.1, 0.01, 1.0)
    loop.train(model, model.logits, batch_at, recipe, out, context, "fp32")


def test_a_killed_training_of_adapters_ends_with_the_same_bits(tmp_path: Path) -> None:
    whole, first = adapted(), adapted()
    frozen = copy.deepcopy({n: p for n, p in whole.named_parameters() if not p.requires_grad})
    _train(tmp_path / "whole", whole)
    with pytest.raises(_Killed):
        _train(tmp_path / "cut", first, killed_at=8)
    resumed = adapted()
    _train(tmp_path / "cut", resumed)
    assert json.loads((tmp_path / "cut" / loop.CURVE_FILE).read_text().splitlines()[-1])["step"] == 12
    ends = whole.state_dict(), resumed.state_dict()
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    parameters = dict(whole.named_parameters())
    assert all(torch.equal(parameters[name], tensor) for name, tensor in frozen.items())
    assert all(bool(p.any()) for n, p in parameters.items() if ".lora_B." in n)
