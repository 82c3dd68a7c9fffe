"""Where the uncertainty of a difference comes from: retraining or the questions asked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from vlmablate.report.drawing import legend_above, new_figure, shorten
from vlmablate.report.formatting import decimals_for, points, title
from vlmablate.report.records import records
from vlmablate.stats.table import Analysis
from vlmablate.stats.units import SUITE

SEED, ITEM = "#0072B2", "#E69F00"


def components_plot(analysis: Analysis, context: str) -> Figure | None:
    """Contributions of seeds and of items to the standard error of arm minus baseline, per benchmark and for
    the suite; None if neither is known."""
    table = analysis.components
    rows = records(table[table["context"] == context])
    rows = [row for row in rows if math.isfinite(row["se_seed"]) or math.isfinite(row["se_item"])]
    if not rows:
        return None
    rows.sort(key=lambda row: row["benchmark"] != SUITE)
    figure = new_figure(0.42 * len(rows) + 1.05)
    axis = figure.subplots()
    labels: dict[str, Any] = {}
    for position, row in enumerate(rows):
        for name, offset, colour, hatch, what in (
            ("se_seed", -0.18, SEED, "", "seeds (training again)"),
            ("se_item", 0.18, ITEM, "///", "items (other pictures)"),
        ):
            if not math.isfinite(row[name]):
                continue
            style: Mapping[str, Any] = {
                "color": colour,
                "hatch": hatch,
                "edgecolor": "white",
                "linewidth": 0,
                "gid": name,
            }
            bar = axis.barh(position + offset, row[name], 0.32, **style)
            labels.setdefault(what, bar)
        axis.text(
            1.01,
            position,
            describe(row),
            transform=axis.get_yaxis_transform(),
            va="center",
            fontsize=7.3,
            color="#333333",
            linespacing=1.15,
        )
    names = [title(str(row["benchmark"])) for row in rows]
    axis.set_yticks(range(len(rows)), [shorten(name, 22) for name in names])
    for label, row in zip(axis.get_yticklabels(), rows, strict=True):
        label.set_fontweight("bold" if row["benchmark"] == SUITE else "normal")
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.set_xlim(left=0)
    axis.tick_params(axis="y", length=0)
    where = f", context {context}" if len(analysis.design.contexts) > 1 else ""
    axis.set_xlabel(f"contribution to the standard error of arm minus baseline, points{where}", fontsize=8.5)
    legend_above(figure, labels, 2)
    return figure


def describe(row: dict[str, float]) -> str:
    """The numbers beside a row's bars."""
    decimals = decimals_for(row["se_seed"], row["se_item"])
    spread = (
        f"seed {points(row['se_seed'], decimals=decimals)}, items {points(row['se_item'], decimals=decimals)}"
    )
    return f"{spread}\nICC {points(row['icc'], decimals=2)}, design effect {points(row['design_effect'], decimals=2)}"
