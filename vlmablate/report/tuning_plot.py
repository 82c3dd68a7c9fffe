"""Score on validation pictures against value: one small panel for every tuned arm and parameter."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vlmablate.report.drawing import QUIET, legend_above, new_figure, shorten, style
from vlmablate.report.tuning import STATES, Cell, Tuning
from vlmablate.report.tuning_section import show_value
from vlmablate.stats.declaration import Design

PER_ROW, PANELS_PER_FIGURE = 3, 18
"""More panels than that go into a further figure, so that each fits on a page."""

MISSES: Mapping[str, tuple[str, str]] = {"censored": ("|", QUIET), "failed": ("x", "#D55E00")}
"""State without a score -> marker and colour at the foot of a panel."""

Panel = tuple[Cell, str]


def tuning_plots(tuning: Tuning, design: Design) -> list[Figure]:
    """The figures: panels arm by arm, the same axis of scores in all of them; none while no trial is finished."""
    scores = [trial.score for cell in tuning.cells for trial in cell.finished]
    if not scores:
        return []
    panels: list[Panel] = [(cell, name) for cell in tuning.cells for name in tuning.parameters]
    room = max(0.1 * (max(scores) - min(scores)), 0.5)
    bounds = (min(scores) - 2 * room, max(scores) + room)
    parts = range(0, len(panels), PANELS_PER_FIGURE)
    return [_figure(tuning, design, panels[start : start + PANELS_PER_FIGURE], bounds) for start in parts]


def _figure(tuning: Tuning, design: Design, panels: Sequence[Panel], bounds: tuple[float, float]) -> Figure:
    columns = min(PER_ROW, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = new_figure(1.95 * rows + 0.5)
    axes = figure.subplots(rows, columns, sharey=True, squeeze=False)
    looks, handles = style(design), dict[str, Any]()
    for axis, (cell, name) in zip(axes.flat, panels, strict=False):
        colour, marker = looks.get(cell.arm, (QUIET, "o"))
        handles |= _draw(axis, tuning, cell, name, colour, marker)
        axis.set_title(shorten(tuning.name(cell), 34), loc="left", fontsize=9, fontweight="bold")
        axis.set_xlabel(tuning.short(name), fontsize=8)
        axis.tick_params(labelsize=8)
        axis.set_ylim(*bounds)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis in axes[:, 0]:
        axis.set_ylabel("validation score", fontsize=8)
    legend_above(figure, handles, 5)
    return figure


def _draw(axis: Axes, tuning: Tuning, cell: Cell, name: str, colour: str, marker: str) -> dict[str, Any]:
    """One panel; returns label -> what is drawn, for the legend."""
    place = _axis_of(axis, tuning.range_of(cell, name), cell.configured.get(name))
    handles: dict[str, Any] = {}
    if name in cell.configured:
        line = axis.axvline(
            place(cell.configured[name]), color=QUIET, linewidth=1, linestyle="dashed", zorder=0
        )
        handles["configured"] = line
    finished = [(place(trial.values[name]), trial.score) for trial in cell.finished]
    size: Mapping[str, Any] = {"markersize": 4.6, "markeredgecolor": "black", "mew": 0.4, "alpha": 0.9}
    if finished:
        xs, ys = zip(*finished, strict=True)
        (dots,) = axis.plot(xs, ys, marker, color=colour, gid="finished", **size)
        handles["finished trial"] = dots
    best = cell.chosen_trial
    if best is not None:
        spot: Mapping[str, Any] = {"markersize": 11, "mfc": "none", "mec": "black", "mew": 1.2}
        (ring,) = axis.plot([place(best.values[name])], [best.score], "o", gid="chosen", **spot)
        handles["chosen"] = ring
    foot = axis.get_xaxis_transform()
    for state, (sign, tone) in MISSES.items():
        missed = [place(trial.values[name]) for trial in cell.trials if trial.state == state]
        if missed:
            height = [0.05] * len(missed)
            (marks,) = axis.plot(missed, height, sign, color=tone, ms=6, mew=1.4, transform=foot, gid=state)
            handles[STATES[state]] = marks
    return handles


def _axis_of(axis: Axes, parameter: Mapping[str, Any], configured: Any) -> Callable[[Any], float]:
    """Set the range of the x axis, the configured value inside; returns the function from a value to its place."""
    if parameter.get("kind") == "categorical":
        shown = [show_value(choice) for choice in parameter["choices"]]
        axis.set_xticks(range(len(shown)), [shorten(text, 12) for text in shown])
        axis.set_xlim(-0.5, len(shown) - 0.5)
        return lambda value: shown.index(show_value(value)) if show_value(value) in shown else math.nan
    ends = [float(parameter["low"]), float(parameter["high"])]
    log = bool(parameter.get("log"))
    if isinstance(configured, int | float) and (configured > 0 or not log):
        ends.append(float(configured))
    low, high = min(ends), max(ends)
    if log:
        axis.set_xscale("log")
        stretch = (high / low) ** 0.06
        axis.set_xlim(low / stretch, high * stretch)
    else:
        axis.set_xlim(low - 0.06 * (high - low), high + 0.06 * (high - low))
    return lambda value: float(value) if isinstance(value, int | float) else math.nan
