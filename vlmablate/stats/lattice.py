"""The exact law of a sum of integers with random signs.

Scores such as right/wrong or VQA's 0, .3, .6, .9, 1 lie on a lattice, and so do the sums of their differences
over the questions of a picture. The sign-flip test of such sums needs no resampling: the tail of
T = sum_i s_i a_i (a_i > 0 integers, s_i = +-1 with equal chance) is computed exactly.

Method: tilt, then invert the characteristic function. With N = (T + sum a) / 2 = sum a_i b_i (b_i Bernoulli)
and the saddlepoint theta at which the tilted mean of N is the observed value n0,

    P(N >= n0) = exp(K(theta) - theta n0) * sum_{x >= n0} exp(-theta (x - n0)) q(x),

where q is the tilted law. q is concentrated around n0, so a discrete Fourier transform over a window that holds
all but 1e-35 of it (a Chernoff bound, not a rule of thumb) gives its values to rounding, and the factor in
front carries the smallness of the tail: the relative error stays near 1e-13 however small p is.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import fft, optimize
from scipy.special import expit

LONGEST_WINDOW = 2**22
"""Widest window of lattice points that is transformed; wider lattices are left to sign flips."""

FINEST_STEP = 2.0**-20
"""A common step finer than this share of the largest difference is no lattice."""

_NEGLIGIBLE = 80.0
"""Terms below exp(-80) = 2e-35 of the total are left out."""


def common_step(values: NDArray[np.float64]) -> float | None:
    """Largest step of which all `values` are integer multiples (to rounding of float32 scores); None without one.

    All values zero gives 1.
    """
    largest = float(np.abs(values).max(initial=0.0))
    if largest == 0.0:
        return 1.0
    step = largest
    for _ in range(4):  # the values that the first guess misses refine it
        ratio = values / step
        missed = np.flatnonzero(np.abs(ratio - np.rint(ratio)) > 1e-4)
        if not len(missed):
            return step
        divisor = _divisor(step, values[missed[:512]], largest)
        if divisor is None:
            return None
        step = largest / round(largest / divisor)  # Euclid's rounding error would grow with the multiples
    return None


def _divisor(step: float, values: NDArray[np.float64], largest: float) -> float | None:
    """Common divisor of `step` and `values` by Euclid's algorithm with a tolerance; None when it gets too fine."""
    tolerance = 1e-6 * largest
    for value in np.unique(np.abs(values)):
        if value <= tolerance:
            continue
        x, y = max(step, float(value)), min(step, float(value))
        while y > tolerance:
            x, y = y, abs(x - y * round(x / y))
        step = x
        if step < FINEST_STEP * largest:
            return None
    return step


