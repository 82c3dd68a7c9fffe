"""The small language model against transformers' GPT-2, and packing against one question at a time."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from vlmablate.errors import UserError
from vlmablate.training.packing import Segment, attention_mask, pack
from vlmablate.vlm.language_model import LanguageModel, LanguageModelConfig, Places
from vlmablate.vlm.positions import POSITIONS, ROTARY

CONFIG = LanguageModelConfig(vocabulary=50, grid=3, layers=2, width=32, heads=4, bins=5, segment=12)


def made(position: str) -> LanguageModel:
    """A model of that position code, loud enough that its attention is not flat."""
    model = LanguageModel(replace(CONFIG, position=position))
    generator = torch.Generator().manual_seed(0)
    model.initialise(generator)
    with torch.no_grad():
        for block in model.blocks:
            block.qkv.weight.normal_(0.0, 0.4, generator=generator)
            block.qkv.bias.normal_(0.0, 0.2, generator=generator)
    return model.eval()


@pytest.fixture
def model() -> LanguageModel:
    return made("learned_2d")


def test_equals_gpt2_on_the_same_weights(model: LanguageModel) -> None:
    transformers = pytest.importorskip("transformers")
    reference = transformers.GPT2Model(
        transformers.GPT2Config(
            vocab_size=50, n_positions=64, n_embd=32, n_layer=2, n_head=4, activation_function="relu",
            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, attn_implementation="eager",
        )
    ).eval()  # fmt: skip
    with torch.no_grad():
        reference.wpe.weight.zero_()  # positions come in through the embeddings below
        reference.ln_f.load_state_dict(model.norm.state_dict())
        for ours, theirs in zip(model.blocks, reference.h, strict=True):
            theirs.ln_1.load_state_dict(ours.norm_attention.state_dict())
            theirs.ln_2.load_state_dict(ours.norm_mlp.state_dict())
            for linear, conv in (
                (ours.qkv, theirs.attn.c_attn),
                (ours.attention_out, theirs.attn.c_proj),
                (ours.mlp_in, theirs.mlp.c_fc),
                (ours.mlp_out, theirs.mlp.c_proj),
            ):
                conv.weight.copy_(linear.weight.T)
                conv.bias.copy_(linear.bias)
    packed = pack([[Segment((5, 6, 7), (8,)), Segment((9, 10), (11, 12))], [Segment((1, 2, 3, 4), (5,))]])
    mask = attention_mask(packed.segments, 9)
    cells = torch.randn(2, 9, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours_hidden = model(cells, packed.tokens, packed.positions, mask)
        text = model.words(packed.tokens) + model.positions(packed.positions)
        embedded = torch.cat([cells + model.place_codes(), text], dim=1)
        additive = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
        theirs_hidden = reference(inputs_embeds=embedded, attention_mask=additive).last_hidden_state[:, 9:]
    seen = packed.segments >= 0
    assert torch.allclose(ours_hidden[seen], theirs_hidden[seen], atol=1e-5)


def test_the_one_axis_rotary_model_equals_gpt_neox_on_the_same_weights() -> None:
    neox = pytest.importorskip("transformers.models.gpt_neox.modeling_gpt_neox")
    model = made("rope_1d")
    rope = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 1.0}
    reference = neox.GPTNeoXModel(
        neox.GPTNeoXConfig(
            vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128,
            hidden_act="relu", use_parallel_residual=False, rope_parameters=rope, attn_implementation="eager",
        )
    ).eval()  # fmt: skip
    with torch.no_grad():
        reference.final_layer_norm.load_state_dict(model.norm.state_dict())
        for ours, theirs in zip(model.blocks, reference.layers, strict=True):
            theirs.input_layernorm.load_state_dict(ours.norm_attention.state_dict())
            theirs.post_attention_layernorm.load_state_dict(ours.norm_mlp.state_dict())
            theirs.attention.dense.load_state_dict(ours.attention_out.state_dict())
            theirs.mlp.dense_h_to_4h.load_state_dict(ours.mlp_in.state_dict())
            theirs.mlp.dense_4h_to_h.load_state_dict(ours.mlp_out.state_dict())
            # Theirs has query, key and value of one head side by side, ours has all queries first.
            weight, bias = ours.qkv.weight.view(3, 4, 8, 32), ours.qkv.bias.view(3, 4, 8)
            theirs.attention.query_key_value.weight.copy_(weight.transpose(0, 1).reshape(96, 32))
            theirs.attention.query_key_value.bias.copy_(bias.transpose(0, 1).reshape(96))
    packed = pack([[Segment((5, 6, 7), (8,)), Segment((9, 10), (11, 12))], [Segment((1, 2, 3, 4), (5,))]])
    mask = attention_mask(packed.segments, 9)
    cells = torch.randn(2, 9, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours_hidden = model(cells, packed.tokens, packed.positions, mask)
        embedded = torch.cat([cells, model.words(packed.tokens)], dim=1)
        numbers = torch.cat([torch.arange(9).expand(2, 9), 9 + packed.positions], dim=1)
        additive = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
        theirs_hidden = reference(
            inputs_embeds=embedded, attention_mask=additive, position_ids=numbers
        ).last_hidden_state[:, 9:]
    seen = packed.segments >= 0
    assert torch.allclose(ours_hidden[seen], theirs_hidden[seen], atol=1e-5)


@pytest.mark.parametrize("places", ["grid", "pooled", "nowhere"])
@pytest.mark.parametrize("position", POSITIONS)
def test_a_packed_question_gets_the_logits_of_one_asked_alone(position: str, places: str) -> None:
    model = made(position)
    segments = [Segment((5, 6, 7), (8,)), Segment((9, 10), (11, 12, 13)), Segment((1,), (2,))]
    where: dict[str, tuple[int, Places]] = {
        "grid": (9, "grid"), "pooled": (4, grid_places(2) + 0.5), "nowhere": (5, None)
    }  # fmt: skip
    count, at = where[places]
    cells = torch.randn(1, count, 32, generator=torch.Generator().manual_seed(1))

    def hidden(row: list[Segment]) -> torch.Tensor:
        packed = pack([row])
        mask = attention_mask(packed.segments, count)
        with torch.no_grad():
            return model(cells, packed.tokens, packed.positions, mask, at)[0]

    together = hidden(segments)
    alone = torch.cat([hidden([segment]) for segment in segments])
    assert torch.allclose(together, alone, atol=1e-5)


def answer(model: LanguageModel, count: int, places: Places) -> torch.Tensor:
    """Hidden states of one question behind the same `count` cells."""
    packed = pack([[Segment((5, 6, 7), (8, 9))]])
    cells = torch.randn(1, 9, 32, generator=torch.Generator().manual_seed(1))[:, :count]
    mask = attention_mask(packed.segments, count)
    with torch.no_grad():
        return model(cells, packed.tokens, packed.positions, mask, places)


def test_rotary_codes_have_the_same_weights_and_part_where_the_cells_have_places() -> None:
    models = {name: made(name) for name in ROTARY}
    weights = [model.state_dict() for model in models.values()]
    for name, tensor in weights[0].items():
        assert all(torch.equal(other[name], tensor) for other in weights)
    on_grid = [answer(model, 9, "grid") for model in models.values()]
    nowhere = [answer(model, 9, None) for model in models.values()]
    for index, ours in enumerate(on_grid):
        # Cells without a place are a run of tokens, the same one whatever the code.
        assert torch.equal(nowhere[index], nowhere[0])
        for other in on_grid[index + 1 :]:
            assert not torch.allclose(ours, other, atol=1e-4)


@pytest.mark.parametrize("position", ROTARY)
def test_rotary_codes_read_whole_places_as_the_grid(position: str) -> None:
    model = made(position)
    assert torch.equal(answer(model, 9, grid_places(3)), answer(model, 9, "grid"))
    assert not torch.allclose(answer(model, 9, grid_places(3).flip(0)), answer(model, 9, "grid"), atol=1e-4)


def test_an_unknown_position_code_is_refused() -> None:
    with pytest.raises(UserError, match=r"unknown position code 'rope_2d' in position\.name"):
        LanguageModel(replace(CONFIG, position="rope_2d"))
    with pytest.raises(UserError, match="cannot turn heads"):
        LanguageModel(replace(CONFIG, position="m_rope", heads=8))


def test_another_question_cannot_leak(model: LanguageModel) -> None:
    cells = torch.randn(1, 9, 32, generator=torch.Generator().manual_seed(1))
    outputs = []
    for word in (8, 9):
        packed = pack([[Segment((word, word), (word,)), Segment((1, 2), (3,))]])
        with torch.no_grad():
            outputs.append(
                model(cells, packed.tokens, packed.positions, attention_mask(packed.segments, 9))[0, 2:]
            )
    assert torch.equal(outputs[0], outputs[1])


def test_a_table_cell_is_the_weighted_mean_of_its_words(model: LanguageModel) -> None:
    words = torch.tensor([[[3, 4, 1]]])
    weights = torch.tensor([[[0.5, 0.25, 0.25]]])
    expected = 0.5 * model.words.weight[3] + 0.25 * model.words.weight[4] + 0.25 * model.words.weight[1]
    assert torch.allclose(model.read_table(words, weights)[0, 0], expected)


def grid_places(side: int) -> torch.Tensor:
    """[side * side, 2] (row, column) in reading order."""
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    return torch.stack([rows, columns], dim=-1).flatten(0, 1).float()


def test_whole_places_give_the_bits_of_the_grid_in_any_order(model: LanguageModel) -> None:
    places, codes = grid_places(3), model.place_codes()
    assert torch.equal(model.place_codes(places), codes)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(2))
    assert torch.equal(model.place_codes(places[order]), codes[order])
    packed = pack([[Segment((5, 6, 7), (8,))]])
    cells = torch.randn(1, 9, 32, generator=torch.Generator().manual_seed(1))
    mask = attention_mask(packed.segments, 9)
    with torch.no_grad():
        by_default = model(cells, packed.tokens, packed.positions, mask)
        assert torch.equal(model(cells, packed.tokens, packed.positions, mask, places), by_default)
        assert not torch.equal(
            model(cells, packed.tokens, packed.positions, mask, places.flip(0)), by_default
        )


def test_codes_between_two_places_lie_on_the_line_between_their_codes(model: LanguageModel) -> None:
    row, column = model.row_codes, model.column_codes
    got = model.place_codes(torch.tensor([[0.25, 2.0], [1.5, 0.5]]))
    assert torch.allclose(got[0], 0.75 * row[0] + 0.25 * row[1] + column[2])
    assert torch.allclose(got[1], (row[1] + row[2]) / 2 + (column[0] + column[1]) / 2)


def test_codes_between_places_learn_in_proportion(model: LanguageModel) -> None:
    model.place_codes(torch.tensor([[0.25, 2.0]])).sum().backward()
    assert model.row_codes.grad is not None
    assert model.column_codes.grad is not None
    assert model.row_codes.grad[:, 0].tolist() == [0.75, 0.25, 0.0]
    assert model.column_codes.grad[:, 0].tolist() == [0.0, 0.0, 1.0]


def test_tokens_without_a_place_get_no_code_and_may_be_any_number(model: LanguageModel) -> None:
    packed = pack([[Segment((5, 6), (8,)), Segment((1,), (2,))]])
    cells = torch.randn(1, 4, 32, generator=torch.Generator().manual_seed(1))
    mask = attention_mask(packed.segments, 4)
    with torch.no_grad():
        hidden = model(cells, packed.tokens, packed.positions, mask, None)
        placed = model(
            cells - model.place_codes(grid_places(2)), packed.tokens, packed.positions, mask, grid_places(2)
        )
        # Visual tokens that carry no place are a set: their order means nothing.
        shuffled = model(cells.flip(1), packed.tokens, packed.positions, mask, None)
    assert hidden.shape == (1, 3, 32)
    assert torch.allclose(hidden, placed, atol=1e-5)
    assert torch.allclose(hidden, shuffled, atol=1e-5)
