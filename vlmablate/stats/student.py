"""Student's t law without the overhead of scipy.stats' distribution objects; a table asks for it ten thousand times."""

from __future__ import annotations

from functools import lru_cache

from scipy import special


def t_tail(t: float, df: float) -> float:
    """P(T > t) on `df` degrees of freedom."""
    return float(special.stdtr(df, -t))


@lru_cache(maxsize=4096)
def t_critical(tail: float, df: float) -> float:
    """The value that T on `df` degrees of freedom exceeds with probability `tail`."""
    return -float(special.stdtrit(df, tail))
