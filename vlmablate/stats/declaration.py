"""The design of a comparison: what is compared with what, declared apart from the scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vlmablate.errors import UserError, unknown_name
from vlmablate.stats.settings import Settings


def read_analysis(declared: Mapping[str, Any] | None) -> tuple[Settings, dict[str, str]]:
    """The settings and the families of related benchmarks (benchmark -> family) of a declared analysis.

    Raises UserError for unknown settings, values out of range, and families that are no names.
    """
    values = dict(declared or {})
    families = values.pop("families", None) or {}
    if not isinstance(families, Mapping) or not all(isinstance(name, str) for name in families.values()):
        raise UserError(
            f"analysis.families must give each benchmark the name of its family, got {families!r}"
        )
    return Settings.from_mapping(values), {str(name): family for name, family in families.items()}


@dataclass(frozen=True)
class Design:
    """One axis: its arms, their contexts, the benchmarks, and the declared settings.

    arms (baseline included) and contexts give the order of rows and panels. metrics: benchmark -> its primary
    metric. majority: benchmark -> score of the always-majority answer as a fraction; a benchmark that is not
    named there counts as carrying signal. families: benchmark -> family of related benchmarks, for the suite
    level; a benchmark that is not named is a family of its own. max_seeds is set where replication is adaptive
    (vlmablate.stats.adaptive), with at most `budget` runs; None: a fixed number of seeds.
    """

    axis: str
    baseline: str
    arms: tuple[str, ...]
    contexts: tuple[str, ...]
    metrics: Mapping[str, str]
    majority: Mapping[str, float] = field(default_factory=dict)
    families: Mapping[str, str] = field(default_factory=dict)
    settings: Settings = field(default_factory=Settings)
    max_seeds: int | None = None
    budget: int | None = None

    def __post_init__(self) -> None:
        if self.baseline not in self.arms:
            raise unknown_name("baseline", self.baseline, self.arms, f"the arms of {self.axis}")
        for what, names in (("arm", self.arms), ("context", self.contexts)):
            if len(set(names)) != len(names):
                raise UserError(f"axis {self.axis} names one {what} twice: {', '.join(names)}")
