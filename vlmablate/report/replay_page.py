"""The page and the figures of the replay of the paper's p-values: every number is formatted here, once."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from vlmablate.report import formatting as fmt
from vlmablate.report.drawing import COLOURS, QUIET, RC, new_figure, save
from vlmablate.stats.paper import LABEL, RANDOM_DRAWS, RANDOM_LEVEL, Replay
from vlmablate.stats.paper_words import agreement
from vlmablate.stats.pooled_rule import ALPHA, PAPER_ALPHA, TypeOneError, pooled_rule_type_one_error
from vlmablate.stats.reference import FIRST_VERSION, Reference
from vlmablate.stats.rounding import band, like_printed, short

Record = dict[str, Any]

READINGS = (
    ("p", "the rule, two-sided", "o", COLOURS[1]),
    ("p_one_sided", "one-sided", "<", COLOURS[5]),
    ("p_holm", "the rule, Holm-adjusted", "s", COLOURS[3]),
    ("p_zscore", "z-scores, pooled", "D", COLOURS[2]),
)
SMALLEST_SHOWN = 1e-10
"""Left end of the p axis; smaller values are drawn there with their number."""

CORRELATIONS = (0.0, 0.1, 0.25, 0.5, 0.75)
STUDIES = ((1, False), (2, False), (4, False), (4, True))
"""(pairs, crossed) for which the rule's error rate is simulated; crossed: two models against two."""


def error_rates(repetitions: int = 20_000, seed: int = 0) -> list[TypeOneError]:
    """The rule's type-I error over STUDIES x CORRELATIONS."""
    return [
        pooled_rule_type_one_error(rho, pairs=pairs, crossed=crossed, repetitions=repetitions, seed=seed)
        for pairs, crossed in STUDIES
        for rho in CORRELATIONS
    ]


def study_name(rate: TypeOneError) -> str:
    """'2 pairs', '4 pairs of 2 x 2 models'."""
    side = math.isqrt(rate.pairs)
    return f"{fmt.plural(rate.pairs, 'pair')}{f' of {side} × {side} models' if rate.crossed else ''}"


def draw_p_values(replay: Replay) -> Figure:
    """Printed p against four readings of the same tables, on a logarithmic axis; a row per comparison."""
    rows = replay.table.to_dict("records")
    figure = new_figure(0.36 * len(rows) + 1.25)
    axis = figure.subplots()
    for level in (ALPHA, PAPER_ALPHA):
        axis.axvline(level, color=QUIET, linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
        axis.annotate(
            f"{level:g}",
            (level, 1),
            xycoords=axis.get_xaxis_transform(),
            xytext=(0, 2),
            textcoords="offset points",
            ha="center",
            fontsize=7.5,
            color=QUIET,
        )
    for y, row in enumerate(rows):
        axis.axhline(y, color="#EBEBEB", linewidth=0.8, zorder=0)
        printed = float(row["printed"])
        axis.plot([printed] * 2, [y - 0.36, y + 0.36], color="black", linewidth=2, zorder=3)
        for column, _, marker, colour in READINGS:
            p = row[column]
            if not math.isfinite(p):
                continue
            if p < SMALLEST_SHOWN:
                axis.annotate(
                    f"  ← {short(p, 2)}", (SMALLEST_SHOWN, y), va="center", fontsize=7.5, color=colour
                )
            axis.plot(
                [max(p, SMALLEST_SHOWN)],
                [y],
                marker,
                color=colour,
                markersize=5.5,
                markeredgecolor="white",
                mew=0.6,
                zorder=4,
                clip_on=False,
            )
    axis.plot([], [], color="black", marker="|", linestyle="", markersize=9, mew=2, label="printed")
    for _, name, marker, colour in READINGS:
        axis.plot([], [], marker, color=colour, markersize=5.5, label=name)
    axis.set_xscale("log")
    axis.set_xlim(SMALLEST_SHOWN, 1.3)
    axis.set_yticks(range(len(rows)), [str(row["comparison"]).replace("_", " ") for row in rows])
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.tick_params(axis="y", length=0)
    axis.set_xlabel(f"p ({LABEL})")
    figure.legend(loc="outside upper center", ncols=5, frameon=False, fontsize=8, handletextpad=0.2)
    return figure


def draw_error_rates(rates: Sequence[TypeOneError]) -> Figure:
    """How often the rule finds an effect where there is none, against the correlation between benchmarks."""
    figure = new_figure(2.5)
    axes = figure.subplots(1, 2, sharex=True)
    names = list(dict.fromkeys(map(study_name, rates)))
    for axis, level, column in ((axes[0], ALPHA, "at_05"), (axes[1], PAPER_ALPHA, "at_01")):
        for index, name in enumerate(names):
            part = [rate for rate in rates if study_name(rate) == name]
            axis.plot(
                [rate.correlation for rate in part],
                [getattr(rate, column) for rate in part],
                marker="os^D"[index % 4],
                color=COLOURS[1 + index],
                markersize=4.5,
                linewidth=1.4,
                label=name,
            )
        axis.axhline(level, color="black", linewidth=0.9, linestyle=(0, (4, 3)))
        axis.annotate(
            f"promised: {level:g}",
            (1, level),
            xycoords=axis.get_yaxis_transform(),
            xytext=(0, 2),
            textcoords="offset points",
            ha="right",
            va="bottom",
            fontsize=7.5,
        )
        axis.set_ylim(0, 0.8)
        axis.set_xlabel("correlation between benchmarks")
        axis.set_title(f"share with p < {level:g}, no effect", loc="left", fontsize=9)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False, fontsize=8)
    return figure


