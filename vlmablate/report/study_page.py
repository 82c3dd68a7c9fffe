"""The page of a study of several axes: what was found on each, what is open, what it cost, what the paper says.

It reads what the studies' folders hold (study.json, the steps' results, report.json, significance.csv) and computes no
statistics of its own, so every number on it stands in a report or in a result. Needs neither numpy nor pandas.
"""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from vlmablate.files import sha256_file
from vlmablate.paths import resource
from vlmablate.report import formatting as fmt
from vlmablate.report import study_page_facts as facts
from vlmablate.report.html import render, write
from vlmablate.report.study_page_cost import Price, Shared, run_price, shared
from vlmablate.report.study_page_facts import (
    ABSENT,
    PARTIAL,
    SUITE,
    UNREPORTED,
    AxisFacts,
    Contrast,
    Index,
    read_axis,
)
from vlmablate.report.study_page_paper import Claim, beside, paper_says, published, verdicts_of

Record = dict[str, Any]

PAGE = "index.html"
_COMMAND = re.compile(r"`([^`]+)`")
_SEEDS = re.compile(r"\b(?:seeds|confirm)=(\d+)$")


def write_page(index: Index, home: Path) -> Path:
    """Write the page into ``home``/studies/<index.name>/index.html and return its path; its links are relative.

    Raises:
        UserError: for a study.json or significance.csv that cannot be read.
        DiskFull: when the page cannot be written.
    """
    path = home / "studies" / index.name / PAGE
    text = render(page(index, home), {}, resource("analysis"), "study.html.j2")
    path.parent.mkdir(parents=True, exist_ok=True)
    write(text, path)
    return path


def page(index: Index, home: Path) -> Record:
    """Everything that study.html.j2 prints."""
    axes = [read_axis(asked, home) for asked in index.axes]
    benchmarks = list(
        dict.fromkeys(test.benchmark for axis in axes for test in axis.contrasts if test.benchmark != SUITE)
    )
    limit = _limit(axes)
    mean = _mean_price(axes)
    margins = sorted({test.margin for axis in axes for test in axis.contrasts})
    return {
        "title": index.question or "Studies side by side",
        "name": index.name,
        "scales": sorted({str(axis.study.facts.get("scale", "")) for axis in axes if axis.study} - {""}),
        "axes": [_axis(axis, index, home, benchmarks, limit) for axis in axes],
        "benchmarks": [fmt.title(name) for name in benchmarks],
        "limit": f"{limit:g}",
        "margins": [f"{margin:g}" for margin in margins],
        "tally": _tally(axes),
        "states": Counter(axis.state for axis in axes),
        "runs": sum(axis.runs for axis in axes),
        "runs_done": sum(len(axis.finished) for axis in axes),
        "open": [entry for axis in axes for entry in _together(_open(axis, mean))],
        "paper": _paper(axes, index.contrasts),
        "cost": _cost(axes),
        "provenance": _provenance(axes, home),
        "command": index.command,
        "sweep": index.sweep,
    }


# The grid


def _limit(axes: Iterable[AxisFacts]) -> float:
    """The largest end of an interval of a suite difference, rounded up, so that all are drawn on one scale."""
    ends = [
        abs(value)
        for axis in axes
        for test in axis.contrasts
        if test.benchmark == SUITE and test.primary
        for value in (test.low, test.high, test.delta, test.margin)
        if math.isfinite(value)
    ]
    return float(math.ceil(max(ends, default=1.0)))


def _axis(axis: AxisFacts, index: Index, home: Path, benchmarks: Sequence[str], limit: float) -> Record:
    asked = axis.asked
    folder = quote(os.path.relpath(home / "studies" / asked.study, home / "studies" / index.name))
    baselines = list(dict.fromkeys(test.baseline for test in axis.contrasts))
    return {
        "name": asked.axis,
        "study": asked.study,
        "anchor": f"study-{asked.study}",
        "question": asked.question,
        "state": axis.state,
        "runs": f"{len(axis.finished)} of {axis.runs}",
        "stale": axis.stale,
        "way": axis.way,
        "baseline": baselines[0] if baselines else axis.study.baseline if axis.study else "",
        "verdicts": _verdicts(axis),
        "links": {name: f"{folder}/{name}" for name in axis.files},
        "command": asked.command,
        "report_command": f"vlmablate report {asked.study}",
        "lines": [_line(axis, arm, context, benchmarks, limit) for arm, context in axis.pairs],
    }


def _verdicts(axis: AxisFacts) -> list[Record]:
    """The sentences of the report with the verdict that colours each."""
    if axis.deciding:
        return [{"text": text, "verdict": test.verdict} for test, text in axis.deciding]
    return [{"text": text, "verdict": "unresolved"} for text in axis.verdicts]


