"""What changed since a study last ran: the configuration of its runs, or the code that made their results."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from vlmablate.design.spec import RunSpec, StepSpec
from vlmablate.errors import UserError
from vlmablate.files import read_json
from vlmablate.orchestration.diff import MISSING, Difference, fields
from vlmablate.orchestration.lease import latest
from vlmablate.orchestration.store import ATTEMPTS, RESULT, SPEC, Store

SUPERSEDED = ".superseded"
_SHOWN = 6


@dataclass(frozen=True)
class RunDrift:
    """A run that is another one today: the same arm, context and seed, but other steps.

    ``differences`` are those of the steps' own configurations; paths of fields that only one role has start with the
    role.
    """

    run: RunSpec
    then: str
    differences: tuple[Difference, ...]


def config_drift(existing: Mapping[str, Any], runs: Sequence[RunSpec], store: Store) -> list[RunDrift]:
    """The runs whose configuration changed since ``existing`` was declared.

    Args:
        existing: the content of the study's ``study.json``.
        runs: the study's runs today. New ones (another arm or seed) are no drift.
        store: holds the specs of then; a run none of whose changed steps was ever started is left out, because nothing
            was computed that could be missed.
    """
    then = {(run["arm"], run["context"], run["seed"]): run for run in existing["runs"]}
    known: dict[str, Mapping[str, Any] | None] = {}
    found = []
    for run in runs:
        before = then.get((run.arm, run.context, run.seed))
        if before is None or before["run_id"] == run.run_id:
            continue
        differences: dict[str, Difference] = {}
        seen = False
        for role, step_id in before["steps"].items():
            now = run.steps.get(role)
            if now is not None and now.id == step_id:
                continue
            if step_id not in known:
                known[step_id] = _stored(store, existing["steps"].get(step_id))
            spec = known[step_id]
            if spec is None:
                continue
            seen = True
            for difference in _step_differences(role, spec, now):
                differences.setdefault(difference.path, difference)
        if seen:
            for role in run.steps.keys() - before["steps"].keys():
                differences.setdefault(role, Difference(role, MISSING, "a step of its own"))
            ordered = tuple(differences[path] for path in sorted(differences))
            found.append(RunDrift(run, str(before["run_id"]), ordered))
    return found


def _stored(store: Store, step: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    if step is None:
        return None
    try:
        spec = read_json(store.home / step["dir"] / SPEC)
    except (OSError, ValueError):
        return None
    return spec if isinstance(spec, dict) and isinstance(spec.get("config"), dict) else None


def _step_differences(role: str, then: Mapping[str, Any], now: StepSpec | None) -> list[Difference]:
    if now is None:
        return [Difference(role, "a step of its own", MISSING)]
    found = fields(then["config"], now.config)
    if then.get("version") != now.version:
        found.append(Difference(f"version of {now.kind}", then.get("version"), now.version))
    return found


def drift_lines(drifts: Sequence[RunDrift]) -> list[str]:
    """The drifts as text, one line for all runs that changed alike."""
    alike: dict[tuple[str, ...], list[RunDrift]] = {}
    for drift in drifts:
        alike.setdefault(tuple(map(str, drift.differences)), []).append(drift)
    lines = []
    for texts, group in alike.items():
        shown = "; ".join(texts[:_SHOWN]) or "only the steps it is made of"
        more = f"; and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else ""
        count = f"{len(group)} runs" if len(group) > 1 else group[0].run.label
        lines.append(f"{count} changed since this study last ran: {shown}{more}")
    return lines


def refuse_config(study: str, drifts: Sequence[RunDrift]) -> UserError:
    """The error for a study that may not drift."""
    listing = "\n".join(f"  {line}" for line in drift_lines(drifts))
    return UserError(
        f"the configuration of {study} is not what it was, and policy.on_drift=refuse:\n{listing}\n"
        "take the change back, give the study another name (study=NAME), or go on with policy.on_drift=warn"
    )


# Results that other code made


@dataclass(frozen=True)
class CodeDrift:
    """Finished steps that other science code made; ``digests`` are those of the code then."""

    steps: tuple[StepSpec, ...]
    digests: tuple[str, ...]

    def __str__(self) -> str:
        then = ", ".join(digest[:8] for digest in self.digests)
        count = f"{len(self.steps)} results were" if len(self.steps) > 1 else "1 result was"
        return f"{count} made by other code ({then}) than today's"


def code_drift(steps: Collection[StepSpec], store: Store, digest: str) -> CodeDrift | None:
    """The finished steps among ``steps`` whose result names another code than ``digest``; None when there are none.

    A result that does not say what made it is left in peace.
    """
    kinds = {step.kind for step in steps}
    listings = {kind: (str(store.kind_directory(kind)), store.listing(kind)) for kind in kinds}
    other, digests = [], set()
    for step in steps:
        folder, names = listings[step.kind]
        name = names.get(step.id)
        made_by = _made_by(f"{folder}/{name}/{RESULT}", digest) if name else None
        if made_by is not None and made_by != digest:
            other.append(step)
            digests.add(made_by)
    return CodeDrift(tuple(other), tuple(sorted(digests))) if other else None


def _made_by(path: str, digest: str) -> str | None:
    """The code that a result names; None when it names none, or cannot be read."""
    try:
        with open(path, "rb") as file:
            text = file.read()
        # A command that has nothing to do looks at every result, so only those that differ are parsed.
        if f'"code": "{digest}"'.encode() in text:
            return digest
        result = json.loads(text)
    except (OSError, ValueError):
        return None
    code = result.get("code") if isinstance(result, dict) else None
    return code if isinstance(code, str) else None


def set_aside(
    drift: CodeDrift, steps: Collection[StepSpec], store: Store, report: Callable[[str], None]
) -> int:
    """Move drifted results, and those among ``steps`` that were made from them, into ``.superseded``; how many.

    What someone works on is left alone. Other studies that share the results have them computed again as well.
    """
    stale = {step.id for step in drift.steps}
    for step in steps:  # dependencies come first
        if stale & set(step.deps.values()):
            stale.add(step.id)
    moved = 0
    for step in steps:
        folder = store.find(step.kind, step.id) if step.id in stale else None
        if folder is None:
            continue
        attempt = latest(folder / ATTEMPTS)
        if attempt is not None and attempt.alive():
            continue
        target = folder.parent / SUPERSEDED / f"{folder.name}-{uuid4().hex[:8]}"
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.rename(folder, target)
        except FileNotFoundError:
            continue
        moved += 1
    report(f"{drift}: {moved} moved into {SUPERSEDED}, to be computed again (policy.on_drift=rerun)")
    return moved


def refuse_code(study: str, drift: CodeDrift) -> UserError:
    """The error for a study whose results must all be made by today's code."""
    return UserError(
        f"{drift}, and policy.on_drift=refuse ({study})\n"
        "go back to that code, compute them again with policy.on_drift=rerun, or keep them with policy.on_drift=warn"
    )
