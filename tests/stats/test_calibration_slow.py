"""The promises of the engine, by simulation: how often do the tests err when the truth is known?

Every figure is seeded and rests on at least 2,000 repetitions; a bound is the promise plus three Monte-Carlo
standard errors. Each test prints what it measured (pytest -s).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from vlmablate.stats.calibration import BenchmarkShape, Shape
from vlmablate.stats.calibration.batch import design_batch, pooled_batch, pooled_rule_batch
from vlmablate.stats.calibration.simulated_runs import simulate_runs
from vlmablate.stats.components import two_component_interval
from vlmablate.stats.flips import flip_group
from vlmablate.stats.groups import as_clusters
from vlmablate.stats.margins import equivalence
from vlmablate.stats.maxt import max_t
from vlmablate.stats.multiplicity import adjust
from vlmablate.stats.paired import paired_test
from vlmablate.stats.runs import PooledError, declared_method, design_test
from vlmablate.stats.sequential import sequence

pytestmark = pytest.mark.slow

ALPHA = 0.05


def three_errors(p: float, repetitions: int) -> float:
    return 3 * math.sqrt(p * (1 - p) / repetitions)


def study(seeds: int, correlation: float, benchmarks: int = 12, arms: int = 2, sd: float = 0.5) -> Shape:
    """Benchmarks like those of a vision-language model: some are large, some small, all binary."""
    shapes = tuple(
        BenchmarkShape(
            name=f"benchmark {i}",
            values=(0.0, 1.0),
            probabilities=(0.4, 0.6),
            cluster_sizes=(500 * (1 + i), 500),
            seed_sd=sd,
        )
        for i in range(benchmarks)
    )
    return Shape(seeds=((seeds,),) * arms, benchmarks=shapes, correlation=correlation)


# (a) ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("correlation", [0.0, 0.25, 0.5, 0.75])
@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
def test_the_design_test_keeps_its_level_whatever_the_correlation(seeds: int, correlation: float) -> None:
    """From 5 seeds the test is an exact permutation, whose attainable size lies below alpha (12 / 252 = .0476 for
    5 against 5); it is compared with that size."""
    repetitions = 2_000 if seeds == 10 else 20_000
    rng = np.random.default_rng([1, seeds, int(100 * correlation)])
    suites = {
        c: x.mean(axis=2) for c, x in simulate_runs(study(seeds, correlation), repetitions, rng).items()
    }
    sides = [suites[(1, 0)]], [suites[(0, 0)]]
    method = declared_method([seeds], [seeds], alpha=ALPHA)
    batch = design_batch(*sides, pooled_batch([*sides[0], *sides[1]]), method=method, alpha=ALPHA)
    assert batch.exact == (seeds >= 5)
    size = float(np.mean(batch.p <= ALPHA))
    print(f"seeds {seeds}, correlation {correlation}: size {size:.4f}, attainable {batch.attainable:.4f}")
    assert size == pytest.approx(batch.attainable, abs=three_errors(batch.attainable, repetitions))
    for r in range(25):  # the closed form is the public function
        public = design_test(suites[(1, 0)][r], suites[(0, 0)][r], alpha=ALPHA)
        assert public.p == pytest.approx(batch.p[r], rel=1e-9)


@pytest.mark.parametrize(("arms", "seeds"), [(3, 2), (6, 2), (4, 3)])
def test_pooling_the_error_over_cells_keeps_the_level(arms: int, seeds: int) -> None:
    repetitions = 20_000
    rng = np.random.default_rng([2, arms, seeds])
    suites = [x.mean(axis=2) for x in simulate_runs(study(seeds, 0.5, arms=arms), repetitions, rng).values()]
    error = pooled_batch(suites)
    batch = design_batch([suites[1]], [suites[0]], error, method="t", alpha=ALPHA)
    size = float(np.mean(batch.p <= ALPHA))
    print(f"{arms} arms of {seeds} seeds, pooled df {error[1]}: size {size:.4f}")
    assert size == pytest.approx(ALPHA, abs=three_errors(ALPHA, repetitions))
    for r in range(25):
        pooled = PooledError(float(error[0][r]), error[1], arms)
        assert design_test(suites[1][r], suites[0][r], error=pooled, method="t").p == pytest.approx(
            batch.p[r], rel=1e-9
        )


# (b) ---------------------------------------------------------------------------------------------------------


def test_the_items_test_keeps_its_level_with_clusters_and_loses_it_without() -> None:
    """Right/wrong scores of two equally good systems on 150 pictures with 10 questions each; differences within a
    picture correlate by .3."""
    repetitions, groups, questions = 4_000, 150, 10
    clusters = np.repeat(np.arange(groups), questions)
    rng = np.random.default_rng(3)
    rejected, ignoring, icc = [], [], []
    for _ in range(repetitions):
        difficulty = 0.7 * rng.standard_normal(groups * questions)
        scores = []
        for _system in range(2):
            shared = np.repeat(rng.standard_normal(groups), questions)
            latent = difficulty + 0.70 * shared + 0.65 * rng.standard_normal(groups * questions)
            scores.append((latent > -0.4).astype(float))
        result = paired_test(scores[0], scores[1], clusters)
        rejected.append(result.p <= ALPHA)
        icc.append(result.icc)
        ignoring.append(paired_test(scores[0], scores[1]).p <= ALPHA)
    size, naive = float(np.mean(rejected)), float(np.mean(ignoring))
    print(f"items test: ICC {np.mean(icc):.3f}, size {size:.4f} with clusters, {naive:.4f} without")
    assert np.mean(icc) == pytest.approx(0.3, abs=0.03)
    assert size == pytest.approx(ALPHA, abs=three_errors(ALPHA, repetitions))
    assert naive > 0.2


# (c) ---------------------------------------------------------------------------------------------------------

COVERAGE_SHAPES = {
    # seeds of the alternate and the baseline arm, benchmarks on the same pictures, SD of the seed effect, of the
    # arm's and of the run's work on a cluster and on an example (points on a scale with an example noise of 1)
    "3 seeds, small interaction": ((3, 3), 1, 0.10, 0.5, 0.8, 0.1, 0.3),
    "3 seeds, large interaction": ((3, 3), 1, 0.10, 0.5, 0.8, 0.6, 0.8),
    "5 seeds, small interaction": ((5, 5), 1, 0.10, 0.5, 0.8, 0.1, 0.3),
    "5 seeds, large interaction": ((5, 5), 1, 0.10, 0.5, 0.8, 0.6, 0.8),
    "3 seeds, three benchmarks": ((3, 3), 3, 0.10, 0.5, 0.8, 0.3, 0.5),
    "5 and 3 seeds, three benchmarks": ((5, 3), 3, 0.05, 0.5, 0.8, 0.3, 0.5),
    "3 seeds, seeds dominate": ((3, 3), 3, 0.30, 0.3, 0.5, 0.1, 0.3),
    "3 seeds, examples dominate": ((3, 3), 1, 0.02, 0.7, 0.9, 0.1, 0.3),
}


def shapes(kept: Collection[Any], every: Iterable[Any]) -> list[Any]:
    """Parameters, of which only the kept ones are tried whenever something changes."""
    return [one if one in kept else pytest.param(one, marks=pytest.mark.long) for one in every]


@pytest.mark.parametrize(
    "name", shapes(["5 and 3 seeds, three benchmarks", "3 seeds, seeds dominate"], COVERAGE_SHAPES)
)
def test_the_interval_for_new_examples_and_seeds_covers(name: str) -> None:
    (alternate_runs, baseline_runs), benchmarks, seed_sd, arm_g, arm_i, run_g, run_i = COVERAGE_SHAPES[name]
    repetitions, groups, each = 15_000, 200, 2  # the error of .0018 has to be small beside the band
    n = groups * each * benchmarks
    clusters = np.tile(np.repeat(np.arange(groups), each), benchmarks)
    labels = np.repeat(np.arange(benchmarks), groups * each)
    rng = np.random.default_rng([4, list(COVERAGE_SHAPES).index(name)])

    def work(sd_cluster: float, sd_item: float) -> NDArray[np.float64]:
        shared = rng.standard_normal(groups)[clusters]
        return np.asarray(sd_cluster * shared + sd_item * rng.standard_normal(n))

    covered = []
    for _ in range(repetitions):
        difficulty = work(1.0, 1.0)
        arms = []
        for runs in (alternate_runs, baseline_runs):
            of_arm = difficulty + work(arm_g, arm_i)
            effects = [
                rng.standard_normal(benchmarks) * 0.7 + rng.standard_normal() * 0.7 for _ in range(runs)
            ]
            arms.append(np.stack([of_arm + work(run_g, run_i) + seed_sd * e[labels] for e in effects]))
        interval = two_component_interval(arms[0], arms[1], clusters, benchmarks=labels, alpha=ALPHA)
        covered.append(interval.ci[0] <= 0.0 <= interval.ci[1])
    coverage = float(np.mean(covered))
    print(f"two components, {name}: coverage {coverage:.4f}")
    assert 0.94 <= coverage <= 0.96


# (d) ---------------------------------------------------------------------------------------------------------

LOG2_FLIPS = 11
"""2,048 flips: a test over a group of flips is exact whatever its size, and p near .05 is resolved to .0005."""


def sweep_scores(
    rng: np.random.Generator, arms: int, shift: float, groups: int = 100, questions: int = 3
) -> NDArray[np.float64]:
    """Right/wrong scores [arms, n] of a sweep in which arm 0 has another vision tower, and the others are variants
    of one model: they agree on most questions, so that "arm 0 against each of them" are nearly one question.
    """
    n = groups * questions

    def noise(sd: float) -> NDArray[np.float64]:
        shared = np.repeat(rng.standard_normal(groups), questions)
        return np.asarray(sd * rng.standard_normal(n) + 0.5 * sd * shared)

    picture = rng.standard_normal(n)
    family = picture + noise(0.7)
    rows = [picture + noise(0.7) + shift, *(family + noise(0.15) for _ in range(arms - 1))]
    return (np.stack(rows) > 0).astype(np.float64)


@pytest.mark.parametrize(("arms", "shift", "gain"), [(4, 0.20, 1.2), (6, 0.25, 1.2), (6, 0.40, 1.0)])
def test_max_t_bounds_the_family_and_finds_more_than_holm(arms: int, shift: float, gain: float) -> None:
    """arms - 1 of the arms (arms - 1) / 2 pairs differ truly; Holm adjusts the very same per-pair p-values.

    Four arms: 6 hypotheses, 3 true effects; six arms: 15 hypotheses, 5 true effects. All pairs share arms and
    pictures, which is where the correlation comes from. The family-wise error is that of the variants among
    themselves with the effect present, and that of all pairs without it.

    How much there is to gain depends on how hard the effect is to find. The first two shifts put Holm's power near
    .2, where a correction decides; with growing effects both find everything and the ratio falls to 1 (six arms:
    about 1.5 at Holm's power .13, 1.4 at .23, 1.26 at .39, 1.16 at .58), so of the third only "not less" is asked.
    """
    repetitions, groups, questions = 2_500, 100, 3
    clusters = np.repeat(np.arange(groups), questions)
    rng = np.random.default_rng([5, arms])
    found, found_holm, error, null = [], [], [], []
    for _ in range(repetitions):
        result = max_t(sweep_scores(rng, arms, shift), clusters, log2_flips=LOG2_FLIPS)
        holm = adjust(result.p, "holm")
        true = result.pairs[:, 0] == 0
        found.append(np.mean(result.p_adjusted[true] <= ALPHA))
        found_holm.append(np.mean(holm[true] <= ALPHA))
        error.append((result.p_adjusted[~true] <= ALPHA).any())
        nothing = max_t(sweep_scores(rng, arms, 0.0), clusters, log2_flips=LOG2_FLIPS)
        null.append((nothing.p_adjusted <= ALPHA).any())
    power, power_holm = float(np.mean(found)), float(np.mean(found_holm))
    print(
        f"max-T, {arms} arms: power {power:.3f} against Holm's {power_holm:.3f} (ratio {power / power_holm:.2f}), "
        f"family-wise error {np.mean(null):.4f} (nothing differs), {np.mean(error):.4f} (one arm differs)"
    )
    bound = ALPHA + three_errors(ALPHA, repetitions)
    assert np.mean(null) <= bound
    assert np.mean(error) <= bound
    assert power >= gain * power_holm


def max_t_of_contrasts(differences: NDArray[np.float64]) -> tuple[NDArray, NDArray]:
    """(p, step-down adjusted p), each [P], of P contrasts given as cluster sums of differences [P, G]: max_t for a
    family that is not all pairs, with the flips of one group of the library."""
    group = flip_group(differences.shape[1], LOG2_FLIPS)
    norms = np.sqrt((differences**2).sum(axis=1))
    statistics = np.abs(np.stack([group.sums(row) for row in differences])) / norms[:, None]
    reached = statistics[:, 0] * (1 - 1e-6)
    p = (statistics >= reached[:, None]).mean(axis=1)
    order = np.argsort(reached)  # least significant first
    running = np.maximum.accumulate(statistics[order], axis=0)
    stepped = (running >= reached[order][:, None]).mean(axis=1)
    adjusted = np.empty(len(p))
    adjusted[order[::-1]] = np.maximum.accumulate(stepped[::-1])
    return p, adjusted


def test_contrasts_by_hand_are_those_of_max_t() -> None:
    rng = np.random.default_rng(10)
    scores = sweep_scores(rng, 5, 0.3)
    clusters = np.repeat(np.arange(100), 3)
    result = max_t(scores, clusters, log2_flips=LOG2_FLIPS)
    groups = as_clusters(clusters, scores.shape[1])
    sums = np.stack([groups.sums(scores[i] - scores[j]) for i, j in result.pairs])
    p, adjusted = max_t_of_contrasts(sums)
    np.testing.assert_allclose(p, result.p)
    np.testing.assert_allclose(adjusted, result.p_adjusted)


@pytest.mark.parametrize("own", shapes([0.35], [0.15, 0.35, 0.70]))
def test_max_t_of_twelve_contrasts_of_which_three_are_true(own: float) -> None:
    """Twelve variants of a design against one baseline; three of them are better by the same shift.

    `own` is the noise of a variant beside what it shares with the others (the baseline's is .7): the more the
    variants agree, the more the contrasts correlate and the more there is to gain over Holm. The shift is the one of
    four at which Holm's power is nearest to .3, as in the sweeps above.
    """
    repetitions, groups, questions, true = 2_500, 100, 3, 3
    clusters = as_clusters(np.repeat(np.arange(groups), questions), groups * questions)
    n = groups * questions

    def study(rng: np.random.Generator, shift: float) -> NDArray[np.float64]:
        def noise(sd: float) -> NDArray[np.float64]:
            shared = np.repeat(rng.standard_normal(groups), questions)
            return np.asarray(sd * rng.standard_normal(n) + 0.5 * sd * shared)

        picture = rng.standard_normal(n)
        family, baseline = picture + noise(0.7), picture + noise(0.7)
        variants = [family + noise(own) + (shift if k < true else 0.0) for k in range(12)]
        scores = (np.stack([baseline, *variants]) > 0).astype(np.float64)
        return np.stack([clusters.sums(row - scores[0]) for row in scores[1:]])

    def measured(shift: float, count: int, seed: int) -> tuple[float, float, float]:
        rng = np.random.default_rng([11, seed, int(100 * own)])
        found, found_holm, error = [], [], []
        for _ in range(count):
            p, adjusted = max_t_of_contrasts(study(rng, shift))
            found.append(np.mean(adjusted[:true] <= ALPHA))
            found_holm.append(np.mean(adjust(p, "holm")[:true] <= ALPHA))
            error.append((adjusted[true:] <= ALPHA).any())
        return float(np.mean(found)), float(np.mean(found_holm)), float(np.mean(error))

    holm = {shift: measured(shift, 300, 0)[1] for shift in (0.2, 0.25, 0.3, 0.4)}
    shift = min(holm, key=lambda each: abs(holm[each] - 0.3))
    power, power_holm, error = measured(shift, repetitions, 1)
    rng = np.random.default_rng([12, int(100 * own)])
    null = np.mean([max_t_of_contrasts(study(rng, 0.0))[1].min() <= ALPHA for _ in range(repetitions)])
    print(
        f"max-T, 3 of 12 contrasts, own noise {own}, shift {shift}: power {power:.3f} against Holm's {power_holm:.3f} "
        f"(ratio {power / power_holm:.2f}), family-wise error {null:.4f} (nothing differs), {error:.4f} (three differ)"
    )
    bound = ALPHA + three_errors(ALPHA, repetitions)
    assert null <= bound
    assert error <= bound
    assert power >= 1.2 * power_holm


# (e) ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_equivalence_is_rarely_claimed_at_the_margin(seeds: int) -> None:
    repetitions, margin = 4_000, 2.0
    rng = np.random.default_rng([6, seeds])
    suites = [x.mean(axis=2) for x in simulate_runs(study(seeds, 0.5), repetitions, rng).values()]
    claimed = []
    for alternate, baseline in zip(suites[1] + margin, suites[0], strict=True):
        test = design_test(alternate, baseline, alpha=ALPHA)
        claimed.append(equivalence(test.delta, test.se, test.df, margin, ALPHA).equivalent)
    size = float(np.mean(claimed))
    print(f"equivalence at the margin, {seeds} seeds: {size:.4f}")
    assert 0 < size <= ALPHA + three_errors(ALPHA, repetitions)


# (f) ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("better", "worse"), [(0.05, 0.05), (0.15, 0.10), (0.02, 0.02)])
def test_the_confidence_sequence_holds_at_every_look(better: float, worse: float) -> None:
    """Differences -1, 0, 1 of right/wrong scores, looked at after every one of 1,500 examples."""
    repetitions, n, truth = 2_000, 1_500, better - worse
    rng = np.random.default_rng([7, int(1000 * better)])
    missed, peeking = [], []
    looks = np.linspace(n / 30, n, 30).astype(int)
    for _ in range(repetitions):
        x = rng.choice([1.0, 0.0, -1.0], size=n, p=[better, 1 - better - worse, worse])
        result = sequence(x, alpha=ALPHA)
        missed.append(bool(((result.low > truth) | (result.high < truth)).any()))
        m = np.cumsum(x)[looks - 1] / looks
        sd = np.sqrt(np.maximum(np.cumsum(x**2)[looks - 1] / looks - m**2, 1e-12))
        peeking.append(bool((np.abs(m - truth) > stats.norm.ppf(1 - ALPHA / 2) * sd / np.sqrt(looks)).any()))
    error, peeked = float(np.mean(missed)), float(np.mean(peeking))
    print(f"confidence sequence, truth {truth:+.2f}: ever wrong {error:.4f}; z test at 30 looks {peeked:.4f}")
    assert error <= ALPHA + three_errors(ALPHA, repetitions)
    assert peeked > 0.2


# (g) ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("discordant", shapes([6, 20], [6, 10, 20, 50]))
@pytest.mark.parametrize("kind", ["binary", "lattice"])
def test_the_exact_paired_test_never_exceeds_its_level(kind: str, discordant: int) -> None:
    """Few examples on which two equally good systems differ, among 400; VQA accuracy takes 0, .3, .6, .9, 1."""
    repetitions, n = 4_000, 400
    values = np.array([0.0, 1.0]) if kind == "binary" else np.array([0.0, 0.3, 0.6, 0.9, 1.0])
    rng = np.random.default_rng([8, discordant, len(values)])
    rejected = {"two-sided": [], "greater": []}  # type: dict[str, list[bool]]
    for _ in range(repetitions):
        a = rng.choice(values, size=n)
        b = a.copy()
        where = rng.permutation(n)[: rng.binomial(n, discordant / n)]
        pair = rng.choice(values, size=(2, len(where)))
        a[where], b[where] = pair
        rejected["two-sided"].append(paired_test(a, b, method="exact").p <= ALPHA)
        rejected["greater"].append(paired_test(a, b, method="exact", alternative="greater").p <= ALPHA)
    for alternative, hits in rejected.items():
        size = float(np.mean(hits))
        print(f"exact paired test, {kind}, about {discordant} discordant, {alternative}: {size:.4f}")
        assert size <= ALPHA + three_errors(ALPHA, repetitions)


# (h) ---------------------------------------------------------------------------------------------------------


def test_the_pooled_rule_errs_every_second_time_when_benchmarks_correlate() -> None:
    """The contrast: pairs x benchmarks taken as independent, one pair of runs, correlation .5."""
    repetitions = 10_000
    sizes = {}
    for correlation in (0.0, 0.5):
        runs = simulate_runs(
            study(2, correlation), repetitions, np.random.default_rng([9, int(10 * correlation)])
        )
        alternate, baseline = runs[(1, 0)][:, :1], runs[(0, 0)][:, :1]
        sizes[correlation] = float(np.mean(pooled_rule_batch([alternate], [baseline]) <= ALPHA))
    print(f"pooled rule: size {sizes[0.0]:.4f} at correlation 0, {sizes[0.5]:.4f} at .5")
    assert sizes[0.0] == pytest.approx(ALPHA, abs=0.02)
    assert 0.4 <= sizes[0.5] <= 0.6
