"""The small language model against transformers' GPT-2, and packing against one question at a time."""

from __future__ import annotations

import pytest
import torch

from vlmablate.training.packing import Segment, attention_mask, pack
from vlmablate.vlm.language_model import LanguageModel, LanguageModelConfig

CONFIG = LanguageModelConfig(vocabulary=50, grid=3, layers=2, width=32, heads=4, bins=5, segment=12)


@pytest.fixture
def model() -> LanguageModel:
    model = LanguageModel(CONFIG)
    model.initialise(torch.Generator().manual_seed(0))
    return model.eval()


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


def test_a_packed_question_gets_the_logits_of_one_asked_alone(model: LanguageModel) -> None:
    segments = [Segment((5, 6, 7), (8,)), Segment((9, 10), (11, 12, 13)), Segment((1,), (2,))]
    cells = torch.randn(1, 9, 32, generator=torch.Generator().manual_seed(1))

    def hidden(row: list[Segment]) -> torch.Tensor:
        packed = pack([row])
        with torch.no_grad():
            return model(cells, packed.tokens, packed.positions, attention_mask(packed.segments, 9))[0]

    together = hidden(segments)
    alone = torch.cat([hidden([segment]) for segment in segments])
    assert torch.allclose(together, alone, atol=1e-6)


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
