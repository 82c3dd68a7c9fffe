"""Scores of every arm on every benchmark, against the majority answer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from vlmablate.report.drawing import legend_above, new_figure, shorten, style
from vlmablate.report.formatting import title
from vlmablate.stats.table import Analysis

MOST_ARMS = 12
"""With more arms the bars would be hairlines; the tables and the seeds' strip plot show them."""

PER_ROW = 6


def benchmark_bars(analysis: Analysis, context: str) -> Figure | None:
    """Score of every arm on every benchmark against the majority answer, with each seed as a dot."""
    design = analysis.design
    if len(design.arms) > MOST_ARMS:
        return None
    names, looks, scores = list(analysis.signal), style(design), analysis.run_scores
    scores = scores[scores["context"] == context]
    per_row = max(1, min(PER_ROW, 30 // len(design.arms), len(names)))
    strips = math.ceil(len(names) / per_row)
    per_row = math.ceil(len(names) / strips)
    figure = new_figure(2.3 * strips + 0.6)
    axes = figure.subplots(strips, 1, sharey=True, squeeze=False)[:, 0]
    slot = 0.8 / len(design.arms)
    handles: dict[str, Any] = {}
    for strip, axis in enumerate(axes):
        part = names[strip * per_row : (strip + 1) * per_row]
        for position, name in enumerate(part):
            for index, arm in enumerate(design.arms):
                rows = scores[(scores["arm"] == arm) & (scores["benchmark"] == name)]
                if rows.empty:
                    continue
                colour, marker = looks[arm]
                x = position - 0.4 + slot * (index + 0.5)
                bar = axis.bar(x, rows["points"].mean(), slot * 0.92, color=colour, alpha=0.55)
                handles.setdefault(arm, bar)
                spots = [x + slot * 0.6 * ((i + 0.5) / len(rows) - 0.5) for i in range(len(rows))]
                size: Mapping[str, Any] = {"markersize": 3.2, "markeredgecolor": "black", "mew": 0.4}
                axis.plot(spots, rows["points"], marker, color=colour, **size)
            floor = analysis.signal[name].majority
            if math.isfinite(floor):
                ends = [position - 0.44, position + 0.44]
                (line,) = axis.plot(ends, [floor, floor], "--", color="black", linewidth=1.3)
                handles.setdefault("majority answer", line)
        ticks = [
            shorten(title(n), 18) + ("" if analysis.signal[n].carries else "\n(no signal)") for n in part
        ]
        axis.set_xticks(range(len(part)), ticks, fontsize=8)
        axis.set_xlim(-0.6, per_row - 0.4)
        axis.set_ylim(0, 100)
        axis.set_ylabel("score in points")
    legend_above(figure, {shorten(name): handle for name, handle in handles.items()}, 4)
    return figure