def save_figures(replay: Replay, rates: Sequence[TypeOneError], folder: Path) -> dict[str, list[Path]]:
    """Draw both figures into `folder`; returns section -> files."""
    drawn = {"p_values": [folder / "p_values.png"], "error_rates": [folder / "error_rates.png"]}
    with rc_context(RC):
        save(draw_p_values(replay), drawn["p_values"][0])
        save(draw_error_rates(rates), drawn["error_rates"][0])
    return drawn


def _minus(text: str) -> str:
    """A typographic minus before numbers in a sentence; an exponent keeps its hyphen."""
    return re.sub(r"(?<!\w)-(?=\d)", fmt.MINUS, text)


def _p(value: float) -> str:
    return short(value) if math.isfinite(value) else fmt.NOTHING


def _row(row: Record, points: dict[str, float]) -> Record:
    """The formatted cells of one comparison."""
    kept = (
        "comparison",
        "label",
        "section",
        "figure",
        "claim",
        "printed",
        "printed_v1",
        "n_pairs",
        "n",
        "df",
    )
    return {
        **{name: row[name] for name in kept},
        "p": like_printed(row["p"], row["printed"]) if math.isfinite(row["p"]) else fmt.NOTHING,
        "band": band(row["p_low"], row["p_high"]),
        "random_band": band(row["p_random_low"], row["p_random_high"]),
        "agreement": agreement(row),
        "t": fmt.points(row["t"], signed=True, decimals=2),
        "mean": fmt.points(row["mean_difference"], signed=True, decimals=2),
        "p_v1": like_printed(row["p_v1"], row["printed_v1"] or "0.001"),
        "agrees_v1": row["agrees_v1"],
        **{f"{name}_text": _p(row[name]) for name in ("p_one_sided", "p_zscore", "p_zscore_48", "p_holm")},
        "p_benchmarks_text": _p(row["p_benchmarks"]),
        "holm": row["holm"],
        "holm_paper_alpha": row["holm_paper_alpha"],
        "delta": fmt.points(row["delta_points"], signed=True, decimals=2),
        "tipping": fmt.points(row["tipping_seed_sd"], decimals=2),
        "tipping_models": fmt.points(row["tipping_seed_sd_models"], decimals=2),
        "loo_p": band(row["loo_p_low"], row["loo_p_high"]),
        "loo_p_without": " / ".join(filter(None, (row["loo_p_low_without"], row["loo_p_high_without"]))),
        "loo_delta": fmt.interval(row["loo_delta_low"], row["loo_delta_high"], decimals=2),
        "most_influential": row["most_influential"],
        "delta_without": fmt.points(row["delta_without"], signed=True, decimals=2),
        "verdict": row["verdict"],
        "sentence": _minus(row["sentence"]),
        "notes": _minus(row["notes"]),
        "points": [fmt.points(value, signed=True, decimals=2) for value in points.values()],
    }


def page(
    replay: Replay, reference: Reference, rates: Sequence[TypeOneError], command: str, note: str
) -> Record:
    """All values of replay.html.j2 but its figures.

    command: the words that make this page again; note: what became of the notebook.
    """
    by_benchmark = replay.differences.groupby(["comparison", "benchmark"])["points"].mean()
    rows = []
    for row in replay.table.to_dict("records"):
        own = {name: float(by_benchmark[row["comparison"], name]) for name in replay.benchmarks}
        rows.append(_row({str(key): value for key, value in row.items()}, own))
    names = reference.comparisons.index
    return {
        "label": LABEL,
        "rows": rows,
        "summary": replay.summary(),
        "counts": replay.counts,
        "complete": replay.complete,
        "benchmarks": list(replay.benchmarks),
        "first_version_benchmarks": len(FIRST_VERSION),
        "alpha": f"{ALPHA:g}",
        "paper_alpha": f"{PAPER_ALPHA:g}",
        "random_level": f"{100 * RANDOM_LEVEL:g}",
        "random_draws": f"{RANDOM_DRAWS:,}",
        "repetitions": f"{rates[0].repetitions:,}" if rates else "0",
        "correlations": [f"{rho:g}" for rho in dict.fromkeys(rate.correlation for rate in rates)],
        "rates": [
            {
                "name": name,
                "cells": [f"{r.at_05:.3f} / {r.at_01:.3f}" for r in rates if study_name(r) == name],
            }
            for name in dict.fromkeys(map(study_name, rates))
        ],
        "pairs": [{"comparison": name, "pairs": reference.pairs(name)} for name in names],
        "command": command,
        "notebook_note": note,
    }