def log_tail(sums: NDArray[np.int64], threshold: int) -> float | None:
    """log P(T >= threshold) for T = sum_i s_i sums_i over all sign vectors; None if the lattice is too wide.

    sums: [G] integers (zeros allowed); threshold: an attainable value of T or anything else. 0.0 stands for
    certainty.
    """
    magnitudes = np.abs(sums[sums != 0])
    total = int(magnitudes.sum())
    if threshold <= -total:
        return 0.0
    if threshold > total:
        return -math.inf
    divisor = int(np.gcd.reduce(magnitudes))
    magnitudes, total = magnitudes // divisor, total // divisor
    # The smallest attainable value that is not below the threshold: T has the parity of `total`.
    reached = -(-threshold // divisor)
    reached += (reached + total) % 2
    if reached <= 0:
        upper = _log_tail(magnitudes, total, 2 - reached)
        return None if upper is None else math.log1p(-math.exp(upper))
    return _log_tail(magnitudes, total, reached)


def _log_tail(magnitudes: NDArray[np.int64], total: int, reached: int) -> float | None:
    """log P(T >= reached), reached > 0 with the parity of total = sum(magnitudes), which have no common divisor."""
    if reached > total:
        return -math.inf
    if reached == total:
        return -len(magnitudes) * math.log(2.0)
    values, counts = np.unique(magnitudes, return_counts=True)
    v, m = values.astype(np.float64), counts.astype(np.float64)
    n0 = (reached + total) // 2
    theta = _saddlepoint(v, m, float(n0))
    low, high = _window(v, m, theta, n0, total)
    length = fft.next_fast_len(high - low + 1, real=True)
    if length > LONGEST_WINDOW:
        return None
    law = _tilted_law(values, m, expit(theta * v), length)
    x = np.arange(n0, high + 1)
    tail = float(np.sum(np.exp(-theta * (x - n0)) * law[x % length]))
    exponent = float(m @ (np.logaddexp(0.0, theta * v) - math.log(2.0))) - theta * n0
    return min(exponent + math.log(tail), 0.0)


def _saddlepoint(v: NDArray[np.float64], m: NDArray[np.float64], target: float) -> float:
    """The theta >= 0 at which sum m v expit(theta v) = target; target lies between half and all of sum m v."""
    spread = math.sqrt(float(m @ v**2))
    high = 1.0 / spread
    while float((m * v) @ expit(high * v)) < target:
        high *= 2.0
        if high > 800.0:  # expit is 1 to rounding: the target is within rounding of the largest value
            return high

    def gap(theta: float) -> float:
        return float((m * v) @ expit(theta * v)) - target

    return float(optimize.brentq(gap, 0.0, high, xtol=1e-13 * high, rtol=1e-14)) if gap(0.0) < 0 else 0.0


def _window(
    v: NDArray[np.float64], m: NDArray[np.float64], theta: float, n0: int, total: int
) -> tuple[int, int]:
    """Lattice points that hold all but 2e-35 of the tilted law on either side, by Chernoff's bound.

    P(N - n0 >= r) <= exp(K(theta + lam) - K(theta) - lam (n0 + r)) for every lam > 0, and likewise to the left;
    the best of a grid of lam is taken.
    """
    chance = expit(theta * v)
    spread = math.sqrt(float(m @ (v**2 * chance * (1 - chance)))) or 1.0
    grid = np.geomspace(0.5, 60.0, 40) / spread
    base = float(m @ np.logaddexp(0.0, theta * v))

    def reach(sign: float) -> int:
        shifted = np.logaddexp(0.0, (theta + sign * grid)[:, None] * v[None, :]) @ m
        distance = (shifted - base - sign * grid * n0 + _NEGLIGIBLE) / grid
        return math.ceil(float(np.min(distance)))

    return max(0, n0 - reach(-1.0)), min(total, n0 + reach(1.0))


def _tilted_law(
    values: NDArray[np.int64], counts: NDArray[np.float64], chance: NDArray[np.float64], length: int
) -> NDArray[np.float64]:
    """Probabilities of N modulo `length`: [length].

    The characteristic function is a product over distinct values; every factor is at most 1 in modulus, so a
    frequency whose partial product is negligible is dropped for good, which after the first factor is nearly all
    of them when there are many terms.
    """
    order = np.argsort(-counts * values.astype(np.float64) ** 2 * chance * (1 - chance), kind="stable")
    alive = np.arange(length // 2 + 1)
    log_modulus, phase = np.zeros(len(alive)), np.zeros(len(alive))
    for index in order:
        value, count, p = int(values[index]), counts[index], chance[index]
        angle = (2.0 * math.pi / length) * ((alive * (value % length)) % length)
        half = np.sin(0.5 * angle)
        with np.errstate(divide="ignore"):
            log_modulus += 0.5 * count * np.log1p(-4.0 * p * (1.0 - p) * half * half)
        phase += count * np.arctan2(p * np.sin(angle), 1.0 - 2.0 * p * half * half)
        keep = log_modulus > -_NEGLIGIBLE
        if not keep.all():
            alive, log_modulus, phase = alive[keep], log_modulus[keep], phase[keep]
    transform = np.zeros(length // 2 + 1, dtype=np.complex128)
    transform[alive] = np.exp(log_modulus - 1j * phase)
    return np.asarray(fft.irfft(transform, n=length))
