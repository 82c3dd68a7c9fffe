"""One round of work on Slurm: submit what is missing and nobody computes, watch it, judge how it ended.

The queue outlives the controller. Everything that a later controller must know is in the journal and in the store;
this one may stop watching at any moment, and is meant to with ``detach=true``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vlmablate.design.spec import StepSpec
from vlmablate.errors import DiskFull, UserError
from vlmablate.orchestration import marks
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
from vlmablate.orchestration.jobs import Job, group, manifest
from vlmablate.orchestration.lease import HEARTBEAT_S, TTL_S
from vlmablate.orchestration.milestones import Milestone
from vlmablate.orchestration.plan import Plan, Status
from vlmablate.orchestration.policy import (
    Action,
    PastFailure,
    Policy,
    changed,
    crash_loop,
    decide,
    excluded_nodes,
    in_effect,
)
from vlmablate.orchestration.progress import Display, Running, Snapshot, read_progress
from vlmablate.orchestration.slurm import commands, journal
from vlmablate.orchestration.slurm.batches import Batch, Element, make_batches
from vlmablate.orchestration.slurm.commands import Limits
from vlmablate.orchestration.slurm.executor import QueueFull
from vlmablate.orchestration.slurm.journal import Submission
from vlmablate.orchestration.slurm.observe import States, covered, observe, steps_of
from vlmablate.orchestration.slurm.settings import Profile, exclude_nodes, profile_of, read_profile
from vlmablate.orchestration.slurm.states import LOST, Fate, JobState, fate_of
from vlmablate.orchestration.slurm.submit import adopt, submit, submit_lock
from vlmablate.orchestration.stop import check_interrupt
from vlmablate.orchestration.store import LOG, State, Store
from vlmablate.orchestration.worker import Exit

POLL_S = 1.0
SLOW_POLL_S = 10.0
_PATIENCE = 50.0
_SHOWN = 12
_ORDER_S = 10.0


@dataclass(frozen=True)
class Surroundings:
    """What a round needs beside the plan.

    Attributes:
        study: name of the study, for the journal.
        home, assets: results folder, assets folder.
        kinds: kind -> ``module:function``.
        execution: placement, the same for all jobs until a failure changes it for one.
        code: snapshot of the package.
        limits: what the cluster allows.
        milestones: id of a training of a trial -> where its loss is looked at; it may end without a result.
    """

    study: str
    home: Path
    assets: Path
    kinds: Mapping[str, str]
    execution: Mapping[str, Any]
    code: Path
    limits: Limits
    milestones: Mapping[str, Sequence[Milestone]] = field(default_factory=dict)
    ttl_s: float = TTL_S
    heartbeat_s: float = HEARTBEAT_S


@dataclass
class _Trouble:
    """What has gone wrong so far: failures by step, changed placement by step, steps that are given up, and those of
    them that belong to trials, which may end so.
    """

    past: dict[str, list[PastFailure]] = field(default_factory=dict)
    changes: dict[str, dict[str, Any]] = field(default_factory=dict)
    given_up: set[str] = field(default_factory=set)
    ended: set[str] = field(default_factory=set)
    excluded: tuple[str, ...] = ()


class SlurmRound:
    """Computes a study's missing steps on Slurm.

    Args:
        plan: makes a fresh plan.
        store: where results appear.
        around: see :class:`Surroundings`.
        policy: what to do about failures.
        display: shows progress and messages.
        pause: waits between two looks.
    """

    def __init__(
        self,
        plan: Callable[[], Plan],
        store: Store,
        around: Surroundings,
        policy: Policy,
        display: Display,
        pause: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._plan = plan
        self._store = store
        self._around = around
        self._policy = policy
        self._display = display
        self._pause = pause
        self._clock = clock
        self._begun = clock()
        self._trouble = _Trouble()
        self._counted: set[str] = set()
        self._judged: dict[str, dict[int, str]] = {}
        self._lifted: set[tuple[str, int]] = set()
        self._followed: dict[str, Submission] = {}
        self._array_limit = around.limits.max_array
        self._full = False
        self._halted = False
        self._earlier: frozenset[Element] | None = None
        self.outcome = Outcome()

    def run(self, detach: bool = False) -> Outcome:
        """Work until nothing is left that could be done; with ``detach`` only submit.

        Ctrl-C stops watching and leaves the jobs to Slurm.

        Raises:
            UserError: when Slurm refuses the jobs, or cannot be asked.
        """
        try:
            plan = self._plan()
            self._counted = {step.spec.id for step in plan.steps if step.status is Status.DONE}
            while not plan.finished:
                waiting = self._submit(plan)
                if detach:
                    self.outcome.detached = True
                    break
                if not waiting:
                    break
                self._watch(plan)
                plan = self._plan()
        except KeyboardInterrupt:
            self.outcome.interrupted = self.outcome.detached = True
        return self.outcome

    # Submitting

    def _submit(self, plan: Plan) -> bool:
        """Submit what nobody computes. Returns whether there is anything to wait for."""
        around = self._around
        self._full = False
        with submit_lock(around.home, ttl_s=around.ttl_s, heartbeat_s=around.heartbeat_s):
            adopt(around.home, self._display.message)
            submissions = self._submissions()
            states = self._observe(submissions)
            if self._earlier is None:
                ended = [(t, i) for t, of in states.items() for i, state in of.items() if not state.alive]
                self._earlier = frozenset(ended)
            self._judge(plan, submissions, states)
            for damaged in plan.corrupt:
                self._store.quarantine(damaged.directory, damaged.reason, self._display.message)
            at_work = covered(submissions, states)
            jobs, deferred = self._startable(plan, at_work)
            job_ids = {s.token: s.job_id for s in submissions if s.job_id is not None}
            full = bool(jobs) and not self._submit_jobs(plan, jobs, at_work, job_ids)
        desired = {step.id for step in plan.missing}
        return bool(desired & at_work.keys()) or deferred or full or bool(jobs)

    def _startable(self, plan: Plan, at_work: Mapping[str, Element]) -> tuple[list[Job], bool]:
        """The jobs to submit now, and whether others wait for work that is done outside of Slurm."""
        self.outcome.dep_failed, self.outcome.not_started = [], []
        elsewhere = {
            planned.spec.id
            for planned in plan.steps
            if planned.status is Status.LIVE and planned.spec.id not in at_work
        }
        missing = [step for step in plan.missing if step.id not in at_work and step.id not in elsewhere]
        for step in missing:
            self._heed_cancellation(step)
            self._heed_end(step)
        blocked = set(self._trouble.given_up)
        deferred = set(elsewhere)
        jobs = []
        for job in group(missing, plan.runs):
            own = {step.id for step in job.steps}
            if own & self._trouble.given_up:
                blocked |= own
            elif job.requires & blocked:
                blocked |= own
                self.outcome.dep_failed.append(job)
            elif job.requires & deferred:
                deferred |= own
            elif self._halted:
                self.outcome.not_started.append(job)
            else:
                jobs.append(job)
        return jobs, bool(deferred)

    def _heed_cancellation(self, step: StepSpec) -> None:
        said = "" if step.id in self._trouble.given_up else cancelled_by(self._store.directory(step))
        if said:
            self._give_up(Failure(step, step.slug, said, self._store.directory(step) / LOG), [step])

    def _heed_end(self, step: StepSpec) -> None:
        """Take note of a trial that ended for another study that has the same one."""
        trial = step.id in self._around.milestones and step.id not in self._trouble.given_up
        if trial and end_of_trial(self._store, step) is not None:
            self._end_trial(step, [step])

    def _submit_jobs(
        self, plan: Plan, jobs: list[Job], at_work: Mapping[str, Element], job_ids: dict[str, str]
    ) -> bool:
        """Submit, parents first. False when Slurm's limit of jobs was reached before the end."""
        around = self._around
        profiles = {job.name: self.profile(job) for job in jobs}
        batches = make_batches(
            jobs, lambda job: profiles[job.name], at_work, self._limit(profiles), journal.new_token
        )
        directories = {planned.spec.id: self._store.directory(planned.spec) for planned in plan.steps}
        count = 0
        for number, batch in enumerate(batches):
            if batch_parents(batch) - job_ids.keys():
                continue  # a parent did not get in
            try:
                submission = submit(
                    around.home, around.study, batch, self._manifests(batch, directories), around.code,
                    job_ids, self._display.message,
                )  # fmt: skip
            except QueueFull as error:
                self._no_room(batch, error)
                self.outcome.not_started += [j for b in batches[number:] for j in b.jobs.values()]
                return False
            assert submission.job_id is not None
            job_ids[batch.token] = submission.job_id
            count += len(batch.jobs)
        arrays = "array" if len(batches) == 1 else "arrays"
        self._display.message(f"submitted {count} jobs in {len(batches)} {arrays}")
        return True

    def _no_room(self, batch: Batch, error: QueueFull) -> None:
        """Slurm said that a limit is reached, of jobs or of what one job may ask for: the words are the same. Smaller
        arrays may fit; a single job that does not fit while none is in the queue never will.
        """
        self._full = True
        if len(batch.jobs) > 1:
            self._array_limit = max(1, len(batch.jobs) // 2)
            self._display.message(
                f"Slurm does not take {len(batch.jobs)} jobs at once; trying fewer ({error})"
            )
            return
        try:
            alive = any(fate_of(row.state) is not Fate.ENDED for row in commands.squeue())
        except commands.NoAnswer:
            alive = True
        if not alive:
            raise UserError(
                f"Slurm takes not even one job, and none of yours is in the queue: {error}\n"
                "look at execution.slurm: time_min, mem_gb, qos, partition, and the GPUs of one job"
            ) from error
        self._display.message(f"Slurm takes no more jobs for now; the rest follows as others end ({error})")

    def profile(self, job: Job) -> Profile:
        """The resources of a job, with what earlier failures of its steps changed."""
        wanted = profile_of(job, read_profile(self._execution(job)))
        return exclude_nodes(wanted, self._trouble.excluded)

    def _execution(self, job: Job) -> dict[str, Any]:
        execution = dict(self._around.execution)
        for step in job.steps:
            execution = changed(execution, self._trouble.changes.get(step.id, {}))
        return execution

    def _limit(self, profiles: Mapping[str, Profile]) -> int:
        asked = [profile.max_array for profile in profiles.values() if profile.max_array is not None]
        return min([self._around.limits.max_array, self._array_limit, *asked])

    def _manifests(self, batch: Batch, directories: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
        around = self._around
        made = {}
        for job in batch.jobs.values():
            content = manifest(
                job,
                store=self._store,
                assets=around.assets,
                kinds=around.kinds,
                execution=self._execution(job),
                parent=None,
                directories=directories,
                milestones=around.milestones,
                no_progress_after=self._policy.no_progress_after,
                ttl_s=around.ttl_s,
                heartbeat_s=around.heartbeat_s,
            )
            # A step that saves itself may take all the time there is, less what ends the process in order.
            grace = {
                "requeue": max(3.0, batch.profile.signal_delay_s - _ORDER_S),
                "stop": max(3.0, around.limits.kill_wait_s - _ORDER_S),
            }
            made[job.name] = {**content, "grace_s": grace}
        return made

    # Watching

    def _watch(self, plan: Plan) -> None:
        """Look until something has to be submitted again, or nothing of this plan is at work any more."""
        desired = {step.id for step in plan.missing}
        before = 0
        while True:
            check_interrupt()
            submissions = [
                submission
                for submission in self._submissions()
                if any(step.id in desired for i in submission.indices for step in steps_of(submission, i))
            ]
            states = self._observe(submissions)
            again = self._judge(plan, submissions, states)
            self._show(plan, submissions, states)
            alive = sum(state.alive for of in states.values() for state in of.values())
            ended, before = before - alive, alive
            if again:
                return
            if self._full and ended > 0:
                self._array_limit = max(self._array_limit, ended)  # as many as have made room
                return
            if not alive:
                # What is left waits for others: for their work, or for room in the queue.
                self._pause(poll_interval(self._clock() - self._begun))
                return
            self._lift_delays(submissions, states)
            self._pause(poll_interval(self._clock() - self._begun))

    def _submissions(self) -> list[Submission]:
        """The open submissions, and those that this round has seen and somebody else has closed since: their ends are
        not known here yet.
        """
        found = {submission.token: submission for submission in journal.open_submissions(self._around.home)}
        for token, submission in self._followed.items():
            if token not in found and len(self._judged.get(token, {})) < len(submission.indices):
                found[token] = submission
        self._followed = {token: s for token, s in found.items() if s.job_id is not None}
        return list(found.values())

    def _observe(self, submissions: list[Submission]) -> States:
        """The states of all elements. An end that was judged stays an end, also when Slurm has forgotten it."""
        states = observe(submissions, self._store, self._around.ttl_s)
        for token, ends in self._judged.items():
            for index, text in ends.items():
                if token in states:
                    states[token][index] = JobState(Fate.ENDED, text, source="judged")
        return states

    def _lift_delays(self, submissions: list[Submission], states: States) -> None:
        """A job that went back to the queue to go on later may go on as soon as there is room."""
        for submission in submissions:
            for index, state in states[submission.token].items():
                if (submission.token, index) in self._lifted and state.fate is Fate.RUNNING:
                    self._lifted.discard((submission.token, index))
                waits = state.fate is Fate.QUEUED and state.reason == "BeginTime"
                if waits and (submission.token, index) not in self._lifted:
                    self._lifted.add((submission.token, index))
                    with suppress(commands.NoAnswer):
                        commands.start_now(submission.element_name(index))

    # Judging

    def _judge(self, plan: Plan, submissions: list[Submission], states: States) -> bool:
        """Take note of every element that has ended. True when a step should be submitted again."""
        by_id = {planned.spec.id: planned.spec for planned in plan.steps}
        again = False
        for submission in submissions:
            done = self._judged.setdefault(submission.token, {})
            for index, state in states[submission.token].items():
                if state.alive or index in done:
                    continue
                mine = [by_id[step.id] for step in steps_of(submission, index) if step.id in by_id]
                again |= self._ended(plan, submission, index, state, mine)
                done[index] = state.text
            ended = len(done) == len(submission.indices)
            if (
                ended
                and self._is_ours(submission, by_id)
                and not (submission.folder / journal.CLOSED).exists()
            ):
                journal.close(submission, done)
        return again

    def _is_ours(self, submission: Submission, by_id: Mapping[str, StepSpec]) -> bool:
        # Another study's failures are for its own controller to tell.
        return submission.study == self._around.study or all(
            step.id in by_id for index in submission.indices for step in steps_of(submission, index)
        )

    def _ended(
        self, plan: Plan, submission: Submission, index: int, state: JobState, steps: list[StepSpec]
    ) -> bool:
        left = []
        for step in steps:
            found = self._store.inspect(step)
            if found.state is not State.DONE:
                left.append(step)
            elif step.id not in self._counted:
                self._counted.add(step.id)
                self.outcome.computed += 1
                plan.estimator.learn(step, float((found.result or {}).get("wall_s", 0.0)))
        if not left:
            return False
        return self._failed(submission, index, state, left)

    def _failed(self, submission: Submission, index: int, state: JobState, left: list[StepSpec]) -> bool:
        """Judge the first step that an element leaves undone. True when it is to be submitted again."""
        step, label = left[0], str(submission.job(index)["label"])
        if index in journal.taken_back(submission):
            return False
        if state.code in (Exit.BUSY, Exit.REPLAN):
            return True  # no failure: somebody else has the step, or a damaged dependency was set aside
        directory = self._store.directory(step)
        if marks.retried(directory, str(submission.intent["created"])):
            return True  # however it ended: somebody asked for it again after it was submitted
        attempt = self._store.attempt(step)
        if attempt is not None and not _made_by(attempt.record, submission, index):
            attempt = None  # it did not come as far as this step
        log = directory / LOG if attempt is not None and (directory / LOG).exists() else submission.log(index)
        evidence = evidence_of(
            attempt,
            state.code,
            log,
            cancelled_by(directory),
            slurm_state="" if state.text == LOST else state.text,
            slurm_reason="" if state.reason == "None" else state.reason,
        )
        kind = classify(evidence)
        if kind is FailureClass.DEPENDENCY or (
            kind is FailureClass.CANCELLED and _never_started(submission, state)
        ):
            # The parent's failure is what is told, and what decides; a parent that is tried again needs its children.
            return not self._halted
        if kind is FailureClass.CANCELLED and not evidence.cancelled:
            with suppress(DiskFull):
                marks.cancel(directory, f"job {submission.element_name(index)}", by="scancel")
            evidence = replace(evidence, cancelled=cancelled_by(directory))
        past = self._trouble.past.setdefault(step.id, [])
        past.append(past_failure(kind, attempt, _node(state)))
        execution = changed(self._around.execution, self._trouble.changes.get(step.id, {}))
        is_trial = step.id in self._around.milestones
        decision = decide(kind, past, self._policy, in_effect(step.config, execution), trial=is_trial)
        every = [failure for failures in self._trouble.past.values() for failure in failures]
        self._trouble.excluded = tuple(
            sorted({*decision.exclude_nodes, *excluded_nodes(every, self._policy)})
        )
        cause = cause_of(kind, evidence)
        if attempt is not None:
            with suppress(DiskFull):
                write_verdict(attempt, kind, cause, decision, state.nodes)
        if decision.action is Action.END:
            self._end_trial(step, left)
            self._display.message(f"{step.kind} {label}: {cause}")
            return False
        earlier = (submission.token, index) in (self._earlier or ()) and kind is not FailureClass.CANCELLED
        if (decision.again or earlier) and not self._halted:
            # What failed before this command began is tried again because somebody asked for it, whatever it was.
            why = decision.why if decision.again else "trying again"
            self._trouble.changes[step.id] = {**self._trouble.changes.get(step.id, {}), **decision.execution}
            self._display.message(f"{step.kind} {label}: {cause}; {why}")
            return True
        words = f"{cause} ({decision.why})" if decision.why else cause
        self._give_up(Failure(step, label, words, log, fingerprint_of(evidence)), left)
        if kind is FailureClass.DISK_FULL:
            self.outcome.disk_full = cause
        if decision.action is Action.STOP_SWEEP:
            self._halt(f"{cause}: nothing more is started")
        return False

    def _end_trial(self, step: StepSpec, left: list[StepSpec]) -> None:
        self.outcome.ended.append(step.id)
        self._trouble.ended |= {other.id for other in left}
        self._trouble.given_up |= self._trouble.ended

    def _give_up(self, failure: Failure, left: list[StepSpec]) -> None:
        self.outcome.failures.append(failure)
        self._trouble.given_up |= {step.id for step in left}
        self._display.message(
            f"FAILED {failure.step.kind} {failure.label}: {failure.cause}\n  log: {failure.log}"
        )
        looping = crash_loop((f.fingerprint for f in self.outcome.failures), self._policy)
        if looping and not self._halted:
            count = sum(f.fingerprint == looping for f in self.outcome.failures)
            self._halt(f"{count} steps failed in the same way; no more are started")

    def _halt(self, why: str) -> None:
        """Start nothing more: also what already waits in the queue is taken back."""
        if self._halted:
            return
        self._halted = True
        self._display.message(why)
        names = []
        for submission in journal.open_submissions(self._around.home):
            if submission.study != self._around.study or submission.job_id is None:
                continue
            states = observe([submission], self._store, self._around.ttl_s)[submission.token]
            waiting = [index for index, state in states.items() if state.fate is Fate.QUEUED]
            with suppress(DiskFull):
                journal.take_back(submission, waiting)
                names += [submission.element_name(index) for index in waiting]
        with suppress(commands.NoAnswer):
            commands.scancel(names)

    # Showing

    def _show(self, plan: Plan, submissions: list[Submission], states: States) -> None:
        running: list[Running] = []
        queued = 0
        by_id = {planned.spec.id: planned.spec for planned in plan.steps}
        for submission in submissions:
            for index, state in states[submission.token].items():
                queued += state.fate is Fate.QUEUED
                if state.fate is Fate.RUNNING and len(running) < _SHOWN:
                    current = self._current(submission, index, by_id)
                    if current is not None:
                        running.append(self._running(current, str(submission.job(index)["label"])))
        left = [
            p for p in plan.steps if p.status in (Status.NEW, Status.LIVE) and p.spec.id not in self._counted
        ]
        at_once = max(1, sum(s.fate is Fate.RUNNING for of in states.values() for s in of.values()))
        self._display.update(
            Snapshot(
                runs=len(plan.runs),
                runs_done=sum(run.run_id in self._counted for run in plan.runs),
                runs_failed=sum(
                    run.run_id in self._trouble.given_up - self._trouble.ended for run in plan.runs
                ),
                steps_left=len(left),
                running=tuple(running),
                waiting=(f"{queued} jobs in the queue",) if queued else (),
                eta_s=sum(planned.seconds for planned in left) / at_once if running else None,
                elapsed_s=self._clock() - self._begun,
            )
        )

    def _current(self, submission: Submission, index: int, by_id: Mapping[str, StepSpec]) -> StepSpec | None:
        for known in steps_of(submission, index):
            step = by_id.get(known.id)
            if step is not None and self._store.inspect(step).state is not State.DONE:
                return step
        return None

    def _running(self, step: StepSpec, label: str) -> Running:
        said = read_progress(self._store.directory(step))
        done, total = int(said.get("done") or 0), int(said.get("total") or 0)
        elapsed = float(said.get("elapsed_s") or 0.0)
        return Running(label, step.kind, done, total, dict(said.get("metrics") or {}), elapsed)


def poll_interval(elapsed_s: float) -> float:
    """Seconds between two looks: short at first, when things go wrong, and sparing a busy cluster later. A death is
    seen within :data:`SLOW_POLL_S` at any time.
    """
    return min(SLOW_POLL_S, max(POLL_S, elapsed_s / _PATIENCE))


def batch_parents(batch: Batch) -> set[str]:
    """Tokens of the submissions that a batch waits for."""
    return {token for token, _ in batch.after} | ({batch.corresponding} if batch.corresponding else set())


def _never_started(submission: Submission, state: JobState) -> bool:
    """Whether an element was cancelled by Slurm for its parents' sake, as far as the accounting can tell."""
    return (
        state.source == "sacct"
        and submission.intent.get("dependency") is not None
        and not state.nodes.strip("None ")
    )


def _node(state: JobState) -> str:
    """The node of an element by the name that Slurm has for it; empty when it had several, because which one was bad is
    not known.
    """
    several = "," in state.nodes or "[" in state.nodes
    return "" if several or state.nodes in ("None", "None assigned") else state.nodes


def _made_by(record: Mapping[str, Any], submission: Submission, index: int) -> bool:
    slurm = record.get("slurm") or {}
    return (slurm.get("token"), slurm.get("index")) == (submission.token, index)
