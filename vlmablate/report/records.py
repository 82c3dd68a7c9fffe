"""Rows of the result tables as dictionaries, with the key by which the page names them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

Record = dict[str, Any]

KEYS: dict[str, tuple[str, ...]] = {
    "significance": ("level", "arm", "context", "benchmark", "family"),
    "pairwise": ("level", "context", "arm_a", "arm_b"),
    "components": ("context", "benchmark"),
    "improvement": ("arm", "context"),
    "duplicates": ("benchmark",),
    "mde_curve": ("seeds",),
    "effects": ("axis", "level", "axis_b", "level_b", "benchmark"),
    "importance": ("term",),
}
"""Table -> the columns that name a row of it. sensitivity.csv has the columns of significance.csv."""


def records(table: pd.DataFrame) -> list[Record]:
    """Rows as dictionaries with text keys."""
    return [{str(key): value for key, value in row.items()} for row in table.to_dict("records")]


def row_key(table: str, row: Mapping[str, Any]) -> str:
    """What a number on the page carries as data-row; rows of significance.csv go without the table's name."""
    name = "|".join(str(row[column]) for column in KEYS[table])
    return name if table == "significance" else f"{table}:{name}"
