"""Rotary position codes against transformers' Llama and Qwen2-VL, and three properties that a code has or lacks.

Compatibility: text alone is RoPE-1D. Equivalence: a picture of h x w tokens takes h w numbers. Symmetry: the gap from
the text before to the first token is the gap from the last token to the text behind, on every axis.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vlmablate.errors import UserError
from vlmablate.vlm.positions import (
    ROTARY,
    axes_of,
    check_head,
    coordinates,
    cos_sin,
    frequencies,
    picture_coordinates,
    placed_coordinates,
    position_embeddings,
    rotary_code,
    rotate,
    run_coordinates,
)

NAMES = tuple(ROTARY)
SHAPES = [(1, 1), (1, 4), (4, 1), (2, 2), (3, 5), (5, 3), (24, 24)]
BEFORE, BEHIND = 7, 4


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def around(name: str, h: int, w: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Coordinates of the text before, the first and the last token, and the text behind a picture."""
    at = coordinates(name, [BEFORE, (h, w), BEHIND])
    return at[BEFORE - 1], at[BEFORE], at[BEFORE + h * w - 1], at[BEFORE + h * w]


# The formulas of the two articles, token by token, with the numbers 1, 2, 3, … that they count by.


def tie(before: int, h: int, w: int, s: float, t: float) -> list[list[float]]:
    return [[before + i * s, before + j * t] for i in range(1, h + 1) for j in range(1, w + 1)]


@pytest.mark.parametrize(("h", "w"), SHAPES)
def test_rope_tie_stands_where_the_article_says(h: int, w: int) -> None:
    whole = coordinates("rope_tie", [BEFORE, (h, w), 1], start=1)
    assert torch.equal(whole[BEFORE:-1], torch.tensor(tie(BEFORE, h, w, w + 1, h + 1)))
    assert whole[-1].tolist() == [BEFORE + (w + 1) * (h + 1)] * 2
    s, t = (w * h + 1) / (h + 1), (w * h + 1) / (w + 1)
    fractional = coordinates("rope_tie_wh", [BEFORE, (h, w), 1], start=1)
    assert torch.allclose(fractional[BEFORE:-1], torch.tensor(tie(BEFORE, h, w, s, t)))
    assert fractional[-1].tolist() == [BEFORE + w * h + 1] * 2


@pytest.mark.parametrize(("h", "w"), SHAPES)
def test_rope_tie_v2_stands_where_the_article_says(h: int, w: int) -> None:
    at = coordinates("rope_tie_v2", [BEFORE, (h, w), 1], start=1)
    x, y = BEFORE + (w * h - h) / 2, BEFORE + (w * h - w) / 2
    expected = [[x + i, y + j] for i in range(1, h + 1) for j in range(1, w + 1)]
    assert torch.equal(at[BEFORE:-1], torch.tensor(expected))
    assert at[-1].tolist() == [BEFORE + w * h + 1] * 2


@pytest.mark.parametrize("name", NAMES)
def test_compatibility_holds_for_every_code_text_alone_is_rope_1d_to_the_bit(name: str) -> None:
    q, k, per_step = drawn(2, 3, 40, 24), drawn(2, 3, 40, 24, seed=1), frequencies(24)
    at, plain = (coordinates(code, [40]).expand(2, -1, -1) for code in (name, "rope_1d"))
    for ours, theirs in zip(
        rotate(q, k, at, name, per_step), rotate(q, k, plain, "rope_1d", per_step), strict=True
    ):
        assert torch.equal(ours, theirs)


HAS_EQUIVALENCE = {
    "rope_1d": True, "rope_tie": False, "rope_tie_wh": True, "rope_tie_v2": True, "m_rope": False,
}  # fmt: skip
HAS_SYMMETRY = {
    "rope_1d": True, "rope_tie": True, "rope_tie_wh": True, "rope_tie_v2": True, "m_rope": False,
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("h", "w"), [(2, 2), (3, 5), (5, 3), (24, 24)])
def test_equivalence_is_had_and_lacked_as_declared(name: str, h: int, w: int) -> None:
    behind = around(name, h, w)[3]
    as_text = coordinates(name, [BEFORE + h * w, 1])[-1]
    assert torch.equal(behind, as_text) == HAS_EQUIVALENCE[name]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("h", "w"), [(2, 2), (3, 5), (5, 3), (24, 24)])
def test_symmetry_is_had_and_lacked_as_declared(name: str, h: int, w: int) -> None:
    before, first, last, behind = around(name, h, w)
    assert torch.allclose(first - before, behind - last, atol=1e-4) == HAS_SYMMETRY[name]


