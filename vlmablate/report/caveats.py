"""What a reader has to know before believing the verdict: found in the data, not remembered by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vlmablate.data.overlap_table import Row
from vlmablate.report.collect import Collected
from vlmablate.report.declared import late_changes
from vlmablate.report.exploration import Explored
from vlmablate.report.exploration_section import exploration_caveats
from vlmablate.report.formatting import listing, p_value, plural, points, title
from vlmablate.report.notes import duplicate_sentences
from vlmablate.report.overlap import overlap_caveats
from vlmablate.report.records import records
from vlmablate.report.study import Study
from vlmablate.report.tuning import read_tuning
from vlmablate.report.tuning_section import tuning_caveats
from vlmablate.stats.families import PRIMARY
from vlmablate.stats.runs import permutation_floor
from vlmablate.stats.settings import Settings
from vlmablate.stats.table import Analysis


def caveats(
    study: Study,
    collected: Collected,
    analysis: Analysis,
    shared: list[Row] | None,
    explored: Explored | None = None,
) -> list[str]:
    """All caveats, most consequential first: missing runs, late declarations, how settings or the compared
    configurations were chosen, pictures that were trained on, signal, seeds, repeated questions, mixed conditions,
    shared parts, the axis's.

    shared: as `overlap.shared_pictures` gives them."""
    found = [
        *_missing(collected),
        *late_changes(study),
        *tuning_caveats(read_tuning(study)),
        *exploration_caveats(explored),
        *overlap_caveats(shared),
        *analysis_caveats(analysis),
        *_mixed(study),
        *_shared(study.compared),
    ]
    return found + [str(limit) for limit in study.axis.get("limits") or []]


def analysis_caveats(analysis: Analysis) -> list[str]:
    """What the scores alone show: signal, seeds, repeated questions."""
    settings = analysis.design.settings
    repeated = [
        f"{sentence} Copies are not independent; where they lie in different clusters, the items level takes "
        "them for more evidence than they are."
        for sentence in duplicate_sentences(analysis)
    ]
    return [*_signal(analysis, settings), *_seeds(analysis), *repeated]


def _missing(collected: Collected) -> list[str]:
    if not collected.missing:
        return []
    runs = "; ".join(
        f"{run['arm']} / {run['context']} / seed {run['seed']} ({run['reason']})" for run in collected.missing
    )
    count = len(collected.missing)
    have = (
        "1 run of the study has no scores and enters"
        if count == 1
        else f"{count} runs have no scores and enter"
    )
    return [f"{have} no number of this page: {runs}. The same command completes the study."]


def _signal(analysis: Analysis, settings: Settings) -> list[str]:
    notes = []
    silent = [title(name) for name, signal in analysis.signal.items() if not signal.carries]
    margin = f"{settings.signal_margin:g}"
    if silent:
        notes.append(
            f"No signal at this scale: {listing(silent)}. There the baseline arm is less than {margin} "
            "points above the majority answer; these benchmarks are shown and decide nothing."
        )
    weak = [
        f"{title(name)} (weakest baseline seed {points(signal.weakest_seed - signal.majority, signed=True)})"
        for name, signal in analysis.signal.items()
        if signal.carries and signal.weakest_seed - signal.majority < settings.signal_margin
    ]
    if weak:
        notes.append(
            f"Not every baseline seed clears the {margin} points over the majority answer on "
            f"{listing(weak)}; the mean over seeds does."
        )
    near = [
        title(name)
        for name, signal in analysis.signal.items()
        if signal.carries and signal.baseline - signal.majority < settings.signal_margin + settings.margin
    ]
    if near:
        notes.append(
            f"{listing(near)} only just carries signal. Because the choice of benchmarks looks at the "
            "baseline's scores, such a benchmark can lean slightly against the other arms (regression to the "
            "mean); the sensitivity table shows the contrast without it."
        )
    return notes


def _seeds(analysis: Analysis) -> list[str]:
    """What the numbers of runs leave open where the primary contrasts are not judged by an exact permutation."""
    table = analysis.significance
    primary = table[(table["family"] == PRIMARY) & ~table["method"].str.startswith(("exact", "identical"))]
    if primary.empty:
        return []
    floor = max(_permutation_floor(analysis, str(row["arm"])) for row in records(primary))
    fewest = plural(int(primary["n_seeds"].min()), "seed")
    if floor >= 1:
        return [
            f"With {fewest} in the smallest arm, no permutation of seeds can reach a p below 1: no test of retraining "
            "is possible that does not borrow its error from other cells."
        ]
    df = f" (df = {analysis.seed_df:g})" if analysis.seed_df else ""
    return [
        f"With {fewest} in the smallest arm, a distribution-free permutation of seeds could not get "
        f"below p = {p_value(floor)}, so a smaller p rests on the normal error model and on pooling the variance "
        f"over the study's cells{df}, which assumes that all arms vary equally from seed to seed."
    ]


def _permutation_floor(analysis: Analysis, arm: str) -> float:
    """Smallest p that an exact permutation of an arm's and the baseline's runs could give, all contexts together."""
    runs = analysis.suite_scores.groupby(["arm", "context"], observed=True)["seed"].agg(set)
    baseline, paired = analysis.design.baseline, analysis.design.settings.paired_seeds
    cells = [
        (runs[arm, context], runs[baseline, context])
        for context in analysis.design.contexts
        if (arm, context) in runs.index and (baseline, context) in runs.index
    ]
    if paired:
        return permutation_floor([len(a & b) for a, b in cells], paired=True)
    return permutation_floor([len(a) for a, _ in cells], [len(b) for _, b in cells])


def _mixed(study: Study) -> list[str]:
    finetunes = [result for i, result in study.results.items() if study.kind(i) == "finetune"]
    evaluated = [result for i, result in study.results.items() if study.kind(i) in ("finetune", "evaluate")]
    tests: list[tuple[str, list[dict[str, Any]], Callable[[dict[str, Any]], Any]]] = [
        ("numeric precisions", finetunes, lambda result: (result.get("payload") or {}).get("precision")),
        ("hosts", evaluated, lambda result: result.get("host")),
        ("library versions", evaluated, lambda result: str(sorted((result.get("versions") or {}).items()))),
        ("devices", finetunes, lambda result: (result.get("execution") or {}).get("device")),
    ]
    notes = []
    for what, results, read in tests:
        values = sorted({_short(read(result)) for result in results if read(result)})
        if len(values) > 1:
            shown = "" if what == "library versions" else f" ({listing(values)})"
            notes.append(
                f"The runs were made with different {what}{shown}; that is a difference besides the arm."
            )
    return notes


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return str(value.get("hostname") or value.get("name") or sorted(value.items()))
    return str(value)


def _shared(study: Study) -> list[str]:
    """Parts that all seeds have in common: the seed's spread does not contain their chance."""
    several = len({run.seed for run in study.runs}) > 1
    notes = []
    if several and _same_for_all_seeds(study, "pretrain"):
        notes.append(
            "All seeds start from the same pretrained language model: they vary the projector's "
            "initialisation and the data order, not the language model, so the verdict is conditional on it."
        )
    if _same_for_all_seeds(study, "scenes"):
        notes.append(
            "All seeds are trained and tested on the same set of composed scenes; the design-level interval "
            "covers retraining on it, not other scenes. The items level asks about new scenes."
        )
        notes.append(
            "Instance questions (which noun, where, how many) show cut-outs that were also seen in training, "
            "in new scenes; category questions use cut-outs never seen in training."
        )
    return notes


def _same_for_all_seeds(study: Study, kind: str) -> bool:
    """Whether every cell has steps of a kind, and the same ones for each of its seeds."""
    used: dict[tuple[str, str], set[frozenset[str]]] = {}
    for run in study.runs:
        steps = frozenset(step_id for step_id in run.steps.values() if study.kind(step_id) == kind)
        used.setdefault((run.arm, run.context), set()).add(steps)
    return all(len(sets) == 1 and frozenset() not in sets for sets in used.values())
