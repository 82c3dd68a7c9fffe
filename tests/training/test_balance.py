"""The order of samples and the rows they are computed in: exact epochs, no replay, balance, whatever the ranks."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from vlmablate.errors import UserError
from vlmablate.training.balance import (
    DataOrder,
    efficiency,
    epoch_order,
    even_rows,
    place_rows,
    row_tokens,
    straggler,
)


def flat(placement: list[list[list[int]]]) -> list[int]:
    return [sample for rank in placement for row in rank for sample in row]


@pytest.mark.parametrize(
    ("count", "batch", "epochs"), [(10, 4, 1), (10, 4, 3), (7, 7, 2), (5, 12, 4), (9, 2, 1)]
)
def test_whole_epochs_show_every_sample_exactly_that_often(count: int, batch: int, epochs: int) -> None:
    order = DataOrder(count, batch, epochs, seed=3)
    batches = [order.at(step) for step in range(order.steps)]
    assert all(len(one) == batch for one in batches[:-1])
    visits = np.concatenate(batches)
    assert np.bincount(visits, minlength=count).tolist() == [epochs] * count
    for epoch in range(epochs):
        assert sorted(visits[epoch * count : (epoch + 1) * count]) == list(range(count)), (
            "seamless, not blended"
        )


def test_a_fraction_of_an_epoch_is_that_many_samples() -> None:
    order = DataOrder(100, 8, 1.25, seed=0)
    assert order.visits == 125
    assert sum(len(order.at(step)) for step in range(order.steps)) == 125
    with pytest.raises(IndexError):
        order.at(order.steps)


def test_any_step_is_known_without_the_steps_before_it() -> None:
    order = DataOrder(50, 6, 3, seed=1)
    forwards = [order.at(step).tolist() for step in range(order.steps)]
    epoch_order.cache_clear()
    backwards = [DataOrder(50, 6, 3, seed=1).at(step).tolist() for step in reversed(range(order.steps))]
    assert forwards == backwards[::-1]


def test_seeds_and_epochs_give_other_orders() -> None:
    orders = {tuple(epoch_order(30, seed, epoch)) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9


def random_lengths(seed: int, count: int = 128) -> list[int]:
    return np.random.default_rng(seed).integers(20, 900, count).tolist()


@pytest.mark.parametrize(("ranks", "budget"), [(1, None), (8, None), (8, 3000), (3, 1000), (64, None)])
def test_a_placement_holds_the_batch_exactly_once_within_the_budget(ranks: int, budget: int | None) -> None:
    lengths = random_lengths(ranks)
    placement = place_rows(lengths, ranks, budget)
    assert sorted(flat(placement)) == list(range(len(lengths)))
    assert len({len(rank) for rank in placement}) == 1, "all ranks compute equally many rows"
    assert row_tokens(placement, lengths).max() <= (budget or sum(lengths))
    assert placement == place_rows(lengths, ranks, budget)


@pytest.mark.parametrize("seed", range(5))
def test_rows_are_balanced_to_a_percent(seed: int) -> None:
    lengths = random_lengths(seed)
    tokens = row_tokens(place_rows(lengths, 8), lengths)
    assert efficiency(tokens) > 0.998
    assert straggler(tokens) < 1.002
    tokens = row_tokens(place_rows(lengths, 8, budget=4000), lengths)
    assert tokens.shape[1] > 1
    assert efficiency(tokens) > 0.99
    assert straggler(tokens) < 1.005


@pytest.mark.parametrize("seed", range(6))
def test_small_batches_come_close_to_the_best_cut(seed: int) -> None:
    """Against enumeration of all cuts of nine samples into three rows."""
    lengths = random_lengths(seed, 9)
    best = min(
        max(sum(length for length, row in zip(lengths, rows, strict=True) if row == r) for r in range(3))
        for rows in itertools.product(range(3), repeat=9)
    )
    found = max(sum(lengths[i] for i in row) for row in even_rows(lengths, 3))
    assert best <= found <= 1.05 * best


def test_one_sample_longer_than_all_others_together_stays_alone() -> None:
    rows = even_rows([100, 5, 5, 5, 5], 2)
    assert sorted(rows) == [[0], [1, 2, 3, 4]]


def test_fewer_samples_than_ranks_leave_rows_empty() -> None:
    placement = place_rows([5, 4], 4)
    assert sorted(flat(placement)) == [0, 1]
    assert [len(rank) for rank in placement] == [1, 1, 1, 1]
    assert efficiency(row_tokens(placement, [5, 4])) == 9 / 20
    assert straggler(row_tokens(placement, [5, 4])) == 5 / (9 / 4)


def test_a_sample_over_the_budget_is_an_error_that_says_so() -> None:
    with pytest.raises(UserError, match=r"a sample of 30 tokens .* row of 20"):
        place_rows([10, 30], 2, 20)
