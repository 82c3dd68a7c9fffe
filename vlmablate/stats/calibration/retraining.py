"""Claims about retraining, whose unit is the training run: level, family-wise error, equivalence and power."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from vlmablate.stats.calibration.batch import DesignBatch, pooled_rule_batch
from vlmablate.stats.calibration.checks import (
    DESIGN_SIZE,
    DESIGN_UNEQUAL,
    EQUIVALENCE_POWER,
    EQUIVALENCE_SIZE,
    FAMILY,
    POOLED_RULE,
    POWER,
    Check,
    Progress,
    join,
    judge,
)
from vlmablate.stats.calibration.shape import Floats, Shape
from vlmablate.stats.calibration.simulated_runs import simulate_runs
from vlmablate.stats.calibration.studies import Studies, enumerated, table_p
from vlmablate.stats.margins import equivalence
from vlmablate.stats.multiplicity import adjust

MOST_EVALUATIONS = 2**28
"""Arrangements x repetitions that the exact design test may cost; beyond it fewer repetitions are made."""

COMPARED_WITH_TABLE = 20
"""Repetitions on which the closed form of the design test is compared with the table's own function."""

Bools = NDArray[np.bool_]


def retraining_checks(
    shape: Shape, repetitions: int, alpha: float, margin: float, seed: int, report: Progress
) -> list[Check]:
    """The checks of claims whose unit is the seed; see trust.calibrate for the arguments."""
    affordable = int(min(repetitions, max(200, MOST_EVALUATIONS // enumerated(shape, alpha))))
    note = "" if affordable == repetitions else f"{affordable} repetitions: the exact enumeration is large"
    steps = 6
    report(DESIGN_SIZE, 0, steps)
    rng = np.random.default_rng([seed, 1])
    studies = Studies(shape, simulate_runs(shape, affordable, rng), alpha)
    batches = {arm: studies.test(arm) for arm in shape.contrasts()}
    checks = [_size(studies, batches, note)]
    report(DESIGN_UNEQUAL, 1, steps)
    checks.append(_unequal_spread(shape, affordable, alpha, seed))
    report(FAMILY, 2, steps)
    checks.append(_family(studies, batches, note))
    report(EQUIVALENCE_SIZE, 3, steps)
    checks += _equivalence(studies, batches, margin, note)
    report(POWER, 4, steps)
    checks.append(_power(studies, batches, margin, note))
    report(POOLED_RULE, 5, steps)
    checks += _pooled_rule(studies)
    report(POOLED_RULE, steps, steps)
    return checks


def _first(shape: Shape) -> int:
    """The first arm that has runs of its own; it stands for a single contrast."""
    return next(arm for arm in shape.contrasts() if shape.apart(arm))


def _size(studies: Studies, batches: Mapping[int, DesignBatch], note: str) -> Check:
    shape, alpha, first = studies.shape, studies.alpha, _first(studies.shape)
    arms = [arm for arm in batches if shape.apart(arm)]
    kind = "exact permutation" if batches[first].exact else f"t, df = {batches[first].df}"
    check = judge(
        DESIGN_SIZE,
        "type-I error",
        np.mean([batches[arm].p <= alpha for arm in arms], axis=0),
        "Design test (unit: seed): arms that are equally good are called different in {value} of studies, {kept}.",
        nominal=float(np.mean([batches[arm].attainable for arm in arms])),
        note=join(note, kind, f"mean over {len(arms)} arm(s)" if len(arms) > 1 else ""),
    )
    count = min(COMPARED_WITH_TABLE, len(batches[first].p))
    for arm in arms:
        of_table = [table_p(studies, arm, repetition) for repetition in range(count)]
        if not np.allclose(of_table, batches[arm].p[:count], atol=1e-6, equal_nan=True):
            differ = "the closed form of this simulation and the table give different p-values"
            return replace(check, ok=False, note=join(check.note, differ))
    return check


def _unequal_spread(shape: Shape, repetitions: int, alpha: float, seed: int) -> Check:
    first = _first(shape)
    factors = [2.0 if arm == first else 1.0 for arm in range(shape.arms)]
    rng = np.random.default_rng([seed, 2])
    studies = Studies(shape, simulate_runs(shape, repetitions, rng, spread=factors), alpha)
    return judge(
        DESIGN_UNEQUAL,
        "type-I error",
        studies.test(first).p <= alpha,
        "If one arm's scores spread twice as widely between seeds as the others', the design test would call it "
        "different in {value} of studies although it is not.",
        note="a stress test: equal spread in all cells is what the test assumes",
    )


def _family(studies: Studies, batches: Mapping[int, DesignBatch], note: str) -> Check:
    shape, alpha = studies.shape, studies.alpha
    family = np.array([batch.p for batch in batches.values()])
    rejected = [bool(np.nanmin(adjust(p, shape.correction), initial=1.0) <= alpha) for p in family.T]
    return judge(
        FAMILY,
        "family-wise error",
        np.array(rejected),
        f"Primary family ({len(family)} arm(s) against one baseline, {shape.correction}): some arm is called "
        "different although none is in {value} of studies, {kept}.",
        nominal=alpha,
        at_most=True,
        note=note,
    )


def _equivalence_p(batch: DesignBatch, shift: float, margin: float, alpha: float) -> Floats:
    pairs = zip(batch.delta + shift, batch.se, strict=True)
    return np.array([equivalence(float(d), float(se), batch.df, margin, alpha).p for d, se in pairs])


def _equivalence(
    studies: Studies, batches: Mapping[int, DesignBatch], margin: float, note: str
) -> list[Check]:
    """The first arm at the margin, and at no difference; the other arms of the family do not differ."""
    shape, alpha, first = studies.shape, studies.alpha, _first(studies.shape)
    arms = list(batches)
    family = np.array([_equivalence_p(batches[arm], 0.0, margin, alpha) for arm in arms])

    def claimed(p_values: Floats) -> Bools:
        return np.array([adjust(p, shape.correction)[arms.index(first)] <= alpha for p in p_values.T])

    at_margin = family.copy()
    at_margin[arms.index(first)] = _equivalence_p(batches[first], margin, margin, alpha)
    return [
        judge(
            EQUIVALENCE_SIZE,
            "false equivalence",
            claimed(at_margin),
            f"Equivalence: an arm that truly differs by {margin:g} points is called equivalent in {{value}} of "
            "studies, {kept}.",
            nominal=alpha,
            at_most=True,
            note=note,
        ),
        judge(
            EQUIVALENCE_POWER,
            "power",
            claimed(family),
            f"Power of equivalence: an arm that is as good as the baseline is called equivalent (within {margin:g} "
            "points, after the correction) in {value} of studies.",
            note=note,
        ),
    ]


def _power(studies: Studies, batches: Mapping[int, DesignBatch], margin: float, note: str) -> Check:
    shape, alpha, first = studies.shape, studies.alpha, _first(studies.shape)
    direction = -1.0 if shape.alternative == "less" else 1.0
    arms = list(batches)
    family = np.array([batches[arm].p for arm in arms])
    family[arms.index(first)] = studies.test(first, shift=direction * margin).p
    found = [bool(adjust(p, shape.correction)[arms.index(first)] <= alpha) for p in family.T]
    return judge(
        POWER,
        "power",
        np.array(found),
        f"Power: a true difference of {margin:g} points of one arm is found (after the correction) in {{value}} of "
        "studies.",
        note=note,
    )


def _pooled_rule(studies: Studies) -> list[Check]:
    shape, first = studies.shape, _first(studies.shape)
    contexts = shape.apart(first)
    alternate = [studies.runs[shape.origin((first, c))] for c in contexts]
    baseline = [studies.runs[shape.origin((0, c))] for c in contexts]
    pairs = sum(min(a.shape[1], b.shape[1]) for a, b in zip(alternate, baseline, strict=True))
    if pairs * len(shape.benchmarks) < 2:
        return []
    check = judge(
        POOLED_RULE,
        "type-I error",
        pooled_rule_batch(alternate, baseline) <= studies.alpha,
        "For comparison, a t test over pairs of runs x benchmarks taken as independent would call equal arms "
        "different in {value} of studies.",
        note=f"{pairs} pair(s) x {len(shape.benchmarks)} benchmark(s), correlation {shape.correlation:.2f}; "
        "not a test of this package",
    )
    return [check]
