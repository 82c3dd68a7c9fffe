"""A calibration in words and as plain data."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from vlmablate.stats.calibration.shape import Shape
from vlmablate.stats.calibration.simulated_examples import EXAMPLES_CAP
from vlmablate.stats.calibration.trust import Calibration


def describe(shape: Shape) -> list[str]:
    """The shape in words, one fact a line."""
    counts = sorted({shape.seeds[arm][context] for arm, context in shape.cells})
    seeds = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    lines = [
        f"{shape.arms} arms x {len(shape.seeds[0])} context(s), {seeds} seed(s) in each of {len(shape.cells)} cells; "
        f"spread between seeds known on {shape.error_df} degrees of freedom",
        f"suite score: seed SD {shape.suite_sd:.2f} points; correlation of seed effects between benchmarks "
        f"{shape.correlation:.2f}",
    ]
    for benchmark in shape.benchmarks:
        clusters = sum(size > 0 for size in benchmark.cluster_sizes)
        kind = "right/wrong" if benchmark.binary else f"{len(benchmark.values)} score values"
        lines.append(
            f"{benchmark.name}: {benchmark.n:,} examples ({kind}, mean {100 * benchmark.mean:.1f}) in {clusters:,} "
            f"clusters, intra-cluster correlation of differences {benchmark.icc:.2f}, seed SD "
            f"{benchmark.seed_sd:.2f} points"
        )
    return [*lines, *shape.notes]


def as_json(calibration: Calibration) -> dict[str, Any]:
    """Everything about a calibration, fit for JSON; equal calibrations give equal content."""
    records = calibration.table.astype(object).to_dict("records")
    checks = [
        {
            str(key): (None if isinstance(value, float) and math.isnan(value) else value)
            for key, value in record.items()
        }
        for record in records
    ]
    shape = asdict(calibration.shape)
    for benchmark, original in zip(shape["benchmarks"], calibration.shape.benchmarks, strict=True):
        sizes = [size for size in original.cluster_sizes if size]
        del benchmark["cluster_sizes"]  # one number per picture of the study; a summary is enough here
        benchmark |= {"n_examples": original.n, "n_clusters": len(sizes), "largest_cluster": max(sizes)}
    return {
        "alpha": calibration.alpha,
        "margin": calibration.margin,
        "repetitions": calibration.repetitions,
        "seed": calibration.seed,
        "examples_cap": EXAMPLES_CAP,
        "trustworthy": calibration.trustworthy,
        "conclusion": list(calibration.conclusion),
        "checks": [
            {**check, "sentence": text} for check, text in zip(checks, calibration.sentences, strict=True)
        ],
        "shape": shape,
    }
