"""The correction of many families of the same size at once."""

from __future__ import annotations

import numpy as np

from vlmablate.stats.adaptive.looks import Floats
from vlmablate.stats.settings import Correction


def adjust_rows(p: Floats, method: Correction) -> Floats:
    """multiplicity.adjust of every row of `p` [families, tests], which holds no nan."""
    tests = p.shape[1]
    rank = np.arange(1, tests + 1)
    factor = tests - rank + 1.0 if method in ("holm", "hochberg") else tests / rank
    if method == "by":
        factor = factor * np.sum(1.0 / rank)
    order = np.argsort(p, axis=1, kind="stable")
    scaled = np.take_along_axis(p, order, axis=1) * factor
    if method == "holm":
        monotone = np.maximum.accumulate(scaled, axis=1)
    else:
        monotone = np.minimum.accumulate(scaled[:, ::-1], axis=1)[:, ::-1]
    adjusted = np.empty_like(p)
    np.put_along_axis(adjusted, order, np.minimum(monotone, 1.0), axis=1)
    return adjusted
