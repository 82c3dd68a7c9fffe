"""The parts of a page that an analysis alone can fill: shared by the page of a sweep and that of a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vlmablate.report import formatting as fmt
from vlmablate.report import methods, notes
from vlmablate.report.cells import (
    benchmark_tables,
    component_cells,
    curve_cells,
    duplicate_cells,
    improvement_cells,
    pair_cells,
    row_cells,
)
from vlmablate.report.pairs import pairs
from vlmablate.report.records import Record, records
from vlmablate.report.sentences import (
    Outlook,
    suite_sentence,
    verdict_sentences,
    what_would_settle,
)
from vlmablate.stats.families import PRIMARY
from vlmablate.stats.table import Analysis
from vlmablate.stats.units import ALL_CONTEXTS


def primary_rows(analysis: Analysis) -> list[Record]:
    """The contrasts that answer the question of the axis."""
    table = analysis.significance
    return records(table[table["family"] == PRIMARY])


def outlook(analysis: Analysis, command: str, complete: bool, lead: str = "", asks: str = "seeds") -> Outlook:
    """What the verdict sentences need besides their rows; an empty command for a table that no sweep made. lead, asks:
    as :class:`Outlook` has them."""
    design = analysis.design
    return Outlook(
        seed_sd=analysis.seed_sd,
        cells=analysis.cells,
        alpha=design.settings.alpha,
        family_size=max(len(primary_rows(analysis)), 1),
        benchmarks=[name for name, signal in analysis.signal.items() if signal.carries],
        contexts=max(len(design.contexts), 1),
        command=command,
        complete=complete,
        metrics=design.metrics,
        paired=design.settings.paired_seeds,
        baseline_ran=bool((analysis.run_scores["arm"] == design.baseline).any()),
        lead=lead,
        asks=asks,
    )


def verdicts(primary: list[Record], view: Outlook) -> list[dict[str, str]]:
    """The sentences of the top of the page with the verdict that colours each."""
    sentences = verdict_sentences(primary, view)
    badges = [str(row["verdict"]) for row in primary] if len(primary) == len(sentences) else []
    return [
        {"text": text, "verdict": badges[i] if badges else "unresolved"} for i, text in enumerate(sentences)
    ]


def sections(analysis: Analysis, view: Outlook) -> Record:
    """Everything below the verdicts that does not need a sweep."""
    table, design = analysis.significance, analysis.design
    sizes = analysis.family_sizes
    primary = primary_rows(analysis)

    def cells(rows: Any) -> list[Record]:
        return [row_cells(row, sizes) for row in records(rows)]

    averaged = table[(table["context"] == ALL_CONTEXTS) & (table["family"] != PRIMARY)]
    found = pairs(analysis)
    return {
        "axis": design.axis,
        "baseline": design.baseline,
        "contexts": list(design.contexts),
        "settings": design.settings,
        "level": f"{100 * (1 - design.settings.alpha):g}",
        "correction": fmt.correction_name(design.settings.correction),
        "n_arms": len(design.arms),
        "suite": suite_sentence(view),
        "primary": [row_cells(row, sizes) for row in primary],
        "contexts_table": cells(table[table["family"] == "contexts"]),
        "averaged": cells(averaged),
        "tables": benchmark_tables(analysis),
        "suite_level": cells(table[table["level"] == "suite"]),
        "checkpoints": cells(table[table["level"] == "checkpoint"]),
        "sensitivity": [row_cells(row) for row in records(analysis.sensitivity)],
        "pairs": [pair_cells(row) for row in records(analysis.pairwise)],
        "pair_sentences": [notes.groups_sentence(one, len(design.contexts)) for one in found],
        "improvement": [improvement_cells(row) for row in records(analysis.improvement)],
        "improvement_sentences": [
            notes.improvement_sentence(_where(row, len(design.contexts)), design.baseline)
            for row in records(analysis.improvement)
        ],
        "components": [component_cells(row) for row in records(analysis.components)],
        "duplicates": [duplicate_cells(row) for row in records(analysis.duplicates)],
        "duplicate_sentences": notes.duplicate_sentences(analysis),
        "calibration": notes.calibration_sentence(analysis),
        "curve": [curve_cells(row) for row in records(analysis.mde_curve)],
        "settle": settle(primary, view),
        "spread": notes.spread_sentence(analysis),
        "no_curve": notes.no_curve_sentence(analysis),
        "methods": methods.level_methods(analysis),
        "families": methods.families(analysis),
        "correction_note": methods.correction_note(analysis),
        "metric_sentence": methods.metric_sentence(analysis),
        "related": methods.related_sentence(analysis),
        "alternative": methods.SIDES[design.settings.alternative],
    }


def _where(row: Record, contexts: int) -> Record:
    """The row with the context in the arm's name where there are several."""
    return {**row, "arm": f"{row['arm']} ({row['context']})"} if contexts > 1 else row


def settle(primary: list[Record], view: Outlook) -> list[Mapping[str, str]]:
    """What would settle every unresolved question: {arm, text}."""
    return [
        {"arm": str(row["arm"]), "text": what_would_settle(row, view)}
        for row in primary
        if row["verdict"] == "unresolved"
    ]
