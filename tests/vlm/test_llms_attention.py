"""Attention by documents: the same numbers as documents read alone, without their masks and without their padding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import flex_attention
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM

from vlmablate.training import parallelize
from vlmablate.training.ranks import ALONE
from vlmablate.training.sequences import PADDING, dense_mask
from vlmablate.vlm.llms import attention
from vlmablate.vlm.llms.attention import Documents, block_mask
from vlmablate.vlm.llms.load import load_llm
from vlmablate.vlm.llms.model import CausalLM
from vlmablate.vlm.llms.registry import hf_config, llm_named, llms

SMALL = [name for name, spec in llms().items() if name.startswith("test_")]
# Two rows of documents: of equal lengths side by side, of one token, longer than the windows (6) of the small models.
ROWS = ((4, 4, 9), (1, 14))
WIDTH = 20


def segments_of(rows: tuple[tuple[int, ...], ...], width: int) -> Tensor:
    numbers = [[n for n, length in enumerate(row) for _ in range(length)] for row in rows]
    return torch.tensor([row + [PADDING] * (width - len(row)) for row in numbers])


def positions_of(segments: Tensor) -> Tensor:
    found = torch.zeros_like(segments)
    for row, numbers in enumerate(segments.tolist()):
        for place in range(1, len(numbers)):
            if numbers[place] == numbers[place - 1] != PADDING:
                found[row, place] = found[row, place - 1] + 1
    return found


SEGMENTS = segments_of(ROWS, WIDTH)
POSITIONS = positions_of(SEGMENTS)
TOKENS = torch.randint(0, 259, SEGMENTS.shape, generator=torch.Generator().manual_seed(0))


def loud(model: nn.Module) -> None:
    """Weights with which attention matters, and norms and biases that are not ones and zeros."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


def made(name: str) -> CausalLM:
    model = load_llm(name)[0]
    loud(model)
    return model


def weighed(hidden: Tensor) -> Tensor:
    """A loss that depends on every number of every place."""
    weights = torch.randn(64, hidden.shape[-1], generator=torch.Generator().manual_seed(5))
    return (hidden * weights[: len(hidden)]).sum()


def gradients(model: nn.Module) -> dict[str, Tensor]:
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        scale = max(1.0, float(gradient.abs().max()))
        assert float((found[name] - gradient).abs().max()) <= 1e-5 * scale, name


@pytest.mark.parametrize("name", SMALL)
def test_documents_are_those_that_transformers_reads_alone(name: str) -> None:
    """The oracle is transformers' own model with its own masks and plain arithmetic, one document at a time."""
    model = made(name)
    config = hf_config(llm_named(name))
    config.pad_token_id = None
    oracle = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    oracle.load_state_dict(model.model.state_dict())
    hidden = model(model.embed(TOKENS), POSITIONS, segments=SEGMENTS)
    weighed(hidden[SEGMENTS >= 0]).backward()

    alone = [
        oracle.get_decoder()(input_ids=TOKENS[row][SEGMENTS[row] == number][None], use_cache=False)[0][0]
        for row, lengths in enumerate(ROWS)
        for number in range(len(lengths))
    ]
    expected = torch.cat(alone)
    weighed(expected).backward()
    assert float((hidden[SEGMENTS >= 0] - expected).abs().max()) <= 1e-5
    assert not hidden[SEGMENTS == PADDING].any()
    assert_same(gradients(model.model), gradients(oracle))


@pytest.mark.parametrize("name", SMALL)
def test_documents_are_what_a_dense_mask_gives(name: str) -> None:
    """At positions with gaps, too, as pictures have them: places in a row would hide positions that are mixed up."""
    model, positions = made(name), POSITIONS**2 // 2
    found = model(model.embed(TOKENS), positions, segments=SEGMENTS)[SEGMENTS >= 0]
    weighed(found).backward()
    by_documents = gradients(model)
    expected = model(model.embed(TOKENS), positions, dense_mask(SEGMENTS))[SEGMENTS >= 0]
    weighed(expected).backward()
    assert float((found - expected).abs().max()) <= 1e-5
    assert_same(by_documents, gradients(model))


