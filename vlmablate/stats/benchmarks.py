"""Suite level: would the difference hold on other benchmarks like these? The unit is the benchmark."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vlmablate.stats.estimate import Estimate, t_estimate


def benchmark_mean(deltas: Sequence[float], alpha: float) -> Estimate:
    """Mean of the seed-averaged deltas (points), one per benchmark, with t(k - 1).

    Treats the benchmarks as a sample of independent ones, which related benchmarks are not; the label says
    so.
    """
    values = np.asarray(deltas, dtype=np.float64)
    k = len(values)
    mean = float(values.mean()) if k else float("nan")
    if k < 2:
        return t_estimate(mean, float("nan"), 0, alpha, f"no test: {k} benchmark(s) with signal")
    se = float(values.std(ddof=1)) / k**0.5
    method = f"t over {k} benchmark deltas taken as independent, df = {k - 1}"
    return t_estimate(mean, se, k - 1, alpha, method)
