"""Claims about new examples: of these checkpoints, and of retraining judged on new examples."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from vlmablate.stats.calibration.checks import (
    ITEMS_AS_DESIGN,
    ITEMS_INTERVAL,
    ITEMS_NAIVE,
    ITEMS_SINGLE,
    ITEMS_SIZE,
    MAX_T,
    TWO_COMPONENT,
    Check,
    Progress,
    join,
    judge,
)
from vlmablate.stats.calibration.shape import Shape
from vlmablate.stats.calibration.simulated_examples import EXAMPLES_CAP, Layout, lay_out, simulate_examples
from vlmablate.stats.components import two_component_interval
from vlmablate.stats.groups import Clusters, as_clusters, cluster_mean
from vlmablate.stats.maxt import max_t
from vlmablate.stats.paired import paired_test
from vlmablate.stats.runs import PooledError

FLIPS_LOG2 = 12
"""Sign flips of a simulated max-T test, as a power of two. Its level is exact for any number of flips."""

APPROXIMATE = 0.2
"""Share of alpha by which a test that is approximate by nature (cluster t, Satterthwaite) may miss its level."""

MOST_ARMS = 8
"""Arms in the simulation of examples; the max-T check of a larger study uses the first ones."""

SINGLE_TESTS = 3000
"""Tests of single benchmarks that are run in all; with many benchmarks fewer repetitions are made."""

_BLOCK_VALUES = 2**22
"""Latent values simulated at a time."""

_REPORT_EVERY = 50

Study = tuple[NDArray[np.float32], ...]
"""Scores of one simulated study: per arm [runs, n]."""


@dataclass(frozen=True)
class _Setting:
    """What the simulated studies of examples have in common. runs: training runs of every arm, baseline first."""

    shape: Shape
    layout: Layout
    runs: tuple[int, ...]
    repetitions: int
    alpha: float
    seed: int
    report: Progress

    @property
    def n(self) -> int:
        return len(self.layout.clusters)

    @property
    def clusters(self) -> Clusters:
        return as_clusters(self.layout.clusters, self.n)

    @property
    def note(self) -> str:
        return f"at most {EXAMPLES_CAP} examples per benchmark" if self.layout.capped else ""

    def studies(
        self, runs: tuple[int, ...], stream: int, name: str, *, seed_effects: bool
    ) -> Iterator[Study]:
        """One simulated study after the other; tells `report` of the check `name`."""
        rng = np.random.default_rng([self.seed, stream])
        size = max(1, _BLOCK_VALUES // (self.n * (sum(runs) + len(runs) + 1)))
        for start in range(0, self.repetitions, size):
            count = min(size, self.repetitions - start)
            block = simulate_examples(self.shape, self.layout, runs, count, rng, seed_effects=seed_effects)
            for offset, study in enumerate(zip(*block, strict=True)):
                if (start + offset) % _REPORT_EVERY == 0:
                    self.report(name, start + offset, self.repetitions)
                yield study
        self.report(name, self.repetitions, self.repetitions)


def picture_checks(shape: Shape, repetitions: int, alpha: float, seed: int, report: Progress) -> list[Check]:
    """The checks of claims about new examples, in the context with the most arms; see trust.calibrate."""
    arms_of = {
        context: [
            arm for arm in shape.contrasts() if context in shape.apart(arm) and (arm, context) in shape.cells
        ]
        for context in range(len(shape.seeds[0]))
    }
    context = max(arms_of, key=lambda c: len(arms_of[c]))
    runs = tuple(shape.seeds[arm][context] for arm in (0, *arms_of[context]))[:MOST_ARMS]
    setting = _Setting(shape, lay_out(shape), runs, repetitions, alpha, seed, report)
    complete = len(runs) == 1 + len(arms_of[context])
    return [*_checkpoints(setting, complete), *_retrained(setting)]


def _checkpoints(setting: _Setting, complete: bool) -> list[Check]:
    """Claims about these checkpoints on new examples: all runs are equally good on the population."""
    shape, layout, alpha, repetitions = setting.shape, setting.layout, setting.alpha, setting.repetitions
    clusters = setting.clusters
    single = max(1, min(repetitions, SINGLE_TESTS // len(shape.benchmarks)))
    parts = [as_clusters(layout.clusters[where], where.stop - where.start) for where in layout.slices]
    shared = int(max(part.sizes.max() for part in parts)) > 1
    size, covered, naive, family = (np.zeros(repetitions, dtype=bool) for _ in range(4))
    singles = np.zeros(single)
    for r, study in enumerate(setting.studies(setting.runs, 3, ITEMS_SIZE, seed_effects=False)):
        means = np.stack([arm.mean(axis=0, dtype=np.float64) for arm in study])
        result = max_t(means, clusters, weights=layout.weights, log2_flips=FLIPS_LOG2)
        size[r] = result.p[0] <= alpha
        family[r] = result.p_adjusted.min() <= alpha
        mean = cluster_mean(means[1] - means[0], clusters, layout.benchmarks)
        covered[r] = abs(mean.delta) <= stats.t.ppf(1 - alpha / 2, mean.df) * mean.se
        if shared:
            lone = cluster_mean(means[1] - means[0], None, layout.benchmarks)
            naive[r] = abs(lone.delta) > stats.t.ppf(1 - alpha / 2, lone.df) * lone.se
        if r < single:
            tests = [
                paired_test(
                    means[1][where], means[0][where], part, alternative=shape.alternative, alpha=alpha
                )
                for where, part in zip(layout.slices, parts, strict=True)
            ]
            singles[r] = np.mean([test.p <= alpha for test in tests])
    slack = APPROXIMATE * alpha
    checks = [
        judge(
            ITEMS_SIZE,
            "type-I error",
            size,
            "Items test (unit: cluster of examples): checkpoints that are equally good on such examples are called "
            "different in {value} of draws of examples, {kept}.",
            nominal=alpha,
            at_most=True,
            tolerance=slack,
            note=join(setting.note, f"{clusters.count} clusters, 2^{FLIPS_LOG2} flips"),
        ),
        judge(
            ITEMS_SINGLE,
            "type-I error",
            singles,
            "Items test of one benchmark: equally good checkpoints are called different in {value} of draws, {kept}.",
            nominal=alpha,
            at_most=True,
            tolerance=slack,
            note=join(setting.note, f"mean over {len(parts)} benchmark(s)"),
        ),
        judge(
            ITEMS_INTERVAL,
            "coverage",
            covered,
            "Items interval (cluster-robust t): it holds the true difference of two checkpoints in {value} of draws, "
            "{kept}.",
            nominal=1 - alpha,
            tolerance=slack,
            note=setting.note,
        ),
    ]
    if shared:
        checks.append(
            judge(
                ITEMS_NAIVE,
                "type-I error",
                naive,
                "For comparison, taking the examples of a cluster as independent would call equally good checkpoints "
                "different in {value} of draws.",
                note=join(setting.note, "not a test of this package"),
            )
        )
    arms = len(setting.runs)
    if arms > 2:
        checks.append(
            judge(
                MAX_T,
                "family-wise error",
                family,
                f"All {arms * (arms - 1) // 2} pairs of {arms} arms (max-T): some pair is called different although "
                "none is in {value} of draws, {kept}.",
                nominal=alpha,
                at_most=True,
                tolerance=slack,
                note=join(setting.note, f"2^{FLIPS_LOG2} flips", "" if complete else "some arms left out"),
            )
        )
    return checks


def _retrained(setting: _Setting) -> list[Check]:
    """Claims about retraining judged on new examples: every run has its own quality."""
    shape, layout, alpha, repetitions = setting.shape, setting.layout, setting.alpha, setting.repetitions
    clusters, strata = setting.clusters, as_clusters(layout.benchmarks, setting.n)
    runs = setting.runs[:2]
    others = shape.error_df - sum(count - 1 for count in runs)
    wrong, covered = np.zeros(repetitions, dtype=bool), np.zeros(repetitions, dtype=bool)
    elsewhere = np.random.default_rng([setting.seed, 5])
    variance = _suite_variance(shape, layout, elsewhere) if others > 0 else 0.0
    spread = variance * elsewhere.chisquare(max(others, 1), repetitions)
    for r, study in enumerate(setting.studies(runs, 4, TWO_COMPONENT, seed_effects=True)):
        baseline, alternate = (arm.astype(np.float64) for arm in study)
        means = np.stack([alternate.mean(axis=0), baseline.mean(axis=0)])
        pair = max_t(means, clusters, weights=layout.weights, log2_flips=FLIPS_LOG2)
        wrong[r] = pair.p[0] <= alpha
        error = None
        if others > 0:  # the other cells of the study add their degrees of freedom
            suites = [arm @ layout.weights for arm in (alternate, baseline)]
            squares = sum(float(((s - s.mean()) ** 2).sum()) for s in suites)
            sd = math.sqrt((squares + spread[r]) / shape.error_df)
            error = PooledError(sd, shape.error_df, len(shape.cells))
        interval = two_component_interval(
            alternate, baseline, clusters, benchmarks=strata, error=error, alpha=alpha
        )
        covered[r] = interval.ci[0] <= 0.0 <= interval.ci[1]
    coverage = judge(
        TWO_COMPONENT,
        "coverage",
        covered,
        "Interval for new examples and new seeds: it holds the true difference in {value} of studies, {kept}.",
        nominal=1 - alpha,
        tolerance=APPROXIMATE * alpha,
        note=setting.note,
    )
    warning = judge(
        ITEMS_AS_DESIGN,
        "type-I error",
        wrong,
        "For comparison, the items test taken for a claim about retraining would call equally good arms different in "
        "{value} of studies; it knows nothing of the spread between seeds.",
        note=join(setting.note, "not what the items test claims"),
    )
    # The table gives no such interval with paired seeds.
    return [warning] if shape.paired_seeds else [coverage, warning]


def _suite_variance(shape: Shape, layout: Layout, rng: np.random.Generator) -> float:
    """Variance of a simulated run's suite score (a fraction) between retrainings, from 40 sets of 50 runs."""
    within = []
    for _ in range(40):
        (runs,) = simulate_examples(shape, layout, [50], 1, rng, seed_effects=True)
        within.append(float((runs[0].astype(np.float64) @ layout.weights).var(ddof=1)))
    return float(np.mean(within))