def _line(axis: AxisFacts, arm: str, context: str, benchmarks: Sequence[str], limit: float) -> Record:
    contexts = len(axis.study.contexts) if axis.study else 1
    where = f"mean over {contexts} contexts" if context == facts.ALL_CONTEXTS else f"context {context}"
    suite = axis.contrast(arm, context, SUITE)
    seeds = suite.seeds if suite else max((t.seeds for t in axis.contrasts if t.arm == arm), default=0)
    return {
        "arm": arm,
        "where": where if contexts > 1 else "",
        "seeds": fmt.plural(seeds, "seed"),
        "suite": None if suite is None else {**_cell(suite), "bar": _bar(suite, limit)},
        "cells": [
            None if (test := axis.contrast(arm, context, name)) is None else _cell(test)
            for name in benchmarks
        ],
    }


def _cell(test: Contrast) -> Record:
    decimals = fmt.decimals_for(test.delta, test.low, test.high)
    return {
        "delta": fmt.points(test.delta, signed=True, decimals=decimals),
        "interval": fmt.interval(test.low, test.high, decimals=decimals),
        "p": f"{fmt.correction_name(test.correction)} {fmt.equals_p(test.p_adjusted)}"
        if math.isfinite(test.p_adjusted)
        else "no test",
        "verdict": test.verdict,
        "class": test.verdict.replace(" ", "-"),
    }


def _bar(test: Contrast, limit: float) -> Record | None:
    """Places of a drawn difference in percent of its width, which spans -limit to limit; None where there is none."""
    if not math.isfinite(test.delta):
        return None

    def place(value: float) -> float:
        return round(50 + 50 * max(-1.0, min(1.0, value / limit)), 2)

    low, high = (test.low, test.high) if math.isfinite(test.low + test.high) else (test.delta, test.delta)
    return {
        "at": place(test.delta),
        "low": place(low),
        "width": round(place(high) - place(low), 2),
        "margin": place(-test.margin),
        "margin_width": round(place(test.margin) - place(-test.margin), 2),
    }


def _tally(axes: Iterable[AxisFacts]) -> list[tuple[str, int]]:
    """How many of the contrasts that decide have each verdict; verdicts that none has are left out."""
    counts = Counter(verdict for axis in axes for verdict in verdicts_of(axis))
    return [(verdict, counts[verdict]) for verdict in facts.VERDICTS if counts[verdict]]


# What is open


def _mean_price(axes: Iterable[AxisFacts]) -> Price | None:
    """What a run takes on the axes that know it, for those that do not."""
    known = [price for axis in axes if axis.study and (price := run_price(axis.study))]
    if not known:
        return None
    return Price(math.fsum(p.seconds for p in known) / len(known), any(p.at_most for p in known))


def _open(axis: AxisFacts, mean: Price | None) -> list[Record]:
    """What the axis leaves open, each with the command that goes on and what it takes as far as that is known."""
    own = run_price(axis.study) if axis.study else None
    if axis.choosing:
        started = [_entry(axis, "what it compares is not chosen yet", "", "", axis.asked.command)]
    elif axis.state in (ABSENT, PARTIAL):
        left = axis.runs - len(axis.finished)
        what = f"{left} of {fmt.plural(axis.runs, 'run')} not done"
        price = _price(own, left) or _price(mean, left, "if its runs take as long as those of the other axes")
        started = [_entry(axis, what, f"{fmt.plural(left, 'run')}", price, axis.asked.command)]
    elif axis.state == UNREPORTED:
        what = "its report is older than its results" if axis.stale else "it has no report yet"
        started = [
            _entry(axis, what, "", "no training, about half a minute", f"vlmablate report {axis.asked.study}")
        ]
    else:
        started = []
    if not axis.deciding:
        return [*started, *(_entry(axis, text, "", "", "") for text in axis.verdicts)]
    undecided = [(test, text) for test, text in axis.deciding if test.verdict == "unresolved"]
    return [*started, *(_unresolved(axis, test, text, own) for test, text in undecided)]


