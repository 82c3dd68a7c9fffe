"""The confidence sequence against its formula in a loop, its miscoverage at any time, and e-BH."""

from __future__ import annotations

import math

import numpy as np
import pytest

from vlmablate.errors import DataError
from vlmablate.stats.sequential import e_bh, sequence


def in_a_loop(x: np.ndarray, alpha: float, null: float) -> list[tuple[float, float, float]]:
    """Theorem 2 of Waudby-Smith & Ramdas step by step, for values in [0, 1]: (low, high, log e-value)."""
    total = weighted = penalty = plus = minus = 0.0
    seen: list[float] = []
    squares = 0.0
    low, high, rows = 0.0, 1.0, []
    for t, value in enumerate(x.tolist(), start=1):
        mean_before = (0.5 + sum(seen)) / t
        variance_before = (0.25 + squares) / t
        bet = min(math.sqrt(2 * math.log(2 / alpha) / (variance_before * t * math.log(1 + t))), 0.5)
        v, psi = 4 * (value - mean_before) ** 2, (-math.log(1 - bet) - bet) / 4
        total, weighted, penalty = total + bet, weighted + bet * value, penalty + v * psi
        plus += bet * (value - null) - v * psi
        minus += -bet * (value - null) - v * psi
        reach = (math.log(2 / alpha) + penalty) / total
        low, high = max(low, weighted / total - reach), min(high, weighted / total + reach)
        rows.append((low, high, math.log((math.exp(plus) + math.exp(minus)) / 2)))
        seen.append(value)
        squares += (value - (0.5 + sum(seen)) / (t + 1)) ** 2
    return rows


@pytest.mark.parametrize("alpha", [0.05, 0.2])
@pytest.mark.parametrize(
    ("bounds", "mean"), [((0.0, 1.0), 0.7), ((-1.0, 1.0), 0.1), ((-100.0, 100.0), -30.0)]
)
def test_the_formula_in_a_loop(alpha: float, bounds: tuple[float, float], mean: float) -> None:
    rng, width = np.random.default_rng(1), bounds[1] - bounds[0]
    values = np.clip(rng.normal(mean, width / 5, 300), *bounds)
    ours = sequence(values, alpha=alpha, bounds=bounds)
    rows = in_a_loop((values - bounds[0]) / width, alpha, -bounds[0] / width)
    low, high, log_e = (np.array(column) for column in zip(*rows, strict=True))
    assert ours.low == pytest.approx(bounds[0] + width * low)
    assert ours.high == pytest.approx(bounds[0] + width * high)
    assert ours.log_e_value == pytest.approx(log_e)


def test_a_decision_is_a_zero_outside_and_has_its_evidence() -> None:
    rng = np.random.default_rng(2)
    ours = sequence(rng.choice([-1, 0, 0, 1, 1], 4000))
    assert ours.decided_at is not None
    first = ours.decided_at - 1
    assert ours.low[first] > 0
    assert ours.low[first - 1] <= 0
    assert ours.log_e_value[first] >= math.log(1 / 0.05)
    assert (np.diff(ours.low) >= 0).all()
    assert (np.diff(ours.high) <= 0).all()
    assert sequence(np.zeros(5000)).decided_at is None
    mirrored = sequence(-rng.choice([-1, 0, 0, 1, 1], 4000))
    assert mirrored.decided_at is not None
    assert mirrored.high[-1] < 0


def test_the_evidence_does_not_overflow() -> None:
    ours = sequence(np.ones(200_000))
    assert np.isfinite(ours.log_e_value).all()
    assert ours.log_e_value[-1] > 1000
    assert ours.low[-1] > 0.98
    assert ours.high[-1] == 1.0


def test_the_interval_shrinks_with_the_variance() -> None:
    rng = np.random.default_rng(3)
    rare = (rng.random(20_000) < 0.05) * rng.choice([-1, 1], 20_000)
    often = rng.choice([-1, 1], 20_000)
    widths = [float(result.high[-1] - result.low[-1]) for result in (sequence(rare), sequence(often))]
    assert widths[0] < 0.4 * widths[1]
    assert widths[1] < 6 * 1.96 / math.sqrt(20_000)