def test_a_picture_of_one_token_is_a_text_token_except_for_the_integer_tie() -> None:
    for name in NAMES:
        same = torch.equal(coordinates(name, [BEFORE, (1, 1), 2]), coordinates(name, [BEFORE + 3]))
        assert same == (name != "rope_tie"), name


@pytest.mark.parametrize("name", NAMES)
def test_adjacent_pictures_keep_equivalence_but_lose_the_symmetric_gap_unless_text_parts_them(
    name: str,
) -> None:
    (h, w), (g, v) = first, second = (2, 4), (3, 3)
    touching = coordinates(name, [BEFORE, first, second, 1])
    as_text = coordinates(name, [BEFORE + h * w + g * v + 1])
    assert torch.equal(touching[-1], as_text[-1]) == HAS_EQUIVALENCE[name]
    parted = coordinates(name, [BEFORE, first, 1, second, 1])
    end = BEFORE + h * w
    gap_before = touching[BEFORE] - touching[BEFORE - 1]
    gap_between = touching[end] - touching[end - 1]
    gap_to_text = parted[end] - parted[end - 1]
    assert torch.allclose(gap_to_text, gap_before, atol=1e-4) == HAS_SYMMETRY[name]
    # Between touching pictures lies the first's gap to text plus the second's, minus the text token that is not there.
    second_gap = parted[end + 1] - parted[end]
    assert torch.allclose(gap_between, gap_to_text + second_gap - 1, atol=1e-4)
    keeps = torch.allclose(gap_between, gap_before, atol=1e-4)
    assert keeps == (name == "rope_1d")


def test_two_axes_share_the_frequencies_in_turns() -> None:
    per_step = frequencies(8)
    cosines, _ = cos_sin("rope_tie", torch.tensor([[3.0, 5.0]]), per_step)
    expected = torch.tensor([3.0, 5.0, 3.0, 5.0]) * per_step
    assert torch.equal(cosines[0], torch.cat([expected, expected]).cos())


@pytest.mark.parametrize("name", NAMES)
def test_a_product_of_query_and_key_depends_on_differences_only(name: str) -> None:
    at = coordinates(name, [3, (2, 3), 4])[None]
    q, k, per_step = drawn(1, 2, 13, 16), drawn(1, 2, 13, 16, seed=1), frequencies(16)
    products = [
        a @ b.transpose(-1, -2)
        for a, b in (rotate(q, k, at + shift, name, per_step) for shift in (0.0, 11.0))
    ]
    assert torch.allclose(*products, atol=1e-4)
    moved = at + torch.arange(axes_of(name)) * 2.0 + torch.arange(13.0)[:, None]
    turned, others = rotate(q, k, moved, name, per_step)
    assert not torch.allclose(turned @ others.transpose(-1, -2), products[0], atol=1e-2)


def test_rope_1d_equals_llamas_rotary_to_the_bit() -> None:
    llama = pytest.importorskip("transformers.models.llama.modeling_llama")
    config = llama.LlamaConfig(hidden_size=96, num_attention_heads=4, rope_theta=500000.0)
    rotary = llama.LlamaRotaryEmbedding(config)
    q, k, numbers = drawn(2, 4, 300, 24), drawn(2, 2, 300, 24, seed=1), torch.arange(300)[None]
    theirs = llama.apply_rotary_pos_emb(q, k, *rotary(q, numbers))
    at = coordinates("rope_1d", [300])[None]
    ours = rotate(q, k, at, "rope_1d", frequencies(24, rotary.config.rope_parameters["rope_theta"]))
    assert torch.equal(ours[0], theirs[0])
    assert torch.equal(ours[1], theirs[1])


IMAGE, WORD = 9, 3
MIXED = [
    [5, (2, 3), 4],
    [(4, 4), 2],
    [1, (1, 6), 1, (5, 2), 3],
    [2, (3, 3), 2, (2, 2), 1, (6, 1), 2],
]


