"""Adjustment of p-values within a declared family."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vlmablate.errors import DataError, unknown_name
from vlmablate.stats.estimate import SMALLEST_P

METHODS = ("holm", "hochberg", "bh", "by")
"""holm and hochberg bound the chance of any false claim in the family, bh and by the share of false claims.
holm and by hold under any dependence; hochberg and bh need independent or positively dependent p-values."""


def adjust(p_values: ArrayLike, method: str = "holm") -> NDArray[np.float64]:
    """Adjusted p-values [m] of the family `p_values` [m], in the order given.

    nan (no test was possible) stays nan and does not count as a member of the family: nothing can be claimed
    there. An empty family gives an empty array. With p_(1) <= ... <= p_(m), each capped at 1:

    * holm: max over j <= i of (m - j + 1) p_(j) (Holm, Scand. J. Statist. 6, 1979, 65-70)
    * hochberg: min over j >= i of (m - j + 1) p_(j) (Hochberg, Biometrika 75, 1988, 800-802)
    * bh: min over j >= i of m p_(j) / j (Benjamini & Hochberg, J. R. Statist. Soc. B 57, 1995, 289-300)
    * by: bh times sum(1 / j, j = 1..m) (Benjamini & Yekutieli, Ann. Statist. 29, 2001, 1165-1188)

    Raises UserError for an unknown method and DataError for values outside [0, 1] or not in one dimension.
    """
    if method not in METHODS:
        raise unknown_name("correction", method, METHODS)
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1:
        raise DataError(f"p-values of one family must be one-dimensional, got shape {p.shape}")
    outside = np.flatnonzero((p < 0) | (p > 1))
    if len(outside):
        raise DataError(
            f"{len(outside)} of {len(p)} p-values lie outside [0, 1], first at position {outside[0]}: "
            f"{p[outside[0]]}"
        )
    adjusted = np.full(p.shape, np.nan)
    tested = np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    m = len(order)
    rank = np.arange(1, m + 1)
    factor = m - rank + 1.0 if method in ("holm", "hochberg") else m / rank
    if method == "by":
        factor = factor * np.sum(1.0 / rank)
    scaled = p[order] * factor
    if method == "holm":
        monotone = np.maximum.accumulate(scaled)
    else:
        monotone = np.minimum.accumulate(scaled[::-1])[::-1]
    adjusted[order] = np.clip(monotone, SMALLEST_P, 1.0)
    return adjusted
