"""The correlation of two scores and that of the normal values behind them."""

from __future__ import annotations

import math

import numpy as np

from vlmablate.stats.calibration.shape import BenchmarkShape, Floats


def score_correlation(benchmark: BenchmarkShape, points: int = 1025) -> tuple[Floats, Floats]:
    """Correlation of two scores as a function of the correlation of their latent values: (latent, scores) [points].

    Plackett (Biometrika 41, 1954, 351-360): the derivative of P(L > a, L' > b) with respect to the correlation is
    the bivariate normal density; substituting r = sin(theta) makes the integrand smooth up to r = 1.
    """
    theta = np.linspace(0.0, math.pi / 2, points)[:, None, None]
    cuts, steps = benchmark.thresholds(), np.diff(benchmark.values)
    a, b = cuts[None, :, None], cuts[None, None, :]
    sine, square = np.sin(theta), np.maximum(np.cos(theta) ** 2, 1e-12)
    # For a = b the exponent is -a^2 / (1 + sin); written without the cancelling cosine it stays finite.
    exponent = -((a - b) ** 2) / (2 * square) - a * b / (1 + sine)
    density = np.einsum("tij,i,j->t", np.exp(exponent), steps, steps) / (2 * math.pi)
    area = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)]) * (math.pi / 2 / (points - 1))
    variance = benchmark.variance
    return np.sin(theta[:, 0, 0]), area / variance if variance > 0 else area


def latent_correlation(benchmark: BenchmarkShape, correlation: Floats) -> Floats:
    """Latent correlation at which scores of this distribution have the given correlation, limited to [0, 1]."""
    latent, scores = score_correlation(benchmark)
    return np.interp(correlation, scores, latent)
