"""One round of work: starts the jobs of a plan as their dependencies finish, and judges how each of them
ended.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from enum import Enum, auto
from pathlib import Path
from typing import Any

from vlmablate.design.spec import StepSpec
from vlmablate.errors import DiskFull
from vlmablate.files import write_json
from vlmablate.orchestration.failures import Failure, Outcome, cause_of, death
from vlmablate.orchestration.jobs import Job
from vlmablate.orchestration.local import Executor
from vlmablate.orchestration.plan import Plan, Status
from vlmablate.orchestration.progress import Display, Running, Snapshot, read_progress
from vlmablate.orchestration.store import LOG, State, Store
from vlmablate.orchestration.worker import Exit

POLL_S = 0.1
LOOK_S = 0.5


class _Ready(Enum):
    START = auto()
    WAIT = auto()
    DONE = auto()
    DEP_FAILED = auto()
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
        policy: ``retry_killed`` (how often a worker that was killed is tried again) and ``stop_after_equal``
            (stop submitting after this many failures with the same cause; 0 never stops).
        pause: waits a little between two looks.
    """

    def __init__(
        self,
        plan: Plan,
        store: Store,
        executor: Executor,
        jobs: Path,
        make_manifest: Callable[[Job], dict[str, Any]],
        display: Display,
        policy: Mapping[str, Any],
        pause: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._plan = plan
        self._store = store
        self._executor = executor
        self._jobs = jobs
        self._make_manifest = make_manifest
        self._display = display
        self._policy = policy
        self._pause = pause
        self._clock = clock
        self._begun = clock()
        self._pending: list[Job] = list(plan.jobs)
        self._running: dict[str, tuple[Job, float]] = {}
        self._done = {planned.spec.id for planned in plan.steps if planned.status is Status.DONE}
        self._counted = set(self._done)
        self._failed: set[str] = set()
        self._kills: Counter[str] = Counter()
        self._causes: Counter[str] = Counter()
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
                self._start_ready()
                for name, code in self._executor.poll():
                    job, _ = self._running.pop(name)
                    self._ended(job, code)
                    self._looked = self._shown = float("-inf")
                self._show()
                if self._pending or self._running:
                    self._pause(POLL_S)
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
        if len(self._running) >= self._executor.slots or self._clock() - self._looked < LOOK_S:
            return
        self._looked = self._clock()
        self._waiting.clear()
        for job in list(self._pending):
            if len(self._running) >= self._executor.slots:
                break
            ready = self._readiness(job)
            if ready is _Ready.WAIT:
                continue
            self._pending.remove(job)
            if ready is _Ready.START:
                self._start(job)
            elif ready is _Ready.DEP_FAILED:
                self.outcome.dep_failed.append(job)
                self._failed |= {step.id for step in job.steps}
            elif ready is _Ready.GONE:
                self.outcome.replan = True

    def _start(self, job: Job) -> None:
        path = self._jobs / f"{job.name}.json"
        try:
            write_json(path, self._make_manifest(job))
        except FileNotFoundError:
            self.outcome.replan = True  # a dependency vanished since it was looked at
            return
        except DiskFull as error:
            self._halted = True
            self.outcome.disk_full = str(error)
            self.outcome.not_started.append(job)
            return
        self._running[job.name] = (job, self._clock())
        self._executor.start(job.name, path)

    def _readiness(self, job: Job) -> _Ready:
        left = [step for step in job.steps if not self._is_done(step)]
        if not left:
            return _Ready.DONE
        if job.requires & self._failed:
            return _Ready.DEP_FAILED
        coming = {s.id for other in self._pending for s in other.steps}
        coming |= {s.id for other, _ in self._running.values() for s in other.steps}
        for step in self._plan_steps(job.requires):
            if self._is_done(step):
                continue
            # Neither finished nor on its way: it was damaged or deleted after the plan was made.
            return _Ready.WAIT if step.id in coming else _Ready.GONE
        for step in left:
            attempt = self._store.attempt(step)
            if attempt is not None and attempt.alive():
                self._waiting[step.id] = f"{step.kind} {job.label}: computed by {attempt.describe()}"
                return _Ready.WAIT
        return _Ready.START

    def _plan_steps(self, ids: frozenset[str]) -> list[StepSpec]:
        return [planned.spec for planned in self._plan.steps if planned.spec.id in ids]

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
        elif code == Exit.DISK_FULL:
            self._halted = True
            self.outcome.disk_full = self._cause(left[0], job, code)[0]
            self.outcome.not_started.append(job)
        elif (code < 0 or code == Exit.STOPPED) and self._kills[job.name] < self._policy.get(
            "retry_killed", 0
        ):
            self._kills[job.name] += 1
            self._display.message(f"{left[0].kind} {job.label}: {death(code)}; trying once more")
            self._pending.insert(0, job)
        else:
            self._fail(job, left, code)

    def _fail(self, job: Job, left: list[StepSpec], code: int) -> None:
        cause, fingerprint = self._cause(left[0], job, code)
        failure = Failure(left[0], job.label, cause, self._log(left[0], job), fingerprint)
        self.outcome.failures.append(failure)
        self._failed |= {step.id for step in left}
        self._display.message(f"FAILED {left[0].kind} {job.label}: {cause}\n  log: {failure.log}")
        self._causes[fingerprint] += 1
        limit = int(self._policy.get("stop_after_equal", 0))
        if fingerprint and limit and self._causes[fingerprint] >= limit and not self._halted:
            self._halted = True
            self._display.message(f"{limit} steps failed in the same way; no more are started")

    def _cause(self, step: StepSpec, job: Job, code: int) -> tuple[str, str]:
        return cause_of(self._store.attempt(step), code, self._job_log(job))

    def _log(self, step: StepSpec, job: Job) -> Path:
        log = self._store.directory(step) / LOG
        return log if log.exists() else self._job_log(job)

    def _job_log(self, job: Job) -> Path:
        return self._jobs / f"{job.name}.log"

    # Showing

    def _show(self) -> None:
        if self._clock() - self._shown >= LOOK_S:
            self._shown = self._clock()
            self._display.update(self.snapshot())

    def snapshot(self) -> Snapshot:
        """The state of the round now, with an estimate of the time left."""
        running, remaining = [], []
        for job, begun in self._running.values():
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
        ahead = sum(self._plan.estimator.seconds(s) for job in self._pending for s in job.steps)
        eta = max([*remaining, (sum(remaining) + ahead) / self._executor.slots])
        return Snapshot(
            runs=len(self._plan.runs),
            runs_done=sum(run.run_id in self._done for run in self._plan.runs),
            runs_failed=sum(run.run_id in self._failed for run in self._plan.runs),
            steps_left=sum(
                len(job.steps) for job in [*self._pending, *(job for job, _ in self._running.values())]
            ),
            running=tuple(running),
            waiting=tuple(self._waiting.values()),
            eta_s=eta,
            elapsed_s=self._clock() - self._begun,
        )
