"""Strip plot: the suite score of every training run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from vlmablate.report.drawing import QUIET, new_figure, shorten, spread, style
from vlmablate.report.formatting import decimals_for, points
from vlmablate.stats.table import Analysis

LABEL_INCHES = 0.17
"""Room that the name of a seed takes beside its neighbours."""


def seed_strip(analysis: Analysis) -> Figure | None:
    """Suite score of every training run, a line per cell; None without a suite score."""
    scores, design = analysis.suite_scores, analysis.design
    if scores.empty:
        return None
    cells = [(arm, context) for context in design.contexts for arm in design.arms]
    looks = style(design)
    figure = new_figure(0.46 * len(cells) + 0.75)
    axis = figure.subplots()
    low, high = float(scores["points"].min()), float(scores["points"].max())
    room = max(0.08 * (high - low), 0.05)
    axis.set_xlim(low - room, high + room)
    gap = LABEL_INCHES * (high - low + 2 * room) / 5.2  # 5.2 inches: about what the axis measures
    for position, (arm, context) in enumerate(cells):
        part = scores[(scores["arm"] == arm) & (scores["context"] == context)].sort_values(["points", "seed"])
        axis.axhline(position, color="#E6E6E6", linewidth=0.8, zorder=0)
        if part.empty:
            where = axis.get_yaxis_transform()
            axis.text(0.5, position, "no finished run", transform=where, color=QUIET, fontsize=8, va="center")
            continue
        colour, marker = looks[arm]
        mean = part["points"].mean()
        axis.plot([mean, mean], [position - 0.24, position + 0.24], color=colour, linewidth=2)
        axis.plot(part["points"], [position] * len(part), marker, color=colour, markersize=6, alpha=0.85)
        spots = [float(value) for value in part["points"]]
        for seed, x in zip(part["seed"], spread(spots, gap), strict=True):
            place: Mapping[str, Any] = {"ha": "center", "va": "center", "fontsize": 6.5, "color": "#555555"}
            axis.text(x, position - 0.38, f"s{seed}", **place)
    several = len(design.contexts) > 1
    names = [shorten(f"{arm} / {context}" if several else arm, 34) for arm, context in cells]
    axis.set_yticks(range(len(cells)), names)
    axis.set_ylim(len(cells) - 0.4, -0.65)
    axis.tick_params(axis="y", length=0)
    about = "bar: mean of the cell"
    if analysis.seed_df:
        sd = points(analysis.seed_sd, decimals=decimals_for(analysis.seed_sd))
        what = "of paired differences" if design.settings.paired_seeds else "between seeds"
        about += f"; pooled SD {what} {sd}, df = {analysis.seed_df:g}"
    axis.set_xlabel(f"suite score in points ({about})")
    return figure
