"""Figures of a design space: effects, what depends on what, importance, and the trace of a search."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vlmablate.report.drawing import COLOURS, MARKERS, QUIET, legend_above, new_figure, shorten
from vlmablate.report.exploration import Explored
from vlmablate.report.exploration_section import (
    INTERACTION,
    MAIN,
    effect_name,
    effect_verdict,
    percent,
    percent_interval,
)
from vlmablate.report.formatting import decimals_for, interval, points
from vlmablate.report.records import Record, records
from vlmablate.stats.units import SUITE

BAND = "#EDEDED"
ROW_INCHES = 0.3
ROWS_PER_FIGURE = 30
PER_ROW, PANELS_PER_FIGURE = 3, 12
MOST_LINES = 8
"""A panel with more lines than this is a tangle; the table has the numbers."""


def effects_plots(explored: Explored) -> list[Figure]:
    """Main effects of the suite score, then interactions, axis by axis; none without a suite score."""
    table = explored.effects
    rows = [row for row in records(table[table["benchmark"] == SUITE]) if math.isfinite(row["delta"])]
    groups: list[tuple[str, list[Record]]] = []
    for kind, after in ((MAIN, ""), (INTERACTION, ": difference of differences")):
        for row in rows:
            if row["kind"] != kind:
                continue
            heading = f"{row['term']}{after or ' (against ' + str(row['baseline']) + ')'}"
            if not groups or groups[-1][0] != heading:
                groups.append((heading, []))
            groups[-1][1].append(row)
    if not groups:
        return []
    bounds = _bounds(rows, explored.settings.margin)
    return [_effects(part, bounds, explored) for part in _portions(groups)]


def _portions(groups: Sequence[tuple[str, list[Record]]]) -> list[list[tuple[str, list[Record]]]]:
    """Groups in portions of at most ROWS_PER_FIGURE rows, or one group."""
    found: list[list[tuple[str, list[Record]]]] = []
    for group in groups:
        rows = sum(len(other[1]) for other in found[-1]) if found else ROWS_PER_FIGURE
        if rows + len(group[1]) > ROWS_PER_FIGURE:
            found.append([])
        found[-1].append(group)
    return found


def _bounds(rows: Sequence[Record], margin: float) -> tuple[float, float]:
    ends = [-margin, margin, *(float(row[name]) for row in rows for name in ("delta", "ci_low", "ci_high"))]
    finite = [value for value in ends if math.isfinite(value)]
    room = 0.06 * (max(finite) - min(finite))
    return min(finite) - room, max(finite) + room


def _effects(
    groups: Sequence[tuple[str, list[Record]]], bounds: tuple[float, float], explored: Explored
) -> Figure:
    counts = [len(rows) for _, rows in groups]
    margin = explored.settings.margin
    figure = new_figure(sum(ROW_INCHES * count + 0.42 for count in counts) + 0.6)
    ratios = {"height_ratios": [count + 0.4 for count in counts]}
    axes = figure.subplots(len(groups), 1, sharex=True, squeeze=False, gridspec_kw=ratios)[:, 0]
    for axis, (heading, rows) in zip(axes, groups, strict=True):
        axis.axvspan(-margin, margin, color=BAND, zorder=0)
        axis.axvline(0, color="black", linewidth=0.8)
        for position, row in enumerate(rows):
            _effect(axis, position, row)
        axis.set_yticks(range(len(rows)), [shorten(effect_name(row), 34) for row in rows])
        axis.set_ylim(len(rows) - 0.4, -0.6)
        axis.set_xlim(*bounds)
        axis.tick_params(axis="y", length=0)
        axis.set_title(heading, loc="left", fontsize=10, fontweight="bold")
    level = f"{100 * (1 - explored.settings.alpha):g} %"
    axes[-1].set_xlabel(
        f"effect on the suite score in points, with its {level} interval over retraining\n"
        f"(grey band: declared margin ±{margin:g}; filled marker: decided)",
        fontsize=8.5,
    )
    return figure


def _effect(axis: Axes, position: int, row: Record) -> None:
    colour, marker = (COLOURS[1], "o") if row["kind"] == MAIN else (COLOURS[4], "s")
    if math.isfinite(row["ci_low"]):
        ends = [row["ci_low"], row["ci_high"]]
        axis.plot(
            ends, [position] * 2, color=colour, linewidth=2.8, solid_capstyle="butt", gid="effect interval"
        )
    filled = colour if row["verdict"] != "unresolved" else "white"
    axis.plot([row["delta"]], [position], marker, color=colour, mfc=filled, ms=5.5, gid="effect")
    decimals = decimals_for(row["delta"], row["ci_low"], row["ci_high"])
    text = f"{points(row['delta'], signed=True, decimals=decimals)} "
    text += f"{interval(row['ci_low'], row['ci_high'], decimals=decimals)}  {effect_verdict(row)}"
    axis.text(
        1.01, position, text, transform=axis.get_yaxis_transform(), va="center", fontsize=8, color="#333333"
    )


def interaction_plots(explored: Explored) -> list[Figure]:
    """For every pair of axes the mean of each level of one by level of the other, with intervals; lines that run
    parallel show no interaction."""
    pairs = [pair for pair, means in explored.means.items() if means["mean"].notna().sum() > 2]
    parts = range(0, len(pairs), PANELS_PER_FIGURE)
    return [_interactions(explored, pairs[start : start + PANELS_PER_FIGURE]) for start in parts]


def _interactions(explored: Explored, pairs: Sequence[tuple[str, str]]) -> Figure:
    columns = min(PER_ROW, len(pairs))
    rows = math.ceil(len(pairs) / columns)
    figure = new_figure(2.7 * rows + 0.3)
    axes = figure.subplots(rows, columns, squeeze=False)
    factors = {factor.name: factor for factor in explored.space.axes}
    for axis, (first, second) in zip(axes.flat, pairs, strict=False):
        # The axis with more levels runs along x, so that there are few lines.
        along, lines = sorted((factors[first], factors[second]), key=lambda factor: -len(factor.levels))
        swapped = along.name != first
        means = explored.means[first, second]
        _lines(axis, means, along.levels, lines.levels, swapped)
        axis.set_xticks(
            range(len(along.levels)), [shorten(level, 12) for level in along.levels], fontsize=7.5
        )
        if len(along.levels) > 3 or max(map(len, along.levels)) > 9:
            axis.tick_params(axis="x", rotation=20)
        axis.set_xlim(-0.4, len(along.levels) - 0.6)
        axis.set_title(f"{along.name} × {lines.name}", loc="left", fontsize=9, fontweight="bold")
        axis.legend(fontsize=7, frameon=False, title=lines.name, title_fontsize=7)
    for axis in axes.flat[len(pairs) :]:
        axis.set_visible(False)
    for axis in axes[:, 0]:
        axis.set_ylabel("suite score in points", fontsize=8.5)
    return figure


def _lines(
    axis: Axes, means: pd.DataFrame, along: Sequence[str], lines: Sequence[str], swapped: bool
) -> None:
    here, there = ("level_b", "level") if swapped else ("level", "level_b")
    found = {(row[here], row[there]): row for row in records(means)}
    for number, line in enumerate(lines[:MOST_LINES]):
        rows = [found.get((level, line)) for level in along]
        spots = [x + 0.05 * (number - (len(lines) - 1) / 2) for x in range(len(along))]
        ys = [row["mean"] if row else math.nan for row in rows]
        looks: Mapping[str, Any] = {"color": COLOURS[number % len(COLOURS)], "linewidth": 1.1}
        axis.plot(spots, ys, MARKERS[number] + "-", ms=4, label=shorten(line, 18), **looks)
        for x, row in zip(spots, rows, strict=True):
            if row and math.isfinite(row["ci_low"]):
                axis.plot([x, x], [row["ci_low"], row["ci_high"]], gid="mean interval", **looks)


def importance_plot(explored: Explored) -> Figure | None:
    """Share of the variance between configurations that each term accounts for, with its interval."""
    rows = [row for row in records(explored.importance) if math.isfinite(row["share"])]
    if not rows:
        return None
    figure = new_figure(0.32 * len(rows) + 0.8)
    axis = figure.subplots()
    tones = {MAIN: COLOURS[1], INTERACTION: COLOURS[4]}
    for position, row in enumerate(rows):
        axis.barh(
            position, row["share"], 0.6, color=tones.get(str(row["kind"]), QUIET), alpha=0.75, gid="share"
        )
        if math.isfinite(row["ci_low"]):
            axis.plot([row["ci_low"], row["ci_high"]], [position] * 2, "|-", color="black", linewidth=1, ms=6)
        text = f"{percent(row['share'])} {percent_interval(row['share'], row['ci_low'], row['ci_high'])}"
        where = axis.get_yaxis_transform()
        axis.text(1.01, position, text, transform=where, va="center", fontsize=8, color="#333333")
    axis.set_yticks(range(len(rows)), [shorten(str(row["term"]), 40) for row in rows])
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.set_xlim(0, 1)
    axis.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25 %", "50 %", "75 %", "100 %"])
    axis.tick_params(axis="y", length=0)
    axis.set_xlabel("share of the variance of the suite score between configurations", fontsize=8.5)
    return figure


def trace_plot(explored: Explored) -> Figure | None:
    """Score of every configuration of a search in the order of trial, and the best so far; None for a full grid."""
    if not explored.space.searched or explored.configurations.empty:
        return None
    means = {str(row["arm"]): float(row["mean"]) for row in records(explored.configurations)}
    scores = [means[arm] for arm in explored.order if arm in means]
    baseline = means.get(str(explored.declared["baseline"]), math.nan)
    figure = new_figure(2.5)
    axis = figure.subplots()
    numbers = np.arange(len(scores))
    (dots,) = axis.plot(numbers, scores, "o", color=COLOURS[1], ms=4.5, mec="black", mew=0.4, gid="trial")
    (best,) = axis.step(numbers, np.maximum.accumulate(scores), where="post", color=COLOURS[2], linewidth=1.3)
    handles = {"configuration": dots, "best so far": best}
    if math.isfinite(baseline):
        handles["baseline"] = axis.axhline(baseline, color=QUIET, linewidth=1, linestyle="dashed")
    axis.set_xlabel("number of the trial", fontsize=8.5)
    axis.set_ylabel("suite score in points", fontsize=8.5)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend_above(figure, handles, 3)
    return figure
