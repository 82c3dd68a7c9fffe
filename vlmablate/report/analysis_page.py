"""The page of a table of scores that no sweep made: what an analysis alone can say, and what it cannot know."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields

from vlmablate.report import formatting as fmt
from vlmablate.report.caveats import analysis_caveats
from vlmablate.report.cells import row_cells
from vlmablate.report.notes import missing_seeds, missing_seeds_sentence
from vlmablate.report.records import Record, records
from vlmablate.report.sections import outlook, primary_rows, sections, verdicts
from vlmablate.report.sentences import consistent
from vlmablate.stats.settings import Settings
from vlmablate.stats.table import Analysis
from vlmablate.stats.units import SUITE

LEFT_OUT = "suite without "
"""How a row of the sensitivity table begins that leaves one benchmark out."""


@dataclass(frozen=True)
class Source:
    """The file that was analysed: its name, digest and rows, how its columns are called (ours -> the file's), the
    range of its scores, and whether it holds the questions."""

    name: str
    sha256: str
    rows: int
    columns: Mapping[str, str]
    score_range: tuple[float, float]
    questions: bool


def without_retraining(analysis: Analysis) -> list[Record]:
    """The items-level suite rows of every contrast that the design level cannot test, in the table's order."""
    table = analysis.significance
    design = table[(table["level"] == "design") & (table["benchmark"] == SUITE)]
    untested = {(row["arm"], row["context"]) for row in records(design) if not math.isfinite(float(row["p"]))}
    items = table[(table["level"] == "items") & (table["benchmark"] == SUITE)]
    return [row for row in records(items) if (row["arm"], row["context"]) in untested]


def checkpoint_sentence(row: Record, alpha: float, contexts: int = 1) -> str:
    """What an items-level suite row says about these trained checkpoints, and about nothing else.

    Raises ValueError if the row contradicts itself.
    """
    consistent(row, alpha)
    arm, baseline, verdict, margin = row["arm"], row["baseline"], row["verdict"], f"{row['margin']:g}"
    where = f" in context {row['context']}" if contexts > 1 else ""
    decimals = fmt.decimals_for(row["delta"], row["ci_low"], row["ci_high"])
    signed = fmt.points(row["delta"], signed=True, decimals=decimals)
    band = fmt.interval(row["ci_low"], row["ci_high"], decimals=decimals)
    side = "one-sided " if row["alternative"] != "two-sided" else ""
    correction = fmt.correction_name(row["correction"])
    p = f"{side}{fmt.equals_p(row['p'])} ({correction} {fmt.p_value(row['p_adjusted'])})"
    if verdict in ("better", "worse"):
        size = fmt.points(abs(row["delta"]), decimals=decimals)
        place = "above" if verdict == "better" else "below"
        said = f"{arm} scores {size} points {place} {baseline}{where}: {signed} {band}, {p}"
    elif verdict == "equivalent":
        said = f"{arm} and {baseline} are equivalent within ±{margin} points{where}: {signed} {band}, {p}"
    else:
        said = (
            f"{arm} minus {baseline} is {signed} points {band}{where}, {p}; neither a difference nor "
            f"equivalence within ±{margin} points can be claimed"
        )
    unit = f"{int(row['n_clusters']):,} clusters of examples"
    return f"On new pictures of this kind, with these checkpoints: {said} (unit: {unit})."


def table_caveats(analysis: Analysis, source: Source) -> list[str]:
    """What a table of scores cannot show or was not told; the most consequential first."""
    incomplete = missing_seeds_sentence(missing_seeds(analysis))
    return [
        *_one_seed(analysis),
        *([incomplete] if incomplete else []),
        *_hangs_on_one(analysis),
        *_own_clusters(analysis),
        *_without_majority(analysis),
        *analysis_caveats(analysis),
        *([] if source.questions else [NO_QUESTIONS]),
    ]


NO_QUESTIONS = (
    "The table has no column with the questions, so it was not looked whether any is asked twice about the same "
    "picture; copies would be taken for more evidence than they are."
)


def _hangs_on_one(analysis: Analysis) -> list[str]:
    """Verdicts that another choice of benchmarks would change."""
    decided = {(row["arm"], row["context"]): row["verdict"] for row in primary_rows(analysis)}
    changed: dict[tuple[str, str], list[str]] = {}
    for row in records(analysis.sensitivity):
        cell, name = (row["arm"], row["context"]), str(row["benchmark"])
        verdict = decided.get(cell, "unresolved")
        if verdict != "unresolved" and row["verdict"] != verdict and name.startswith(LEFT_OUT):
            changed.setdefault(cell, []).append(
                f"{fmt.title(name.removeprefix(LEFT_OUT))} ({row['verdict']})"
            )
    several = len({context for _, context in decided}) > 1
    return [
        f"The verdict on {arm}{f' in context {context}' if several else ''} ({decided[arm, context]}) would be another "
        f"one without {fmt.listing(names)}; see the sensitivity table."
        for (arm, context), names in changed.items()
    ]


def _one_seed(analysis: Analysis) -> list[str]:
    runs = analysis.run_scores[["arm", "context", "run_id"]].drop_duplicates()
    if not len(runs) or int(runs.groupby(["arm", "context"], observed=True).size().max()) > 1:
        return []
    return [
        "The table holds one training run per arm, so nothing in it shows how much training again would change "
        "a score. No verdict on the choice behind the arms is possible; the items level speaks about these "
        "trained checkpoints only."
    ]


def _own_clusters(analysis: Analysis) -> list[str]:
    table = analysis.significance
    items = table[table["level"] == "items"]
    if not len(items) or not bool((items["n_clusters"] == items["n_examples"]).all()):
        return []
    return [
        "Clusters unknown: every example counts as its own cluster. If several questions are about one picture "
        "(or another common source), name the column that identifies it; without it the items level takes related "
        "questions for independent ones, and its intervals and p-values are too small."
    ]


def _without_majority(analysis: Analysis) -> list[str]:
    named = analysis.design.majority
    unknown = [fmt.title(name) for name in analysis.signal if name not in named]
    if not unknown:
        return []
    which = "Majority scores are unknown"
    if len(unknown) < len(analysis.signal):
        which = f"The majority score of {fmt.listing(unknown)} is unknown"
    return [
        f"{which}, so there the baseline counts as having learned something however low it scores. A benchmark on "
        "which nothing was learned makes arms look equivalent."
    ]


def declared(given: Mapping[str, object]) -> str:
    """What was declared on the command line, and what that is worth; `given` holds those settings."""
    named = [f"{name} = {value}" for name, value in given.items()]
    what = (
        f"given with the command: {fmt.listing(named)}; everything else has its default"
        if named
        else "none was given with the command, so every one has its default"
    )
    return (
        f"Settings of the analysis: {what}. The scores existed when the command was given; nothing in the table "
        "can show that the settings were chosen before the scores were seen."
    )


def given_settings(settings: Settings) -> dict[str, object]:
    """The settings that are not the default."""
    defaults = {field.name: field.default for field in fields(Settings)}
    return {name: value for name, value in asdict(settings).items() if value != defaults[name]}


def suite_cells(analysis: Analysis, level: str) -> list[Record]:
    """The formatted suite rows of one level for a short table; at the design level those that decide."""
    if level == "design":
        return [row_cells(row, analysis.family_sizes) for row in primary_rows(analysis)]
    table = analysis.significance
    rows = table[(table["level"] == level) & (table["benchmark"] == SUITE)]
    return [row_cells(row, analysis.family_sizes) for row in records(rows)]


def page(
    analysis: Analysis, source: Source, command: str, provenance: Sequence[tuple[str, str]] = ()
) -> Record:
    """Everything that analyze.html.j2 prints, except for what is known only once the files are written
    (`digests`, `files`, `notebook_note`)."""
    view = outlook(analysis, "", True)
    primary, scores, design = primary_rows(analysis), analysis.run_scores, analysis.design
    renamed = [f"{ours} = {theirs}" for ours, theirs in source.columns.items()]
    low, high = source.score_range
    scaled = [] if (low, high) == (0.0, 1.0) else [("score range", f"{low:g} to {high:g}")]
    facts = [
        ("table", f"{source.name}, {source.rows:,} scores"),
        *([("columns", ", ".join(renamed))] if renamed else []),
        *scaled,
        *provenance,
        (source.name, f"sha256 {source.sha256}"),
    ]
    return {
        **sections(analysis, view),
        "title": f"{fmt.plural(len(design.arms) - 1, 'arm')} against {design.baseline}",
        "source": source.name,
        "n_runs": len(scores[["arm", "context", "run_id"]].drop_duplicates()),
        "n_seeds": int(scores["seed"].nunique()),
        "n_scores": source.rows,
        "verdicts": verdicts(primary, view),
        "checkpoint_sentences": [
            checkpoint_sentence(row, design.settings.alpha, len(design.contexts))
            for row in without_retraining(analysis)
        ],
        "caveats": table_caveats(analysis, source),
        "declared": declared(given_settings(design.settings)),
        "command": command,
        "provenance": facts,
    }
