"""What a study found beside what the paper says about the same question. Side by side, never pooled."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from vlmablate.report.study_page_facts import AxisFacts

Claim = Mapping[str, str]

BOTH = "a difference in both"
PAPER_ONLY = "a difference in the paper only"
HERE_ONLY = "a difference here only"
NEITHER = "no difference in either"
UNSTATED = "the paper does not judge"
OPEN = "open here"
NOT_HERE = "not tested here"


def published(reference: Path) -> dict[str, Claim]:
    """Key -> row of comparisons.csv, whose columns are told in the README beside it."""
    with open(reference / "comparisons.csv", encoding="utf-8", newline="") as file:
        return {row["comparison"]: row for row in csv.DictReader(file)}


def beside(claim: Claim, verdicts: Sequence[str]) -> str:
    """How the paper's reading and the verdicts of our arms stand to each other, in words.

    A difference here is one of any arm, an absence of one is the equivalence of all. Directions are not compared: which
    of our arms is the paper's alternate differs from axis to axis, so the page prints both.
    """
    if not verdicts:
        return NOT_HERE
    found = any(verdict in ("better", "worse") for verdict in verdicts)
    if not found and any(verdict != "equivalent" for verdict in verdicts):
        return OPEN
    judged = {"yes": True, "no": False}.get(claim["claimed_significant"])
    if judged is None:
        return UNSTATED
    return {(True, True): BOTH, (True, False): PAPER_ONLY, (False, True): HERE_ONLY}.get(
        (judged, found), NEITHER
    )


def paper_says(claim: Claim) -> str:
    """The paper's reading of a comparison in a few words."""
    significant = {"yes": "significant", "no": "not significant"}.get(
        claim["claimed_significant"], "not said whether significant"
    )
    direction = claim["claimed_direction"]
    return significant if direction == "none" else f"{direction}, {significant}"


def verdicts_of(axis: AxisFacts) -> list[str]:
    """The verdicts of the arms of an axis, from the contrasts that decide."""
    return [test.verdict for test in axis.contrasts if test.primary]