@pytest.mark.parametrize("name", SMALL)
def test_no_segments_and_no_mask_is_causal(name: str) -> None:
    model = made(name)
    causal = torch.ones(1, WIDTH, WIDTH, dtype=torch.bool).tril()
    with torch.no_grad():
        found = model(model.embed(TOKENS), torch.arange(WIDTH)[None])
        expected = model(model.embed(TOKENS), torch.arange(WIDTH).expand(2, -1), causal)
    assert float((found - expected).abs().max()) <= 1e-5


def test_segments_and_a_mask_contradict_each_other() -> None:
    model = load_llm("test_llama")[0]
    with pytest.raises(ValueError, match="not both"):
        model(model.embed(TOKENS), POSITIONS, dense_mask(SEGMENTS), SEGMENTS)


@pytest.mark.parametrize(
    ("segments", "lengths", "places"),
    [
        ([[0, 0, 1], [1, 1, 2]], (2, 1, 2, 1), None),  # the same number in two rows is two documents
        ([[0, 0, PADDING], [0, 1, 1]], (2, 1, 2), [0, 1, 3, 4, 5]),
        ([[PADDING, 3, 3]], (2,), [1, 2]),
        ([[PADDING, PADDING], [PADDING, PADDING]], (1,), [0]),  # a rank without rows still computes something
        ([[0, 0], [PADDING, PADDING]], (2,), [0, 1]),
    ],
)
def test_documents_of_segments(segments: list[list[int]], lengths: tuple[int, ...], places: Any) -> None:
    found = Documents.of(torch.tensor(segments))
    assert found.lengths == lengths
    assert (None if found.places is None else found.places.tolist()) == places
    rows = torch.arange(1.0, 1 + len(segments) * len(segments[0])).view(len(segments), -1, 1)
    line = found.line(rows)
    assert line.shape == (1, sum(lengths), 1)
    back = found.rows(line)
    on_line = torch.zeros(rows.numel(), dtype=torch.bool)
    on_line[places if places is not None else slice(None)] = True
    assert torch.equal(back, rows * on_line.view_as(rows))
    numbers = [n for n, length in enumerate(lengths) for _ in range(length)]
    assert found.numbers.tolist() == numbers


