"""How figures are drawn: off screen, readable in print, in colours that are safe for colour-blind readers.

Colours are Okabe and Ito's; arms also differ by marker, so that a black-and-white print can be read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from vlmablate.files import write_with
from vlmablate.report.study import Study

COLOURS = ("#4D4D4D", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
QUIET = "#8A8A8A"
WIDTH, DPI = 7.6, 170
RC: dict[Any, Any] = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}


def new_figure(height: float) -> Figure:
    """An empty figure of the report's width and the given height (inches)."""
    figure = Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def style(study: Study) -> dict[str, tuple[str, str]]:
    """Arm -> (colour, marker); the baseline is grey."""
    order = [study.baseline, *(arm for arm in study.arms if arm != study.baseline)]
    return {arm: (COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]) for i, arm in enumerate(order)}


def save(figure: Figure, path: Path) -> None:
    """Write a PNG without software or time stamps, so that equal figures are equal files."""
    with write_with(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})
