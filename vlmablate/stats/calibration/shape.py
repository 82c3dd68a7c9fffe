"""What the data of a study look like, as far as its tests can tell: the parameters of the simulations."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from vlmablate.errors import DataError
from vlmablate.stats.settings import Alternative, Correction

Floats = NDArray[np.float64]
Cell = tuple[int, int]
"""(arm, context), both as numbers; arm 0 is the baseline."""


@dataclass(frozen=True)
class Parts:
    """Variance of the parts of a latent score; they sum to 1.

    difficulty: shared by all runs of all arms. arm: shared by the runs of one arm. run: one run's own. Each has a
    part that the examples of a cluster share and one of the single example.
    """

    difficulty_cluster: float = 0.0
    difficulty_item: float = 0.7
    arm_cluster: float = 0.0
    arm_item: float = 0.0
    run_cluster: float = 0.0
    run_item: float = 0.3

    def __post_init__(self) -> None:
        values = self.as_array()
        if not (np.all(values >= 0) and abs(values.sum() - 1) < 1e-6):
            raise DataError(f"the parts of a latent score must not be negative and sum to 1, got {self}")

    def as_array(self) -> Floats:
        """The six variances in the order of the fields."""
        return np.array(
            [
                *(self.difficulty_cluster, self.difficulty_item, self.arm_cluster),
                *(self.arm_item, self.run_cluster, self.run_item),
            ]
        )


@dataclass(frozen=True)
class BenchmarkShape:
    """One benchmark: its scores, clusters and noise.

    values, probabilities: the distribution of single scores (fractions); a binary benchmark has the values 0, 1.
    cluster_sizes: examples in each cluster of the study (0: the benchmark has none there), so that benchmarks on
    the same pictures share clusters. seed_sd: SD in points of a run's score between retrainings on the same
    examples.
    """

    name: str
    values: tuple[float, ...]
    probabilities: tuple[float, ...]
    cluster_sizes: tuple[int, ...]
    seed_sd: float
    parts: Parts = field(default_factory=Parts)

    def __post_init__(self) -> None:
        if len(self.values) != len(self.probabilities) or abs(sum(self.probabilities) - 1) > 1e-6:
            raise DataError(f"benchmark {self.name}: give one probability per score value, summing to 1")
        if list(self.values) != sorted(set(self.values)):
            raise DataError(f"benchmark {self.name}: score values must be distinct and ascending")
        if sum(size > 0 for size in self.cluster_sizes) < 2:
            raise DataError(
                f"benchmark {self.name} has fewer than two clusters of examples; the spread between clusters is "
                "what a claim about new examples is judged by. Check the cluster column: it has to name the "
                "picture or scene that an example belongs to"
            )
        if not (math.isfinite(self.seed_sd) and self.seed_sd >= 0):
            raise DataError(f"benchmark {self.name}: seed_sd must be a number of points, got {self.seed_sd}")

    @property
    def n(self) -> int:
        """Examples."""
        return sum(self.cluster_sizes)

    @property
    def mean(self) -> float:
        """Expected score, a fraction."""
        return float(np.dot(self.values, self.probabilities))

    @property
    def variance(self) -> float:
        """Variance of a single score, a squared fraction."""
        return float(np.dot(self.probabilities, (np.array(self.values) - self.mean) ** 2))

    @property
    def binary(self) -> bool:
        """Whether single scores take two values."""
        return len(self.values) == 2

    @property
    def icc(self) -> float:
        """Correlation of paired differences of two examples of one cluster (one run per arm, latent scale)."""
        part = self.parts
        noise = part.arm_cluster + part.arm_item + part.run_cluster + part.run_item
        return (part.arm_cluster + part.run_cluster) / noise if noise > 0 else 0.0

    def thresholds(self) -> Floats:
        """Latent values at which the score steps up, [values - 1]."""
        return special.ndtri(np.cumsum(self.probabilities)[:-1])

    def slope(self) -> float:
        """Points of expected score per unit of latent shift, at no shift."""
        steps = np.diff(self.values) * stats.norm.pdf(self.thresholds())
        return float(100.0 * steps.sum())


@dataclass(frozen=True)
class Shape:
    """What the data of a study look like.

    seeds[arm][context]: runs of that cell, 0 for a cell that does not exist; arm 0 is the baseline. correlation:
    between benchmarks, of the seed effects of one run. seed_pairing: correlation between arms of runs with the
    same seed, used only with paired_seeds. alternative, correction, paired_seeds: as declared in Settings. copies:
    (cell, other cell) for every cell that holds the very runs of another. notes: what a reader of an estimated shape
    has to know.
    """

    seeds: tuple[tuple[int, ...], ...]
    benchmarks: tuple[BenchmarkShape, ...]
    correlation: float = 0.0
    alternative: Alternative = "two-sided"
    correction: Correction = "holm"
    paired_seeds: bool = False
    seed_pairing: float = 0.0
    copies: tuple[tuple[Cell, Cell], ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.seeds) < 2:
            raise DataError(
                "there is one arm only, so there is nothing to compare; a calibration needs two arms"
            )
        if len({len(row) for row in self.seeds}) != 1 or not self.seeds[0]:
            raise DataError("seeds must have one entry per arm and context")
        if not self.benchmarks:
            raise DataError("a shape needs at least one benchmark")
        if len({len(benchmark.cluster_sizes) for benchmark in self.benchmarks}) != 1:
            raise DataError("cluster_sizes of all benchmarks must list the same clusters")
        if not 0 <= self.correlation < 1 or not 0 <= self.seed_pairing < 1:
            raise DataError("correlation and seed_pairing must lie in [0, 1)")
        if not any(self.apart(arm) for arm in self.contrasts()):
            raise DataError(
                "no arm has runs of its own in a context of the baseline, so there is nothing to compare"
            )
        if self.error_df < 1:
            raise DataError(
                "seeds were declared to be paired, but no arm has two seeds in common with the baseline; train the "
                "same two seeds in both"
                if self.paired_seeds
                else "every cell has one seed only, so the spread between retrainings is unknown and no claim about "
                "a design can be calibrated; train at least one arm with two seeds or more (the baseline first)"
            )

    @property
    def arms(self) -> int:
        """Arms, the baseline included."""
        return len(self.seeds)

    @property
    def cells(self) -> list[Cell]:
        """Every cell that has runs of its own."""
        copied = {cell for cell, _ in self.copies}
        found = [(arm, context) for arm, row in enumerate(self.seeds) for context, n in enumerate(row) if n]
        return [cell for cell in found if cell not in copied]

    def origin(self, cell: Cell) -> Cell:
        """The cell whose runs `cell` holds: itself unless it is a copy."""
        return dict(self.copies).get(cell, cell)

    def contrasts(self) -> dict[int, list[int]]:
        """Arm -> contexts in which it can be compared with the baseline: the primary family of the table."""
        found = {
            arm: [context for context, n in enumerate(row) if n and self.seeds[0][context]]
            for arm, row in enumerate(self.seeds)
            if arm
        }
        return {arm: contexts for arm, contexts in found.items() if contexts}

    def apart(self, arm: int) -> list[int]:
        """Contexts of an arm's contrast in which its runs are not those of the baseline."""
        contexts = self.contrasts().get(arm, [])
        return [context for context in contexts if self.origin((arm, context)) != self.origin((0, context))]

    @property
    def error_df(self) -> int:
        """Degrees of freedom of the spread between seeds, pooled over the cells; with paired seeds those of effects of
        arm and seed taken off in every context."""
        df = sum(self.seeds[arm][context] - 1 for arm, context in self.cells)
        if self.paired_seeds:
            for context in {context for _, context in self.cells}:
                df -= max(self.seeds[arm][context] for arm, place in self.cells if place == context) - 1
        return df

    @property
    def suite_sd(self) -> float:
        """SD in points of a run's suite score between retrainings."""
        sds = np.array([benchmark.seed_sd for benchmark in self.benchmarks])
        variance = (1 - self.correlation) * np.sum(sds**2) + self.correlation * np.sum(sds) ** 2
        return float(math.sqrt(variance) / len(sds))
