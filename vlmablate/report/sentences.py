"""Verdict sentences, built from the numbers of the significance table and from nothing else.

A row whose parts contradict each other (a direction against its sign, a verdict against its p-value, a p-value
that its test cannot give) is refused: `consistent` raises ValueError, and nothing is printed.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vlmablate.report.formatting import (
    correction_name,
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
    """What a sentence needs beside its row: the study's seed spread (points; of paired differences where seeds are
    paired), cells, alpha, the number of tests in the primary family, the benchmarks with signal and their metrics,
    the command that made the study (empty for a table that no sweep made), whether no run is missing, whether
    the baseline has a run at all, under which condition arms were compared (`lead`, the start of every sentence),
    and the word of the command for the number of runs per arm (`confirm` where arms were run again with fresh
    seeds)."""

    seed_sd: float
    cells: int
    alpha: float
    family_size: int
    benchmarks: Sequence[str]
    contexts: int
    command: str
    complete: bool = True
    metrics: Mapping[str, str] = field(default_factory=dict)
    paired: bool = False
    baseline_ran: bool = True
    lead: str = ""
    asks: str = "seeds"


def consistent(row: Mapping[str, Any], alpha: float) -> None:
    """Raise ValueError where a row of the significance table contradicts itself.

    Refused: better or worse against the sign of the difference, against its adjusted p, or against the declared
    direction; equivalent with a difference outside the margin; p outside (0, 1], below the floor of its test, or
    above its adjusted p.
    """
    name = f"{row['arm']} against {row['baseline']} ({row['level']}, {row['context']})"
    verdict, delta, p, adjusted = row["verdict"], row["delta"], row["p"], row["p_adjusted"]
    if (verdict == "better" and not delta > 0) or (verdict == "worse" and not delta < 0):
        raise ValueError(f"verdict {verdict} of {name} contradicts its difference {delta}")
    if (verdict, row.get("alternative")) in (("worse", "greater"), ("better", "less")):
        raise ValueError(f"verdict {verdict} of {name} contradicts its alternative {row['alternative']}")
    if verdict in ("better", "worse") and not adjusted <= alpha:
        raise ValueError(f"verdict {verdict} of {name} contradicts its adjusted p {adjusted}")
    if verdict == "equivalent" and not abs(delta) < row["margin"]:
        raise ValueError(f"verdict equivalent of {name} contradicts its difference {delta}")
    if p <= 0 or p > 1:
        raise ValueError(f"the p-value {p} of {name} is not one")
    floor = row.get("floor", math.nan)
    if p < floor * (1 - 1e-9):
        raise ValueError(f"p {p} of {name} is below {floor}, the smallest that its test can give")
    if adjusted < p * (1 - 1e-9):
        raise ValueError(f"the adjusted p {adjusted} of {name} is below its p {p}")


def with_seeds(command: str, seeds: int, asks: str = "seeds") -> str:
    """The study's command with a fixed number of seeds: `seeds=N`, in the place of what it said about seeds; with
    `asks` confirm, `confirm=N` in the place of the fresh seeds of a design space."""
    own = ("seeds", "replicate", "max_seeds", "budget") if asks == "seeds" else (asks,)
    words = [
        word for word in shlex.split(command) if word.partition("=")[0] not in own and word != "mode=plan"
    ]
    return shlex.join([*words, f"{asks}={seeds}"])


def _where(row: Mapping[str, Any], outlook: Outlook) -> str:
    if row["context"] == ALL_CONTEXTS:
        return f" on average over {outlook.contexts} contexts"
    return f" in context {row['context']}" if outlook.contexts > 1 else ""


def _numbers(row: Mapping[str, Any]) -> tuple[str, str, str]:
    """Size without sign, signed difference with interval, p with its adjustment and direction."""
    decimals = decimals_for(row["delta"], row["ci_low"], row["ci_high"])
    size = points(abs(row["delta"]), decimals=decimals)
    band = interval(row["ci_low"], row["ci_high"], decimals=decimals)
    signed = points(row["delta"], signed=True, decimals=decimals)
    correction = correction_name(str(row.get("correction", "holm")))
    side = "one-sided " if row.get("alternative", "two-sided") != "two-sided" else ""
    return size, f"{signed} {band}", f"{side}{equals_p(row['p'])} ({correction} {p_value(row['p_adjusted'])})"


def _seeds(row: Mapping[str, Any], outlook: Outlook) -> str:
    fewest = "" if outlook.complete else "at least "
    noun = "fresh seed" if outlook.asks == "confirm" else "seed"
    return f"over {fewest}{plural(row['n_seeds'], noun)} per arm ({row['method']})"


def _decided(row: Mapping[str, Any], outlook: Outlook) -> str:
    return f"decided at the {row['level']} level {_seeds(row, outlook)}"


def verdict_sentence(row: Mapping[str, Any], outlook: Outlook) -> str:
    """What a design-level suite row of the significance table says, after the condition under which it holds, if
    there is one; further sentences where a reader could take it for more: on the floor of the test, on other
    pictures, on what would settle it.

    Raises ValueError if the row contradicts itself: no direction word is ever printed against the numbers.
    """
    text = _plain_sentence(row, outlook)
    if not outlook.lead:
        return text
    return f"{outlook.lead}: {text.replace('Unresolved: ', 'unresolved, ', 1)}"


def _plain_sentence(row: Mapping[str, Any], outlook: Outlook) -> str:
    consistent(row, outlook.alpha)
    arm, baseline, verdict = row["arm"], row["baseline"], row["verdict"]
    size, difference, p = _numbers(row)
    where, margin = _where(row, outlook), f"{row['margin']:g}"
    band = difference.partition(" ")[2]
    if verdict == "better":
        text = f"{arm} beats {baseline} by {size} points {band}{where}, {p}, {_decided(row, outlook)}."
    elif verdict == "worse":
        text = (
            f"{arm} falls short of {baseline} by {size} points{where}: {difference}, {p}, "
            f"{_decided(row, outlook)}."
        )
    elif verdict == "equivalent":
        detectable = row["p_adjusted"] <= outlook.alpha
        but = " (a detectable difference, but smaller than what was declared to matter)" if detectable else ""
        text = (
            f"{arm} and {baseline} are equivalent within ±{margin} points{where}: difference {difference}, "
            f"{p}{but}, {_decided(row, outlook)}."
        )
    elif not math.isfinite(row["p"]):
        return _untested(row, outlook, where)
    else:
        text = (
            f"Unresolved: {arm} minus {baseline} is {difference} points{where}, {p}, "
            f"{_seeds(row, outlook)}; neither a difference nor equivalence within "
            f"±{margin} points can be claimed."
        )
    further = [floor_sentence(row, outlook), borrowed_sentence(row), new_pictures_sentence(row)]
    if verdict == "unresolved":
        further.append(what_would_settle(row, outlook))
    return " ".join([text, *(sentence for sentence in further if sentence)])


def floor_sentence(row: Mapping[str, Any], outlook: Outlook) -> str:
    """That the test could not have given less; empty where that does not matter."""
    floor = row.get("floor", math.nan)
    if not (math.isfinite(floor) and math.isfinite(row["p"])):
        return ""
    if row["verdict"] == "unresolved" and floor * outlook.family_size > outlook.alpha:
        adjusted = ""
        if outlook.family_size > 1:
            least = min(1.0, floor * outlook.family_size)
            adjusted = f" ({p_value(least)} for the smallest of {outlook.family_size} after adjustment)"
        return (
            f"With so few runs this test cannot give a p below {p_value(floor)}{adjusted}, so it could not have "
            "shown a difference of any size."
        )
    if floor >= 1e-4 and row["p"] <= floor * (1 + 1e-9):
        return "This is the smallest p that the test can give with these runs."
    return ""


def borrowed_sentence(row: Mapping[str, Any]) -> str:
    """That an arm was trained once, so that its spread is that of other cells; empty where both have several runs."""
    tipping = row.get("tipping_sd", math.nan)
    if row["n_seeds"] > 1 or not (math.isfinite(row["p"]) and math.isfinite(tipping) and tipping > 0):
        return ""
    return (
        "At least one of the two arms was trained once, so the spread between its runs is taken from other cells; "
        f"{_tipping(tipping)}"
    )


def _tipping(sd: float) -> str:
    return (
        "the difference would not be significant if retraining moves the suite score by an SD of more than "
        f"{points(sd, decimals=decimals_for(sd))} points (tipping seed SD)."
    )


def new_pictures_sentence(row: Mapping[str, Any]) -> str:
    """That a verdict does not carry over to other pictures; empty where it does or where that is unknown."""
    low, high = row.get("new_low", math.nan), row.get("new_high", math.nan)
    if not (math.isfinite(low) and math.isfinite(high)):
        return ""
    band = interval(low, high, decimals=decimals_for(low, high))
    if row["verdict"] in ("better", "worse") and low <= 0 <= high:
        return (
            f"The verdict is about these pictures; over new pictures as well the interval is {band}, "
            "which includes 0."
        )
    if row["verdict"] == "equivalent" and not -row["margin"] < low <= high < row["margin"]:
        return (
            f"The verdict is about these pictures; over new pictures as well the interval is {band}, "
            f"which reaches beyond ±{row['margin']:g}."
        )
    return ""


def _untested(row: Mapping[str, Any], outlook: Outlook, where: str) -> str:
    arm, baseline = row["arm"], row["baseline"]
    signed = points(row["delta"], signed=True, decimals=decimals_for(row["delta"]))
    start = f"Unresolved: {arm} minus {baseline} is {signed} points{where}, without a p-value: "
    reason = str(row["method"]).removeprefix("no test: ")
    if "one seed" not in reason:
        return start + f"{reason}."
    command = f": `{with_seeds(outlook.command, FEWEST_SEEDS, outlook.asks)}`" if outlook.command else ""
    measure = f"To measure it{command}." if command else f"{FEWEST_SEEDS} runs per arm would measure it."
    tipping = _tipping(row["tipping_sd"])
    return f"{start}one seed per arm says nothing about retraining. T{tipping[1:]} {measure}"


def seeds_needed(row: Mapping[str, Any], outlook: Outlook) -> int | None:
    """Seeds per arm after which an unresolved row is decided whichever way it falls; None if too many."""
    alpha = outlook.alpha / max(outlook.family_size, 1)
    sd, cells, weights = outlook.seed_sd, outlook.cells, 2.0 / outlook.contexts
    if outlook.paired:
        # The SD is that of a difference, and one degree of freedom per seed and context goes to the seeds.
        cells, weights = max(cells - outlook.contexts, 1), 1.0 / outlook.contexts
    needed = seeds_to_settle(sd, cells, weights, row["margin"], alpha)
    return None if needed is None else max(needed, row["n_seeds"] + 1)


def what_would_settle(row: Mapping[str, Any], outlook: Outlook) -> str:
    """How many seeds would decide an unresolved row, and the command that runs them."""
    needed = seeds_needed(row, outlook)
    of = f"{points(outlook.seed_sd, decimals=decimals_for(outlook.seed_sd))} points"
    spread = f"the SD of {of} of paired differences" if outlook.paired else f"the seed SD of {of}"
    if needed is None:
        if not math.isfinite(outlook.seed_sd):
            return f"The spread between seeds is unknown; {FEWEST_SEEDS} runs per arm would measure it."
        return (
            f"At {spread}, more than {LARGEST_SEED_COUNT} seeds per arm would be needed to settle it; a "
            "larger scale or a larger margin is the better way."
        )
    command = f": `{with_seeds(outlook.command, needed, outlook.asks)}`" if outlook.command else ""
    return f"About {needed} seeds per arm would settle it if {spread} holds{command}."


def verdict_sentences(primary: Sequence[Mapping[str, Any]], outlook: Outlook) -> list[str]:
    """A sentence per primary row; one that says why if there is none (no baseline run, no signal anywhere, no run
    of another arm)."""
    if not outlook.baseline_ran:
        return ["No verdict: no run of the baseline is finished, so there is nothing to compare with."]
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
    """What the suite score is a mean of; metrics that differ are named, never averaged in silence."""
    names = [title(name) for name in outlook.benchmarks]
    if not names:
        return ""
    noun = "the benchmark" if len(names) == 1 else f"the {len(names)} benchmarks"
    text = f"The suite score is the mean over {noun} with signal: {listing(names)}."
    by_metric: dict[str, list[str]] = {}
    for name in outlook.benchmarks:
        if name in outlook.metrics:
            by_metric.setdefault(outlook.metrics[name], []).append(title(name))
    if len(by_metric) > 1:
        parts = "; ".join(f"{metric} ({listing(of)})" for metric, of in sorted(by_metric.items()))
        text += f" It averages {len(by_metric)} different metrics, each in points from 0 to 100: {parts}."
    return text


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
