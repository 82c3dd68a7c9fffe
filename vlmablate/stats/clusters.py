"""Items level: new pictures of the same kind, the trained checkpoints held fixed; the unit is the scene.

Questions about one scene share its picture, so they are not independent of each other. The mean paired
difference has the cluster-robust standard error CR1 and t on (clusters - 1) degrees of freedom.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vlmablate.errors import UserError
from vlmablate.stats.estimate import SMALLEST_P, Estimate, t_estimate

EXAMPLE_KEY = ["benchmark", "split", "metric", "example_id"]


def paired_differences(alternate: pd.DataFrame, baseline: pd.DataFrame) -> pd.DataFrame:
    """Per-example differences alternate - baseline in points, paired by the example's identity.

    Both tables hold rows of the results table (any number of seeds); scores are averaged over the seeds
    first. Returns columns EXAMPLE_KEY, cluster_id, difference, sorted by EXAMPLE_KEY. Raises UserError naming
    examples that only one side has.
    """
    sides = []
    for side in (alternate, baseline):
        per_example = side.groupby([*EXAMPLE_KEY, "cluster_id"], sort=True, observed=True)["score"].mean()
        sides.append(per_example.reset_index())
    merged = sides[0].merge(
        sides[1],
        on=[*EXAMPLE_KEY, "cluster_id"],
        how="outer",
        suffixes=("_alternate", "_baseline"),
        indicator=True,
        validate="one_to_one",
    )
    unmatched = merged[merged["_merge"] != "both"]
    if len(unmatched):
        names = ", ".join(f"{row.benchmark}/{row.example_id}" for row in unmatched.head(5).itertuples())
        raise UserError(f"{len(unmatched)} example(s) were scored on one side of a comparison only: {names}")
    merged["difference"] = 100.0 * (merged["score_alternate"] - merged["score_baseline"])
    return merged.sort_values(EXAMPLE_KEY, kind="stable")[[*EXAMPLE_KEY, "cluster_id", "difference"]]


def cluster_mean(differences: NDArray[np.float64], clusters: NDArray[np.object_], alpha: float) -> Estimate:
    """Mean of `differences` [n] (points) with CR1 standard error over `clusters` [n] and t(G - 1).

    With cluster sums u_g of the residuals: V = G / (G - 1) * sum(u_g^2) / n^2 (an intercept-only regression's
    CR1). A difference that is the same in every cluster has no spread; its p-value is the exact sign-flip
    bound 2 / 2^G.
    """
    n = len(differences)
    labels, codes = np.unique(clusters, return_inverse=True)
    groups = len(labels)
    mean = float(np.mean(differences)) if n else float("nan")
    if groups < 2:
        return t_estimate(mean, float("nan"), 0, alpha, f"no test: {groups} cluster(s)")
    sums = np.bincount(codes, weights=differences - mean, minlength=groups)
    variance = groups / (groups - 1) * float(np.sum(sums**2)) / n**2
    se = 0.0 if np.all(differences == differences[0]) else float(np.sqrt(variance))
    if se == 0.0 and mean != 0.0:
        p = max(2.0 ** (1 - groups), SMALLEST_P)
        return Estimate(
            mean, 0.0, groups - 1, p, mean, mean, f"same difference in all {groups} clusters, sign-flip"
        )
    return t_estimate(
        mean, se, groups - 1, alpha, f"paired by example, CR1 over {groups} clusters, df = {groups - 1}"
    )
