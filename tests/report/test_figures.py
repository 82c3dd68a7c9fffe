"""Figures show the numbers of the tables, all of them, and fit on the paper."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from synthetic_study import design, long_table

from vlmablate.report import figures, forest
from vlmablate.report.benchmarks_plot import MOST_ARMS, benchmark_bars
from vlmablate.report.calibration_plot import calibration_plot, null_p_values
from vlmablate.report.components_plot import components_plot
from vlmablate.report.drawing import COLOURS, MARKERS, spread, style
from vlmablate.report.improvement_plot import MEANINGFUL, improvement_plot
from vlmablate.report.pairs import pair_matrix, pairs
from vlmablate.report.power_plot import power_plot
from vlmablate.report.radar import radar
from vlmablate.report.records import records
from vlmablate.report.seeds_plot import seed_strip
from vlmablate.stats.table import Analysis, analyse

LONG = ("letterbox", *(f"an_alternative_with_a_long_name_{i}" for i in range(9)))


@lru_cache
def plain() -> Analysis:
    table = long_table(("letterbox", "resize_naive", "resize_crop"), effects={"resize_naive": -0.35})
    return analyse(table, design(table))


@lru_cache
def many() -> Analysis:
    table = long_table(LONG, contexts=("clip", "siglip"), seeds=(0, 1), scenes=6)
    return analyse(table, design(table))


def drawn(figure: Figure | None, gid: str) -> list[Any]:
    """The lines or bars of a figure that carry a mark."""
    assert figure is not None
    return [
        artist for axis in figure.axes for artist in [*axis.lines, *axis.patches] if artist.get_gid() == gid
    ]


def lines(figure: Figure) -> list[Any]:
    return [line for axis in figure.axes for line in axis.lines]


def texts(figure: Figure | None) -> list[str]:
    assert figure is not None
    return [text.get_text() for axis in figure.axes for text in axis.texts]


def test_the_forest_shows_every_estimate_interval_and_detectable_difference() -> None:
    analysis = plain()
    shown = forest.panels(analysis, "default")
    figure = forest.forest(analysis, shown, forest.limits(shown, 2.0))
    design_rows = analysis.significance.query("level == 'design'")
    items = analysis.significance.query("level == 'items'")
    assert [line.get_xdata()[0] for line in drawn(figure, "delta")] == design_rows.sort_values(
        ["arm", "benchmark"], key=lambda column: column.map(_order)
    )["delta"].tolist()
    for gid, rows, names in (
        ("design", design_rows, ["ci_low", "ci_high"]),
        ("new", design_rows, ["new_low", "new_high"]),
        ("items", items, ["ci_low", "ci_high"]),
    ):
        ends = {tuple(line.get_xdata()) for line in drawn(figure, gid)}
        assert ends == {tuple(row[name] for name in names) for row in records(rows)}
    ticks = [abs(x) for line in drawn(figure, "mde") for x in line.get_xdata()]
    assert set(ticks) <= set(design_rows["mde"])
    filled = [line.get_markerfacecolor() != "white" for line in drawn(figure, "delta")]
    signal = design_rows["benchmark"] != "text_reading"
    assert sum(filled) == int((signal & (design_rows["verdict"] != "unresolved")).sum())
    assert sum("96 examples, 12 clusters, 3 seeds" in text for text in texts(figure)) == 2


def _order(name: str) -> int:
    return ["resize_naive", "resize_crop", "suite", *plain().signal].index(name)


def test_many_arms_get_one_panel_with_a_row_each() -> None:
    analysis = many()
    (panel,) = forest.panels(analysis, "clip")
    assert [line.design["arm"] for line in panel.lines if line.design] == list(LONG[1:])
    assert all(line.design and line.design["context"] == "(all)" for line in panel.lines)
    assert panel.title == "Arms minus letterbox: suite score, all contexts"


def test_a_forest_that_is_taller_than_a_page_is_cut() -> None:
    analysis = plain()
    shown = forest.panels(analysis, "default") * 4
    groups = figures._portions(shown)
    assert [len(group) for group in groups] == [5, 3]
    assert all(sum(len(panel.lines) for panel in group) <= figures.LINES_PER_FILE for group in groups)


def test_without_a_second_seed_the_forest_shows_the_pictures_interval_and_says_so() -> None:
    table = long_table(seeds=(0,))
    analysis = analyse(table, design(table))
    shown = forest.panels(analysis, "default")
    figure = forest.forest(analysis, shown, forest.limits(shown, 2.0))
    assert not drawn(figure, "design")
    assert len(drawn(figure, "items")) == 6
    assert sum("(new pictures)" in text for text in texts(figure)) == 6
    for function in (calibration_plot, power_plot):
        assert function(analysis) is None
    assert components_plot(analysis, "default") is None


def test_every_run_is_a_mark_of_the_strip_plot() -> None:
    figure = seed_strip(plain())
    assert figure is not None
    marks = sorted(x for line in lines(figure) if line.get_marker() in "os^" for x in line.get_xdata())
    assert marks == pytest.approx(sorted(plain().suite_scores["points"]))
    assert sorted(texts(figure)) == sorted(["s0", "s1", "s2"] * 3)


def test_pairs_are_framed_and_lettered_by_their_adjusted_p() -> None:
    analysis = plain()
    for found in pairs(analysis):
        table = analysis.pairwise[analysis.pairwise["level"] == found.level]
        apart = table[table["p_adjusted"] <= 0.05]
        assert len(drawn(pair_matrix(analysis, found), "told apart")) == 2 * len(apart)
        for row in records(table):
            shared = set(found.letters[row["arm_a"]]) & set(found.letters[row["arm_b"]])
            assert bool(shared) == (row["p_adjusted"] > 0.05)
            i, j = (found.arms.index(row[name]) for name in ("arm_a", "arm_b"))
            assert (found.delta[i, j], found.delta[j, i]) == (row["delta"], -row["delta"])
        assert list(found.means) == sorted(found.means, reverse=True)


def test_the_radar_has_one_scale_for_all_axes() -> None:
    figure = radar(plain(), "default")
    assert figure is not None
    assert figure.axes[0].get_ylim() == (0, 100)
    assert len(drawn(figure, "polygon")) == 3
    assert sum(len(line.get_ydata()) for line in drawn(figure, "seeds")) == 9 * 5
    table = long_table()
    table = table[table["benchmark"].isin(["counting", "existence"])]
    assert radar(analyse(table, design(table)), "default") is None


def test_improvement_components_power_and_calibration_are_those_of_the_tables() -> None:
    analysis = plain()
    figure = improvement_plot(analysis)
    assert [line.get_xdata()[0] for line in drawn(figure, "estimate")] == analysis.improvement[
        "p_improvement"
    ].tolist()
    assert figure is not None
    assert MEANINGFUL in [line.get_xdata()[0] for line in lines(figure)]
    figure = components_plot(analysis, "default")
    for name in ("se_seed", "se_item"):
        assert [bar.get_width() for bar in drawn(figure, name)] == analysis.components[name].tolist()
    figure = power_plot(analysis)
    for gid, name in (("mde", "mde"), ("half", "half_width")):
        assert list(drawn(figure, gid)[0].get_ydata()) == analysis.mde_curve[name].tolist()
    assert drawn(figure, "margin")[0].get_ydata()[0] == 2.0
    assert drawn(figure, "now")[0].get_xdata()[0] == 3
    observed = drawn(calibration_plot(analysis), "observed")[0]
    assert list(observed.get_xdata()[1:-1]) == sorted(analysis.null_p["p"])
    assert len(null_p_values(analysis)) == 3 * 4


@pytest.mark.parametrize("function", [benchmark_bars, radar, components_plot])
def test_nothing_is_cut_off_where_names_are_long(function: Any) -> None:
    fewer = long_table(LONG[:8], seeds=(0, 1), scenes=6)
    figure = function(analyse(fewer, design(fewer)), "default")
    assert figure is not None
    FigureCanvasAgg(figure).draw()
    page = figure.bbox
    boxes = [legend.get_window_extent() for legend in figure.legends]
    boxes += [
        label.get_window_extent() for axis in figure.axes for label in [*axis.get_yticklabels(), *axis.texts]
    ]
    for box in boxes:
        assert page.x0 - 1 <= box.x0, (function.__name__, box)
        assert box.x1 <= page.x1 + 1, (function.__name__, box)


def test_more_arms_than_bars_can_show_get_none() -> None:
    table = long_table([f"arm_{i}" for i in range(MOST_ARMS + 1)], seeds=(0,), scenes=2)
    assert benchmark_bars(analyse(table, design(table)), "default") is None


def test_arms_differ_in_colour_or_marker() -> None:
    table = long_table([f"arm_{i}" for i in range(40)], seeds=(0,), scenes=1)
    looks = list(style(design(table)).values())
    assert len(set(looks)) == 40
    assert math.gcd(len(COLOURS), len(MARKERS)) == 1


def test_labels_keep_their_order_and_their_distance() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        spots = rng.normal(0, 1, 9).round(1).tolist()
        placed = spread(spots, 0.3)
        order = sorted(range(9), key=lambda i: spots[i])
        gaps = np.diff([placed[i] for i in order])
        assert (gaps >= 0.3 - 1e-9).all()
        assert np.mean(placed) == pytest.approx(np.mean(spots))
    assert spread([0.0, 5.0], 1.0) == [0.0, 5.0]
