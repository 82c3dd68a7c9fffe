"""Forest plot: every difference to the baseline with its intervals, the margin, and what could be detected."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vlmablate.report.drawing import QUIET, new_figure, shorten, style
from vlmablate.report.formatting import decimals_for, interval, points, title
from vlmablate.report.records import Record, records
from vlmablate.stats.declaration import Design
from vlmablate.stats.table import Analysis
from vlmablate.stats.units import ALL_CONTEXTS, SUITE

MOST_PANELS = 8
"""More arms than this get one panel with a row per arm instead of a panel per arm with a row per benchmark."""

FAINT = "#B0B0B0"
BAND = "#EDEDED"
TICK = "#B9A36A"
ROW_INCHES = 0.37


@dataclass(frozen=True)
class Line:
    """One row of a panel: its name, how it is marked, and its rows of the significance table, if any."""

    name: str
    colour: str
    marker: str
    strong: bool
    signal: bool
    design: Record | None
    items: Record | None


@dataclass(frozen=True)
class Panel:
    title: str
    lines: Sequence[Line]


def panels(analysis: Analysis, context: str) -> list[Panel]:
    """What the forest of one context shows; empty without a contrast.

    Up to MOST_PANELS arms: a panel per arm with its suite rows and every benchmark. More arms: one panel with
    the suite score of each.
    """
    design = analysis.design
    table = analysis.significance
    table = table[table["context"].isin([context, ALL_CONTEXTS]) & table["level"].isin(["design", "items"])]
    found = {(row["level"], row["arm"], row["benchmark"], row["context"]): row for row in records(table)}
    arms = [arm for arm in design.arms if arm in set(table["arm"])]
    overall = [ALL_CONTEXTS] if len(design.contexts) > 1 else []
    with_suite = any(signal.carries for signal in analysis.signal.values())
    suite_rows = [(SUITE, name) for name in [*overall, context]] if with_suite else []
    looks = style(design)
    if not arms:
        return []

    def line(arm: str, benchmark: str, where: str, name: str) -> Line:
        signal = benchmark == SUITE or analysis.signal[benchmark].carries
        rows = [found.get((level, arm, benchmark, where)) for level in ("design", "items")]
        colour = looks[arm][0] if signal else FAINT
        marker = "D" if benchmark == SUITE and len(arms) <= MOST_PANELS else looks[arm][1]
        return Line(name, colour, marker, benchmark == SUITE, signal, rows[0], rows[1])

    where = f", context {context}" if overall else ""
    if len(arms) > MOST_PANELS:
        drawn = []
        for benchmark, place in suite_rows[:1] or [(name, context) for name in list(analysis.signal)[:1]]:
            drawn += [line(arm, benchmark, place, shorten(arm)) for arm in arms]
        what = "suite score" if suite_rows else title(next(iter(analysis.signal)))
        place = ", all contexts" if overall and suite_rows else where
        return [Panel(f"Arms minus {design.baseline}: {what}{place}", drawn)]
    made = []
    for arm in arms:
        lines = [line(arm, SUITE, place, _suite_name(place, design)) for _, place in suite_rows]
        lines += [line(arm, name, context, title(name)) for name in analysis.signal]
        made.append(Panel(f"{arm} minus {design.baseline}{where}", lines))
    return made


def _suite_name(context: str, design: Design) -> str:
    if len(design.contexts) == 1:
        return "suite"
    return f"suite, {'all contexts' if context == ALL_CONTEXTS else shorten(context, 18)}"


def limits(shown: Sequence[Panel], margin: float) -> tuple[float, float]:
    """Common range of the axis (points): every estimate and interval, the margin; detectable effects only as
    far as they do not dwarf the estimates."""
    ends = [-margin, margin]
    for panel in shown:
        for line in panel.lines:
            for row in (line.design, line.items):
                names = ("delta", "ci_low", "ci_high", "new_low", "new_high")
                ends += [float(row[name]) for name in names if row is not None]
    finite = [value for value in ends if math.isfinite(value)]
    low, high = min(finite), max(finite)
    room = 0.06 * (high - low)
    return low - room, high + room


def forest(analysis: Analysis, shown: Sequence[Panel], bounds: tuple[float, float]) -> Figure:
    """The panels below each other on one axis of points; `bounds` is its range."""
    settings = analysis.design.settings
    counts = [len(panel.lines) for panel in shown]
    figure = new_figure(sum(ROW_INCHES * count + 0.42 for count in counts) + 0.75)
    axes = figure.subplots(
        len(shown), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": [c + 0.4 for c in counts]}
    )[:, 0]
    for axis, panel in zip(axes, shown, strict=True):
        axis.axvspan(-settings.margin, settings.margin, color=BAND, zorder=0)
        axis.axvline(0, color="black", linewidth=0.8)
        for position, line in enumerate(panel.lines):
            _draw(axis, position, line, bounds)
        axis.set_yticks(range(len(panel.lines)), [line.name for line in panel.lines])
        mixed = len({line.strong for line in panel.lines}) > 1
        for label, line in zip(axis.get_yticklabels(), panel.lines, strict=True):
            label.set_fontweight("bold" if line.strong and mixed else "normal")
            label.set_color("black" if line.signal else QUIET)
        axis.set_ylim(len(panel.lines) - 0.4, -0.6)
        axis.set_xlim(*bounds)
        axis.tick_params(axis="y", length=0)
        axis.set_title(panel.title, loc="left", fontsize=10, fontweight="bold")
    level = f"{100 * (1 - settings.alpha):g} %"
    axes[-1].set_xlabel(
        f"difference in points; grey band: declared margin ±{settings.margin:g}; filled marker: decided\n"
        f"{level} intervals: thick: over retraining; whiskers: retraining and new pictures together;\n"
        f"thin grey below: new pictures, checkpoints fixed; ochre ticks: ± smallest detectable difference",
        fontsize=8,
    )
    return figure


def _draw(axis: Axes, position: int, line: Line, bounds: tuple[float, float]) -> None:
    """One row: intervals, the marker, the ticks of what is detectable, and the numbers at the right."""
    if line.items is not None and math.isfinite(line.items["ci_low"]):
        ends = [line.items["ci_low"], line.items["ci_high"]]
        y = position + 0.27
        axis.plot(ends, [y, y], color=QUIET, linewidth=1.2, solid_capstyle="butt", gid="items")
    if line.design is None:
        return
    row = line.design
    if math.isfinite(row["new_low"]):
        ends = [row["new_low"], row["new_high"]]
        axis.plot(ends, [position] * 2, "|-", color=line.colour, linewidth=0.9, ms=9, mew=1.2, gid="new")
    if math.isfinite(row["ci_low"]):
        ends = [row["ci_low"], row["ci_high"]]
        shape: Mapping[str, Any] = {"linewidth": 3.2, "solid_capstyle": "butt"}
        axis.plot(ends, [position] * 2, color=line.colour, gid="design", **shape)
    if math.isfinite(row["mde"]):
        ticks = [value for value in (-row["mde"], row["mde"]) if bounds[0] <= value <= bounds[1]]
        axis.plot(
            ticks, [position] * len(ticks), "|", color=TICK, markersize=13, mew=1.3, gid="mde", zorder=1.5
        )
    filled = line.colour if row["verdict"] != "unresolved" and line.signal else "white"
    size = 7 if line.marker == "D" and line.strong else 5.5
    axis.plot([row["delta"]], [position], line.marker, color=line.colour, mfc=filled, ms=size, gid="delta")
    first, second = labels(line)
    place: Mapping[str, Any] = {"transform": axis.get_yaxis_transform(), "va": "center"}
    axis.text(1.01, position - 0.19, first, fontsize=8, color="#333333", **place)
    axis.text(1.01, position + 0.24, second, fontsize=6.3, color="#666666", **place)


def labels(line: Line) -> tuple[str, str]:
    """The numbers beside a row: difference, interval and verdict; below them what they rest on."""
    row = line.design
    if row is None:
        return "", ""
    low, high, what = row["ci_low"], row["ci_high"], ""
    if not math.isfinite(low) and line.items is not None and math.isfinite(line.items["ci_low"]):
        low, high, what = line.items["ci_low"], line.items["ci_high"], " (new pictures)"
    decimals = decimals_for(row["delta"], low, high)
    verdict = str(row["verdict"]) if line.signal else "no signal"
    numbers = (
        f"{points(row['delta'], signed=True, decimals=decimals)} {interval(low, high, decimals=decimals)}"
    )
    seeds = "1 seed" if row["n_seeds"] == 1 else f"{row['n_seeds']} seeds"
    rests = f"{row['n_examples']:,} examples, {row['n_clusters']:,} clusters, {seeds}"
    return f"{numbers}{what}  {verdict}", rests
