"""Which figures there are, and the folder that holds them and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure

from vlmablate.report import forest as forests
from vlmablate.report.benchmarks_plot import benchmark_bars
from vlmablate.report.calibration_plot import calibration_plot
from vlmablate.report.components_plot import components_plot
from vlmablate.report.curves import contact_sheet, training_curves
from vlmablate.report.drawing import RC, save
from vlmablate.report.exploration import Explored
from vlmablate.report.exploration_plots import effects_plots, importance_plot, interaction_plots, trace_plot
from vlmablate.report.improvement_plot import improvement_plot
from vlmablate.report.pairs import pair_matrix, pairs
from vlmablate.report.power_plot import power_plot
from vlmablate.report.radar import radar
from vlmablate.report.seeds_plot import seed_strip
from vlmablate.report.study import Study
from vlmablate.report.tuning import read_tuning
from vlmablate.report.tuning_plot import tuning_plots
from vlmablate.stats.table import Analysis

SECTIONS = (
    *("forest", "seeds", "benchmarks", "radar", "pairs", "improvement"),
    *("components", "calibration", "power", "examples", "curves"),
    *("tuning", "effects", "interactions", "importance", "trace"),
)
LINES_PER_FILE = 34
"""A forest with more rows goes into several files: a picture taller than a page cannot be printed."""

Drawn = dict[str, list[Path]]


def draw(analysis: Analysis) -> list[tuple[str, str, Callable[[], Figure | None]]]:
    """(section, file name, function that draws it) of every figure that an analysis alone can give.

    A function that returns None has nothing to show.
    """
    plans: list[tuple[str, str, Callable[[], Figure | None]]] = []
    margin = analysis.design.settings.margin
    for context, suffix in _suffixes(analysis.design.contexts):
        shown = forests.panels(analysis, context)
        if shown:
            bounds = forests.limits(shown, margin)
            for part, group in enumerate(_portions(shown)):
                name = f"forest{suffix}{f'_{part + 1}' if part else ''}.png"
                plans.append(("forest", name, partial(forests.forest, analysis, group, bounds)))
        per_context: Sequence[tuple[str, Callable[[Analysis, str], Figure | None]]] = (
            ("benchmarks", benchmark_bars),
            ("radar", radar),
            ("components", components_plot),
        )
        for section, function in per_context:
            plans.append((section, f"{section}{suffix}.png", partial(function, analysis, context)))
    for found in pairs(analysis):
        name = f"pairs_{found.level}{_suffix(found.context) if len(analysis.design.contexts) > 1 else ''}.png"
        plans.append(("pairs", name, partial(pair_matrix, analysis, found)))
    once: Mapping[str, Callable[[Analysis], Figure | None]] = {
        "seeds": seed_strip,
        "improvement": improvement_plot,
        "calibration": calibration_plot,
        "power": power_plot,
    }
    plans += [(name, f"{name}.png", partial(function, analysis)) for name, function in once.items()]
    return plans


def save_analysis(analysis: Analysis, folder: Path) -> Drawn:
    """Draw an analysis into `folder`, which then holds nothing else; returns section -> files."""
    drawn = _save(analysis, folder)
    _clean(folder, drawn)
    return drawn


def save_all(study: Study, analysis: Analysis, explored: Explored | None, folder: Path) -> Drawn:
    """Draw an analysis and what only a sweep has: training curves, trials of its tuning, effects of the axes of its
    design space, and examples of its scenes."""
    from matplotlib import rc_context

    drawn = _save(analysis, folder)
    tuning = read_tuning(study)
    with rc_context(RC):
        found: dict[str, Sequence[Figure | None]] = {
            "curves": [training_curves(study.compared, analysis.design)],
            "tuning": [] if tuning is None else tuning_plots(tuning, analysis.design),
            **({} if explored is None else _of_space(explored)),
        }
        for section, figures in found.items():
            for part, figure in enumerate(figure for figure in figures if figure is not None):
                path = folder / f"{section}{f'_{part + 1}' if part else ''}.png"
                save(figure, path)
                drawn[section].append(path)
    if contact_sheet(study, folder / "examples.jpg"):
        drawn["examples"].append(folder / "examples.jpg")
    _clean(folder, drawn)
    return drawn


def _of_space(explored: Explored) -> dict[str, Sequence[Figure | None]]:
    return {
        "effects": effects_plots(explored),
        "interactions": interaction_plots(explored),
        "importance": [importance_plot(explored)],
        "trace": [trace_plot(explored)],
    }


def _save(analysis: Analysis, folder: Path) -> Drawn:
    from matplotlib import rc_context

    drawn: Drawn = {section: [] for section in SECTIONS}
    with rc_context(RC):
        for section, name, function in draw(analysis):
            figure = function()
            if figure is not None:
                save(figure, folder / name)
                drawn[section].append(folder / name)
    return drawn


def _clean(folder: Path, drawn: Drawn) -> None:
    kept = {path for paths in drawn.values() for path in paths}
    for path in [*folder.glob("*.png"), *folder.glob("*.jpg")]:
        if path not in kept:
            path.unlink()  # left by an earlier report, and no longer true


def _portions(shown: Sequence[forests.Panel]) -> list[list[forests.Panel]]:
    """Panels in groups of at most LINES_PER_FILE rows (or one panel)."""
    groups: list[list[forests.Panel]] = []
    for panel in shown:
        rows = sum(len(other.lines) for other in groups[-1]) if groups else LINES_PER_FILE
        if rows + len(panel.lines) > LINES_PER_FILE:
            groups.append([])
        groups[-1].append(panel)
    return groups


def _suffix(context: str) -> str:
    return "_" + "".join(c if c.isalnum() or c in "-_" else "-" for c in context)


def _suffixes(contexts: Sequence[str]) -> list[tuple[str, str]]:
    if len(contexts) == 1:
        return [(contexts[0], "")]
    return [(context, _suffix(context)) for context in contexts]