def miscoverage(trials: int, n: int, kind: str, alpha: float) -> tuple[float, float]:
    """Share of trials in which the true mean, 0, is outside at any time, and in which the e-value reaches 1/alpha."""
    rng = np.random.default_rng((trials, n))
    draw = {
        "discordant": lambda: (rng.random(n) < 0.1) * rng.choice([-1.0, 1.0], n),
        "signs": lambda: rng.choice([-1.0, 1.0], n),
        "skewed": lambda: np.where(rng.random(n) < 1 / 11, 1.0, -0.1),
    }[kind]
    outside = evidence = 0
    for _ in range(trials):
        ours = sequence(draw(), alpha=alpha)
        outside += ours.decided_at is not None
        evidence += bool(ours.log_e_value.max() >= math.log(1 / alpha))
    return outside / trials, evidence / trials


@pytest.mark.parametrize("kind", ["discordant", "signs", "skewed"])
def test_looking_all_the_time_keeps_the_level_quickly(kind: str) -> None:
    outside, evidence = miscoverage(300, 1000, kind, 0.2)
    assert outside <= evidence < 0.2 + 3 * math.sqrt(0.2 * 0.8 / 300)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["discordant", "signs", "skewed"])
@pytest.mark.parametrize("alpha", [0.05, 0.2])
def test_looking_all_the_time_keeps_the_level(kind: str, alpha: float) -> None:
    trials = 4000
    outside, evidence = miscoverage(trials, 5000, kind, alpha)
    assert outside <= evidence < alpha + 2 * math.sqrt(alpha * (1 - alpha) / trials)


def test_e_bh_by_hand() -> None:
    # m = 4, alpha = 0.05: needs e_(k) >= 80 / k
    assert e_bh([81.0, 1.0, 0.0, 2.0]).tolist() == [True, False, False, False]
    assert e_bh([79.0, 41.0, 0.0, 2.0]).tolist() == [True, True, False, False]
    assert e_bh([27.0, 27.0, 27.0, 0.0]).tolist() == [True, True, True, False]
    assert e_bh([79.0, 39.0, 26.0, 19.0]).tolist() == [False] * 4
    assert e_bh([math.inf, 0.0]).tolist() == [True, False]
    assert e_bh([5.0], alpha=0.2).tolist() == [True]


def test_e_bh_keeps_the_share_of_false_rejections() -> None:
    """Twenty arms with one baseline, so dependent; fifteen are worth nothing."""
    rng, trials, m, nulls = np.random.default_rng(4), 2000, 20, 15
    z = rng.normal(size=(trials, m)) * math.sqrt(0.5) + rng.normal(size=(trials, 1)) * math.sqrt(0.5)
    z[:, nulls:] += 4
    bet = 3.0
    rejected = np.array([e_bh(np.exp(bet * row - bet**2 / 2), alpha=0.1) for row in z])
    false = rejected[:, :nulls].sum(axis=1) / np.maximum(rejected.sum(axis=1), 1)
    assert false.mean() <= 0.1
    assert rejected[:, nulls:].mean() > 0.5


def test_refusals() -> None:
    with pytest.raises(
        DataError, match=r"1 of 3 differences lie outside the bounds \(-1.0, 1.0\).*position 2: 2.0"
    ):
        sequence([0.0, 0.5, 2.0])
    with pytest.raises(DataError, match="differences: 1 of 2 values are not finite"):
        sequence([0.0, math.nan])
    with pytest.raises(DataError, match="non-empty"):
        sequence([])
    with pytest.raises(DataError, match="bounds must be finite and increasing"):
        sequence([0.0], bounds=(1.0, -1.0))
    with pytest.raises(DataError, match="alpha"):
        sequence([0.0], alpha=0.5)
    with pytest.raises(DataError, match="non-empty vector"):
        e_bh([])
    with pytest.raises(DataError, match="2 of 3 e-values are negative or missing, the first at position 1"):
        e_bh([1.0, -1.0, math.nan])
