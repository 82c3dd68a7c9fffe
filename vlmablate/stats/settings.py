"""What has to be declared before the scores are seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from vlmablate.errors import UserError

ALTERNATIVES = ("two-sided", "greater", "less")
CORRECTIONS = ("holm", "hochberg", "bh", "by")

Alternative = Literal["two-sided", "greater", "less"]


@dataclass(frozen=True)
class Settings:
    """The declared constants of an analysis.

    alpha: two-sided level of every test and interval. margin: the smallest difference that would matter, in
    points; equivalence means "inside +-margin". signal_margin: points by which the baseline must exceed the
    majority answer for a benchmark to carry signal. power: power at which the minimal detectable effect is
    stated.
    """

    alpha: float = 0.05
    margin: float = 2.0
    signal_margin: float = 10.0
    power: float = 0.8

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 0.5:
            raise UserError(f"analysis.alpha must lie in (0, 0.5), got {self.alpha}")
        if not self.alpha < self.power < 1:
            raise UserError(f"analysis.power must lie in (alpha, 1), got {self.power}")
        if self.margin <= 0 or self.signal_margin < 0:
            raise UserError("analysis.margin must be positive and analysis.signal_margin not negative")

    @classmethod
    def from_study(cls, study: Mapping[str, Any]) -> Settings:
        """Read the `analysis` entry of a study; absent keys keep their defaults.

        Raises UserError for an unknown key, naming the known ones.
        """
        declared = dict(study.get("analysis") or {})
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(declared) - set(known))
        if unknown:
            raise UserError(f"unknown analysis setting(s) {', '.join(unknown)}; known: {', '.join(known)}")
        return cls(**{key: float(value) for key, value in declared.items()})
