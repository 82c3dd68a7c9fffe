"""All pairs of arms: a matrix of differences, and letters that say which arms cannot be told apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from vlmablate.report.drawing import new_figure, shorten
from vlmablate.report.formatting import decimals_for, p_value, points
from vlmablate.report.records import records
from vlmablate.stats.letters import compact_letters
from vlmablate.stats.table import Analysis
from vlmablate.stats.units import ALL_CONTEXTS

MOST_WITH_NUMBERS = 12
"""With more arms the cells are too small for numbers; the table of pairs holds them."""

DIVERGING = LinearSegmentedColormap.from_list("differences", ["#C65A00", "#F7F7F7", "#0067A5"])
"""Orange: the row's arm is below the column's; blue: above. Both are readable for colour-blind readers."""

WHAT = {
    "design": "retraining (level: design)",
    "items": "new pictures, checkpoints fixed (level: items)",
}


@dataclass(frozen=True)
class Pairs:
    """All comparisons of one level in one context, arms ordered by mean suite score, best first.

    delta, p_adjusted: [A, A]; entry [i, j] is arm i minus arm j (points); nan on the diagonal and where no
    comparison was possible. letters: arm -> letters; arms that share one are not told apart.
    """

    level: str
    context: str
    arms: Sequence[str]
    means: Sequence[float]
    delta: NDArray[np.float64]
    p_adjusted: NDArray[np.float64]
    letters: dict[str, str]


def mean_scores(analysis: Analysis, context: str) -> dict[str, float]:
    """Arm -> mean suite score over runs, contexts weighing the same."""
    scores = analysis.suite_scores
    if context != ALL_CONTEXTS:
        scores = scores[scores["context"] == context]
    cells = scores.groupby(["arm", "context"], observed=True)["points"].mean()
    return {str(arm): float(value) for arm, value in cells.groupby(level="arm").mean().items()}


def pairs(analysis: Analysis) -> list[Pairs]:
    """The comparisons of every (level, context) that hold at least one tested pair; the design level first."""
    table, found = analysis.pairwise, []
    for level in ("design", "items"):
        for context in dict.fromkeys(table.loc[table["level"] == level, "context"]):
            part = table[(table["level"] == level) & (table["context"] == context)]
            if part["p_adjusted"].notna().any():
                found.append(_pairs(analysis, level, str(context), part))
    return found


def _pairs(analysis: Analysis, level: str, context: str, table: pd.DataFrame) -> Pairs:
    means = mean_scores(analysis, context)
    present = {*table["arm_a"], *table["arm_b"]}
    declared = [arm for arm in analysis.design.arms if arm in present]
    arms = sorted(declared, key=lambda arm: (-means.get(arm, math.nan), declared.index(arm)))
    index = {arm: position for position, arm in enumerate(arms)}
    delta = np.full((len(arms), len(arms)), np.nan)
    adjusted = delta.copy()
    couples, significant = [], []
    for row in records(table):
        a, b = index[row["arm_a"]], index[row["arm_b"]]
        delta[a, b], delta[b, a] = row["delta"], -row["delta"]
        adjusted[a, b] = adjusted[b, a] = row["p_adjusted"]
        couples.append((a, b))
        significant.append(bool(row["p_adjusted"] <= analysis.design.settings.alpha))
    shared = compact_letters(arms, np.array(couples), np.array(significant))
    scores = [means.get(arm, math.nan) for arm in arms]
    return Pairs(level, context, arms, scores, delta, adjusted, shared)


def pair_matrix(analysis: Analysis, shown: Pairs) -> Figure:
    """Row minus column in points with the adjusted p below; framed where the pair is told apart.

    Best arm first. Cells of more than MOST_WITH_NUMBERS arms carry a dot instead of numbers.
    """
    settings, count = analysis.design.settings, len(shown.arms)
    numbers = count <= MOST_WITH_NUMBERS
    cell = 0.62 if count <= 6 else 0.46 if numbers else max(0.13, 5.2 / count)
    figure = new_figure(cell * count + 1.75)
    axis = figure.subplots()
    widest = float(np.nanmax(np.abs(shown.delta))) or 1.0
    image = axis.imshow(shown.delta, cmap=DIVERGING, norm=Normalize(-widest, widest), aspect="auto")
    size = 8 if count <= 6 else 5.8
    for i in range(count):
        for j in range(count):
            if not math.isfinite(shown.delta[i, j]):
                continue
            told_apart = shown.p_adjusted[i, j] <= settings.alpha
            if numbers:
                decimals = decimals_for(shown.delta[i, j])
                text = points(shown.delta[i, j], signed=True, decimals=decimals)
                text += f"\np {p_value(shown.p_adjusted[i, j])}"
                ink = "white" if abs(shown.delta[i, j]) > 0.72 * widest else "black"
                weight = "bold" if told_apart else "normal"
                axis.text(j, i, text, ha="center", va="center", fontsize=size, color=ink, weight=weight)
            if told_apart and numbers:
                frame = ([j - 0.46, j + 0.46, j + 0.46, j - 0.46, j - 0.46], [i - 0.44] * 2 + [i + 0.44] * 2)
                axis.plot(frame[0], [*frame[1], i - 0.44], color="black", linewidth=1.2, gid="told apart")
            elif told_apart:
                axis.plot([j], [i], ".", color="black", markersize=min(4.0, 26 * cell), gid="told apart")
    letter_size = 8.5 if numbers else 6 if count <= 30 else 5
    axis.set_yticks(range(count), [_name(shown, arm) for arm in shown.arms], fontsize=letter_size)
    axis.set_xticks(
        range(count),
        [shorten(arm, 20) for arm in shown.arms],
        rotation=0 if count <= 3 else 35 if numbers else 90,
        ha="center" if count <= 3 or not numbers else "left",
        fontsize=letter_size,
    )
    axis.xaxis.tick_top()
    axis.tick_params(length=0)
    for side in axis.spines.values():
        side.set_visible(False)
    bar = figure.colorbar(image, ax=axis, shrink=0.8, pad=0.02)
    bar.set_label("row minus column, points", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    mark = "framed, bold" if numbers else "dot"
    where = "" if len(analysis.design.contexts) == 1 else f", {context_name(shown.context)}"
    axis.set_xlabel(
        f"{WHAT[shown.level]}{where}; {mark}: adjusted p at most {settings.alpha:g}\n"
        "beside the names: mean suite score; letters: arms that share one are not told apart",
        fontsize=8,
    )
    return figure


def context_name(context: str) -> str:
    """A context for people."""
    return "mean over contexts" if context == ALL_CONTEXTS else f"context {context}"


def _name(shown: Pairs, arm: str) -> str:
    mean = shown.means[list(shown.arms).index(arm)]
    return f"{shorten(arm, 24)}  {points(mean)}  {shown.letters[arm]}"
