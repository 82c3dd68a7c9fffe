"""Verdict sentences, built from the numbers of the significance table and from nothing else."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vlmablate.report.formatting import (
    decimals_for,
    equals_p,
    interval,
    listing,
    p_value,
    plural,
    points,
    title,
)
from vlmablate.stats.power import LARGEST_SEED_COUNT, seeds_to_settle
from vlmablate.stats.units import ALL_CONTEXTS

FEWEST_SEEDS = 3
"""What is advised when a study has one seed: two give a spread on a single degree of freedom per cell."""


@dataclass(frozen=True)
class Outlook:
    """What a sentence needs beside its row: the study's seed spread (points), cells, alpha, the number of
    tests in the primary family, the benchmarks with signal, the command that made the study, and whether no
    run is missing."""

    seed_sd: float
    cells: int
    alpha: float
    family_size: int
    benchmarks: Sequence[str]
    contexts: int
    command: str
    complete: bool = True


def with_seeds(command: str, seeds: int) -> str:
    """The study's command with another number of seeds: `seeds=N` replaced, or appended if it was not
    given."""
    words = [word for word in shlex.split(command) if not word.startswith("seeds=") and word != "mode=plan"]
    return shlex.join([*words, f"seeds={seeds}"])


def _where(row: Mapping[str, Any], outlook: Outlook) -> str:
    if row["context"] == ALL_CONTEXTS:
        return f" on average over {outlook.contexts} contexts"
    return f" in context {row['context']}" if outlook.contexts > 1 else ""


def _numbers(row: Mapping[str, Any]) -> tuple[str, str, str]:
    """Size without sign, signed difference with interval, p with its adjustment."""
    decimals = decimals_for(row["delta"], row["ci_low"], row["ci_high"])
    size = points(abs(row["delta"]), decimals=decimals)
    band = interval(row["ci_low"], row["ci_high"], decimals=decimals)
    signed = points(row["delta"], signed=True, decimals=decimals)
    return size, f"{signed} {band}", f"{equals_p(row['p'])} (Holm {p_value(row['p_adjusted'])})"


def _seeds(row: Mapping[str, Any], outlook: Outlook) -> str:
    fewest = "" if outlook.complete else "at least "
    return f"over {fewest}{plural(row['n_seeds'], 'seed')} per arm ({row['method']})"


def _decided(row: Mapping[str, Any], outlook: Outlook) -> str:
    return f"decided at the {row['level']} level {_seeds(row, outlook)}"


def verdict_sentence(row: Mapping[str, Any], outlook: Outlook) -> str:
    """One sentence (two if unresolved) for a design-level suite row of the significance table.

    Raises ValueError if the row's verdict contradicts the sign of its difference: no direction word is ever
    printed against the numbers.
    """
    arm, baseline, verdict, delta = row["arm"], row["baseline"], row["verdict"], row["delta"]
    if (verdict == "better" and not delta > 0) or (verdict == "worse" and not delta < 0):
        raise ValueError(f"verdict {verdict} of {arm} contradicts its difference {delta}")
    size, difference, p = _numbers(row)
    where, margin = _where(row, outlook), f"{row['margin']:g}"
    band = difference.partition(" ")[2]
    if verdict == "better":
        return f"{arm} beats {baseline} by {size} points {band}{where}, {p}, {_decided(row, outlook)}."
    if verdict == "worse":
        return (
            f"{arm} falls short of {baseline} by {size} points{where}: {difference}, {p}, "
            f"{_decided(row, outlook)}."
        )
    if verdict == "equivalent":
        detectable = row["p_adjusted"] <= outlook.alpha
        but = " (a detectable difference, but smaller than what was declared to matter)" if detectable else ""
        return (
            f"{arm} and {baseline} are equivalent within ±{margin} points{where}: difference {difference}, "
            f"{p}{but}, {_decided(row, outlook)}."
        )
    if not math.isfinite(row["p"]):
        return _untested(row, outlook, where)
    return (
        f"Unresolved: {arm} minus {baseline} is {difference} points{where}, {p}, "
        f"{_seeds(row, outlook)}; neither a difference nor equivalence within "
        f"±{margin} points can be claimed. {_what_would_settle(row, outlook)}"
    )


def _untested(row: Mapping[str, Any], outlook: Outlook, where: str) -> str:
    arm, baseline = row["arm"], row["baseline"]
    signed = points(row["delta"], signed=True, decimals=decimals_for(row["delta"]))
    start = f"Unresolved: {arm} minus {baseline} is {signed} points{where}, without a p-value: "
    tipping = re.search(r"tipping seed SD (\S+) points", row["method"])
    if tipping is None:
        return start + f"{row['method'].removeprefix('no test: ')}."
    return (
        start + "one seed per arm says nothing about retraining. The difference would not be significant if "
        f"retraining moves the suite score by an SD of more than {tipping[1]} points (tipping seed SD). "
        f"To measure it: `{with_seeds(outlook.command, FEWEST_SEEDS)}`."
    )


def _what_would_settle(row: Mapping[str, Any], outlook: Outlook) -> str:
    alpha = outlook.alpha / max(outlook.family_size, 1)
    needed = seeds_to_settle(outlook.seed_sd, outlook.cells, 2.0 / outlook.contexts, row["margin"], alpha)
    spread = f"the seed SD of {points(outlook.seed_sd, decimals=decimals_for(outlook.seed_sd))} points"
    if needed is None:
        return (
            f"At {spread}, more than {LARGEST_SEED_COUNT} seeds per arm would be needed to settle it; a "
            "larger scale or a larger margin is the better way."
        )
    needed = max(needed, row["n_seeds"] + 1)
    command = with_seeds(outlook.command, needed)
    return f"About {needed} seeds per arm would settle it if {spread} holds: `{command}`."


def verdict_sentences(primary: Sequence[Mapping[str, Any]], outlook: Outlook) -> list[str]:
    """A sentence per primary row; one that says why if there is none (no signal anywhere, or no baseline
    run)."""
    if not outlook.benchmarks:
        return [
            "No verdict: on no benchmark does the baseline arm clear the declared margin above the majority "
            "answer, so there is no signal at this scale."
        ]
    if not primary:
        return [
            "No verdict: there is no pair of finished runs of the baseline and of another arm to compare."
        ]
    return [verdict_sentence(row, outlook) for row in primary]


def suite_sentence(outlook: Outlook) -> str:
    """What the suite score is a mean of."""
    names = [title(name) for name in outlook.benchmarks]
    if not names:
        return ""
    noun = "the benchmark" if len(names) == 1 else f"the {len(names)} benchmarks"
    return f"The suite score is the mean over {noun} with signal: {listing(names)}."


def paper_sentence(axis: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """The published p-value of this comparison beside ours, as context; empty if none was published."""
    paper = axis.get("paper") or {}
    if paper.get("p_published") is None:
        return ""
    where = ", ".join(
        f"{label} {paper[key]}"
        for key, label in (("section", "section"), ("figure", "figure"))
        if paper.get(key)
    )
    comparison = f" for {paper['comparison']}" if paper.get("comparison") else ""
    judged = f" Its reading: {str(paper['verdict']).rstrip('.')}." if paper.get("verdict") else ""
    ours = "; ".join(f"{row['arm']} {equals_p(row['p'])}" for row in rows if math.isfinite(row["p"]))
    beside = (
        f" This study: {ours} (unit: training run)." if ours else " This study has no design-level p-value."
    )
    return (
        f"The paper ({where or 'Prismatic VLMs'}) reports p = "
        f"{paper['p_published']}{comparison}.{judged}{beside} The two are not on one footing: the published "
        "rule pools model pairs × benchmarks as if they were independent, which treats one "
        "training run scored on many benchmarks as many observations."
    )
