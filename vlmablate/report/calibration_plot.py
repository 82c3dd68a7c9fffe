"""Runs of one configuration compared as if they were two designs: why the training run is the unit."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from vlmablate.report.drawing import new_figure
from vlmablate.report.formatting import share
from vlmablate.stats.table import Analysis


def null_p_values(analysis: Analysis) -> NDArray[np.float64]:
    """Sorted p-values [m] of the comparisons of two runs of the baseline arm; untestable pairs left out."""
    return np.sort(analysis.null_p["p"].dropna().to_numpy(dtype=np.float64))


def calibration_plot(analysis: Analysis) -> Figure | None:
    """Empirical distribution of the p-values against the diagonal of a valid test; None without pairs."""
    p = null_p_values(analysis)
    if not len(p):
        return None
    alpha, baseline = analysis.design.settings.alpha, analysis.design.baseline
    figure = new_figure(3.5)
    axis = figure.subplots()
    steps = np.arange(1, len(p) + 1) / len(p)
    x, y = np.concatenate([[0.0], p, [1.0]]), np.concatenate([[0.0], steps, [1.0]])
    axis.step(x, y, where="post", color="#D55E00", linewidth=1.8, gid="observed", label="observed")
    axis.plot(
        [0, 1], [0, 1], "--", color="black", linewidth=1, label="if a seed changed nothing", gid="valid"
    )
    axis.axvline(alpha, color="#666666", linewidth=0.9, linestyle="dotted")
    below = float(np.mean(p <= alpha))
    axis.plot([alpha], [below], "o", color="#D55E00", markersize=5)
    note = f"p at most {alpha:g}: {share(int(np.sum(p <= alpha)), len(p))}\n(nominal: {100 * alpha:g} %)"
    # Beside the point, and on the side of it where the curve is not.
    spot = (0.36, 0.24) if below > 0.3 else (0.36, 0.1)
    arrow: dict[str, Any] = {"arrowstyle": "-", "color": "#666666", "linewidth": 0.8}
    axis.annotate(note, (alpha, below), spot, textcoords="axes fraction", fontsize=8.5, arrowprops=arrow)
    axis.set_xlim(0, 1)
    axis.set_ylim(0, 1.02)
    axis.set_xlabel("p at the items level of two runs that differ in the seed only", fontsize=8.5)
    axis.set_ylabel("share of comparisons")
    axis.legend(
        loc="lower right", frameon=False, fontsize=8, title=f"pairs of seeds of {baseline}", title_fontsize=8
    )
    return figure
