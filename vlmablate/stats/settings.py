"""What has to be declared before the scores are seen."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from vlmablate.errors import UserError, unknown_name

ALTERNATIVES = ("two-sided", "greater", "less")
CORRECTIONS = ("holm", "hochberg", "bh", "by")

Alternative = Literal["two-sided", "greater", "less"]
Correction = Literal["holm", "hochberg", "bh", "by"]


_KINDS: dict[Any, str] = {float: "a number", int: "a whole number", bool: "true or false", str: "a name"}


@dataclass(frozen=True)
class Settings:
    """The declared constants of an analysis.

    alpha: level of every test and interval. margin: the smallest difference that would matter, in points;
    equivalence means "inside +-margin". signal_margin: points by which the baseline must exceed the majority
    answer for a benchmark to carry signal. power: power at which detectable effects and sample sizes are stated.
    alternative: direction of every test of a difference (greater: the arm is better than the baseline);
    anything but two-sided has to be declared before scores exist. correction: how p-values are adjusted within
    a family. paired_seeds: whether runs with the same seed share their data order and initialisation closely
    enough to be compared pair by pair. seed: draws whatever an analysis leaves to chance (sign flips).
    """

    alpha: float = 0.05
    margin: float = 2.0
    signal_margin: float = 10.0
    power: float = 0.8
    alternative: Alternative = "two-sided"
    correction: Correction = "holm"
    paired_seeds: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 0.5:
            raise UserError(f"analysis.alpha must lie in (0, 0.5), got {self.alpha}")
        if not self.alpha < self.power < 1:
            raise UserError(f"analysis.power must lie in (alpha, 1), got {self.power}")
        if not (self.margin > 0 and math.isfinite(self.margin)) or not self.signal_margin >= 0:
            raise UserError(
                "analysis.margin must be positive (it is the smallest difference that matters; with 0 nothing "
                f"could ever be equivalent) and analysis.signal_margin not negative, got {self.margin} and "
                f"{self.signal_margin}"
            )
        for name, known in (("alternative", ALTERNATIVES), ("correction", CORRECTIONS)):
            if getattr(self, name) not in known:
                raise unknown_name(f"analysis.{name}", str(getattr(self, name)), known)

    @classmethod
    def from_mapping(cls, declared: Mapping[str, Any] | None) -> Settings:
        """Read declared settings; absent keys keep their defaults.

        Raises UserError for an unknown key, naming the known ones, and for a value of the wrong kind.
        """
        known: dict[str, Any] = {field.name: type(field.default) for field in fields(cls)}
        values: dict[str, Any] = {}
        for name, value in dict(declared or {}).items():
            if name not in known:
                raise unknown_name("analysis setting", name, known)
            kind = known[name]
            try:
                if isinstance(value, bool) != (kind is bool) or (kind is int and int(value) != value):
                    raise TypeError
                values[name] = kind(value)
            except (TypeError, ValueError):
                raise UserError(f"analysis.{name} must be {_KINDS[kind]}, got {value!r}") from None
        return cls(**values)
