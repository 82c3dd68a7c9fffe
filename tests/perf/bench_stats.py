"""`make bench`: the paired tests as ratios against scipy on one thread, measured in the same run.

Peers: scipy.stats.permutation_test with 999 sign flips (9,999 take ten times as long) and
scipy.stats.bootstrap (percentile, 2,000 resamples).
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable

import numpy as np
from scipy import stats

from vlmablate.stats.flips import flip_interval
from vlmablate.stats.maxt import max_t
from vlmablate.stats.paired import paired_test

N, CLUSTER, SYSTEMS = 214_354, 10, 42


def seconds(work: Callable[[], object], rounds: int) -> float:
    """Shortest processor time of `rounds` calls."""
    times = []
    for _ in range(rounds):
        begun = time.process_time()
        work()
        times.append(time.process_time() - begun)
    return min(times)


def line(name: str, ours: float, peer: float, against: str) -> None:
    print(
        f"{name:<44} {ours * 1e3:9.1f} ms   {peer / ours:8.1f} x   against {against} ({peer:.1f} s)",
        flush=True,
    )


def mean(values: np.ndarray, axis: int = -1) -> np.ndarray:
    return np.mean(values, axis=axis)


def main() -> None:
    rng = np.random.default_rng(0)
    right = (rng.random(N) < 0.75).astype(float)
    other = np.where(rng.random(N) < 0.1, 1 - right, right)
    difference, clusters = right - other, np.arange(N) // CLUSTER

    begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    scores = np.empty((SYSTEMS, N), dtype=np.float32)
    for i in range(SYSTEMS):
        scores[i] = (rng.random(N) < 0.7 + 0.0002 * i).astype(np.float32)
    taken = seconds(lambda: max_t(scores), 3)
    print(f"max-T, {SYSTEMS} systems, 861 pairs, 262,144 flips     {taken * 1e3:9.1f} ms", flush=True)
    print(
        f"  peak memory above what was there before the data: "
        f"{(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - begun) / 1024:.0f} MB "
        f"(the data are {scores.nbytes / 2**20:.0f} MB)",
        flush=True,
    )

    peer = seconds(
        lambda: stats.bootstrap((difference,), mean, n_resamples=2000, batch=100, method="percentile"), 1
    )
    ours = seconds(lambda: flip_interval(difference, clusters), 5)
    line("interval, clusters, 32,768 flips inverted", ours, peer, "scipy bootstrap, 2,000 resamples")

    ours = seconds(lambda: paired_test(right, other, clusters), 5)
    peer = seconds(
        lambda: stats.permutation_test(
            (difference,), mean, permutation_type="samples", n_resamples=999, batch=200, vectorized=True
        ),
        1,
    )
    line("exact paired test with cluster sums", ours, peer, "scipy permutation_test, 999 flips")


if __name__ == "__main__":
    main()
