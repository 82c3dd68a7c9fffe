"""What is declared before the scores are seen is read strictly."""

from __future__ import annotations

from typing import Any

import pytest

from vlmablate.errors import UserError
from vlmablate.stats.declaration import Design
from vlmablate.stats.settings import Settings


def test_settings_are_read_from_what_was_declared() -> None:
    assert Settings.from_mapping(None) == Settings(0.05, 2.0, 10.0, 0.8, "two-sided", "holm", False, 0)
    declared = {"margin": 1, "correction": "bh", "paired_seeds": True, "seed": 3, "alternative": "greater"}
    read = Settings.from_mapping(declared)
    assert (read.margin, read.correction, read.paired_seeds) == (1.0, "bh", True)
    assert (read.seed, read.alternative) == (3, "greater")


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        ({"magin": 1}, "unknown analysis setting 'magin'"),
        ({"alpha": 0.7}, r"analysis.alpha must lie in \(0, 0.5\)"),
        ({"margin": 0}, "analysis.margin must be positive"),
        ({"margin": "wide"}, "analysis.margin must be a number, got 'wide'"),
        ({"margin": float("inf")}, "analysis.margin must be positive"),
        ({"margin": True}, "analysis.margin must be a number, got True"),
        ({"paired_seeds": 1}, "analysis.paired_seeds must be true or false, got 1"),
        ({"power": 0.01}, "analysis.power must lie in"),
        ({"signal_margin": -1}, "analysis.signal_margin not negative"),
        ({"correction": "bonferroni"}, "unknown analysis.correction 'bonferroni'"),
        ({"alternative": "better"}, "unknown analysis.alternative 'better'"),
        ({"seed": 1.5}, "analysis.seed must be a whole number, got 1.5"),
    ],
)
def test_a_wrong_declaration_says_what_is_wrong(declared: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        Settings.from_mapping(declared)


def test_a_design_needs_its_baseline_and_names_nothing_twice() -> None:
    with pytest.raises(UserError, match="unknown baseline 'base'"):
        Design("x", "base", ("a", "b"), ("c",), {})
    with pytest.raises(UserError, match="names one arm twice"):
        Design("x", "a", ("a", "b", "b"), ("c",), {})
