"""Figures of scores and differences. Each function returns a Figure; `save_all` writes the files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from vlmablate.report.curves import contact_sheet, training_curves
from vlmablate.report.drawing import QUIET, RC, new_figure, save, style
from vlmablate.report.formatting import interval, points, title
from vlmablate.report.study import Study
from vlmablate.stats.settings import Settings
from vlmablate.stats.table import Analysis
from vlmablate.stats.units import ALL_CONTEXTS, SUITE


def forest(study: Study, analysis: Analysis, settings: Settings, context: str) -> Figure | None:
    """Differences to the baseline in one context: suite and benchmarks, a panel per arm; None without a
    contrast."""
    table = analysis.significance
    table = table[table["context"].isin([context, ALL_CONTEXTS])]
    arms = [arm for arm in study.arms if arm in set(table["arm"])]
    if not arms:
        return None
    overall = [ALL_CONTEXTS] if len(study.contexts) > 1 else []
    rows = [*((SUITE, name) for name in [*overall, context]), *((name, context) for name in analysis.signal)]
    if not any(signal.carries for signal in analysis.signal.values()):
        rows = [row for row in rows if row[0] != SUITE]
    figure = new_figure(len(arms) * (0.30 * len(rows) + 0.75) + 0.45)
    axes = figure.subplots(len(arms), 1, sharex=True, squeeze=False)[:, 0]
    looks = style(study)
    for axis, arm in zip(axes, arms, strict=True):
        records = table[table["arm"] == arm].to_dict("records")
        of_arm = {(row["level"], row["benchmark"], row["context"]): row for row in records}
        axis.axvspan(-settings.margin, settings.margin, color="#EDEDED", zorder=0)
        axis.axvline(0, color="black", linewidth=0.8)
        for position, (benchmark, where) in enumerate(rows):
            signal = benchmark == SUITE or analysis.signal[benchmark].carries
            colour = looks[arm][0] if signal else "#B0B0B0"
            for level, offset, width, shade in (("items", 0.2, 1.2, QUIET), ("design", -0.1, 2.6, colour)):
                if (level, benchmark, where) not in of_arm:
                    continue
                row = of_arm[(level, benchmark, where)]
                y = position + (offset if benchmark != SUITE else 0)
                if math.isfinite(row["ci_low"]):
                    line = "solid" if signal else "dotted"
                    ends = [row["ci_low"], row["ci_high"]]
                    axis.plot(
                        ends, [y, y], color=shade, linewidth=width, linestyle=line, solid_capstyle="butt"
                    )
                if level == "design":
                    filled = colour if row["verdict"] != "unresolved" else "white"
                    marker, size = ("D", 7) if benchmark == SUITE else (looks[arm][1], 5.5)
                    axis.plot(
                        [row["delta"]], [y], marker, color=colour, markerfacecolor=filled, markersize=size
                    )
                    low, high, what = row["ci_low"], row["ci_high"], "  "
                    items = of_arm.get(("items", benchmark, where))
                    if not math.isfinite(low) and items is not None:
                        low, high, what = items["ci_low"], items["ci_high"], " (new pictures)  "
                    label = f"{points(row['delta'], signed=True)} {interval(low, high)}{what}"
                    label += str(row["verdict"]) if signal else "no signal"
                    axis.text(
                        1.01,
                        y,
                        label,
                        transform=axis.get_yaxis_transform(),
                        va="center",
                        fontsize=8,
                        color="#333333",
                    )
        names = [_row_name(benchmark, where, study) for benchmark, where in rows]
        axis.set_yticks(range(len(rows)), names)
        for label, (benchmark, _) in zip(axis.get_yticklabels(), rows, strict=True):
            label.set_fontweight("bold" if benchmark == SUITE else "normal")
            label.set_color(
                QUIET if benchmark != SUITE and not analysis.signal[benchmark].carries else "black"
            )
        axis.set_ylim(len(rows) - 0.5, -0.6)
        axis.tick_params(axis="y", length=0)
        where = f", context {context}" if overall else ""
        axis.set_title(f"{arm} minus {study.baseline}{where}", loc="left", fontsize=10, fontweight="bold")
    axes[-1].set_xlabel(
        f"difference in points; grey band: declared margin ±{settings.margin:g}\n"
        f"thick: {100 * (1 - settings.alpha):g} % interval over retraining; thin: over new pictures; "
        "filled marker: decided",
        fontsize=8.5,
    )
    return figure


def _row_name(benchmark: str, context: str, study: Study) -> str:
    if benchmark != SUITE:
        return title(benchmark)
    return (
        "suite"
        if len(study.contexts) == 1
        else f"suite, {'all contexts' if context == ALL_CONTEXTS else context}"
    )


def seed_strip(study: Study, analysis: Analysis) -> Figure | None:
    """Suite score of every training run, a line per cell; None without a suite score."""
    scores = analysis.suite_scores
    if scores.empty:
        return None
    cells = [(arm, context) for context in study.contexts for arm in study.arms]
    looks = style(study)
    figure = new_figure(0.42 * len(cells) + 0.75)
    axis = figure.subplots()
    for position, (arm, context) in enumerate(cells):
        part = scores[(scores["arm"] == arm) & (scores["context"] == context)].sort_values("points")
        axis.axhline(position, color="#E6E6E6", linewidth=0.8, zorder=0)
        if part.empty:
            axis.text(
                0.5,
                position,
                "no finished run",
                transform=axis.get_yaxis_transform(),
                color=QUIET,
                fontsize=8,
            )
            continue
        mean = part["points"].mean()
        axis.plot([mean, mean], [position - 0.3, position + 0.3], color=looks[arm][0], linewidth=2)
        axis.plot(
            part["points"],
            [position] * len(part),
            looks[arm][1],
            color=looks[arm][0],
            markersize=6,
            alpha=0.85,
        )
        for rank, row in enumerate(part.itertuples()):
            above = 8 if rank % 2 == 0 else -8
            axis.annotate(
                f"s{row.seed}",
                (row.points, position),
                (0, above),
                textcoords="offset points",
                ha="center",
                va="center",
                fontsize=6.5,
                color="#555555",
            )
    names = [arm if len(study.contexts) == 1 else f"{arm} / {context}" for arm, context in cells]
    axis.set_yticks(range(len(cells)), names)
    axis.set_ylim(len(cells) - 0.4, -0.6)
    axis.margins(x=0.08)
    axis.tick_params(axis="y", length=0)
    spread = (
        f"; pooled SD between seeds {analysis.seed_sd:.2f}, df = {analysis.seed_df}"
        if analysis.seed_df
        else ""
    )
    axis.set_xlabel(f"suite score in points (bar: mean{spread})")
    return figure


def benchmark_bars(study: Study, analysis: Analysis, context: str) -> Figure:
    """Score of every arm on every benchmark against the majority answer, with each seed as a dot."""
    names, looks = list(analysis.signal), style(study)
    figure = new_figure(3.0)
    axis = figure.subplots()
    slot = 0.8 / max(len(study.arms), 1)
    for index, arm in enumerate(study.arms):
        colour, marker = looks[arm]
        for position, name in enumerate(names):
            rows = analysis.run_scores
            rows = rows[(rows["arm"] == arm) & (rows["context"] == context) & (rows["benchmark"] == name)]
            if rows.empty:
                continue
            x = position - 0.4 + slot * (index + 0.5)
            axis.bar(
                x,
                rows["points"].mean(),
                slot * 0.92,
                color=colour,
                alpha=0.55,
                label=arm if position == 0 else None,
            )
            spots = [x + slot * 0.18 * (i - (len(rows) - 1) / 2) for i in range(len(rows))]
            axis.plot(
                spots, rows["points"], marker, color=colour, markersize=3.2, markeredgecolor="black", mew=0.4
            )
    for position, name in enumerate(names):
        floor = analysis.signal[name].majority
        label = "majority answer" if position == 0 else None
        axis.plot(
            [position - 0.44, position + 0.44],
            [floor, floor],
            "--",
            color="black",
            linewidth=1.3,
            label=label,
        )
    ticks = [title(n) + ("" if analysis.signal[n].carries else "\n(no signal)") for n in names]
    axis.set_xticks(range(len(names)), ticks, fontsize=8)
    axis.set_ylabel("score in points")
    axis.set_ylim(0, 100)
    figure.legend(loc="outside upper center", ncols=min(len(study.arms) + 1, 4), frameon=False, fontsize=8)
    return figure


def save_all(study: Study, analysis: Analysis, settings: Settings, folder: Path) -> dict[str, list[Path]]:
    """Draw everything into `folder`, which then holds nothing else; returns section -> files."""
    from matplotlib import rc_context

    drawn: dict[str, list[Path]] = {"forest": [], "seeds": [], "benchmarks": [], "examples": [], "curves": []}

    def keep(section: str, name: str, figure: Figure | None) -> None:
        if figure is not None:
            save(figure, folder / name)
            drawn[section].append(folder / name)

    with rc_context(RC):
        for context, suffix in _suffixes(study.contexts):
            keep("forest", f"forest{suffix}.png", forest(study, analysis, settings, context))
            keep("benchmarks", f"benchmarks{suffix}.png", benchmark_bars(study, analysis, context))
        keep("seeds", "seeds.png", seed_strip(study, analysis))
        keep("curves", "curves.png", training_curves(study))
    if contact_sheet(study, folder / "examples.jpg"):
        drawn["examples"].append(folder / "examples.jpg")
    kept = {path for paths in drawn.values() for path in paths}
    for path in [*folder.glob("*.png"), *folder.glob("*.jpg")]:
        if path not in kept:
            path.unlink()  # left by an earlier report of this study, and no longer true
    return drawn


def _suffixes(contexts: Sequence[str]) -> list[tuple[str, str]]:
    if len(contexts) == 1:
        return [(contexts[0], "")]
    return [
        (context, "_" + "".join(c if c.isalnum() or c in "-_" else "-" for c in context))
        for context in contexts
    ]
