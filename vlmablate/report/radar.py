"""Radar of mean scores, as the paper draws them: to recognise a shape, not to judge by."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.figure import Figure
from matplotlib.projections.polar import PolarAxes

from vlmablate.report.drawing import new_figure, shorten, style
from vlmablate.report.formatting import title
from vlmablate.stats.table import Analysis

FEWEST_AXES, MOST_TOGETHER, MOST_ARMS = 3, 4, 16
RINGS = (0, 25, 50, 75, 100)
DASHES = ("solid", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.5, 1.2, 1.5)))


def radar(analysis: Analysis, context: str) -> Figure | None:
    """One axis per benchmark from 0 to 100 points, one polygon per arm (mean over seeds), a dot per seed.

    Few arms share one radar; more get a panel each, with the baseline dotted. None with fewer than three
    benchmarks (there is no polygon) or more than MOST_ARMS arms.
    """
    design, scores = analysis.design, analysis.run_scores
    scores = scores[scores["context"] == context]
    arms = [arm for arm in design.arms if arm in set(scores["arm"])]
    names = list(analysis.signal)
    if len(names) < FEWEST_AXES or not arms or len(arms) > MOST_ARMS:
        return None
    others = [arm for arm in arms if arm != design.baseline]
    together = len(arms) <= MOST_TOGETHER
    groups = [arms] if together else [[*(a for a in arms if a == design.baseline), arm] for arm in others]
    columns = 1 if together else 2
    rows = math.ceil(len(groups) / columns)
    figure = new_figure((4.9 if together else 3.75) * rows + 0.55)
    axes = figure.subplots(rows, columns, squeeze=False, subplot_kw={"projection": "polar"}).ravel()
    for axis in axes[len(groups) :]:
        axis.remove()
    for axis, group in zip(axes, groups, strict=False):
        _axis(axis, analysis, names, 8 if together else 6.5)
        for rank, arm in enumerate(group):
            _polygon(axis, analysis, context, names, arm, DASHES[rank % len(DASHES)])
        below = (0.5, -0.13 if together else -0.22)
        columns_shown = min(len(group), 3)
        axis.legend(
            loc="lower center", bbox_to_anchor=below, ncols=columns_shown, frameon=False, fontsize=7.5
        )
    figure.suptitle(
        "Mean over seeds (line) and every seed (dots); every axis runs from 0 to 100 points. Not evidence.",
        fontsize=8.5,
    )
    return figure


def _angles(count: int) -> list[float]:
    return [float(angle) for angle in np.linspace(0, 2 * np.pi, count, endpoint=False)]


def _axis(axis: PolarAxes, analysis: Analysis, names: list[str], size: float) -> None:
    axis.set_theta_offset(np.pi / 2)
    axis.set_theta_direction(-1)
    axis.set_ylim(0, 100)
    axis.set_yticks(RINGS[1:], [str(ring) for ring in RINGS[1:]], fontsize=6.5, color="#666666")
    axis.set_rlabel_position(180 / len(names))
    labels = [
        shorten(title(name), 20) + ("" if analysis.signal[name].carries else "\n(no signal)")
        for name in names
    ]
    axis.set_xticks(_angles(len(names)), labels, fontsize=size)
    for angle, label in zip(_angles(len(names)), axis.get_xticklabels(), strict=True):
        side = math.sin(angle)
        label.set_horizontalalignment("center" if abs(side) < 0.05 else "left" if side > 0 else "right")
    axis.grid(color="#DDDDDD", linewidth=0.7)
    axis.spines["polar"].set_color("#BBBBBB")


def _polygon(
    axis: PolarAxes, analysis: Analysis, context: str, names: list[str], arm: str, dash: object
) -> None:
    colour, marker = style(analysis.design)[arm]
    scores = analysis.run_scores
    scores = scores[(scores["arm"] == arm) & (scores["context"] == context)]
    means = scores.groupby("benchmark", observed=True)["points"].mean().reindex(names)
    angles = _angles(len(names))
    axis.plot(
        [*angles, angles[0]],
        [*means, means.iloc[0]],
        color=colour,
        linestyle=dash,
        linewidth=1.4,
        label=shorten(arm),
        gid="polygon",
    )
    for angle, name in zip(angles, names, strict=True):
        dots = scores.loc[scores["benchmark"] == name, "points"]
        axis.plot([angle] * len(dots), dots, marker, color=colour, markersize=2.8, alpha=0.75, gid="seeds")
