"""Whether the verdicts about data of a shape can be trusted, and why not where they cannot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from vlmablate.errors import DataError
from vlmablate.stats.calibration.checks import (
    COLUMNS,
    DESIGN_UNEQUAL,
    ITEMS_AS_DESIGN,
    POWER,
    Check,
    Progress,
)
from vlmablate.stats.calibration.pictures import picture_checks
from vlmablate.stats.calibration.retraining import retraining_checks
from vlmablate.stats.calibration.shape import Shape
from vlmablate.stats.runs import permutation_floor

FEWEST_REPETITIONS = 100


@dataclass(frozen=True)
class Calibration:
    """The result of :func:`calibrate`.

    table: one row per check, columns COLUMNS. sentences: one per check. trustworthy: every promise that was checked
    is kept. conclusion: which claims data of this shape can bear and which not.
    """

    table: pd.DataFrame
    sentences: tuple[str, ...]
    trustworthy: bool
    conclusion: tuple[str, ...]
    shape: Shape
    alpha: float
    margin: float
    repetitions: int
    seed: int


def calibrate(
    shape: Shape,
    *,
    repetitions: int = 2000,
    alpha: float = 0.05,
    margin: float = 2.0,
    seed: int = 0,
    progress: Progress | None = None,
) -> Calibration:
    """Run the tests on `repetitions` simulated studies of `shape` with known truth.

    alpha: level of the tests; margin: smallest difference that matters, in points. Equal arguments give equal
    results. Raises DataError for fewer than 100 repetitions, a margin that is not positive, alpha outside (0, .5),
    and a shape whose seeds change nothing.
    """
    if repetitions < FEWEST_REPETITIONS:
        raise DataError(
            f"repetitions={repetitions}: fewer than {FEWEST_REPETITIONS} say nothing about an error rate of {alpha:g}"
        )
    if not 0 < alpha < 0.5:
        raise DataError(f"alpha must lie in (0, 0.5), got {alpha}")
    if not (margin > 0 and math.isfinite(margin)):
        raise DataError(f"margin must be a positive number of points, got {margin}")
    if not shape.suite_sd > 0:
        raise DataError(
            "the runs of a cell score exactly the same: the seeds changed nothing, so they are no replication and "
            "there is nothing to calibrate a claim about retraining with"
        )
    report = progress or (lambda name, done, total: None)
    checks = retraining_checks(shape, repetitions, alpha, margin, seed, report)
    checks += picture_checks(shape, repetitions, alpha, seed, report)
    records = [
        {
            "check": check.name,
            "estimates": check.estimates,
            "value": check.value,
            "mc_se": check.mc_se,
            "target_low": math.nan if check.target is None else check.target[0],
            "target_high": math.nan if check.target is None else check.target[1],
            "ok": check.ok,
            "repetitions": check.repetitions,
            "note": check.note,
        }
        for check in checks
    ]
    return Calibration(
        table=pd.DataFrame(records, columns=COLUMNS),
        sentences=tuple(check.sentence for check in checks),
        trustworthy=all(check.ok is not False for check in checks),
        conclusion=tuple(_conclusion(shape, checks, alpha, margin)),
        shape=shape,
        alpha=alpha,
        margin=margin,
        repetitions=repetitions,
        seed=seed,
    )


def _floor(shape: Shape) -> float:
    """The smallest p that an exact permutation of runs can give for the arm with the fewest arrangements."""
    floors = []
    for arm in shape.contrasts():
        counts = [(shape.seeds[arm][context], shape.seeds[0][context]) for context in shape.apart(arm)]
        if shape.paired_seeds:
            counts = [(min(pair), min(pair)) for pair in counts]
        if counts:
            alternate, baseline = zip(*counts, strict=True)
            floors.append(permutation_floor(alternate, baseline, paired=shape.paired_seeds))
    return max(floors) / (1 if shape.alternative == "two-sided" else 2)


def _conclusion(shape: Shape, checks: Sequence[Check], alpha: float, margin: float) -> list[str]:
    """Which claims data of this shape can bear."""
    by_name = {check.name: check for check in checks}
    broken = [f"{check.name} ({check.estimates} {check.value:.3f})" for check in checks if check.ok is False]
    lines = ["Verdicts can be trusted for data of this shape: every promise that was checked is kept."]
    if broken:
        lines = [
            f"Not every verdict can be trusted for data of this shape. Broken promises: {'; '.join(broken)}."
        ]
    floor = _floor(shape)
    if floor > alpha:
        fewest = min(
            min(shape.seeds[arm][context], shape.seeds[0][context])
            for arm in shape.contrasts()
            for context in shape.apart(arm)
        )
        lines.append(
            f"With {fewest} seed(s) per arm the exact permutation cannot give p below {floor:.2g}, so without pooling "
            "no design claim can be made. The t test can make one because it pools the spread between seeds over "
            f"{len(shape.cells)} cells ({shape.error_df} degrees of freedom); it assumes that the spread is the same "
            "in all of them and about normal. If one arm spread twice as widely, its error would be "
            f"{by_name[DESIGN_UNEQUAL].value:.3f} instead of {alpha:g}."
        )
    power = by_name[POWER].value
    if power < 0.5:
        lines.append(
            f"A true difference of {margin:g} points would be missed more often than found (power {power:.2f}): most "
            "answers will be 'unresolved'. More seeds help most; the seed SD of the suite score is "
            f"{shape.suite_sd:.2f} points."
        )
    else:
        lines.append(f"A true difference of {margin:g} points would be found with probability {power:.2f}.")
    wrong = by_name[ITEMS_AS_DESIGN].value
    if wrong > 2 * alpha:
        lines.append(
            "Items-level p-values speak about these checkpoints only: read as a claim about retraining they would be "
            f"wrong in {100 * wrong:.0f} % of studies of equal arms."
        )
    return lines
