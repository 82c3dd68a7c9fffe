"""What a tracker is told of a finished run: its configuration, curves and numbers, read from the results folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from vlmablate.design.spec import RunSpec
from vlmablate.orchestration.tuning_trials import suite_score
from vlmablate.report.study import Run, Study

TUNING = "tuning"
"""The type of the jobs that were only made to choose by."""
_COSTS = ("wall_s", "cpu_s", "peak_rss_mb", "ranks")
_ADDED_UP = ("wall_s", "cpu_s")
_TAG_LENGTH = 64  # W&B refuses longer ones
_POINTS = 100.0


@dataclass(frozen=True)
class History:
    """A finished run, or a report, in the words of a tracker.

    Attributes:
        name: the run's label.
        job: its type: the axis, or what else it was made for.
        tags: arm, context, seed, axis and scale.
        config: the run's place in the study, the configuration of its steps by role, and where it comes from.
        curves: role of a step -> its points in the order of their training steps, each step once.
        summary: ``score/…``: points of every benchmark of the suite, and their mean; ``cost/…``: what the steps took
            together; ``role/…``: what each of them returned and cost.
        notes: sentences to read beside it.
    """

    name: str
    job: str
    tags: tuple[str, ...]
    config: dict[str, Any]
    curves: dict[str, list[dict[str, float]]]
    summary: dict[str, float | str]
    notes: str = ""


@dataclass(frozen=True)
class Tracked:
    """A run that a tracker can be told about. ``trial`` says what was tried, where it was only made to choose by."""

    study: Study
    run: Run
    trial: Mapping[str, Any] | None = None


def tracked(study: Study) -> list[Tracked]:
    """Everything a study declares: the trials of its tuning, then the runs that it compares."""
    tuning = study.facts.get("tuning") or {}
    trials = [
        Tracked(
            study,
            Run(cell["arm"], cell["context"], int(tuning["seed"]), trial["run_id"], dict(trial["steps"])),
            trial,
        )
        for cell in tuning.get("cells", [])
        for trial in cell["trials"]
    ]
    return [*trials, *(Tracked(study, run) for run in study.runs)]


def history(told: Tracked) -> History:
    """The history of a run of which the evaluate step is finished.

    Raises:
        UserError: when a step's record is damaged or not declared by the study.
    """
    study, run, trial = told.study, told.run, told.trial
    facts = study.facts
    results = {role: study.result(step_id) or {} for role, step_id in run.steps.items()}
    summary: dict[str, float | str] = dict(_scores(results["evaluate"]))
    for key in _ADDED_UP:
        summary[f"cost/{key}"] = sum(float(result.get(key) or 0.0) for result in results.values())
    for role, result in results.items():
        costs = {key: result[key] for key in _COSTS if key in result}
        for key, value in (*_numbers(costs), *_numbers(result.get("payload") or {})):
            summary[f"{role}/{key}"] = value
    label = RunSpec(run.arm, run.context, run.seed, steps={}).label
    job = study.axis_name if trial is None else TUNING
    return History(
        name=label if trial is None else f"{label} trial {trial['number']}",
        job=job,
        tags=short_tags(run.arm, run.context, f"seed-{run.seed}", study.axis_name, facts.get("scale"), job),
        config={
            "arm": run.arm,
            "context": run.context,
            "seed": run.seed,
            "study": study.name,
            "axis": study.axis_name,
            "baseline": run.arm == study.baseline,
            "scale": facts.get("scale"),
            "overrides": facts.get("overrides"),
            "steps": {role: study.spec(step_id).get("config") for role, step_id in run.steps.items()},
            "provenance": facts.get("provenance"),
            **({} if trial is None else {"trial": {key: trial[key] for key in ("number", "values")}}),
        },
        curves=_curves(study, run),
        summary=summary,
    )


def short_tags(*words: Any) -> tuple[str, ...]:
    """The words as tags, each once, no longer than W&B takes them."""
    return tuple(dict.fromkeys(str(word)[:_TAG_LENGTH] for word in words))


def _scores(result: Mapping[str, Any]) -> dict[str, float]:
    """Points of every benchmark of the suite, and their mean as ``score/suite``.

    The suite score of a report leaves benchmarks without signal out; whether they carry any, one run cannot say.
    """
    benchmarks = (result.get("payload") or {}).get("benchmarks") or {}
    points = {
        f"score/{name}": _POINTS * float(found["mean"])
        for name, found in benchmarks.items()
        if found.get("suite", True)
    }
    return {**points, "score/suite": suite_score(benchmarks)} if points else {}


def _curves(study: Study, run: Run) -> dict[str, list[dict[str, float]]]:
    found = {}
    for role, step_id in run.steps.items():
        if study.kind(step_id) == "trunk":
            continue  # the beginning of the training that it leads to, whose curve is whole
        points = {point["step"]: point for point in study.curve(step_id)}
        if points:
            found[role] = [points[step] for step in sorted(points)]
    return found


def _numbers(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{key}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{prefix}{key}", value
