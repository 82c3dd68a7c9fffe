from __future__ import annotations

import pytest

from vlmablate.design.flops import flops, weights

LLM = {
    "layers": 2,
    "width": 10,
    "segment": 4,
    "pretrain": {"steps": 3, "batch_scenes": 5, "questions_per_visit": 2},
}
PRETRAIN = {"llm": LLM, "grid": 3}
NEEDS = {"pretrain": PRETRAIN, "scenes": {"data": {"train_scenes": 7}}}
N = 2400.0


def test_training_takes_six_operations_for_each_weight_and_token():
    assert weights(LLM) == N
    assert flops("pretrain", PRETRAIN, {}) == 6 * N * (3 * 5) * (9 + 2 * 4)
    finetune = {"stages": {"finetune": {"epochs": 2.0, "questions_per_visit": 10}}}
    assert flops("finetune", finetune, NEEDS) == 6 * N * 14 * (9 + 10 * 4)


def test_every_tile_has_a_grid_of_cells():
    tiled = {**NEEDS, "features0": {"image": {"tiles": {"side": 2, "thumbnail": True}}}}
    assert flops("align", {"stages": {"align": {"epochs": 1.0}}}, tiled) == 4 * N * 7 * (5 * 9 + 4)


def test_a_frozen_model_hands_the_gradient_on_for_four():
    assert flops("align", {"stages": {"align": {"epochs": 1.0}}}, NEEDS) == 4 * N * 7 * (9 + 4)


def test_declared_weights_come_first():
    assert weights({**LLM, "parameters": 7e9}) == 7e9


@pytest.mark.parametrize(
    ("kind", "config", "needs"),
    [
        ("scenes", {}, {}),
        ("evaluate", {}, NEEDS),
        ("pretrain", {"llm": {"name": "other"}, "grid": 3}, {}),
        ("finetune", {"stages": {"finetune": {"epochs": 1.0}}}, {}),
    ],
)
def test_what_does_not_know_its_size_says_so(kind: str, config: dict, needs: dict):
    assert flops(kind, config, needs) is None
