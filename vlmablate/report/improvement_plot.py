"""Probability that a run of an arm scores above a run of the baseline."""

from __future__ import annotations

import math

from matplotlib.figure import Figure

from vlmablate.report.drawing import new_figure, shorten, style
from vlmablate.report.formatting import probability, probability_interval
from vlmablate.report.pairs import context_name
from vlmablate.report.records import records
from vlmablate.stats.table import Analysis

MEANINGFUL = 0.75
"""Threshold of Bouthillier et al., MLSys 2021: a probability of improvement worth acting on."""


def improvement_plot(analysis: Analysis) -> Figure | None:
    """A row per arm and context with its interval, the line of chance and the line of .75; None without rows.

    One run against one has no interval and is left out: its 0 or 1 would look like certainty.
    """
    rows = [row for row in records(analysis.improvement) if math.isfinite(row["ci_low"])]
    if not rows:
        return None
    design, looks = analysis.design, style(analysis.design)
    figure = new_figure(0.36 * len(rows) + 1.0)
    axis = figure.subplots()
    axis.axvline(0.5, color="black", linewidth=0.9)
    axis.axvline(MEANINGFUL, color="#666666", linewidth=0.9, linestyle="dashed")
    names = []
    for position, row in enumerate(rows):
        colour, marker = looks[row["arm"]]
        ends = [row["ci_low"], row["ci_high"]]
        axis.plot(ends, [position] * 2, color=colour, linewidth=2.6, solid_capstyle="butt", gid="interval")
        axis.plot([row["p_improvement"]], [position], marker, color=colour, mfc="white", ms=6, gid="estimate")
        text = f"{probability(row['p_improvement'])} {probability_interval(row['ci_low'], row['ci_high'])}"
        text += f"  {row['n_alternate']} vs {row['n_baseline']} runs"
        where = axis.get_yaxis_transform()
        axis.text(1.01, position, text, transform=where, va="center", fontsize=8, color="#333333")
        several = len(design.contexts) > 1
        names.append(shorten(row["arm"]) + (f", {shorten(context_name(row['context']))}" if several else ""))
    axis.set_yticks(range(len(rows)), names)
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.set_xlim(-0.02, 1.02)
    axis.set_xticks([0, 0.25, 0.5, 0.75, 1])
    axis.tick_params(axis="y", length=0)
    axis.set_xlabel(
        f"probability that a run of the arm scores above a run of {design.baseline}, mean over benchmarks\n"
        "(solid line: chance, dashed: .75)",
        fontsize=8.5,
    )
    return figure
