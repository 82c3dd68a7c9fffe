"""Studies of known truth that follow the rule, beside the fixed grid on the same scores.

What a simulated score varies by comes from variance components: those of finished studies (:func:`suites`, from the
shape that vlmablate.stats.calibration estimates), or the SD between seeds alone (:func:`draw`), which is all that a
plan knows. Differences count in units of that SD, so its size only matters beside the margin.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from vlmablate.errors import DataError
from vlmablate.stats.adaptive.families import adjust_rows
from vlmablate.stats.adaptive.looks import Floats, Ints
from vlmablate.stats.adaptive.replay import VERDICTS, State, replay
from vlmablate.stats.adaptive.rule import Rule
from vlmablate.stats.calibration.batch import design_batch, paired_batch, pooled_batch
from vlmablate.stats.calibration.shape import Shape
from vlmablate.stats.calibration.simulated_runs import simulate_runs
from vlmablate.stats.margins import equivalence
from vlmablate.stats.power import seeds_to_settle

EFFECTS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)
"""True differences that a plan is told about, in margins."""


def draw(
    rule: Rule, sd: float, effects: Floats, rng: np.random.Generator, *, pairing: float = 0.0
) -> tuple[Floats, Floats]:
    """(baseline, arms) of replay.replay for studies whose arms truly differ by `effects` [studies, contrasts] points.

    sd: between seeds of a cell, in points; pairing: correlation of the runs of one seed in two arms.
    """
    studies, contrasts = effects.shape
    longest = max(rule.baseline_looks[-1], rule.max_seeds)
    noise = rng.standard_normal((studies, contrasts + 1, rule.contexts, longest))
    if pairing:
        shared = rng.standard_normal((studies, 1, rule.contexts, longest))
        noise = math.sqrt(pairing) * shared + math.sqrt(1 - pairing) * noise
    scores = sd * noise
    arms = scores[:, 1:, :, : rule.max_seeds] + effects[:, :, None, None]
    return scores[:, 0, :, : rule.baseline_looks[-1]], arms


def suites(rule: Rule, shape: Shape, effects: Floats, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """The same as draw, with the components of a measured `shape`: SDs and correlation of its benchmarks, pairing of
    its seeds, and scores that are multiples of 1 / examples."""
    seeds = (
        (rule.baseline_looks[-1],) * rule.contexts,
        *[(rule.max_seeds,) * rule.contexts] * rule.contrasts,
    )
    runs = simulate_runs(replace(shape, seeds=seeds, copies=()), len(effects), rng)
    scores = {cell: points.mean(axis=2) for cell, points in runs.items()}
    baseline = np.stack([scores[0, context] for context in range(rule.contexts)], axis=1)
    arms = [
        np.stack([scores[arm, context] for context in range(rule.contexts)], axis=1)
        for arm in range(1, rule.contrasts + 1)
    ]
    return baseline, np.stack(arms, axis=1) + effects[:, :, None, None]


def grid(rule: Rule, seeds: int, baseline: Floats, arms: Floats) -> Ints:
    """Verdicts (codes of replay.VERDICTS) [studies, contrasts] of a fixed grid: the first `seeds` seeds of every arm.

    Judged by the design level's t test. Where the table would permute runs exactly, its power is a little lower.
    """
    settings, contexts = rule.settings, range(rule.contexts)
    base = [baseline[:, context, :seeds] for context in contexts]
    cells = [[arms[:, arm, context, :seeds] for context in contexts] for arm in range(rule.contrasts)]
    if settings.paired_seeds:
        error = paired_batch([[base[c], *(cell[c] for cell in cells)] for c in contexts])
    else:
        error = pooled_batch([*base, *(scores for cell in cells for scores in cell)])
    batches = [
        design_batch(
            cell,
            base,
            error,
            method="t",
            paired=settings.paired_seeds,
            alternative=settings.alternative,
            alpha=settings.alpha,
        )
        for cell in cells
    ]
    delta = np.stack([batch.delta for batch in batches], axis=1)
    same = [
        [equivalence(float(d), float(s), batch.df, settings.margin, settings.alpha).p for d, s in pairs]
        for batch in batches
        for pairs in [zip(batch.delta, batch.se, strict=True)]
    ]
    different = adjust_rows(np.stack([batch.p for batch in batches], axis=1), settings.correction)
    alike = adjust_rows(np.array(same).T, settings.correction)
    direction = np.where(delta > 0, VERDICTS.index("better"), VERDICTS.index("worse"))
    found = np.where(different <= settings.alpha, direction, VERDICTS.index("unresolved"))
    return np.asarray(np.where(alike <= settings.alpha, VERDICTS.index("equivalent"), found))


def settling_seeds(rule: Rule, sd: float) -> int | None:
    """Seeds per arm of the fixed grid that answers every contrast, whichever way it falls (power.seeds_to_settle)."""
    settings, contexts = rule.settings, rule.contexts
    if settings.paired_seeds:
        squared, cells = 1 / contexts, contexts * rule.contrasts
    else:
        squared, cells = 2 / contexts, contexts * (rule.contrasts + 1)
    return seeds_to_settle(sd, cells, squared, settings.margin, settings.alpha / rule.contrasts)


@dataclass(frozen=True)
class Expectation:
    """What to expect if every arm truly differs by `effect` points: chances of each verdict about an arm, and the mean
    numbers of seeds of an arm, of runs of the study, and of rounds."""

    effect: float
    different: float
    equivalent: float
    unresolved: float
    seeds: float
    runs: float
    rounds: float


def spent(rule: Rule, state: State) -> Ints:
    """Trainings [studies] that are paid for."""
    return np.asarray(rule.contexts * (state.baseline_seeds + state.arm_seeds.sum(axis=1)))


def expect(
    rule: Rule, sd: float, *, pairing: float = 0.0, repetitions: int = 400, seed: int = 0
) -> list[Expectation]:
    """What the rule is expected to do at differences of EFFECTS margins, from `repetitions` simulated studies each.

    sd: between seeds, in points; of paired seeds the SD of one run, correlated by `pairing`. Equal arguments give equal
    results. Raises DataError for an sd that is not positive.
    """
    _check(sd)
    expected = []
    for size in EFFECTS:
        effect = size * rule.settings.margin * (-1 if rule.settings.alternative == "less" else 1)
        truth = np.full((repetitions, rule.contrasts), effect)
        state = replay(rule, *draw(rule, sd, truth, np.random.default_rng(seed), pairing=pairing))
        share = np.bincount(state.verdict.ravel(), minlength=len(VERDICTS)) / state.verdict.size
        unresolved, better, worse, equivalent = share.tolist()
        expected.append(
            Expectation(
                effect=effect,
                different=better + worse,
                equivalent=equivalent,
                unresolved=unresolved,
                seeds=float(state.arm_seeds.mean()),
                runs=float(spent(rule, state).mean()),
                rounds=float((state.look.max(axis=1) + 1).mean()),
            )
        )
    return expected


def _check(sd: float) -> None:
    if not (sd > 0 and math.isfinite(sd)):
        raise DataError(f"the SD between seeds must be a positive number of points, got {sd}")


def stopping_bias(
    rule: Rule,
    sd: float,
    deltas: Sequence[float],
    *,
    pairing: float = 0.0,
    repetitions: int = 2000,
    seed: int = 0,
) -> Floats:
    """By how much estimates are too high [contrasts] because the rule stops, if the truth were `deltas` points.

    Mean of estimate minus truth over simulated studies. Stopping at a look where a difference is significant favours
    chance that made it larger. Subtracting it is the one-step form of Whitehead's bias-adjusted estimate (Biometrika
    73, 1986, 573-581). Raises DataError for an sd that is not positive and deltas that are not finite.
    """
    _check(sd)
    truth = np.array(deltas, dtype=np.float64)
    if truth.shape != (rule.contrasts,) or not np.isfinite(truth).all():
        raise DataError(f"expected {rule.contrasts} finite differences, got {list(deltas)}")
    effects = np.broadcast_to(truth, (repetitions, rule.contrasts))
    state = replay(rule, *draw(rule, sd, effects, np.random.default_rng(seed), pairing=pairing))
    return np.asarray((state.delta - truth).mean(axis=0))
