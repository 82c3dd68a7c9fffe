"""Calibration: do the tests of this package keep their promises for data of a given shape?

A :class:`Shape` says what the data look like: runs per cell, benchmarks, clusters, spread between seeds, noise of
single examples. :func:`calibrate` draws many studies of that shape in which the truth is known, runs the tests on
every one, and compares how often they err with how often they may.

Two simulations, both seeded:

* Runs (:mod:`.simulated_runs`). Score of a run on benchmark b = level + seed effect + lattice: seed effects are
  normal with the SD of the benchmark and one correlation between benchmarks; scores of a binary benchmark are rounded
  to multiples of 1 / n. Serves the claims whose unit is the seed.
* Examples (:mod:`.simulated_examples`). A Gaussian copula: the latent value of run r of arm a on example i of cluster g
  is the sum of independent normal parts (difficulty of g and i, shared by all arms; what arm a does with g and i; what
  run r does with g and i) plus the run's seed effect; the score is the benchmark's own quantile of that value, so a
  binary benchmark stays binary and a soft one keeps its lattice. Serves the claims about new examples.

The variances of the parts come from the data by the method of moments (:mod:`.estimate`): products of centred scores,
averaged over pairs (same example or same cluster) x (same run, same arm, other arm).
"""

from vlmablate.stats.calibration.checks import COLUMNS, Check, Progress
from vlmablate.stats.calibration.estimate import shape_of
from vlmablate.stats.calibration.shape import BenchmarkShape, Parts, Shape
from vlmablate.stats.calibration.trust import Calibration, calibrate

__all__ = [
    "COLUMNS",
    "BenchmarkShape",
    "Calibration",
    "Check",
    "Parts",
    "Progress",
    "Shape",
    "calibrate",
    "shape_of",
]
