"""What a plan costs and what it could find, in words: hours, disk, detectable differences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vlmablate.design.spec import StepSpec
from vlmablate.orchestration.detectable import Spread, detectable
from vlmablate.orchestration.kinds import is_collective
from vlmablate.orchestration.plan import Plan

MOST_SEEDS = 200
_BASES = {
    "measured": "measured here",
    "operations": "from their operations",
    "declared": "declared by the scale",
    "guessed": "guessed",
}


def work_lines(plan: Plan, execution: Mapping[str, Any]) -> list[str]:
    """Processor hours and disk of what is missing, and what these numbers rest on; nothing for a finished plan."""
    if plan.finished:
        return []
    costs = [(step, plan.estimator.cost(step)) for step in plan.missing]
    unit, width = _resource(execution)
    likely = sum(cost.seconds * width(step) for step, cost in costs) / 3600
    high = sum(cost.high * width(step) for step, cost in costs) / 3600
    text = f"{_hours(likely)} {unit}-hours"
    if high > 1.05 * likely:
        text += f" ({_hours(high)} if every step is as slow as the slowest tenth of its like)"
    bases = Counter(cost.basis for _, cost in costs)
    told = ", ".join(f"{bases[basis]} {words}" for basis, words in _BASES.items() if bases[basis])
    return [f"{text}; times of steps: {told}", _disk(plan)]


def _resource(execution: Mapping[str, Any]) -> tuple[str, Callable[[StepSpec], int]]:
    """(GPU or CPU, how many of them a step holds)."""
    ranks = int(execution.get("ranks") or 1) * int(execution.get("nodes") or 1)
    if execution.get("device") == "cuda":
        gpus = max(1, int(execution.get("gpus_per_job") or 1)) * int(execution.get("nodes") or 1)
        return "GPU", lambda step: gpus if is_collective(step) else 1
    threads = int(execution.get("threads") or 1)
    return "CPU", lambda step: threads * ranks if is_collective(step) else threads


def _disk(plan: Plan) -> str:
    sizes = [(step.kind, plan.estimator.cost(step).megabytes) for step in plan.missing]
    known = sum(size for _, size in sizes if size is not None)
    unknown = list(dict.fromkeys(kind for kind, size in sizes if size is None))
    text = f"about {megabytes(known)} on disk" if known else "space on disk"
    return f"{text} (unknown: {', '.join(unknown)})" if unknown else text


def megabytes(size: float) -> str:
    """A size in MB, in words: ``0.4 MB``, ``380 MB``, ``1.2 GB``."""
    if size >= 1000:
        return f"{size / 1000:.1f} GB"
    return f"{size:.0f} MB" if size >= 10 else f"{size:.1f} MB"


def _hours(hours: float) -> str:
    return f"{hours:.0f}" if hours >= 10 else f"{hours:.1f}" if hours >= 1 else f"{hours:.2f}"


def detectable_line(
    arms: int, contexts: int, seeds: int, settings: Mapping[str, Any], spread: Spread | None
) -> str:
    """The smallest difference that a study's seeds would find, and the seeds that its margin needs.

    Args:
        arms: arms of the axis, the baseline among them.
        contexts: contexts of the axis.
        seeds: runs of every cell.
        settings: the declared analysis (alpha, power, margin, alternative).
        spread: between trainings with other seeds; None when nobody knows.
    """
    if spread is None:
        return "smallest detectable difference: unknown, as no two seeds were run and estimates.seed_sd is not given"
    if seeds < 2:
        return "one seed per arm: no difference between the arms can be tested for retraining"
    alpha, power = float(settings.get("alpha", 0.05)), float(settings.get("power", 0.8))
    margin = float(settings.get("margin", 2.0))
    two_sided = settings.get("alternative", "two-sided") == "two-sided"

    def smallest(count: int) -> float:
        # Holm's first step: the level is shared by the arms that are compared with the baseline.
        level = alpha / max(1, arms - 1)
        return detectable(spread.sd, count, arms * contexts, contexts, level, power, two_sided)

    source = f"from {spread.runs} finished runs at this scale" if spread.runs else "assumed"
    text = (
        f"{seeds} seeds find a difference of {smallest(seeds):.1f} points or more with {100 * power:.0f} % power "
        f"(SD between seeds {spread.sd:.2f} points, {source})"
    )
    if smallest(seeds) <= margin:
        return text
    enough = next((count for count in range(seeds + 1, MOST_SEEDS + 1) if smallest(count) <= margin), None)
    wanted = f"{enough} seeds" if enough is not None else f"more than {MOST_SEEDS} seeds"
    return f"{text}; {wanted} would find the margin of {margin:g}"


def batch_line(batches: Sequence[tuple[str, int]]) -> str:
    """The arrays of a plan, each by name and number of jobs."""
    jobs = sum(size for _, size in batches)
    shown = ", ".join(f"{name} ({size})" for name, size in batches[:8])
    more = f" and {len(batches) - 8} more" if len(batches) > 8 else ""
    arrays = "array" if len(batches) == 1 else "arrays"
    return f"{jobs} jobs in {len(batches)} {arrays}: {shown}{more}"