def _unresolved(axis: AxisFacts, test: Contrast, sentence: str, price: Price | None) -> Record:
    """An unresolved contrast; its sentence names the command with the seeds that would decide it, where some would."""
    assert axis.study is not None
    cell = _cell(test)
    what = f"{test.arm} against {test.baseline}: {cell['delta']} {cell['interval']}"
    named = _COMMAND.findall(sentence)
    seeds = int(found[1]) if named and (found := _SEEDS.search(named[-1])) else 0
    if not seeds:
        return _entry(axis, what, "no number of seeds would settle it; its sentence says why", "", "")
    compared = axis.study.compared.runs
    declared = {run.seed for run in compared}
    cells = len({(run.arm, run.context) for run in compared})
    more = max(0, seeds - len(declared)) * cells
    takes = f"{len(declared)} → {seeds} seeds per arm, {fmt.plural(more, 'more run')}"
    return _entry(axis, what, takes, _price(price, more), named[-1])


def _price(price: Price | None, runs: int, condition: str = "") -> str:
    """'about 2 h 10 min of steps', empty while nobody knows."""
    if price is None:
        return ""
    about = "at most about" if price.at_most else "about"
    return f"{about} {fmt.duration(price.of(runs))} of steps{f', {condition}' if condition else ''}"


def _entry(axis: AxisFacts, what: str, takes: str, price: str, command: str) -> Record:
    return {"axis": axis.asked.axis, "what": [what], "takes": takes, "price": price, "command": command}


def _together(entries: Iterable[Record]) -> list[Record]:
    """The entries of an axis, those that the same command settles made one."""
    found: list[Record] = []
    for entry in entries:
        alike = next((e for e in found if e["command"] and {**e, "what": []} == {**entry, "what": []}), None)
        if alike is None:
            found.append(entry)
        else:
            alike["what"] += entry["what"]
    return found


# The paper


def _paper(axes: Sequence[AxisFacts], contrasts: Mapping[str, str]) -> Record:
    """{rows, beyond}: the published comparisons beside our axes, and the axes that none of them asks about."""
    claims = published(resource("analysis") / "reference")
    by_name = {axis.asked.axis: axis for axis in axes}
    chosen = contrasts or {key: claim["axis"] for key, claim in claims.items() if claim["axis"] in by_name}
    rows = [_beside(claims[key], by_name[name]) for key, name in chosen.items() if name in by_name]
    return {"rows": rows, "beyond": [name for name in by_name if name not in chosen.values()]}


def _beside(claim: Claim, axis: AxisFacts) -> Record:
    ours = [
        {"arm": test.arm, "baseline": test.baseline, **_cell(test)} for test in axis.contrasts if test.primary
    ]
    verdicts = verdicts_of(axis)
    return {
        "label": claim["label"],
        "where": f"section {claim['section']}, figure {claim['figure']}",
        "claim": claim["claim"],
        "printed": claim["printed"],
        "says": paper_says(claim),
        "axis": axis.asked.axis,
        "anchor": f"study-{axis.asked.study}",
        "ours": ours,
        "state": axis.state,
        "relation": beside(claim, verdicts),
    }


# Cost and provenance


def _cost(axes: Sequence[AxisFacts]) -> Record:
    studies = [axis.study for axis in axes if axis.study is not None]
    each = [(axis.asked.axis, shared([axis.study])) for axis in axes if axis.study is not None]
    union = shared(studies)
    return {
        "rows": [_cost_cells(name, work) for name, work in each],
        "total": _cost_cells("all axes together", union),
        "between": sum(work.steps for _, work in each) - union.steps,
        "steps": f"{union.alone - union.steps:,} of {union.alone:,}",
        "share": f"{100 * union.saved / union.alone_seconds:.0f} %" if union.alone_seconds else fmt.NOTHING,
        "several": len(each) > 1,
    }


def _cost_cells(name: str, work: Shared) -> Record:
    return {
        "name": name,
        "runs": f"{work.runs_done:,} / {work.runs:,}",
        "alone": f"{work.alone:,}",
        "steps": f"{work.steps:,}",
        "done": f"{work.steps_done:,}",
        "alone_time": fmt.duration(work.alone_seconds),
        "time": fmt.duration(work.seconds),
        "saved": fmt.duration(work.saved),
    }


def _provenance(axes: Iterable[AxisFacts], home: Path) -> list[tuple[str, str]]:
    """(study, what its numbers come from) for every study that was started."""
    found = []
    for axis in axes:
        if axis.study is None:
            continue
        git = dict((axis.study.facts.get("provenance") or {}).get("git") or {})
        commit = (
            f"commit {str(git['sha'])[:12]}{' with changes' if git.get('dirty') else ''}"
            if git.get("sha")
            else ""
        )
        table = home / "studies" / axis.asked.study / "significance.csv"
        digest = (
            f"significance.csv sha256 {sha256_file(table)}"
            if table.name in axis.files
            else "no table of tests"
        )
        found.append((axis.asked.study, ", ".join(filter(None, (commit, digest)))))
    return found
