"""What a tracker is told of a finished run: its configuration, curves and numbers, read from the results folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from vlmablate.design.spec import RunSpec
from vlmablate.report.study import Run, Study

_COSTS = ("wall_s", "cpu_s", "peak_rss_mb", "ranks")
_TAG_LENGTH = 64  # W&B refuses longer ones


@dataclass(frozen=True)
class History:
    """A finished run in the words of a tracker.

    Attributes:
        name: the run's label.
        tags: arm, context, seed, axis and scale.
        config: the run's place in the study, the configuration of its steps by role, and where it comes from.
        curves: role of a step -> its points in the order of their training steps, each step once.
        summary: ``role/…`` -> number: what the steps returned and cost.
    """

    name: str
    tags: tuple[str, ...]
    config: dict[str, Any]
    curves: dict[str, list[dict[str, float]]]
    summary: dict[str, float]


def history(study: Study, run: Run) -> History:
    """The history of a run of which the evaluate step is finished.

    Raises:
        UserError: when a step's record is damaged or not declared by the study.
    """
    facts = study.facts
    curves, summary = {}, {}
    for role, step_id in run.steps.items():
        points = {point["step"]: point for point in study.curve(step_id)}
        if points:
            curves[role] = [points[step] for step in sorted(points)]
        result = study.result(step_id) or {}
        costs = {key: result[key] for key in _COSTS if key in result}
        for key, value in (*_numbers(costs), *_numbers(result.get("payload") or {})):
            summary[f"{role}/{key}"] = value
    tags = (run.arm, run.context, f"seed-{run.seed}", study.axis_name, str(facts.get("scale")))
    return History(
        name=RunSpec(run.arm, run.context, run.seed, steps={}).label,
        tags=tuple(dict.fromkeys(tag[:_TAG_LENGTH] for tag in tags)),
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
        },
        curves=curves,
        summary=summary,
    )


def _numbers(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{key}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{prefix}{key}", value