class Sizes(TorchDispatchMode):
    """The largest tensor that any operation makes, and over how many rows matrices are multiplied."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0
        self.multiplied: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        self.largest = max([self.largest, *(x.numel() for x in tree_leaves(made) if isinstance(x, Tensor))])
        if func is torch.ops.aten.mm.default:
            self.multiplied.add(args[0].shape[0])
        return made


def test_no_scores_of_a_row_are_made_and_padding_is_not_computed() -> None:
    """40 documents of 10 tokens and a row that is nearly all padding: 404 tokens, in a batch of 2 x 400."""
    model = load_llm("test_llama")[0]
    segments = segments_of(((10,) * 40, (4,)), 400)
    embeddings = torch.randn(2, 400, 32)
    with torch.no_grad(), Sizes() as sizes:
        model(embeddings, positions_of(segments), segments=segments)
    assert sizes.multiplied == {404}
    assert sizes.largest < 400 * 400 / 2
    with torch.no_grad(), Sizes() as dense:
        model(embeddings, positions_of(segments), dense_mask(segments))
    assert dense.multiplied == {800}
    assert dense.largest >= 400 * 400


@pytest.mark.parametrize("recompute", [{"recompute": "full"}, {"recompute": "keep", "keep": ("attention",)}])
@pytest.mark.parametrize("name", ["test_llama", "test_gemma2", "test_gemma3"])
def test_recomputed_layers_see_the_same_documents(name: str, recompute: dict[str, Any]) -> None:
    model = made(name)
    weighed(model(model.embed(TOKENS), POSITIONS, segments=SEGMENTS)[SEGMENTS >= 0]).backward()
    expected = gradients(model)
    layout = parallelize.Layout(**recompute)
    parallelize.parallelize(module=model, layout=layout, precision="float32", ranks=ALONE)
    first = weighed(model(model.embed(TOKENS), POSITIONS, segments=SEGMENTS)[SEGMENTS >= 0])
    with torch.no_grad():  # other documents, between a forward and its backward
        model(model.embed(TOKENS), POSITIONS, segments=torch.zeros_like(SEGMENTS))
    first.backward()
    assert_same(gradients(model), expected)


@pytest.mark.long
def test_compiled_layers_are_not_compiled_again_for_other_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._dynamo.testing import CompileCounter

    counter = CompileCounter()
    monkeypatch.setattr(parallelize, "COMPILER", counter)
    model, plain = made("test_llama"), made("test_llama")
    parallelize.parallelize(
        module=model, layout=parallelize.Layout(compile=True), precision="float32", ranks=ALONE
    )
    counts = []
    for rows in (((9, 4),), ((5, 3, 9),), ((2, 2, 2, 8, 1),), ((20,),), ((3, 8),)):
        segments = segments_of(rows, sum(rows[0]))
        embeddings = torch.randn(1, sum(rows[0]), 32, generator=torch.Generator().manual_seed(1))
        inputs = (embeddings, positions_of(segments))
        found = model(*inputs, segments=segments)
        assert torch.allclose(found, plain(*inputs, segments=segments), atol=1e-6)
        counts.append(counter.frame_count)
    assert counts[1] == counts[-1] > 0


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("window", [None, 1, 50])
def test_the_block_mask_of_flex_attention_allows_the_same_as_the_dense_mask(window: int | None) -> None:
    documents = torch.cat([torch.arange(3).repeat_interleave(70), torch.full((46,), PADDING)])[None]
    places = torch.arange(256)
    near = (places[:, None] - places[None, :]) < (window or 256)
    q, k, v = torch.randn(3, 1, 2, 256, 16, generator=torch.Generator().manual_seed(0))
    flexible = flex_attention(q, k, v, block_mask=block_mask(documents, window))
    assert isinstance(flexible, Tensor)
    dense = scaled_dot_product_attention(q, k, v, attn_mask=dense_mask(documents) & near)
    assert (flexible - dense).abs().max() < 1e-5


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize(
    ("window", "softcap", "heads", "kv_heads"),
    [(None, None, 4, 4), (None, None, 4, 1), (None, None, 9, 3), (6, None, 4, 2), (None, 2.0, 4, 2), (6, 2.0, 4, 2)],
)  # fmt: skip
def test_flex_attention_is_what_one_call_for_each_document_gives(
    window: int | None, softcap: float | None, heads: int, kv_heads: int
) -> None:
    """What a GPU computes, in the arithmetic that stands in for its kernels."""
    documents = Documents.of(segments_of(((3, 40, 40, 1, 51),), 140))
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(1, h, 135, 8, generator=generator) for h in (heads, kv_heads, kv_heads)]
    with torch.no_grad():
        flexible = attention._flex(*inputs, documents, 0.3, window, softcap)
        one_by_one = attention._one_by_one(*inputs, documents, 0.3, 0.0, window, softcap)
    assert flexible.shape == (1, 135, heads, 8)
    assert float((flexible - one_by_one).abs().max()) < 1e-5
    assert set(documents._masks) == {window}


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_computes_in_the_precision_of_autocast() -> None:
    """Rotated queries and keys come in float32, values as a product in bfloat16: its kernels take one kind."""
    documents = Documents.of(segments_of(((7, 9),), 16))
    query, key = torch.randn(2, 1, 4, 16, 8, generator=torch.Generator().manual_seed(0))
    value = torch.randn(1, 4, 16, 8, generator=torch.Generator().manual_seed(1)).bfloat16()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        flexible = attention._flex(query, key, value, documents, None, None, None)
        one_by_one = attention._one_by_one(query, key, value, documents, None, 0.0, None, None)
    assert flexible.dtype == one_by_one.dtype == torch.bfloat16
    assert float((flexible - one_by_one).abs().max()) < 3e-2
