"""Importance and the winner's curse: planted truths, what noise does to them, and simulated studies."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from factorial_scores import grid, planted, scores, trained

from vlmablate.errors import DataError
from vlmablate.stats.factorial import IMPORTANCE_COLUMNS, Space, configurations, curse, importance
from vlmablate.stats.factorial.fitted import fit
from vlmablate.stats.factorial.selection import shrink
from vlmablate.stats.settings import Settings

SETTINGS = Settings()


def around(truth: np.ndarray, seeds: int, sd: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return 50 + truth + rng.normal(0, sd, (seeds, truth.shape[1])) + rng.normal(0, 1, (seeds, 1))


def test_shares_are_those_of_the_planted_variance() -> None:
    space = grid((3, 2, 2))
    truth = planted(space, lambda a, b, c: 3 * (a - 1) + (2 * b - 1) + 0.5 * (2 * b - 1) * (2 * c - 1))
    table = importance(scores(around(truth, 4, 1e-3), space), space, SETTINGS).set_index("term")
    variances = {"resize": 6.0, "stages": 1.0, "stages × epochs": 0.25}
    assert list(table.reset_index().columns) == IMPORTANCE_COLUMNS
    for term, row in table.iterrows():
        planted_share = variances.get(str(term), 0.0) / 7.25
        assert row["share"] == pytest.approx(planted_share, abs=1e-3)
        assert row["sd"] == pytest.approx(math.sqrt(variances.get(str(term), 0.0)), abs=2e-3)
        assert row["ci_low"] <= row["share"] <= row["ci_high"]
    assert table["share"].sum() == pytest.approx(1)
    assert table["kind"].to_dict()["higher order"] == "higher order"


def test_noise_between_seeds_is_no_importance() -> None:
    """Averaged over studies, a term's variance is the planted one: 1 for resize and 0 for the others."""
    space = grid((2, 3))
    truth = planted(space, lambda a, b: 2 * a - 1)
    sds = [
        importance(scores(around(truth, 3, 1.0, seed), space), space, SETTINGS).set_index("term")["sd"]
        for seed in range(30)
    ]
    resize = np.array([each["resize"] ** 2 for each in sds])
    assert abs(resize.mean() - 1) < 3 * resize.std() / math.sqrt(len(resize))
    stages = np.array([each["stages"] for each in sds])
    assert 0.2 < np.mean(stages == 0) < 0.8


def test_known_steps_give_importance_more_degrees_of_freedom() -> None:
    space = grid((2, 3))
    table = scores(around(planted(space, lambda a, b: 2 * a), 3, 1.0), space)
    alone = importance(table, space, SETTINGS).set_index("term")
    pooled = importance(table, space, SETTINGS, steps=trained(space, 3, (0, 1))).set_index("term")
    assert list(alone["df"]) == [2, 4, 4]
    assert set(pooled["df"]) == {10}
    again = importance(table, space, SETTINGS).set_index("term")
    pd.testing.assert_frame_equal(alone, again)
    other = importance(table, space, Settings(seed=1)).set_index("term")
    assert (other["share"] == alone["share"]).all()
    assert not (other["ci_high"] == alone["ci_high"]).all()


def test_configurations_that_do_not_differ_have_no_shares() -> None:
    space = grid((2, 2))
    points = around(np.zeros((1, 4)), 3, 1.0, seed=3)
    centred = points - points.mean(axis=0) + 50.0  # the seeds differ, the means do not
    table = importance(scores(centred, space), space, SETTINGS)
    assert table["share"].isna().all()
    assert (table["sd"] == 0).all()
    assert set(table["reason"]) == {"the configurations differ by no more than noise"}
    assert importance(scores(centred, space), space, SETTINGS, with_signal=[]).empty


def test_a_fitted_space_says_what_it_cannot_see() -> None:
    whole = grid((3, 3, 2, 2))
    chosen = sorted({0, *np.random.default_rng(0).permutation(whole.size)[:24]})
    space = Space(whole.axes, {"+".join(whole.grid[i]): whole.grid[i] for i in chosen}, searched=True)
    truth = planted(whole, lambda a, b, c, d: 2 * (a - 1) + (2 * c - 1))
    table = scores(around(truth, 1, 0.3), whole)
    found = importance(table[table["arm"].isin(list(space.levels))], space, SETTINGS).set_index("term")
    assert found["share"].sum() == pytest.approx(1)
    assert found.loc["resize", "sd"] == pytest.approx(math.sqrt(8 / 3), abs=0.25)
    assert found.loc["epochs", "sd"] == pytest.approx(1, abs=0.25)
    assert found.loc["unexplained", "sd_low"] < 0.3 < found.loc["unexplained", "sd_high"]
    assert found.loc["stages", "ci_low"] == 0
    assert found["reason"].str.startswith("a search").all()


def test_too_few_configurations_have_no_importance() -> None:
    whole = grid((2, 2))
    arms = {"+".join(levels): levels for levels in whole.grid[:3]}
    space = Space(whole.axes, arms, searched=True)
    table = scores(around(np.zeros((1, 4)), 1, 1.0), whole)
    table = table[table["arm"].isin(list(arms))]
    found = importance(table, space, SETTINGS)
    assert found[["share", "ci_low", "ci_high", "sd"]].isna().to_numpy().all()
    assert found["reason"].str.contains("too few configurations").all()
    assert math.isnan(curse(table, space).shrunken)
    assert "too few" in curse(table, space).reason


