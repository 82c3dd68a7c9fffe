"""`make bench`: the tests on one thread, as ratios against scipy measured in the same run, and a whole analysis.

Peers: scipy.stats.permutation_test with 999 sign flips (9,999 take ten times as long) and
scipy.stats.bootstrap (percentile, 2,000 resamples).
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable

import numpy as np
import pandas as pd
from scipy import stats

from vlmablate.stats.declaration import Design
from vlmablate.stats.flips import flip_interval
from vlmablate.stats.maxt import max_t
from vlmablate.stats.paired import paired_test
from vlmablate.stats.panel import Panel, Panels, Run
from vlmablate.stats.table import analyse_panels

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


def memory() -> float:
    """Peak resident memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def whole_suite(arms: int = 42, seeds: int = 3) -> None:
    """Every level of a study as large as a published one: 12 benchmarks of 450,000 examples in all."""
    rng = np.random.default_rng(1)
    sizes = [N, 100_000, 50_000, 30_000, 20_000, 12_578, 9_000, 6_000, 4_000, 2_374, 1_000]
    sizes.append(450_000 - sum(sizes))
    names = [f"a{arm:02d}" for arm in range(arms)]
    runs = tuple(Run(name, "default", seed, f"{name}/{seed}") for name in names for seed in range(seeds))
    panels, first = {}, 0
    for number, n in enumerate(sizes):
        scores, difficulty = np.empty((len(runs), n)), rng.random(n)
        for row in scores:
            row[:] = difficulty + 0.3 * rng.random(n) < 0.75
        name = f"b{number:02d}"
        ids, clusters = np.arange(n).astype(object), first + np.arange(n) // 5
        panels[name] = Panel(name, "accuracy", ids, clusters, scores)
        first += n // 5 + 1
    design = Design("axis", names[0], tuple(names), ("default",), dict.fromkeys(panels, "accuracy"))
    data = sum(panel.scores.nbytes for panel in panels.values()) / 2**20
    begun = time.process_time()
    analysis = analyse_panels(Panels(runs, panels, pd.DataFrame()), design)
    taken = time.process_time() - begun
    print(
        f"whole analysis, {len(sizes)} benchmarks, {sum(sizes):,} examples, {arms} arms x {seeds} seeds: "
        f"{taken:.1f} s, {len(analysis.significance):,} contrasts, "
        f"peak {memory():,.0f} MB (the data are {data:,.0f} MB)",
        flush=True,
    )


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
    scores = scores[:0]
    whole_suite()

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
