"""Tests of an ablation, each with its own unit of replication.

The array functions are free of units: a difference, its error and its interval are in the unit of the scores that
go in. Tables (`significance`, `analyse`) take scores as fractions in [0, 1] and give **points** (0-100): every delta,
interval, margin and minimal detectable effect there is in points. Only numpy, scipy and pandas are imported here, and
only when a name is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vlmablate.stats.components import two_component_interval, variance_components
    from vlmablate.stats.declaration import Design
    from vlmablate.stats.improvement import probability_of_improvement
    from vlmablate.stats.letters import compact_letters
    from vlmablate.stats.margins import equivalence, verdict
    from vlmablate.stats.maxt import max_t
    from vlmablate.stats.meta import leave_one_out, random_effects
    from vlmablate.stats.multiplicity import adjust
    from vlmablate.stats.paired import mcnemar, paired_test
    from vlmablate.stats.power import examples_needed, mde, seeds_for_equivalence, seeds_needed
    from vlmablate.stats.runs import design_test, pooled_error
    from vlmablate.stats.sequential import e_bh, sequence
    from vlmablate.stats.settings import Settings
    from vlmablate.stats.table import Analysis, analyse, significance

_WHERE = {
    "Analysis": "table",
    "Design": "declaration",
    "Settings": "settings",
    "adjust": "multiplicity",
    "analyse": "table",
    "compact_letters": "letters",
    "design_test": "runs",
    "e_bh": "sequential",
    "equivalence": "margins",
    "examples_needed": "power",
    "leave_one_out": "meta",
    "max_t": "maxt",
    "mcnemar": "paired",
    "mde": "power",
    "paired_test": "paired",
    "pooled_error": "runs",
    "probability_of_improvement": "improvement",
    "random_effects": "meta",
    "seeds_for_equivalence": "power",
    "seeds_needed": "power",
    "sequence": "sequential",
    "significance": "table",
    "two_component_interval": "components",
    "variance_components": "components",
    "verdict": "margins",
}

__all__ = [
    "Analysis",
    "Design",
    "Settings",
    "adjust",
    "analyse",
    "compact_letters",
    "design_test",
    "e_bh",
    "equivalence",
    "examples_needed",
    "leave_one_out",
    "max_t",
    "mcnemar",
    "mde",
    "paired_test",
    "pooled_error",
    "probability_of_improvement",
    "random_effects",
    "seeds_for_equivalence",
    "seeds_needed",
    "sequence",
    "significance",
    "two_component_interval",
    "variance_components",
    "verdict",
]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(f"vlmablate.stats.{_WHERE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
