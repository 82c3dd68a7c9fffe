"""How figures are drawn: off screen, readable in print, in colours that are safe for colour-blind readers.

Colours are Okabe and Ito's; arms also differ by marker, so that a black-and-white print can be read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from vlmablate.files import write_with
from vlmablate.stats.declaration import Design

COLOURS = ("#4D4D4D", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")
"""As many markers as colours and one more, so that no two of 56 arms look the same."""

QUIET = "#8A8A8A"
WIDTH, DPI = 7.6, 170
LINE_CHARACTERS = 112
"""About as many characters of a legend fit beside each other; its handles and gaps take 8 each."""

RC: dict[Any, Any] = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}


def new_figure(height: float, width: float = WIDTH) -> Figure:
    """An empty figure of the report's width and the given height (inches)."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def style(design: Design) -> dict[str, tuple[str, str]]:
    """Arm -> (colour, marker); the baseline is grey."""
    order = [design.baseline, *(arm for arm in design.arms if arm != design.baseline)]
    return {arm: (COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]) for i, arm in enumerate(order)}


def shorten(text: str, longest: int = 26) -> str:
    """A name that fits beside an axis: the middle of a longer one is left out."""
    if len(text) <= longest:
        return text
    half = (longest - 1) // 2
    return f"{text[:half]}…{text[-half:]}"


def spread(spots: list[float], gap: float) -> list[float]:
    """Positions near `spots` in the same order, at least `gap` apart: labels of close points stay readable.

    Overlapping neighbours form a block around their own mean (pool adjacent violators), so a label moves no
    further than it must.
    """
    order = sorted(range(len(spots)), key=lambda index: spots[index])
    blocks: list[tuple[float, int]] = []  # (sum of the wanted starts, members)
    for rank, index in enumerate(order):
        total, members = spots[index] - rank * gap, 1
        while blocks and blocks[-1][0] / blocks[-1][1] > total / members:
            before = blocks.pop()
            total, members = total + before[0], members + before[1]
        blocks.append((total, members))
    starts = [total / members for total, members in blocks for _ in range(members)]
    placed = [math.nan] * len(spots)
    for rank, index in enumerate(order):
        placed[index] = starts[rank] + rank * gap
    return placed


def legend_above(figure: Figure, handles: Mapping[str, Any], columns: int) -> None:
    """A legend over the whole figure in at most `columns`; `handles`: label -> what is drawn."""
    place: dict[str, Any] = {"loc": "outside upper center"}
    longest = max((len(label) for label in handles), default=0)
    columns = max(1, min(columns, LINE_CHARACTERS // (longest + 8)))
    figure.legend(list(handles.values()), list(handles), ncols=columns, frameon=False, fontsize=8, **place)


def save(figure: Figure, path: Path) -> None:
    """Write a PNG without software or time stamps, so that equal figures are equal files."""
    with write_with(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})
