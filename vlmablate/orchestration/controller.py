"""The controller of a study: plan, run what is missing, have the report written."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmablate.design.compose import composer
from vlmablate.design.spec import RunSpec
from vlmablate.errors import DiskFull, unknown_name
from vlmablate.files import read_json, write_json
from vlmablate.orchestration import provenance
from vlmablate.orchestration.debug import DebugExecutor
from vlmablate.orchestration.estimates import Estimator
from vlmablate.orchestration.failures import Outcome
from vlmablate.orchestration.jobs import Job, manifest
from vlmablate.orchestration.lease import Lease, LeaseBusyError, claim
from vlmablate.orchestration.local import Executor, LocalExecutor, count_slots, gpu_list
from vlmablate.orchestration.parts import Parts
from vlmablate.orchestration.plan import Plan, make_plan, summary, table
from vlmablate.orchestration.progress import PLAIN_INTERVAL_S
from vlmablate.orchestration.scheduler import Scheduler
from vlmablate.orchestration.stop import signals_interrupt
from vlmablate.orchestration.store import Store
from vlmablate.orchestration.study import (
    AssetSource,
    Request,
    analysis_history,
    build_runs,
    check_same_study,
    compose_cells,
    declaration,
    declared_analysis,
    required_assets,
)

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_INTERRUPTED = 130
MAX_ROUNDS = 5
FOLLOW_S = 0.5


@dataclass(frozen=True)
class _Study:
    """A study that is ready to be planned."""

    request: Request
    folder: Path
    runs: list[RunSpec]
    declared: dict[str, Any]
    execution: dict[str, Any]
    policy: dict[str, Any]
    estimates: dict[str, float]
    slots: int


class Controller:
    """Runs one study. :meth:`plan` only looks; :meth:`run` does the work and returns the exit code."""

    def __init__(self, request: Request, parts: Parts | None = None) -> None:
        self._request = request
        self._parts = parts or Parts()
        self._report = self._parts.report
        self._store = Store(self._parts.home)

    def plan(self) -> int:
        """Print the table of steps, the time estimate, and what sharing saves. Changes nothing."""
        study = self._prepare(fetch=False)
        plan = self._make_plan(study)
        for text in (f"study {study.request.name}", *table(plan), *summary(plan)):
            self._report(text)
        if plan.finished:
            self._report("nothing to submit: every run is done")
        return EXIT_OK

    def run(self) -> int:
        """Compute what is missing, then write the report; returns the exit code of the command.

        Raises:
            UserError: for mistakes in the request.
            DiskFull: when the study's own files cannot be written.
        """
        with signals_interrupt():
            try:
                study = self._prepare()
                plan = self._make_plan(study)
                with self._hold(study) as followed:
                    return self._work(study, self._make_plan(study) if followed else plan)
            except KeyboardInterrupt:
                self._report(f"stopped; finished steps are kept. To go on: {self._request.command}")
                return EXIT_INTERRUPTED

    # Preparing

    def _prepare(self, fetch: bool = True) -> _Study:
        request, parts = self._request, self._parts
        with composer(parts.conf) as compose:
            axis, cells = compose_cells(request, compose, parts.axes)
        source = parts.asset_source()
        names = required_assets(cells, source)
        digests = source.ensure(names, self._report) if fetch else self._fetched(names, source)
        runs = build_runs(cells, request.seeds, digests, source, request.scale)
        folder = parts.home / "studies" / request.name
        existing = check_same_study(folder, request)
        config = cells[0].config
        execution = dict(config["execution"])
        slots = count_slots(execution["threads"], execution.get("workers"))
        analysis = declared_analysis(cells)
        declared = declaration(request, axis, runs, self._store, analysis, {"assets": digests})
        declared["analysis_history"] = list((existing or {}).get("analysis_history", []))
        # A command that only looks at finished work keeps the provenance, and the words, of the one that did
        # it.
        if existing is not None:
            declared["provenance"] = {**existing.get("provenance", {}), "assets": digests}
            if existing["seeds"] == declared["seeds"] and existing.get("analysis") == analysis:
                declared["command"] = existing["command"]
        return _Study(
            request=request,
            folder=folder,
            runs=runs,
            declared=declared,
            execution=execution,
            policy=dict(config.get("policy") or {}),
            estimates=dict(config.get("estimates") or {}),
            slots=slots,
        )

    def _fetched(self, names: list[str], source: AssetSource) -> dict[str, str]:
        """Digests of the sets that are whole; a plan downloads nothing and says what it would download."""
        rows = {row.name: row for row in source.status()} if names else {}
        missing = [name for name in names if not str(rows[name].state).startswith("ready")]
        if missing:
            size = sum(int(rows[name].bytes) for name in missing) / 1e6
            self._report(f"to fetch first: {', '.join(missing)} ({size:.0f} MB)")
        present = source.ensure([name for name in names if name not in missing], self._report)
        return {name: present.get(name, "to be fetched") for name in names}

    def _make_plan(self, study: _Study) -> Plan:
        slots = 1 if study.execution.get("launcher") == "debug" else study.slots
        return make_plan(study.runs, self._store, Estimator(self._store, study.estimates), slots)

    @contextmanager
    def _hold(self, study: _Study) -> Iterator[bool]:
        """Be the one controller of the study; while another one is, follow it. Yields whether it was
        followed.
        """
        lease: Lease | None = None
        followed, said = "", time.monotonic()
        while lease is None:
            try:
                lease = claim(
                    study.folder / "control", ttl_s=self._parts.ttl_s, heartbeat_s=self._parts.heartbeat_s
                )
            except LeaseBusyError as busy:
                if followed != str(busy.holder.number):
                    followed = str(busy.holder.number)
                    self._report(
                        f"the study {study.request.name} is already being run by {busy.holder.describe()}; "
                        "following it (Ctrl-C leaves it alone)"
                    )
                if time.monotonic() - said >= PLAIN_INTERVAL_S:
                    said = time.monotonic()
                    plan = self._make_plan(study)
                    self._report(f"following: {plan.runs_done} of {len(plan.runs)} runs are done")
                time.sleep(FOLLOW_S)
        try:
            yield bool(followed)
        finally:
            with suppress(DiskFull):  # the record then says running and dies with this process
                lease.finish("ended")
            lease.abandon()

    # Working

    def _work(self, study: _Study, plan: Plan) -> int:
        for text in (f"study {study.request.name}", *summary(plan)):
            self._report(text)
        outcome = Outcome()
        if not plan.finished or "git" not in study.declared["provenance"]:
            study.declared["command"] = study.request.command
            facts = {
                "git": provenance.git_state(),
                "versions": provenance.versions(),
                "host": provenance.host(),
            }
            study.declared["provenance"].update(facts)
        study.declared["analysis_history"] = analysis_history(
            study.declared["analysis_history"], study.declared["analysis"], plan.runs_done
        )
        self._declare(study)
        for _ in range(MAX_ROUNDS):
            for damaged in plan.corrupt:
                self._store.quarantine(damaged.directory, damaged.reason, self._report)
            if plan.finished:
                break
            before = outcome.computed
            outcome = self._round(study, plan)
            outcome.computed += before
            if not outcome.replan or outcome.failures or outcome.disk_full or outcome.interrupted:
                break
            plan = self._make_plan(study)
        if outcome.interrupted:
            raise KeyboardInterrupt
        plan = self._make_plan(study)
        if not plan.finished:
            return self._say_unfinished(plan, outcome)
        if outcome.computed:
            self._report(f"all {len(plan.runs)} runs are done; writing the report")
        else:
            self._report(f"all {len(plan.runs)} runs are done, nothing to submit")
        made = self._parts.build_report(study.folder)
        for verdict in made["verdicts"]:
            self._report(str(verdict))
        self._report(f"report: {made['html']}")
        return EXIT_OK

    def _declare(self, study: _Study) -> None:
        path = study.folder / "study.json"
        try:
            if read_json(path) == study.declared:
                return
        except (FileNotFoundError, ValueError):
            pass
        write_json(path, study.declared)

    def _round(self, study: _Study, plan: Plan) -> Outcome:
        parts, jobs_folder = self._parts, study.folder / "jobs"
        display = parts.display()
        debug = study.execution.get("launcher") == "debug"
        threads = int(study.execution["threads"])
        executor: Executor
        if debug:
            executor = DebugExecutor(tick=lambda: display.update(scheduler.snapshot()))
        else:
            executor = LocalExecutor(jobs_folder, plan.slots, threads, gpu_list(study.execution))

        def make_manifest(job: Job) -> dict[str, Any]:
            return manifest(
                job,
                store=self._store,
                assets=parts.cache,
                kinds=parts.kinds,
                execution=study.execution,
                parent=None if debug else os.getpid(),
                ttl_s=parts.ttl_s,
                heartbeat_s=parts.heartbeat_s,
            )

        scheduler = Scheduler(plan, self._store, executor, jobs_folder, make_manifest, display, study.policy)
        try:
            return scheduler.run()
        finally:
            display.close()

    # Words

    def _say_unfinished(self, plan: Plan, outcome: Outcome) -> int:
        report = self._report
        for failure in outcome.failures:
            report(f"failed: {failure.step.kind} {failure.label}: {failure.cause}\n  log: {failure.log}")
        for job in outcome.dep_failed:
            report(f"not run, a step it needs failed: {job.steps[-1].kind} {job.label}")
        if outcome.not_started:
            report(f"{len(outcome.not_started)} jobs were not started")
        if outcome.disk_full:
            report(f"the disk is full: {outcome.disk_full}")
        missing = len(plan.runs) - plan.runs_done
        report(f"{missing} of {len(plan.runs)} runs are missing; what is done is kept.")
        report(f"To go on: {self._request.command}")
        return EXIT_FAILED


def rebuild_report(name: str, results: Path, force: bool = True) -> dict[str, Any]:
    """Write the report of a study from what is there, finished or not.

    Raises:
        UserError: for an unknown study (lists those there are).
    """
    studies = results / "studies"
    known = sorted(path.parent.name for path in studies.glob("*/study.json"))
    if name not in known:
        raise unknown_name("study", name, known, where=str(studies))
    return Parts(home=results).build_report(studies / name, force)
