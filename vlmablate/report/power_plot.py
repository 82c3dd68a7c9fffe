"""What a number of seeds can show: the smallest detectable difference of the suite score."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from vlmablate.report.drawing import QUIET, new_figure
from vlmablate.report.records import records
from vlmablate.stats.table import Analysis


def power_plot(analysis: Analysis) -> Figure | None:
    """Detectable difference and half-width of the interval against seeds per arm, with the margin and the
    number of seeds at hand; None without a known spread between seeds."""
    rows = [row for row in records(analysis.mde_curve) if math.isfinite(row["mde"])]
    if not rows:
        return None
    settings = analysis.design.settings
    seeds = [int(row["seeds"]) for row in rows]
    figure = new_figure(3.2)
    axis = figure.subplots()
    shape: Mapping[str, Any] = {"markersize": 4, "linewidth": 1.5}
    what = f"smallest difference detected with {100 * settings.power:g} % power"
    axis.plot(seeds, [row["mde"] for row in rows], "o-", color="#0072B2", label=what, gid="mde", **shape)
    half = f"half-width of the {100 * (1 - settings.alpha):g} % interval"
    axis.plot(
        seeds, [row["half_width"] for row in rows], "s--", color="#D55E00", label=half, gid="half", **shape
    )
    axis.axhline(settings.margin, color="black", linewidth=1, linestyle="dashdot", gid="margin")
    where: Mapping[str, Any] = {"transform": axis.get_yaxis_transform(), "va": "bottom", "fontsize": 8}
    axis.text(1.005, settings.margin, f"margin {settings.margin:g}", **where)
    here = seeds_at_hand(analysis)
    if here and seeds[0] <= here <= seeds[-1]:
        axis.axvline(here, color=QUIET, linewidth=0.9, linestyle="dotted", gid="now")
        place: Mapping[str, Any] = {"transform": axis.get_xaxis_transform(), "va": "bottom", "fontsize": 8}
        axis.text(here, 0.015, f" now: {here}", color="#555555", **place)
    axis.set_xscale("log")
    axis.minorticks_off()
    ticks = [n for n in (2, 3, 4, 5, 7, 10, 15, 20, 30, 50, 70, 100, 200) if seeds[0] <= n <= seeds[-1]]
    axis.set_xticks(ticks, [str(n) for n in ticks])
    largest = max(max(float(row["mde"]), settings.margin) for row in rows)
    axis.set_ylim(0, 1.15 * min(largest, 6 * max(settings.margin, float(rows[-1]["mde"]))))
    axis.set_xlabel("seeds per arm")
    axis.set_ylabel("points of the suite score")
    axis.legend(loc="upper right", frameon=False, fontsize=8)
    return figure


def seeds_at_hand(analysis: Analysis) -> int:
    """Finished seeds of the smallest arm in the contrasts of the suite score; 0 without a contrast."""
    table = analysis.significance
    rows = table[(table["level"] == "design") & (table["family"] == "primary")]
    return int(rows["n_seeds"].min()) if len(rows) else 0
