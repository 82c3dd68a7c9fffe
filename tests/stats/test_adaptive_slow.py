"""What adaptive replication promises, in thousands of simulated studies of known truth.

Components: the SD between seeds that conf/scale declares (tiny: 1 point) and others, and the margin of conf/analysis (2
points). The fixed grid has as many seeds as answer every contrast whichever way it falls (power.seeds_to_settle, which
the report advises), max_seeds is the same number, and both are judged on the same scores, so power is compared on equal
luck. Planted effects: in half of the studies (PLAIN) half of the arms equal the baseline, a quarter are one margin away
and a quarter two; the other half (PAPER) has the differences of suite means of eleven published comparisons (given as
|delta| / (1.96 sqrt 2), points). Signs are drawn. A bound on an error rate is the promise plus three Monte-Carlo
standard errors. pytest -s prints what was measured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest

from vlmablate.design.catalogue import axis_names, load_axis
from vlmablate.stats.adaptive.looks import look_at
from vlmablate.stats.adaptive.replay import State, intervals, replay
from vlmablate.stats.adaptive.rule import Rule
from vlmablate.stats.adaptive.simulation import draw, grid, settling_seeds, spent, stopping_bias, suites
from vlmablate.stats.adaptive.spending import sequential_p
from vlmablate.stats.calibration import BenchmarkShape, Shape
from vlmablate.stats.settings import Settings

pytestmark = pytest.mark.slow

MARGIN = 2.0
PAPER = np.array([4.63, 3.44, 1.29, 1.12, 0.88, 0.62, 0.45, 0.41, 0.31, 0.20, 0.19]) * 1.96 * math.sqrt(2)
PLAIN = MARGIN * np.array([0.0, 0.0, 1.0, 2.0])
_, BETTER, WORSE, EQUIVALENT = range(4)


def three_errors(p: float, repetitions: int) -> float:
    return 3 * math.sqrt(p * (1 - p) / repetitions)


def planted(effects: np.ndarray, contrasts: int, repetitions: int, rng: np.random.Generator) -> np.ndarray:
    shape = repetitions, contrasts
    return rng.choice(effects, shape) * rng.choice([-1.0, 1.0], shape)


def false_claims(verdict: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Shares of studies with a false difference, and with a false equivalence."""
    difference = ((verdict == BETTER) & (truth <= 0)) | ((verdict == WORSE) & (truth >= 0))
    same = (verdict == EQUIVALENT) & (np.abs(truth) >= MARGIN)
    return float(difference.any(axis=1).mean()), float(same.any(axis=1).mean())