def test_axes_that_only_change_together_have_no_importance_of_their_own() -> None:
    whole = grid((2, 2, 3))
    arms = {"+".join(levels): levels for levels in whole.grid if levels[0] == levels[1]}
    space = Space(whole.axes, arms, searched=True)
    table = scores(around(np.zeros((1, 12)), 1, 1.0), whole)
    found = importance(table[table["arm"].isin(list(arms))], space, SETTINGS)
    assert found[["share", "sd"]].isna().to_numpy().all()
    assert found["reason"].str.contains("too few configurations to tell effects and noise apart").all()


def test_the_best_of_equal_configurations_is_luck() -> None:
    space = grid((3, 3, 2))
    points = around(np.zeros((1, 18)), 3, 1.0, seed=2)
    found = curse(scores(points, space), space)
    means = points.mean(axis=0)
    assert found.best == "+".join(space.grid[int(means.argmax())])
    assert found.explored_mean == pytest.approx(means.max())
    assert means.mean() <= found.shrunken < found.explored_mean
    assert found.expected_optimism == pytest.approx(found.explored_mean - found.shrunken)
    assert found.lead == pytest.approx(means.max() - means[0])
    assert found.shrunken_lead < found.lead
    assert (found.configurations, found.n_seeds) == (18, 3)
    residuals = points - means - points.mean(axis=1, keepdims=True) + points.mean()
    assert found.noise_sd == pytest.approx(math.sqrt(np.sum(residuals**2) / (17 * 2)))


def test_without_noise_nothing_is_taken_off() -> None:
    space = grid((3, 2))
    truth = planted(space, lambda a, b: 3 * a + b - a * b)
    found = curse(scores(around(truth, 3, 1e-4), space), space)
    assert found.expected_optimism == pytest.approx(0, abs=1e-3)
    assert found.spread_sd == pytest.approx(float(truth.std()), abs=1e-3)
    table = configurations(scores(around(truth, 3, 1e-4), space), space)
    assert list(table["arm"])[:2] == ["l2+l0", "l2+l1"]
    assert list(table["rank"]) == [1, 2, 3, 4, 5, 6]
    assert table["shrunken"].to_numpy() == pytest.approx(table["mean"].to_numpy(), abs=1e-3)


@pytest.mark.parametrize("sd", [0.0, 1.0])
def test_expected_optimism_is_most_of_the_true_one(sd: float) -> None:
    space, repetitions = grid((3, 3, 2)), 200
    rng = np.random.default_rng(0)
    true, expected = np.empty(repetitions), np.empty(repetitions)
    for i in range(repetitions):
        truth = sum(rng.normal(0, sd, shape) for shape in ((3, 1, 1), (1, 3, 1))) + np.zeros((3, 3, 2))
        values = rng.normal(0, 1, (3, 18)) + truth.reshape(-1)
        means, best = values.mean(axis=0), int(values.mean(axis=0).argmax())
        true[i] = means[best] - truth.reshape(-1)[best]
        expected[i] = means[best] - shrink(values, space)[0][best]
    share = expected.mean() / true.mean()
    assert (0.62 if sd == 0 else 0.7) < share < 1.1


def test_one_run_per_configuration_shrinks_to_the_fitted_effects() -> None:
    space = grid((3, 3, 2))
    truth = planted(space, lambda a, b, c: 4 * a)
    table = scores(around(truth, 1, 1.0, seed=1), space)
    found = curse(table, space)
    assert found.reason == "what the fitted effects do not account for is taken for noise"
    assert found.best.startswith("l2")
    means = table["points"].to_numpy()
    model = fit(means, space, tuple(space.levels))
    assert found.noise_sd == pytest.approx(math.sqrt(model.variance))
    of_level = means[12:].mean()  # the configurations of resize=l2
    assert abs(found.shrunken - of_level) < abs(found.explored_mean - of_level)


def test_an_arm_that_lacks_a_lucky_seed_does_not_look_worse_for_it() -> None:
    space = grid((2, 2))
    points = around(planted(space, lambda a, b: a), 3, 0.01) + np.array([[0.0], [0.0], [9.0]])
    table = scores(points, space)
    table = table[~((table["seed"] == 2) & (table["arm"] == "l1+l1"))]
    ranked = configurations(table, space)
    assert set(ranked["arm"][:2]) == {"l1+l0", "l1+l1"}
    assert ranked["mean"][0] - ranked["mean"][1] < 0.1


def test_nothing_is_best_without_a_benchmark_with_signal() -> None:
    space = grid((2, 2))
    with pytest.raises(DataError, match="no benchmark carries signal"):
        curse(scores(around(np.zeros((1, 4)), 2, 1.0), space), space, with_signal=[])


def test_equal_means_rank_in_the_order_of_the_grid() -> None:
    full = grid((2, 2))
    tried = Space(full.axes, dict(reversed(full.levels.items())), searched=True)
    table = scores(np.array([[0.1, 0.2, 0.3, 0.3], [0.2, 0.3, 0.1, 0.2], [0.3, 0.1, 0.2, 0.1]]), full)
    assert list(configurations(table, tried)["arm"]) == list(full.levels)
    assert curse(table, tried).best == next(iter(full.levels))
