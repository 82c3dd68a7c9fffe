"""What a study cost, from the results of its steps."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from vlmablate.report.study import STEP_ORDER, Run, Study, Trial


@dataclass(frozen=True)
class Cost:
    """Sums over finished steps: wall and CPU seconds; peak_rss_mb is the largest of any; tokens_per_s is
    total tokens over total training time (nan-free: None where the steps process no tokens)."""

    name: str
    steps: int
    wall_s: float
    cpu_s: float
    peak_rss_mb: float
    tokens: float
    tokens_per_s: float | None


def total(name: str, results: Iterable[dict[str, Any]], throughput_of: str | None = None) -> Cost:
    """Add up the result.json records of some steps; tokens are counted of the kind `throughput_of` only, if
    given, because a rate over different models means nothing."""
    records = list(results)
    tokens, seconds = 0.0, 0.0
    for record in records:
        if throughput_of is not None and record.get("kind") != throughput_of:
            continue
        payload = record.get("payload") or {}
        if payload.get("tokens") and payload.get("tokens_per_s"):
            tokens += float(payload["tokens"])
            seconds += float(payload["tokens"]) / float(payload["tokens_per_s"])
    return Cost(
        name=name,
        steps=len(records),
        wall_s=sum(float(record.get("wall_s") or 0) for record in records),
        cpu_s=sum(float(record.get("cpu_s") or 0) for record in records),
        peak_rss_mb=max((float(record.get("peak_rss_mb") or 0) for record in records), default=0.0),
        tokens=tokens,
        tokens_per_s=tokens / seconds if seconds else None,
    )


def by_kind(study: Study) -> list[Cost]:
    """One entry per step kind, in the order of the work, and the total."""
    kinds: dict[str, list[dict[str, Any]]] = {}
    for step_id, result in study.results.items():
        kinds.setdefault(study.kind(step_id), []).append(result)
    order = [kind for kind in STEP_ORDER if kind in kinds] + sorted(set(kinds) - set(STEP_ORDER))
    return [*(total(kind, kinds[kind]) for kind in order), total("all steps", study.results.values(), "")]


def by_arm(study: Study) -> list[Cost]:
    """One entry per arm over the steps its runs, and the trials of its tuning, need; steps that arms share are counted
    for each of them."""
    entries = []
    for arm in study.arms:
        needed = {step_id for one in study.work if one.arm == arm for step_id in one.steps.values()}
        entries.append(total(arm, _finished(study, needed), "finetune"))
    return entries


def by_purpose(study: Study) -> list[Cost]:
    """What choosing cost beside what was compared; empty for a study that chooses nothing.

    Tuned arms: `tuning` are the steps that only trials need, `comparison` the others. A design space: `training again`
    are the steps that only the compared runs need, `exploring` all others, also those of combinations that failed.
    """

    def steps(runs: Iterable[Run | Trial]) -> set[str]:
        return {step_id for run in runs for step_id in run.steps.values()}

    if study.facts.get("tuning"):
        compared = steps(study.runs)
        parts = {"tuning": steps(study.trials) - compared, "comparison": compared}
    elif study.facts.get("exploration"):
        fresh = {run.run_id for run in study.compared.runs}
        explored = steps(run for run in study.runs if run.run_id not in fresh)
        again = steps(study.compared.runs) - explored
        parts = {"exploring": set(study.facts["steps"]) - again, "training again": again}
    else:
        return []
    return [total(name, _finished(study, ids), "finetune") for name, ids in parts.items()]


def _finished(study: Study, ids: Iterable[str]) -> list[dict[str, Any]]:
    return [study.results[step_id] for step_id in sorted(ids) if step_id in study.results]


def sharing(study: Study) -> float:
    """Wall seconds that were saved by computing shared steps once, against computing every run and trial alone."""
    needed = [set(one.steps.values()) for one in study.work]

    def seconds(ids: Iterable[str]) -> float:
        return sum(float(result.get("wall_s") or 0) for result in _finished(study, ids))

    return sum(map(seconds, needed)) - seconds(set().union(*needed))