def found(verdict: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Power: share of arms a margin or more away that are found, and of equal arms that are called equivalent."""
    far, none = np.abs(truth) >= MARGIN, truth == 0
    power = float((verdict == np.where(truth > 0, BETTER, WORSE))[far].mean())
    return power, float((verdict == EQUIVALENT)[none].mean()) if none.any() else math.nan


@dataclass(frozen=True)
class Compared:
    """Adaptive studies beside the grid. share: of the grid's runs. power, equivalence: (adaptive, grid), the second of
    PLAIN studies. errors: shares of studies with a false difference, a false equivalence. agree: share of equal
    verdicts. runs: of the grid."""

    share: float
    power: tuple[float, float]
    equivalence: tuple[float, float]
    errors: tuple[float, float]
    agree: float
    runs: int


def compared(contrasts: int, contexts: int, sd: float, repetitions: int, seed: int) -> Compared:
    """`repetitions` studies on max_seeds = the seeds of the grid that answers every contrast, printed in one line."""
    seeds = settling_seeds(Rule(contrasts, contexts, 10, None, Settings(margin=MARGIN)), sd)
    assert seeds is not None
    rule = Rule(contrasts, contexts, seeds, None, Settings(margin=MARGIN))
    rng = np.random.default_rng([seed, contrasts, contexts])
    truth = np.concatenate([planted(effects, contrasts, repetitions // 2, rng) for effects in (PLAIN, PAPER)])
    baseline, arms = draw(rule, sd, truth, rng)
    state, fixed = replay(rule, baseline, arms), grid(rule, seeds, baseline, arms)
    (power, same), (grid_power, grid_same) = found(state.verdict, truth), found(fixed, truth)
    runs = rule.runs(seeds, seeds * contrasts)
    made = Compared(
        share=float(spent(rule, state).mean()) / runs,
        power=(power, grid_power),
        equivalence=(same, grid_same),
        errors=false_claims(state.verdict, truth),
        agree=float((state.verdict == fixed).mean()),
        runs=runs,
    )
    print(
        f"{contrasts} contrasts x {contexts}, sd {sd:g}, {seeds} seeds: runs {made.share:.3f}; power {power:.3f} (grid "
        f"{grid_power:.3f}), equivalence {same:.3f} ({grid_same:.3f}); false difference {made.errors[0]:.3f}, false "
        f"equivalence {made.errors[1]:.3f}; same verdict {made.agree:.3f}; "
        f"rounds {1 + state.look.max(axis=1).mean():.1f}"
    )
    return made


@pytest.mark.parametrize(
    ("contrasts", "contexts", "sd"), [(2, 1, 1.0), (4, 1, 1.0), (2, 1, 2.0), (2, 2, 1.5)]
)
def test_the_verdicts_of_the_grid_for_sixty_percent_of_its_runs(
    contrasts: int, contexts: int, sd: float
) -> None:
    repetitions = 5000
    made = compared(contrasts, contexts, sd, repetitions, seed=7)
    assert made.share <= 0.60
    for adaptive, fixed in (made.power, made.equivalence):
        assert adaptive >= fixed - 0.03
    assert max(made.errors) <= 0.05 + three_errors(0.05, repetitions)
    # Of a difference within the margin both "better" and "equivalent" are true, so the two need not agree there.
    assert made.agree >= 0.93


def test_the_axes_of_the_catalogue_take_sixty_percent_on_average() -> None:
    """One study of every axis that there is: of the small ones (a single contrast) less can be saved."""
    axes = [load_axis(name, "tiny") for name in axis_names()]
    repetitions = 1000
    shapes = [(len(axis.arms) - 1, len(axis.contexts)) for axis in axes]
    each = {shape: compared(*shape, 1.0, repetitions, seed=8) for shape in sorted(set(shapes))}
    every = [each[shape] for shape in shapes]
    share = sum(made.share * made.runs for made in every) / sum(made.runs for made in every)
    mean = float(np.mean([made.share for made in every]))
    losses = [
        float(np.mean([getattr(made, name)[1] - getattr(made, name)[0] for made in every]))
        for name in ("power", "equivalence")
    ]
    print(
        f"{len(axes)} axes: {share:.3f} of all runs, {mean:.3f} of an axis; power lost {losses[0]:.3f}, {losses[1]:.3f}"
    )
    assert mean <= 0.60
    assert share <= 0.60
    assert max(losses) <= 0.03
    assert all(max(made.errors) <= 0.05 + three_errors(0.05, repetitions) for made in every)


@pytest.mark.parametrize(
    ("contrasts", "contexts", "max_seeds", "paired"),
    [
        *[(1, 1, 6, False), (1, 1, 10, False), (2, 1, 10, False), (4, 1, 12, False), (1, 2, 6, False)],
        *[(1, 1, 12, True), (2, 1, 6, True)],
    ],
)
def test_looking_at_every_round_keeps_the_error_rate(
    contrasts: int, contexts: int, max_seeds: int, paired: bool
) -> None:
    """Equal arms that nothing stops before the last look: the worst case of the family-wise error."""
    repetitions = 20_000
    rule = Rule(contrasts, contexts, max_seeds, None, Settings(margin=1e-6, paired_seeds=paired))
    truth = np.zeros((repetitions, contrasts))
    state = replay(rule, *draw(rule, 1.0, truth, np.random.default_rng(11)))
    error = false_claims(state.verdict, truth)[0]
    print(
        f"{contrasts} contrasts x {contexts}, {max_seeds} seeds, paired {paired}: family-wise error {error:.4f}"
    )
    assert error <= 0.05 + three_errors(0.05, repetitions)
    assert error >= 0.03  # the allowance does not waste the level


@pytest.mark.parametrize("truth", [(0.0, 0.0), (0.0, 2.0), (2.0, -2.0), (0.0, 9.0)])
@pytest.mark.parametrize("paired", [False, True])
def test_false_claims_stay_rare_whatever_the_other_arm_does(truth: tuple[float, float], paired: bool) -> None:
    """One arm's early end changes the degrees of freedom and the baseline of the other; (2, -2) lie on the margin."""
    repetitions = 10_000
    rule = Rule(2, 1, 10, None, Settings(margin=MARGIN, paired_seeds=paired))
    effects = np.tile(truth, (repetitions, 1))
    pairing = 0.5 if paired else 0.0
    state = replay(rule, *draw(rule, 1.0, effects, np.random.default_rng(12), pairing=pairing))
    errors = false_claims(state.verdict, effects)
    print(
        f"truth {truth}, paired {paired}: false difference {errors[0]:.4f}, false equivalence {errors[1]:.4f}"
    )
    assert max(errors) <= 0.05 + three_errors(0.05, repetitions)


def test_a_budget_does_not_raise_the_error_rate() -> None:
    """The contrast that looks best is followed: its sequential p-values do not mind."""
    repetitions = 10_000
    rule = Rule(4, 1, 12, 24, Settings(margin=1e-6))
    truth = np.zeros((repetitions, 4))
    state = replay(rule, *draw(rule, 1.0, truth, np.random.default_rng(13)))
    error = false_claims(state.verdict, truth)[0]
    print(f"budget of 24 runs: family-wise error {error:.4f}")
    assert error <= 0.05 + three_errors(0.05, repetitions)


MEASURED = (("counting", 41, 0.293, 2.82), ("existence", 88, 0.457, 4.32), ("spatial", 36, 0.465, 3.87))
"""Benchmark, examples, mean and SD between seeds in points, as calibration reads them from axis=image_resize with
scale=smoke seeds=4; the correlation of seed effects between benchmarks was .09."""


def measured_shape(paired: bool) -> Shape:
    benchmarks = tuple(
        BenchmarkShape(name, (0.0, 1.0), (1 - mean, mean), (examples - 1, 1), sd)
        for name, examples, mean, sd in MEASURED
    )
    pairing = 0.4 if paired else 0.0
    return Shape(((2,),) * 3, benchmarks, correlation=0.09, paired_seeds=paired, seed_pairing=pairing)


@pytest.mark.parametrize("paired", [False, True])
def test_measured_components_keep_the_promises(paired: bool) -> None:
    """Benchmarks of different spread, correlated within a run, with scores in steps of one example of 36 to 88.

    Paired seeds have no surplus of the baseline that pays for looking, so max_seeds is a tenth above the grid's.
    """
    shape, repetitions = measured_shape(paired), 3000
    settings = Settings(margin=MARGIN, paired_seeds=paired)
    sd = shape.suite_sd * (math.sqrt(2 * (1 - shape.seed_pairing)) if paired else 1.0)
    seeds = settling_seeds(Rule(2, 1, 10, None, settings), sd)
    assert seeds is not None
    most = math.ceil(1.1 * seeds) if paired else seeds
    rule, rng = Rule(2, 1, most, None, settings), np.random.default_rng(14)
    truth = planted(PLAIN, 2, repetitions, rng)
    baseline, arms = suites(rule, shape, truth, rng)
    state, fixed = replay(rule, baseline, arms), grid(rule, seeds, baseline, arms)
    share = float(spent(rule, state).mean()) / rule.runs(seeds, 2 * seeds)
    ours, grids, errors = found(state.verdict, truth), found(fixed, truth), false_claims(state.verdict, truth)
    print(
        f"suite SD {shape.suite_sd:.2f}, paired {paired}, {seeds} seeds: runs {share:.3f}, power {ours[0]:.3f} (grid "
        f"{grids[0]:.3f}), equivalence {ours[1]:.3f} ({grids[1]:.3f}), false claims {errors[0]:.4f}, {errors[1]:.4f}"
    )
    assert share <= 0.60
    assert ours[0] >= grids[0] - 0.03
    assert ours[1] >= grids[1] - 0.03
    assert max(errors) <= 0.05 + three_errors(0.05, repetitions)


@pytest.mark.parametrize("effect", [0.0, 1.0, 2.0, 4.0])
def test_intervals_hold_the_truth_where_the_study_stopped(effect: float) -> None:
    """Repeated intervals cover at any stopping look; those of a fixed number of seeds would not."""
    repetitions = 5000
    rule = Rule(2, 1, 10, None, Settings(margin=MARGIN))
    truth = np.full((repetitions, 2), effect)
    state = replay(rule, *draw(rule, 1.0, truth, np.random.default_rng(15)))
    low, high = np.moveaxis(intervals(rule, state), -1, 0)
    cover = float(((low <= truth) & (truth <= high)).mean())
    print(f"effect {effect:g}: coverage {cover:.4f}, mean width {np.mean(high - low):.2f}")
    assert cover >= 0.95 - three_errors(0.05, repetitions)


def test_subtracting_the_bias_of_stopping_removes_most_of_it() -> None:
    """The bias is simulated at each study's own estimates, and the corrected estimates are nearer to the truth."""
    rule = Rule(1, 1, 8, None, Settings(margin=MARGIN))
    truth = np.full((400, 1), MARGIN)
    state = replay(rule, *draw(rule, 1.0, truth, np.random.default_rng(16)))
    plain = state.delta[:, 0] - MARGIN
    sd = state.se / np.sqrt(1 / state.arm_seeds + 1 / state.baseline_seeds[:, None])
    shifts = [
        stopping_bias(rule, float(s), [float(d)], repetitions=200)[0]
        for s, d in zip(sd[:, 0], state.delta[:, 0], strict=True)
    ]
    corrected = plain - np.array(shifts)
    print(
        f"bias {plain.mean():+.3f}, corrected {corrected.mean():+.3f}; rms {plain.std():.3f}, {corrected.std():.3f}"
    )
    assert plain.mean() > 0.05
    assert abs(corrected.mean()) < 0.7 * abs(plain.mean())


def test_the_allowance_covers_t_values_at_every_level_that_holm_asks_for() -> None:
    """The smallest sequential p over all looks, compared with its level, for one-sided tests of the first contrast."""
    repetitions = 40_000
    for contrasts, max_seeds, paired in ((1, 6, False), (2, 10, False), (1, 12, True)):
        rule = Rule(contrasts, 1, max_seeds, None, Settings(paired_seeds=paired))
        scores = draw(rule, 1.0, np.zeros((repetitions, contrasts)), np.random.default_rng(17))
        smallest = np.ones((2, repetitions))
        for number, (arm, base) in enumerate(zip(rule.arm_looks, rule.baseline_looks, strict=True)):
            look = look_at(rule, *scores, np.full(repetitions, base), np.full((repetitions, contrasts), arm))
            for side, sign in enumerate((1, -1)):
                p = sequential_p(look.tail(0.0, sign)[:, 0], rule.fractions, number, rule.allowance)
                smallest[side] = np.minimum(smallest[side], p)
        for level in (0.05, 0.025, 0.025 / contrasts):
            rate = float((smallest <= level).mean())
            print(
                f"{contrasts} contrasts, {max_seeds} seeds, paired {paired}: level {level:g}, rate {rate:.5f}"
            )
            assert rate <= level + three_errors(level, 2 * repetitions)


def test_state_is_only_read() -> None:
    """replay is a function of the scores: the same scores, the same state, whatever was asked before."""
    rule = Rule(2, 1, 6, None, Settings())
    scores = draw(rule, 1.0, np.zeros((50, 2)), np.random.default_rng(18))
    kept = [array.copy() for array in scores]
    first, second = replay(rule, *scores), replay(rule, *scores)
    assert all((before == after).all() for before, after in zip(kept, scores, strict=True))
    assert isinstance(first, State)
    assert (first.verdict == second.verdict).all()
