"""Detectable effects and sample sizes against statsmodels, published figures and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.power import TTestIndPower, TTestPower

from vlmablate.errors import DataError, UserError
from vlmablate.stats.margins import equivalence
from vlmablate.stats.power import (
    LARGEST_SEED_COUNT,
    examples_needed,
    mde,
    mde_curve,
    seeds_for_equivalence,
    seeds_needed,
    seeds_to_settle,
)


@pytest.mark.parametrize("n", [3, 5, 10, 60])
@pytest.mark.parametrize(("alpha", "power"), [(0.05, 0.8), (0.02, 0.9), (0.05, 0.2)])
def test_mde_is_the_power_of_the_t_test(n: int, alpha: float, power: float) -> None:
    found = mde(math.sqrt(2 / n), 2 * n - 2, alpha=alpha, power=power)
    assert TTestIndPower().power(found, n, alpha) == pytest.approx(power, abs=1e-6)
    one_sided = mde(math.sqrt(2 / n), 2 * n - 2, alpha=alpha, power=power, alternative="less")
    assert TTestIndPower().power(one_sided, n, alpha, alternative="larger") == pytest.approx(power, abs=1e-6)


def test_mde_with_little_replication_by_integration() -> None:
    """Where statsmodels gives nan: integrate the normal rejection chance over the law of the estimated se."""
    for df, alpha, power in [(1, 0.05, 0.8), (1, 0.01, 0.99), (2, 0.001, 0.95), (2, 0.05, 0.06)]:
        found, critical = mde(1.0, df, alpha=alpha, power=power), stats.t.isf(alpha / 2, df)
        s = np.sqrt(stats.chi2.ppf((np.arange(400_000) + 0.5) / 400_000, df) / df)
        chance = stats.norm.sf(critical * s - found) + stats.norm.sf(critical * s + found)
        assert float(chance.mean()) == pytest.approx(power, abs=1e-5)


def test_known_effects_in_seed_sds() -> None:
    alone = [mde(math.sqrt(2 / n), 2 * (n - 1)) for n in (2, 3, 5, 10)]
    assert alone == pytest.approx([5.65, 3.07, 2.02, 1.32], abs=0.006)
    pooled = [mde(math.sqrt(2 / n), cells * (n - 1)) for cells, n in ((20, 2), (20, 3), (42, 2))]
    assert pooled == pytest.approx([2.95, 2.34, 2.87], abs=0.006)
    assert mde(math.sqrt(1 + 1 / 5), 4) == pytest.approx(4.12, abs=0.006)  # five baselines, one alternative
    assert mde(2.0) == pytest.approx(2.0 * (stats.norm.isf(0.025) + stats.norm.ppf(0.8)), rel=1e-5)
    assert mde(2.0, 1e6) == pytest.approx(mde(2.0), rel=1e-5)


def test_mde_needs_replication() -> None:
    for se, df in [(1.0, 0), (math.nan, 4), (math.inf, 4)]:
        assert math.isnan(mde(se, df))
    assert mde(0.0, 3) == 0.0


@pytest.mark.parametrize("effect", [0.4, 0.5, 1.0, 1.5, 2.0, 4.0])
def test_seeds_needed_as_by_statsmodels(effect: float) -> None:
    oracle = TTestIndPower().solve_power(effect, alpha=0.05, power=0.8)
    assert seeds_needed(3 * effect, 3.0) == math.ceil(oracle)
    paired = TTestPower().solve_power(effect, alpha=0.05, power=0.8)
    assert seeds_needed(3 * effect, 3.0, paired=True) == math.ceil(paired)


def test_seeds_needed_is_the_first_count_whose_mde_is_small_enough() -> None:
    for cells, contexts in [(2, 1), (20, 1), (2, 3), (12, 4)]:
        n = seeds_needed(1.1, 1.0, cells=cells, contexts=contexts)
        assert n is not None
        curve = mde_curve(1.0, [n - 1, n], cells=cells, contexts=contexts)
        assert n == 2 or curve[0].mde > 1.1
        assert curve[1].mde <= 1.1
    assert seeds_needed(0.01, 1.0) is None
    assert seeds_needed(0.01, math.nan) is None
    assert seeds_needed(1.0, 0.0) == 2


def test_known_seeds_for_equivalence() -> None:
    assert [seeds_for_equivalence(margin, 1.0) for margin in (0.5, 1.0, 1.5, 2.0)] == [70, 18, 9, 6]
    assert seeds_for_equivalence(0.1, 1.0) is None
    assert seeds_for_equivalence(1.0, math.nan) is None
    assert seeds_for_equivalence(1.0, 0.0) == 2
    assert seeds_for_equivalence(2.0, 1.0, cells=20) == 5
    assert seeds_for_equivalence(2.0, 1.0, contexts=3) == 2
    assert seeds_for_equivalence(1.0, 1.0, effect=-0.4) == seeds_for_equivalence(1.0, 1.0, effect=0.4)


@pytest.mark.parametrize(("seeds", "margin", "effect"), [(4, 2.2, 0.0), (9, 1.5, 0.5)])
def test_power_of_equivalence_by_simulation(seeds: int, margin: float, effect: float) -> None:
    from vlmablate.stats.power import _power_of_equivalence

    rng, trials = np.random.default_rng(1), 40_000
    a, b = rng.normal(effect, 1, (trials, seeds)), rng.normal(0, 1, (trials, seeds))
    se = np.sqrt((a.var(axis=1, ddof=1) + b.var(axis=1, ddof=1)) / seeds)
    reach = margin - stats.t.isf(0.05, 2 * seeds - 2) * se
    share = float(np.mean(np.abs(a.mean(axis=1) - b.mean(axis=1)) <= reach))
    power = _power_of_equivalence(margin, effect, math.sqrt(2 / seeds), 2 * seeds - 2, 0.05)
    assert share == pytest.approx(power, abs=4 * math.sqrt(power * (1 - power) / trials))
    delta = float(a[0].mean() - b[0].mean())
    single = equivalence(delta, float(se[0]), 2 * seeds - 2, margin)
    assert single.equivalent == bool(abs(delta) <= reach[0])


def test_miller_s_worked_case() -> None:
    counts = [
        examples_needed(
            0.03,
            variance=1 / 9,
            noise_alternate=1 / 6,
            noise_baseline=1 / 6,
            samples_alternate=k,
            samples_baseline=k,
        )
        for k in (1, 10, math.inf)
    ]
    assert counts == [3876, 1260, 969]
    assert examples_needed(0.03, variance=1 / 9, design_effect=3) == math.ceil(3 * 968.998)
    assert examples_needed(0.03, variance=0.0) == 1


def test_the_curve_of_seeds() -> None:
    curve = mde_curve(1.0, [1, 2, 3, 5, 10])
    assert [point.seeds for point in curve] == [1, 2, 3, 5, 10]
    assert math.isnan(curve[0].mde)
    assert math.isnan(curve[0].half_width)
    assert [point.mde for point in curve[1:]] == pytest.approx([5.65, 3.07, 2.02, 1.32], abs=0.006)
    assert curve[2].half_width == pytest.approx(stats.t.isf(0.025, 4) * math.sqrt(2 / 3))
    pooled = mde_curve(1.0, [2], cells=20, contexts=2)[0]
    assert pooled.mde == pytest.approx(2.95 / math.sqrt(2), abs=0.006)
    assert math.isnan(mde_curve(math.nan, [3])[0].mde)


@pytest.mark.parametrize("sd", [0.3, 1.0, 2.5])
def test_seeds_to_settle_leaves_no_outcome_open(sd: float) -> None:
    margin, alpha, number = 2.0, 0.025, 3
    needed = seeds_to_settle(sd, number, 2.0, margin, alpha)
    assert needed is not None

    def open_outcomes(n: int) -> bool:
        df, se = number * (n - 1), sd * math.sqrt(2 / n)
        deltas = np.linspace(0, 3 * margin, 3001)
        different = 2 * stats.t.sf(deltas / se, df) <= alpha
        equivalent = stats.t.sf((margin - deltas) / se, df) <= alpha
        return bool(np.any(~different & ~equivalent))

    assert not open_outcomes(needed)
    assert needed == 2 or open_outcomes(needed - 1)


def test_seeds_to_settle_knows_when_to_give_up() -> None:
    assert seeds_to_settle(50.0, 3, 2.0, 1.0, 0.05) is None
    assert seeds_to_settle(math.nan, 3, 2.0, 1.0, 0.05) is None
    assert LARGEST_SEED_COUNT == 200


def test_refusals() -> None:
    with pytest.raises(DataError, match="alpha must lie"):
        mde(1.0, 4, alpha=0.7)
    with pytest.raises(DataError, match="power must lie between alpha"):
        mde(1.0, 4, power=0.01)
    with pytest.raises(DataError, match="negative, got -1"):
        mde(-1.0, 4)
    with pytest.raises(UserError, match="unknown alternative 'both'"):
        mde(1.0, 4, alternative="both")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="effect must be positive"):
        seeds_needed(0.0, 1.0)
    with pytest.raises(DataError, match="negative, got -1"):
        seeds_needed(1.0, -1.0)
    with pytest.raises(DataError, match="contexts=0"):
        seeds_needed(1.0, 1.0, contexts=0)
    with pytest.raises(DataError, match="margin must be positive"):
        seeds_for_equivalence(0.0, 1.0)
    with pytest.raises(DataError, match="not equivalent within"):
        seeds_for_equivalence(1.0, 1.0, effect=1.0)
    with pytest.raises(DataError, match="variance must be finite and not negative"):
        examples_needed(1.0, variance=math.nan)
    with pytest.raises(DataError, match="sample counts"):
        examples_needed(1.0, variance=1.0, samples_baseline=0)
    with pytest.raises(DataError, match="seed counts of at least 1"):
        mde_curve(1.0, [])
