"""``vlmablate why``: for every step of a run, why it was, or would be, computed or reused."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from vlmablate.errors import UserError
from vlmablate.files import read_json
from vlmablate.orchestration import provenance
from vlmablate.orchestration.diff import fields
from vlmablate.orchestration.drift import SUPERSEDED
from vlmablate.orchestration.kinship import Spec, kinship, nearest
from vlmablate.orchestration.lease import Attempt, attempts
from vlmablate.orchestration.names import Index, KnownRun, KnownStep, Selection
from vlmablate.orchestration.parts import Parts
from vlmablate.orchestration.status import Look, StepState, StepStatus
from vlmablate.orchestration.store import ATTEMPTS, QUARANTINE, RESULT, SPEC, State, inspect_directory

_LIBRARIES_SHOWN = 6


def why(home: Path, word: str, parts: Parts | None = None) -> list[str]:
    """The reasons as lines of text.

    Args:
        home: the results folder.
        word: one run or one step.
        parts: configuration tree, axes and assets (tests).

    Raises:
        UserError: for a name that means nothing, or several runs.
    """
    index = Index(home)
    return list(_Reasons(index, index.one(word), parts or Parts(home=home)).lines())


class _Reasons:
    def __init__(self, index: Index, selection: Selection, parts: Parts) -> None:
        self._index = index
        self._home = index.home
        self._selection = selection
        self._run: KnownRun | None = selection.runs[0] if selection.runs else None
        self._parts = parts
        self._look = Look(index.home)
        self._specs: dict[str, Spec | None] = {}
        self._trouble = ""

    def lines(self) -> Iterator[str]:
        run = self._run
        if run is None:
            assert self._selection.step is not None
            yield str(self._selection.step)
            yield from self._step(self._selection.step)
            return
        others = [other.label for other in self._selection.runs[1:]]
        yield f"{run.label}  {run.run_id}" + (f"  (the same run: {', '.join(others)})" if others else "")
        yield f"  asked for by: {self._index.studies[run.study]['command']}"
        yield from self._changes(run)
        for step_id in dict.fromkeys(run.steps.values()):
            step = self._index.steps[step_id]
            yield f"{step}-{step.id}"
            yield from self._step(step)
        states = {self._state(step_id).state for step_id in run.steps.values()}
        if states != {StepState.DONE} and not states & {StepState.RUNNING, StepState.QUEUED}:
            yield f"to go on: {self._index.studies[run.study]['command']}"
        if self._look.trouble:
            yield self._look.trouble

    # Today's configuration

    @cached_property
    def _today(self) -> dict[str, Spec]:
        """Role -> step of this run as it would be composed now; empty when it cannot be."""
        run = self._run
        if run is None:
            return {}
        from vlmablate.orchestration.today import run_today

        try:
            found = run_today(self._index.studies[run.study], run.arm, run.context, run.seed, self._parts)
        except UserError as error:
            self._trouble = f"it cannot be composed any more: {error}"
            return {}
        if found is None:
            self._trouble = "its axis has no such arm or context any more"
            return {}
        return {role: step.to_dict() for role, step in found.steps.items()}

    def _changes(self, run: KnownRun) -> Iterator[str]:
        today = self._today
        if not today:
            yield f"  today's configuration: {self._trouble}"
            return
        now = today["evaluate"]
        if now["id"] == run.run_id:
            yield (
                "  today's configuration gives the same run: what is done is reused, because an id stands for "
                "everything that can change a result"
            )
            return
        yield f"  today's configuration gives another run, {now['id']}: the same command computes what differs"
        for role, step in today.items():
            then = run.steps.get(role)
            before = self._spec(then) if then is not None else None
            if then == step["id"]:
                continue
            if before is None:
                yield f"    {role}: {then or 'was not part of it'} → {step['id']}"
                continue
            lines = [str(difference) for difference in kinship(before, step, self._spec).own]
            if lines:
                yield from (f"    {role}: {line}" for line in lines)

    # One step

    def _state(self, step_id: str) -> StepStatus:
        step = self._index.steps.get(step_id) or self._selection.step
        assert step is not None
        return self._look.step(step_id, {"kind": step.kind, "slug": step.slug, "dir": step.directory})

    def _step(self, step: KnownStep) -> Iterator[str]:
        directory = self._home / step.directory
        status = self._state(step.id)
        found = inspect_directory(directory, step.id)
        if found.state is State.CORRUPT:
            yield f"  damaged: {found.reason}; it is set aside and computed again when a run needs it"
        elif found.result is not None:
            yield from self._done(step, directory, found.result)
        else:
            yield from self._undone(step, directory, status)
        for folder in (QUARANTINE, SUPERSEDED):
            for name in _starting_with(directory.parent / folder, directory.name):
                yield f"  an earlier result was set aside: {directory.parent / folder / name}"

    def _done(self, step: KnownStep, directory: Path, result: Mapping[str, Any]) -> Iterator[str]:
        users = self._index.users(step.id)
        shared = f"; {len({u.run_id for u in users})} runs use it" if len(users) > 1 else ""
        host = (result.get("host") or {}).get("name", "an unknown machine")
        took = f" in {result['wall_s']:.1f} s" if isinstance(result.get("wall_s"), int | float) else ""
        yield (
            f"  done {result.get('finished', '')} on {host}, attempt {result.get('attempt', '?')}{took}{shared}"
        )
        yield from self._drift(result)

    def _drift(self, result: Mapping[str, Any]) -> Iterator[str]:
        then, now = result.get("code"), provenance.science_digest()
        if then and then != now:
            commit = (provenance.code_record(self._home, str(then)).get("git") or {}).get("sha")
            at = f" (commit {commit[:12]})" if commit else ""
            yield (
                f"  made by other code: {then}{at} then, {now} now; policy on_drift says whether that matters"
            )
        changed = [str(change) for change in fields(result.get("versions") or {}, provenance.versions())]
        if changed:
            more = f" and {len(changed) - _LIBRARIES_SHOWN} more" if len(changed) > _LIBRARIES_SHOWN else ""
            yield f"  made with other libraries: {', '.join(changed[:_LIBRARIES_SHOWN])}{more}"

    def _undone(self, step: KnownStep, directory: Path, status: StepStatus) -> Iterator[str]:
        past = attempts(directory / ATTEMPTS)
        yield f"  {self._words(status, past[-1] if past else None)}"
        if past and status.log:
            yield f"  log: {status.log}"
        spec = self._spec(step.id)
        if spec is None:
            yield "  what it consists of is not known: it was never started, and today's configuration differs"
            return
        if status.state is not StepState.RUNNING:
            yield from self._waits_for(spec)
        yield from self._nearest(spec)

    def _words(self, status: StepStatus, attempt: Attempt | None) -> str:
        record = attempt.record if attempt is not None else {}
        when = record.get("ended") or record.get("begun") or ""
        tries = f"attempt {status.attempts}" if status.attempts else ""
        if status.state is StepState.PRUNED:
            return f"pruned, {tries}, {when}: {status.cause}"
        if status.state is StepState.FAILED:
            verdict = _verdict(attempt)
            kind = f" ({verdict['class']})" if verdict.get("class") else ""
            decided = f"; {verdict['why']}" if verdict.get("why") else ""
            return f"failed{kind}, {tries}, {when}: {status.cause}{decided}"
        if status.state is StepState.RUNNING:
            at = f", {status.done}/{status.total}" if status.total else ""
            job = f", job {status.job}" if status.job else ""
            return f"at work: {status.owner}{job}, since {record.get('begun', '?')}{at}"
        if status.state is StepState.QUEUED:
            return f"in the queue as job {status.job}: {status.cause}"
        if status.state is StepState.STOPPED:
            saved = record.get("checkpoint")
            goes_on = f"; goes on from step {saved}" if saved else ""
            return f"was interrupted, {tries}, {when}: {status.cause}{goes_on}"
        if status.state is StepState.WAITING:
            return "not computed yet: no result with its id, and nobody works on it"
        return status.cause  # cancelled, unknown

    def _waits_for(self, spec: Spec) -> Iterator[str]:
        for role, dep in spec["deps"].items():
            known = self._index.steps.get(dep)
            if known is None:
                if not self._stored(dep):
                    yield f"  needs {role} {dep}, which is not there and which no study declares"
                continue
            state = self._state(dep).state
            if state is not StepState.DONE:
                yield f"  waits for {role}, {known}: {state}"

    def _nearest(self, spec: Spec) -> Iterator[str]:
        found = nearest(spec, self._finished(spec["kind"]), self._spec)
        if found is None:
            yield f"  no other {spec['kind']} step is stored"
            return
        then, kin = found
        count = kin.distance
        yield (
            f"  the nearest stored {spec['kind']} step, {then['slug']}-{then['id']}, differs in "
            f"{count} field{'s' if count != 1 else ''}:"
        )
        yield from (f"    {line}" for line in kin.lines())

    # Specs

    def _spec(self, step_id: str) -> Spec | None:
        """The frozen spec of a step by its id, from its folder, or from what today's configuration gives."""
        if step_id not in self._specs:
            self._specs[step_id] = self._read_spec(step_id)
        return self._specs[step_id]

    def _read_spec(self, step_id: str) -> Spec | None:
        place = self._stored(step_id)
        if place is not None:
            try:
                spec: Spec = read_json(place / SPEC)
            except (OSError, ValueError):
                pass
            else:
                return spec
        return next((step for step in self._today.values() if step["id"] == step_id), None)

    def _stored(self, step_id: str) -> Path | None:
        known = self._folders.get(step_id)
        return self._home / known.directory if known is not None else None

    @cached_property
    def _folders(self) -> dict[str, KnownStep]:
        return {step.id: step for step in self._index.folders()}

    def _finished(self, kind: str) -> Iterator[Spec]:
        for step in self._folders.values():
            if step.kind == kind and os.path.exists(self._home / step.directory / RESULT):
                spec = self._spec(step.id)
                if spec is not None:
                    yield spec


def _verdict(attempt: Attempt | None) -> Mapping[str, Any]:
    from vlmablate.orchestration.failures import read_verdict

    return (read_verdict(attempt) if attempt is not None else None) or {}


def _starting_with(folder: Path, name: str) -> list[str]:
    try:
        return sorted(entry for entry in os.listdir(folder) if entry.startswith(name))
    except OSError:
        return []
