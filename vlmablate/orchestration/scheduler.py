"""One round of work: starts the jobs of a plan as their dependencies finish, and judges how each of them
ended.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from enum import Enum, auto
from pathlib import Path
from typing import Any, Protocol

from vlmablate.design.spec import StepSpec
from vlmablate.errors import DiskFull
from vlmablate.files import write_json
from vlmablate.orchestration.evidence import FailureClass, classify
from vlmablate.orchestration.failures import (
    Failure,
    Outcome,
    cancelled_by,
    cause_of,
    end_of_trial,
    evidence_of,
    fingerprint_of,
    past_failure,
    write_verdict,
)
from vlmablate.orchestration.jobs import Job
from vlmablate.orchestration.local import Executor
from vlmablate.orchestration.plan import Plan, Status
from vlmablate.orchestration.policy import (
    Action,
    PastFailure,
    Policy,
    changed,
    crash_loop,
    decide,
    in_effect,
)
from vlmablate.orchestration.progress import Display, Running, Snapshot, read_progress
from vlmablate.orchestration.stop import check_interrupt
from vlmablate.orchestration.store import LOG, State, Store
from vlmablate.orchestration.worker import Exit

LOOK_S = 0.5
_SOON_S = 0.1


class MakeManifest(Protocol):
    """Makes the manifest of a job; ``changes`` are dotted keys of ``execution`` that a failure changed for it."""

    def __call__(self, job: Job, changes: Mapping[str, Any]) -> dict[str, Any]: ...


class _Ready(Enum):
    START = auto()
    WAIT = auto()
    DONE = auto()
    DEP_FAILED = auto()
    CANCELLED = auto()
    ENDED = auto()
    GONE = auto()


class Scheduler:
    """Drives an executor through the jobs of a plan.

    Args:
        plan: what to do.
        store: where results appear.
        executor: where jobs run.
        jobs: folder of the job files: ``<job>.json`` is the frozen manifest, ``<job>.log`` the worker's own
            output.
        make_manifest: the content of a job's manifest.
        display: shows progress and messages.
        policy: what to do about failures.
        execution: placement of the jobs, which a failure may change for the next attempt.
        trials: ids of the trainings of trials, which may end without a result.
    """

    def __init__(
        self,
        plan: Plan,
        store: Store,
        executor: Executor,
        jobs: Path,
        make_manifest: MakeManifest,
        display: Display,
        policy: Policy,
        execution: Mapping[str, Any],
        trials: Collection[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._plan = plan
        self._store = store
        self._executor = executor
        self._jobs = jobs
        self._make_manifest = make_manifest
        self._display = display
        self._policy = policy
        self._execution = execution
        self._trials = trials
        self._clock = clock
        self._begun = clock()
        self._specs = {planned.spec.id: planned.spec for planned in plan.steps}
        self._pending: list[Job] = list(plan.jobs)
        self._running: dict[str, tuple[Job, float]] = {}
        self._done = {planned.spec.id for planned in plan.steps if planned.status is Status.DONE}
        self._counted = set(self._done)
        self._failed: set[str] = set()
        self._over: set[str] = set()  # of these, what belongs to trials that may end so
        self._before: dict[str, int] = {}
        self._past: dict[str, list[PastFailure]] = {}
        self._changes: dict[str, dict[str, Any]] = {}
        self._waiting: dict[str, str] = {}
        self._looked = float("-inf")
        self._shown = float("-inf")
        self._halted = False
        self.outcome = Outcome()

    def run(self) -> Outcome:
        """Work until nothing is left that could be started. Ctrl-C stops the workers and is noted in the
        outcome.
        """
        try:
            while self._pending or self._running:
                check_interrupt()
                self._start_ready()
                self._show(LOOK_S)
                if self._pending or self._running:
                    self._executor.wait(LOOK_S)
                for name, code in self._executor.poll():
                    job, _ = self._running.pop(name)
                    self._ended(job, code)
                    self._looked = float("-inf")
                    self._show(_SOON_S)
            self._show(0.0)
        except KeyboardInterrupt:
            self.outcome.interrupted = True
        finally:
            # Also on an unexpected error no worker may be left behind.
            self._executor.stop()
        return self.outcome

    # Starting

    def _start_ready(self) -> None:
        if self._halted:
            self.outcome.not_started += self._pending
            self._pending.clear()
            return
        if self._executor.full or self._clock() - self._looked < LOOK_S:
            return
        self._looked = self._clock()
        self._waiting.clear()
        coming = {step.id for job in self._pending for step in job.steps}
        coming |= {step.id for job, _ in self._running.values() for step in job.steps}
        missing: set[str] = set()
        for job in list(self._pending):
            if self._executor.full:
                break
            ready = self._readiness(job, coming, missing)
            if ready is _Ready.WAIT:
                continue
            if ready is _Ready.START and not self._executor.room(job):
                if not self._running:
                    self._waiting["room"] = f"{job.steps[0].kind} {job.label}: others hold the GPUs"
                break  # in order: a job that takes much is not overtaken for ever by those that take little
            self._pending.remove(job)
            if ready is _Ready.START:
                self._start(job)
            elif ready is _Ready.DEP_FAILED:
                self.outcome.dep_failed.append(job)
                own = {step.id for step in job.steps}
                if not job.requires & (self._failed - self._over):
                    self._over |= own
                self._failed |= own
            elif ready is _Ready.CANCELLED:
                self._judge(job, [step for step in job.steps if not self._is_done(step)], None)
            elif ready is _Ready.ENDED:
                left = [step for step in job.steps if not self._is_done(step)]
                self._end_trial(next(filter(self._has_ended, left), left[0]), left)
            elif ready is _Ready.GONE:
                self.outcome.replan = True

    def _start(self, job: Job) -> None:
        path = self._jobs / f"{job.name}.json"
        for step in job.steps:
            attempt = self._store.attempt(step)
            self._before[step.id] = attempt.number if attempt is not None else 0
        try:
            write_json(path, self._make_manifest(job, self._changes.get(job.name, {})))
        except FileNotFoundError:
            self.outcome.replan = True  # a dependency vanished since it was looked at
            return
        except DiskFull as error:
            self._halted = True
            self.outcome.disk_full = str(error)
            self.outcome.not_started.append(job)
            return
        self._running[job.name] = (job, self._clock())
        self._executor.start(job, path)

    def _readiness(self, job: Job, coming: set[str], missing: set[str]) -> _Ready:
        """Whether a job can start.

        Args:
            coming: steps that jobs of this round will make.
            missing: steps that were found unfinished during this look; many jobs may wait for one of them.
        """
        if job.requires & self._failed:
            return _Ready.DEP_FAILED
        if job.requires & missing & coming:
            return _Ready.WAIT
        left = [step for step in job.steps if not self._is_done(step)]
        if not left:
            return _Ready.DONE
        for step_id in job.requires - self._done:
            if not self._is_done(self._specs[step_id]):
                missing.add(step_id)
                # Neither finished nor on its way: it was damaged or deleted after the plan was made.
                return _Ready.WAIT if step_id in coming else _Ready.GONE
        for step in left:
            attempt = self._store.attempt(step)
            if attempt is not None and attempt.alive():
                self._waiting[step.id] = f"{step.kind} {job.label}: computed by {attempt.describe()}"
                return _Ready.WAIT
            if cancelled_by(self._store.directory(step)):
                return _Ready.CANCELLED
            # Another study that has the same trial was quicker. Tried again it would end the same.
            if self._has_ended(step):
                return _Ready.ENDED
        return _Ready.START

    def _has_ended(self, step: StepSpec) -> bool:
        """Whether it trains a trial that ended without a result."""
        return step.id in self._trials and end_of_trial(self._store, step) is not None

    def _is_done(self, step: StepSpec) -> bool:
        if step.id not in self._done and self._store.inspect(step).state is State.DONE:
            self._done.add(step.id)
        return step.id in self._done

    # Ending

    def _ended(self, job: Job, code: int) -> None:
        for step in job.steps:
            if step.id not in self._counted and self._is_done(step):
                self._counted.add(step.id)
                self.outcome.computed += 1
                result = self._store.inspect(step).result or {}
                self._plan.estimator.learn(step, float(result.get("wall_s", 0.0)))
        left = [step for step in job.steps if step.id not in self._done]
        if not left:
            return
        if code == Exit.BUSY:
            self._pending.insert(0, job)
        elif code == Exit.REPLAN:
            self.outcome.replan = True
            self._done.clear()  # what was finished may just have been moved aside; look again
            self._done.update(p.spec.id for p in self._plan.steps if self._is_done(p.spec))
            self._display.message(f"{job.label}: a dependency is damaged and will be computed again")
        else:
            self._judge(job, left, code)

    def _judge(self, job: Job, left: list[StepSpec], code: int | None) -> None:
        """Decide about a job that left steps undone, or that was cancelled before it started (``code`` None)."""
        step = left[0]
        attempt = self._store.attempt(step)
        if attempt is not None and attempt.number <= self._before.get(step.id, attempt.number):
            attempt = None  # of an earlier start; it says nothing about this one
        cancelled = next(filter(None, (cancelled_by(self._store.directory(s)) for s in left)), "")
        evidence = evidence_of(attempt, code, self._job_log(job), cancelled)
        cls = classify(evidence)
        past = self._past.setdefault(step.id, [])
        past.append(past_failure(cls, attempt))
        placement = changed(self._execution, self._changes.get(job.name, {}))
        decision = decide(
            cls, past, self._policy, in_effect(step.config, placement), trial=step.id in self._trials
        )
        cause = cause_of(cls, evidence)
        if attempt is not None and code is not None:
            with suppress(DiskFull):  # the decision stands without its record
                write_verdict(attempt, cls, cause, decision)
        if decision.again:
            self._changes[job.name] = {**self._changes.get(job.name, {}), **decision.execution}
            self._display.message(f"{step.kind} {job.label}: {cause}; {decision.why}")
            self._pending.insert(0, job)
            return
        if decision.action is Action.END:
            self._end_trial(step, left)
            self._display.message(f"{step.kind} {job.label}: {cause}")
            return
        if cls is FailureClass.DISK_FULL and decision.action is Action.STOP_SWEEP:
            self._halted = True
            self.outcome.disk_full = cause
            self.outcome.not_started.append(job)
            return
        words = f"{cause} ({decision.why})" if decision.why else cause
        log = self._log(step, job) if attempt is not None else self._job_log(job)
        self._fail(Failure(step, job.label, words, log, fingerprint_of(evidence)), left)
        if decision.action is Action.STOP_SWEEP:
            self._halt(f"a failure of the kind {cls} stops the sweep; nothing more is started")

    def _end_trial(self, step: StepSpec, left: list[StepSpec]) -> None:
        self.outcome.ended.append(step.id)
        self._over |= {other.id for other in left}
        self._failed |= self._over

    def _fail(self, failure: Failure, left: list[StepSpec]) -> None:
        self.outcome.failures.append(failure)
        self._failed |= {step.id for step in left}
        self._display.message(
            f"FAILED {failure.step.kind} {failure.label}: {failure.cause}\n  log: {failure.log}"
        )
        looping = crash_loop((f.fingerprint for f in self.outcome.failures), self._policy)
        if looping is not None:
            same = [f for f in self.outcome.failures if f.fingerprint == looping]
            self._halt(
                f"{len(same)} steps failed in the same way; no more are started. The cause: {same[0].cause}"
            )

    def _halt(self, why: str) -> None:
        if not self._halted:
            self._halted = True
            self._display.message(why)

    def _log(self, step: StepSpec, job: Job) -> Path:
        log = self._store.directory(step) / LOG
        return log if log.exists() else self._job_log(job)

    def _job_log(self, job: Job) -> Path:
        return self._jobs / f"{job.name}.log"

    # Showing

    def _show(self, interval_s: float) -> None:
        if self._clock() - self._shown >= interval_s:
            self._shown = self._clock()
            self._display.update(self.snapshot())

    def snapshot(self) -> Snapshot:
        """The state of the round now, with an estimate of the time left."""
        running, remaining = [], []
        for job, begun in list(self._running.values()):
            current = next((step for step in job.steps if not self._is_done(step)), None)
            if current is None:
                continue
            said = read_progress(self._store.directory(current))
            elapsed = float(said.get("elapsed_s") or 0.0)
            done, total = int(said.get("done") or 0), int(said.get("total") or 0)
            expected = self._plan.estimator.seconds(current)
            # The first items of a step say little about the rest: they pay for what is done once.
            telling = total and done / total >= 0.05 and elapsed
            left = elapsed / done * (total - done) if telling else max(0.0, expected - elapsed)
            later = job.steps[job.steps.index(current) + 1 :]
            remaining.append(left + sum(self._plan.estimator.seconds(step) for step in later))
            age = self._clock() - begun
            running.append(
                Running(job.label, current.kind, done, total, dict(said.get("metrics") or {}), age)
            )
        eta = max([*remaining, (sum(remaining) + self._ahead()) / self._executor.slots])
        return Snapshot(
            runs=len(self._plan.runs),
            runs_done=sum(run.run_id in self._done for run in self._plan.runs),
            runs_failed=sum(run.run_id in self._failed - self._over for run in self._plan.runs),
            steps_left=sum(
                len(job.steps) for job in [*self._pending, *(job for job, _ in self._running.values())]
            ),
            running=tuple(running),
            waiting=tuple(self._waiting.values()),
            eta_s=eta,
            elapsed_s=self._clock() - self._begun,
        )

    def _ahead(self) -> float:
        """Expected seconds of the jobs that have not started; alike steps are looked up once."""
        known: dict[tuple[str, str], float] = {}
        total = 0.0
        for job in self._pending:
            for step in job.steps:
                alike = (step.kind, repr(step.hints))
                if alike not in known:
                    known[alike] = self._plan.estimator.seconds(step)
                total += known[alike]
        return total
