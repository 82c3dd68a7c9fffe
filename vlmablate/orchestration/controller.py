"""The controller of a sweep: plan, run what is missing, have the reports written."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

from vlmablate.design.compose import composer
from vlmablate.design.crossing import CrossedAxis
from vlmablate.errors import DiskFull, UserError, unknown_name
from vlmablate.files import read_json, write_json
from vlmablate.orchestration import adaptive, drift, provenance
from vlmablate.orchestration.compositions import Compositions
from vlmablate.orchestration.debug import DebugExecutor
from vlmablate.orchestration.devices import devices_for
from vlmablate.orchestration.failures import Outcome, same_failures
from vlmablate.orchestration.jobs import Job, manifest
from vlmablate.orchestration.lease import Lease, LeaseBusyError, claim
from vlmablate.orchestration.local import Executor, LocalExecutor, read_need
from vlmablate.orchestration.parts import Parts
from vlmablate.orchestration.plan import Plan, duration, make_plan, summary, table, unique_steps
from vlmablate.orchestration.policy import changed
from vlmablate.orchestration.preparation import Study, Work, prepare
from vlmablate.orchestration.progress import PLAIN_INTERVAL_S
from vlmablate.orchestration.scheduler import Scheduler
from vlmablate.orchestration.slurm.journal import close_finished
from vlmablate.orchestration.space_words import detectable_line
from vlmablate.orchestration.stop import check_interrupt, signals_interrupt
from vlmablate.orchestration.store import Store
from vlmablate.orchestration.study import Request, Sweep, analysis_history, compose_cells
from vlmablate.tracking.tracker import track

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_WORK = 10
EXIT_INTERRUPTED = 130
MAX_ROUNDS = 5
FOLLOW_S = 0.5


class Controller:
    """Runs the studies of one command. :meth:`plan` looks, :meth:`run` does the work; both return the exit code."""

    def __init__(self, asked: Request | Sweep, parts: Parts | None = None) -> None:
        self._sweep = asked if isinstance(asked, Sweep) else Sweep.of(asked)
        self._parts = parts or Parts()
        self._report = self._parts.report
        self._store = Store(self._parts.home)
        self._compositions = Compositions(self._parts.conf, self._parts.home)
        self._detach = False

    def plan(self) -> int:
        """Print the table of steps, what they cost, what sharing saves and what the seeds could find. Changes nothing.

        Returns:
            0 when every run is done, 10 when there is something to compute.
        """
        work = self._prepare(fetch=False)
        plan = self._make_plan(work, self._queued())
        self._say_head(work)
        for text in (*self._drift_lines(work), *table(plan), *summary(plan)):
            self._report(text)
        self._say_costs(work, plan)
        self._say_ahead(work)
        other = self._code_drift(work)
        if other is not None:
            does = {"rerun": "a run would compute them again", "refuse": "a run would refuse to go on"}
            self._report(f"{other}; {does.get(work.policy.on_drift, 'a run would keep them')}")
        rerun = other is not None and work.policy.on_drift == "rerun"
        if plan.finished and not rerun:
            for study in work.studies:
                self._say_ended(work, study)
            self._report("nothing to submit: every run is done")
            return EXIT_OK
        return EXIT_WORK

    def run(self, detach: bool = False) -> int:
        """Compute what is missing, then write the reports; returns the exit code of the command.

        Args:
            detach: only submit to Slurm; the same command, later, goes on from there.

        Raises:
            UserError: for mistakes in the request, and for changes that ``policy.on_drift=refuse`` forbids.
            DiskFull: when the studies' own files cannot be written.
        """
        self._detach = detach
        if detach and self._sweep.requests[0].launcher != "slurm":
            raise UserError("detach=true leaves the work to a queue, and only launcher=slurm has one")
        with signals_interrupt():
            try:
                work = self._prepare()
                self._mind_config(work)
                plan = self._make_plan(work)
                with self._hold(work) as followed:
                    again = self._mind_code(work) or followed
                    if again and work.adaptive:
                        work = self._prepare(fetch=False)  # other scores, other wishes
                    return self._work(work, self._make_plan(work) if again else plan)
            except KeyboardInterrupt:
                self._report(f"stopped; finished steps are kept. To go on: {self._sweep.command}")
                return EXIT_INTERRUPTED

    # Preparing

    def _prepare(self, fetch: bool = True) -> Work:
        parts = self._parts
        with composer(parts.conf, self._compositions) as compose:
            composed = [compose_cells(request, compose, parts.axes) for request in self._sweep.requests]
        return prepare(self._sweep, composed, parts, self._store, fetch)

    def _make_plan(self, work: Work, queued: Mapping[str, str] = MappingProxyType({})) -> Plan:
        return make_plan(work.runs, self._store, work.estimator, work.slots, queued)

    def _queued(self) -> dict[str, str]:
        """Step id -> job, of what waits in Slurm's queue."""
        if not (self._store.home / "submissions").is_dir():
            return {}
        from vlmablate.orchestration.slurm.status import queue_states

        return {step_id: state.job for step_id, state in queue_states(self._store.home).items()}

    # What changed since the last time

    def _drift_lines(self, work: Work) -> list[str]:
        several = len(work.studies) > 1
        return [
            f"{study.request.name}: {line}" if several else line
            for study in work.studies
            for line in drift.drift_lines(study.drifts)
        ]

    def _mind_config(self, work: Work) -> None:
        for study in work.studies:
            if study.drifts and work.policy.on_drift == "refuse":
                raise drift.refuse_config(study.request.name, study.drifts)
        for text in self._drift_lines(work):
            self._report(
                f"{text}\n  the runs are computed as they are configured now; what was computed then is kept"
            )

    def _code_drift(self, work: Work) -> drift.CodeDrift | None:
        return drift.code_drift(unique_steps(work.runs).values(), self._store, provenance.science_digest())

    def _mind_code(self, work: Work) -> bool:
        """Act on results that other code made. True when some were moved aside."""
        found = self._code_drift(work)
        if found is None:
            return False
        if work.policy.on_drift == "refuse":
            raise drift.refuse_code(work.name, found)
        if work.policy.on_drift == "rerun":
            steps = unique_steps(work.runs).values()
            return drift.set_aside(found, steps, self._store, self._report) > 0
        self._report(f"{found}; kept (policy.on_drift=rerun computes them again)")
        return False

    @contextmanager
    def _hold(self, work: Work) -> Iterator[bool]:
        """Be the one controller of every study; while another one is, follow it. Yields whether one was followed."""
        leases: list[Lease] = []
        followed = False
        try:
            # In one order for everybody, so that no two controllers wait for each other.
            for study in sorted(work.studies, key=lambda study: study.folder.name):
                lease, waited = self._claim(study)
                leases.append(lease)
                followed |= waited
            yield followed
        finally:
            for lease in leases:
                with suppress(DiskFull):  # the record then says running and dies with this process
                    lease.finish("ended")
                lease.abandon()

    def _claim(self, study: Study) -> tuple[Lease, bool]:
        """The lease of a study, and whether somebody had to be waited for."""
        followed, said = "", time.monotonic()
        while True:
            try:
                lease = claim(
                    study.folder / "control", ttl_s=self._parts.ttl_s, heartbeat_s=self._parts.heartbeat_s
                )
                return lease, bool(followed)
            except LeaseBusyError as busy:
                if followed != str(busy.holder.number):
                    followed = str(busy.holder.number)
                    self._report(
                        f"the study {study.request.name} is already being run by {busy.holder.describe()}; "
                        "following it (Ctrl-C leaves it alone)"
                    )
            if time.monotonic() - said >= PLAIN_INTERVAL_S:
                said = time.monotonic()
                wanted = (*study.trials, *study.runs)
                done = sum(self._store.has_result("evaluate", run.run_id) for run in wanted)
                self._report(f"following: {done} of {len(wanted)} runs are done")
            check_interrupt()
            time.sleep(FOLLOW_S)

    # Working

    def _work(self, work: Work, plan: Plan) -> int:
        """Compute, ask adaptive studies what they want with the scores that there are now, and so on; then report."""
        self._say_head(work)
        for text in summary(plan):
            self._report(text)
        self._declare(work, plan)
        plan, outcome = self._compute(work, plan, Outcome())
        ended: set[str] = set()
        while work.growing and _settled(plan, outcome):
            before = {run.run_id for run in work.runs}
            ended.update(outcome.ended)
            work = self._prepare(fetch=False)
            # What is wanted now may be there since long ago. A warning was given at the start.
            if work.policy.on_drift != "warn" and self._mind_code(work):
                work = self._prepare(fetch=False)
            more = {run.run_id for run in work.runs} - before
            plan = self._make_plan(work)
            self._declare(work, plan)
            lost = ended & {step.id for step in plan.missing}  # how they ended could not be written down
            if (plan.finished and not more) or lost:
                break
            self._report(f"the scores call for more; runs that are wanted now: {len(more)}")
            plan, outcome = self._compute(work, plan, outcome)
        if outcome.detached:
            return self._say_detached(work, outcome)
        if plan.finished:
            close_finished(self._store.home, self._store.has_result)
            what = "writing the report" if len(work.studies) == 1 else "writing the reports"
            end = f"; {what}" if outcome.computed else ", nothing to submit"
            self._report(f"all {len(plan.runs)} runs are done{end}")
        # Of several studies, those that are whole are reported whatever happened to the others.
        rebuilt = False
        for study in work.studies:
            if study.runs and study.done(plan.done) == len(study.runs):
                self._say_ended(work, study)
                rebuilt |= self._build(work, study)
        if len(work.studies) > 1 and (rebuilt or not (work.folder / "index.html").exists()):
            self._write_page()
        if work.tracking is not None:
            folders = [study.folder for study in work.studies]
            track(work.folder, folders, work.runs, self._store, work.tracking, self._report)
        return EXIT_OK if plan.finished else self._say_unfinished(work, plan, outcome)

    def _compute(self, work: Work, plan: Plan, outcome: Outcome) -> tuple[Plan, Outcome]:
        """Compute what the plan lacks. Returns how it stands then, and what was computed on top of `outcome`."""
        for _ in range(MAX_ROUNDS):
            for damaged in plan.corrupt:
                self._store.quarantine(damaged.directory, damaged.reason, self._report)
            if plan.finished:
                break
            before = outcome.computed
            outcome = self._slurm_round(work) if work.launcher == "slurm" else self._round(work, plan)
            outcome.computed += before
            again = outcome.replan and not outcome.ended  # trials that have ended are not to be tried again
            if not again or outcome.failures or outcome.disk_full or outcome.interrupted:
                break
            plan = self._make_plan(work)
        if outcome.interrupted and not outcome.detached:
            raise KeyboardInterrupt
        return plan if plan.finished or outcome.detached else self._make_plan(work), outcome

    def _build(self, work: Work, study: Study) -> bool:
        """Report a study, and say its verdicts. Returns whether anything was written anew."""
        made = self._parts.build_report(study.folder)
        if len(work.studies) > 1:
            self._report(f"study {study.request.name}")
        for verdict in made["verdicts"]:
            self._report(str(verdict))
        self._report(f"report: {made['html']}")
        return bool(made.get("rebuilt", True))

    def _write_page(self) -> None:
        """The page over all axes beside their reports; it only reads what is there."""
        from vlmablate.report.study_page import write_page
        from vlmablate.report.study_page_declared import index_of_sweep

        page = write_page(index_of_sweep(self._sweep, self._parts.axes), self._parts.home)
        self._report(f"all axes: {page}")

    def _declare(self, work: Work, plan: Plan) -> None:
        """Write every study's ``study.json``, and keep what was composed for it."""
        facts: dict[str, Any] = {}
        for study in work.studies:
            declared, done = study.declared, study.done(plan.done)
            if done < len(study.runs) or "git" not in declared["provenance"]:
                facts = facts or provenance.record(self._store.home)
                declared["command"] = study.request.command
                declared["provenance"].update(facts)
            declared["analysis_history"] = analysis_history(
                declared["analysis_history"], declared["analysis"], done, study.request.how
            )
            path = study.folder / "study.json"
            with suppress(FileNotFoundError, ValueError):
                if read_json(path) == declared:
                    continue
            write_json(path, declared)
        self._compositions.save()

    def _round(self, work: Work, plan: Plan) -> Outcome:
        parts, jobs_folder = self._parts, work.folder / "jobs"
        display = parts.display()
        debug = work.launcher == "debug"
        threads = int(work.execution["threads"])
        watched = work.watched
        executor: Executor
        if debug:
            executor = DebugExecutor(tick=lambda: display.update(scheduler.snapshot()))
        else:
            need, devices = read_need(work.execution), devices_for(work.execution)
            executor = LocalExecutor(jobs_folder, plan.slots, threads, need, devices)

        def make_manifest(job: Job, changes: Mapping[str, Any]) -> dict[str, Any]:
            return manifest(
                job,
                store=self._store,
                assets=parts.cache,
                kinds=parts.kinds,
                execution=changed(work.execution, changes),
                parent=executor.parent,
                milestones=watched,
                ttl_s=parts.ttl_s,
                heartbeat_s=parts.heartbeat_s,
            )

        scheduler = Scheduler(
            plan, self._store, executor, jobs_folder, make_manifest, display, work.policy, work.execution,
            trials=watched.keys(),
        )  # fmt: skip
        try:
            return scheduler.run()
        finally:
            display.close()

    def _slurm_round(self, work: Work) -> Outcome:
        from vlmablate.orchestration.slurm import commands
        from vlmablate.orchestration.slurm.round import SlurmRound, Surroundings
        from vlmablate.orchestration.snapshot import snapshot

        commands.require_slurm()
        parts = self._parts
        around = Surroundings(
            study=work.name,
            home=self._store.home,
            assets=parts.cache,
            kinds=parts.kinds,
            execution=work.execution,
            code=snapshot(self._store.home),
            limits=commands.limits(),
            milestones=work.watched,
            ttl_s=parts.ttl_s,
            heartbeat_s=parts.heartbeat_s,
        )
        display = parts.display()
        round_ = SlurmRound(lambda: self._make_plan(work), self._store, around, work.policy, display)
        try:
            return round_.run(self._detach)
        finally:
            display.close()

    # Words

    def _say_head(self, work: Work) -> None:
        axes = f": {', '.join(study.axis.name for study in work.studies)}" if len(work.studies) > 1 else ""
        self._report(f"study {work.name}{axes}")

    def _say_costs(self, work: Work, plan: Plan) -> None:
        from vlmablate.orchestration import costs
        from vlmablate.orchestration.detectable import Spread, measured_spread

        for text in costs.work_lines(plan, work.execution):
            self._report(text)
        if plan.finished:
            return
        prior = work.declared.seed_sd
        assumed = Spread(prior, 0) if prior is not None else None
        spread = measured_spread(self._store.home, work.studies[0].request.scale) or assumed
        alike: dict[str, list[str]] = {}
        for study in work.studies:
            axis, settings, request = study.axis, study.declared["analysis"], study.request
            if isinstance(axis, CrossedAxis):
                texts = [detectable_line(axis, request, settings, spread)]
            elif request.max_seeds is not None:
                texts = adaptive.plan_text(axis, request.max_seeds, request.budget, settings, spread)
            else:
                seeds = len(request.seeds)
                texts = [costs.detectable_line(len(axis.arms), len(axis.contexts), seeds, settings, spread)]
            alike.setdefault("\n".join(texts), []).append(axis.name)
        for text, axes in alike.items():
            self._report(f"{', '.join(axes)}: {text}" if len(work.studies) > 1 else text)
        if work.launcher == "slurm":
            self._say_submission(work, plan)

    def _say_ahead(self, work: Work) -> None:
        """What follows the runs that a plan shows, and what all of it together costs."""
        ahead = [study.ahead() for study in work.studies]
        for study, following in zip(work.studies, ahead, strict=True):
            if following.text:
                axis = f"{study.axis.name}: " if len(work.studies) > 1 else ""
                self._report(f"{axis}{following.text}")
        later = [run for following in ahead for run in following.runs]
        if later:
            whole = make_plan([*work.runs, *later], self._store, work.estimator, work.slots)
            self._report(
                f"all of it together: about {duration(whole.wall_s)} on {whole.slots} "
                f"worker{'s' if whole.slots != 1 else ''} ({duration(whole.work_s)} of work)"
            )

    def _say_ended(self, work: Work, study: Study) -> None:
        """Why the contrasts of an adaptive study stopped; nothing for a fixed grid."""
        for text in study.lines:
            self._report(f"{study.axis.name}: {text}" if len(work.studies) > 1 else text)

    def _say_submission(self, work: Work, plan: Plan) -> None:
        from vlmablate.orchestration import costs, preview

        waiting = {planned.spec.id for planned in plan.steps if planned.queued}
        jobs = [job for job in plan.jobs if not waiting & {step.id for step in job.steps}]
        if not jobs:
            return
        batches = preview.batches_of(jobs, work.execution)
        self._report(costs.batch_line(preview.names(batches)))
        try:
            texts = preview.scripts(batches, self._store.home)
        except RuntimeError:
            self._report("(their scripts are shown where Slurm's commands are on the PATH)")
            return
        for batch, text in zip(batches, texts, strict=True):
            self._report(f"--- {batch.token}\n{text}")

    def _say_detached(self, work: Work, outcome: Outcome) -> int:
        names = " ".join(study.request.name for study in work.studies)
        self._report("the jobs are left to Slurm." if self._detach else "stopped watching; the jobs go on.")
        self._report(f"  look:    vlmablate status{f' {names}' if len(work.studies) == 1 else ''}")
        self._report(f"  go on:   {work.command}  (follows the jobs, then writes the report)")
        self._report(f"  cancel:  vlmablate cancel {names}")
        if outcome.interrupted:
            return EXIT_INTERRUPTED
        if outcome.not_started:
            self._report(
                f"{len(outcome.not_started)} jobs did not fit; give the same command again when there is room"
            )
            return EXIT_FAILED
        return EXIT_OK

    def _say_unfinished(self, work: Work, plan: Plan, outcome: Outcome) -> int:
        report = self._report
        for text in same_failures(outcome.failures):
            report(text)
        for job in outcome.dep_failed:
            report(f"not run, a step it needs failed: {job.steps[-1].kind} {job.label}")
        if outcome.not_started:
            report(f"{len(outcome.not_started)} jobs were not started")
        if outcome.disk_full:
            report(f"the disk is full: {outcome.disk_full}")
        missing = len(plan.runs) - plan.runs_done
        report(f"{missing} of {len(plan.runs)} runs are missing; what is done is kept.")
        report(f"To go on: {work.command}")
        return EXIT_FAILED


def _settled(plan: Plan, outcome: Outcome) -> bool:
    """Whether everything that was asked for has come to an end, of trials also to one without a result."""
    if outcome.detached:
        return False
    trouble = outcome.failures or outcome.not_started or outcome.disk_full
    return plan.finished or bool(outcome.ended and not trouble)


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
