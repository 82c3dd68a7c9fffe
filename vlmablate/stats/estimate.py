"""What every test of this package has in common."""

from __future__ import annotations

from typing import Protocol

SMALLEST_P = 1e-300
"""A p-value is never reported as zero: a tail that underflows is reported as this bound."""


class Tested(Protocol):
    """A difference with its uncertainty, in the unit of the scores it was made from.

    df is 0 and p, se, ci are nan where the data hold no replication to judge the difference by. floor: the
    smallest p that the test could have given.
    """

    @property
    def delta(self) -> float: ...
    @property
    def se(self) -> float: ...
    @property
    def df(self) -> float: ...
    @property
    def p(self) -> float: ...
    @property
    def ci(self) -> tuple[float, float]: ...
    @property
    def method(self) -> str: ...
    @property
    def floor(self) -> float: ...
