"""What was declared about the analysis, and whether the scores could have suggested it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from vlmablate.report.formatting import listing, plural
from vlmablate.report.study import Study
from vlmablate.stats.declaration import read_analysis


def declared_sentence(study: Study) -> str:
    """Which settings differ from their defaults, and how many runs had scores when they were declared."""
    usual = _flat(None) | _ways({})
    changed = [
        f"{name} = {value}"
        for name, value in (_flat(study.facts.get("analysis")) | _ways(study.facts)).items()
        if usual.get(name) != value
    ]
    what = (
        f"Settings that differ from their defaults: {listing(changed)}."
        if changed
        else "Every setting has its default."
    )
    return f"{what} {_when(study)}".strip()


def _when(study: Study) -> str:
    entries = study.facts.get("analysis_history") or []
    if not entries:
        finished = sorted(
            str(result["finished"])
            for step_id, result in study.results.items()
            if study.kind(step_id) == "evaluate" and result.get("finished")
        )
        return f"The first scores were finished at {finished[0]}." if finished else ""
    if late_changes(study):
        return "Not all of this was declared before there were scores (see the caveats)."
    return "All of this was declared before any run had scores."


def late_changes(study: Study) -> list[str]:
    """Declarations that were made while scores were there to be seen, one sentence each."""
    told, before = [], None
    for entry in study.facts.get("analysis_history") or []:
        settings, runs = _flat(entry["settings"]) | _ways(entry), int(entry["runs_with_scores"])
        if runs and before is None:
            told.append(
                f"The settings of the analysis were first recorded when {plural(runs, 'run')} had scores, so nothing "
                "shows that they were chosen before."
            )
        elif runs and before is not None:
            names = [name for name in {**before, **settings} if before.get(name) != settings.get(name)]
            changes = [
                f"{name} from {before.get(name, 'none')} to {settings.get(name, 'none')}" for name in names
            ]
            told.append(
                f"The analysis was changed when {plural(runs, 'run')} had scores: {listing(changes)}. The scores may "
                "have suggested it."
            )
        before = settings
    return told


def _flat(declared: Mapping[str, Any] | None) -> dict[str, str]:
    """All settings as text, the families of benchmarks one by one."""
    settings, families = read_analysis(declared)
    flat = {
        name: f"{value:g}" if isinstance(value, float) else str(value)
        for name, value in asdict(settings).items()
    }
    return flat | {f"family of {benchmark}": family for benchmark, family in sorted(families.items())}


def _ways(declared: Mapping[str, Any]) -> dict[str, str]:
    """How runs come about, as text: how seeds are given out, what is tuned, and how a design space is gone through."""
    limits, tune, space = (declared.get(key) for key in ("replicate", "tune", "space"))
    found = {"replicate": "fixed" if limits is None else "adaptive", "tune": "none", "space": "none"}
    for key, value in (limits or {}).items():
        found[key] = "no limit" if value is None else str(value)
    if tune:
        found["tune"] = f"{tune['space']} ({tune['trials']} trials per arm)"
    if space:
        how = f"{space['search']}, {space['trials']} trials" if space.get("search") else "all combinations"
        found["space"] = f"{' × '.join(space['axes'])} ({how})"
        found["confirm"] = f"{space['confirm']} fresh seeds"
    return found