@pytest.mark.parametrize("parts", MIXED, ids=str)
def test_m_rope_equals_qwen2_vl_in_coordinates_and_rotation(parts: list[int | tuple[int, int]]) -> None:
    qwen = pytest.importorskip("transformers.models.qwen2_vl.modeling_qwen2_vl")
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}
    config = qwen.Qwen2VLConfig(
        text_config={
            "hidden_size": 256, "num_attention_heads": 2, "num_key_value_heads": 2, "num_hidden_layers": 1,
            "intermediate_size": 8, "vocab_size": 16, "rope_parameters": rope,
            "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
        },
        vision_config={"depth": 1, "embed_dim": 8, "hidden_size": 256, "num_heads": 2, "spatial_merge_size": 2},
        image_token_id=IMAGE, video_token_id=10, vision_start_token_id=11, vision_end_token_id=12,
    )  # fmt: skip
    with torch.device("meta"):
        model = qwen.Qwen2VLModel(config)
    kinds = torch.cat(
        [
            torch.zeros(part, dtype=torch.int)
            if isinstance(part, int)
            else torch.ones(part[0] * part[1]).int()
            for part in parts
        ]
    )[None]
    grids = torch.tensor([[1, 2 * part[0], 2 * part[1]] for part in parts if not isinstance(part, int)])
    ids = torch.where(kinds == 1, IMAGE, WORD)
    theirs, _ = model.get_rope_index(ids, kinds, image_grid_thw=grids)
    at = coordinates("m_rope", parts)
    assert at.T.tolist() == theirs[:, 0].tolist()

    rotary = qwen.Qwen2VLRotaryEmbedding(config.text_config)
    q, k = drawn(1, 2, len(at), 128), drawn(1, 2, len(at), 128, seed=1)
    expected = qwen.apply_rotary_pos_emb(q, k, *rotary(q, theirs))
    got = rotate(q, k, at[None], "m_rope", frequencies(128, 1e6))
    assert torch.equal(got[0], expected[0])
    assert torch.equal(got[1], expected[1])


@pytest.mark.parametrize("name", NAMES)
def test_a_llama_takes_coordinates_and_text_alone_keeps_its_logits(name: str) -> None:
    llama = pytest.importorskip("transformers.models.llama.modeling_llama")
    torch.manual_seed(0)
    model = llama.LlamaForCausalLM(
        llama.LlamaConfig(
            vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=1, attn_implementation="sdpa",
            rope_parameters={
                "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
                "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
            },
        )
    ).eval()  # fmt: skip
    tokens = torch.randint(0, 50, (2, 15), generator=torch.Generator().manual_seed(0))

    def logits(at: Tensor) -> Tensor:
        body = model.model
        hidden = body.embed_tokens(tokens)
        turned = position_embeddings(body.rotary_emb, name, at.expand(2, -1, -1), hidden.dtype)
        mask = torch.ones(15, 15, dtype=torch.bool).tril()[None, None]
        for layer in body.layers:
            hidden = layer(hidden, attention_mask=mask, position_embeddings=turned)
        return model.lm_head(body.norm(hidden))

    with torch.no_grad():
        theirs = model(tokens).logits
        alone = logits(coordinates(name, [15]))
        pictured = logits(coordinates(name, [4, (2, 4), 3]))
    assert torch.allclose(alone, theirs, atol=1e-6)
    assert torch.allclose(pictured[:, :4], theirs[:, :4], atol=1e-6)
    assert torch.allclose(pictured, theirs, atol=1e-4) == (name == "rope_1d")


@pytest.mark.parametrize("name", NAMES)
def test_pooled_tokens_are_a_picture_of_fewer_rows_and_columns_in_whatever_order(name: str) -> None:
    places = torch.tensor([[i, j] for i in (0.5, 2.5) for j in (0.0, 1.5, 3.0)])
    plain, extent = picture_coordinates(name, 2, 3)
    order = torch.tensor([4, 0, 5, 2, 1, 3])
    got, same = placed_coordinates(name, places[order])
    assert torch.equal(got, plain[order])
    assert same == extent


def test_tokens_without_a_place_count_on_like_text() -> None:
    for name in NAMES:
        at, extent = run_coordinates(name, 6)
        assert torch.equal(at, coordinates(name, [6]))
        assert extent == 6


@pytest.mark.parametrize(
    "places", [[[0, 0], [0, 1], [1, 0]], [[0, 0], [0, 0], [1, 1], [1, 1]], [[0, 0], [0, 1], [0, 1]]]
)
def test_tokens_that_do_not_fill_rows_and_columns_are_refused(places: list[list[int]]) -> None:
    with pytest.raises(UserError, match="do not fill"):
        placed_coordinates("rope_tie", torch.tensor(places).float())


def test_an_empty_sequence_has_no_coordinates() -> None:
    assert coordinates("m_rope", []).shape == (0, 3)


def test_an_unknown_code_names_the_known_ones() -> None:
    with pytest.raises(UserError, match="rope_tie_v2"):
        rotary_code("rope_tie_v3")


@pytest.mark.parametrize(("name", "head"), [("rope_1d", 3), ("rope_tie", 2), ("m_rope", 4)])
def test_heads_that_leave_an_axis_without_a_pair_are_refused(name: str, head: int) -> None:
    with pytest.raises(UserError, match="cannot turn heads"):
        check_head(name, head)
    check_head(name, 8)
