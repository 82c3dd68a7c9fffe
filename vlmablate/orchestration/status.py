"""``vlmablate status``: the state of all studies from their files alone, quick enough to be called at any
time.

Imports nothing but the standard library and this package's own light modules. Slurm is asked only when submissions are
open, with one call for all of them, and what it does not know is shown as unknown, never as dead.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any

from vlmablate.errors import unknown_name
from vlmablate.files import TEMPORARY_PREFIX, read_json
from vlmablate.orchestration.context import PROGRESS_FILE
from vlmablate.orchestration.lease import RUNNING, TTL_S, Attempt, attempts, latest
from vlmablate.orchestration.marks import CANCELLED, RETRY, cancellation, forgiven
from vlmablate.orchestration.names import studies_named
from vlmablate.orchestration.store import ATTEMPTS, LOG, RESULT

SCHEMA = 1
LOSSES = "metrics.jsonl"
_TELLING = 0.02
_TAIL_BYTES = 4096
_COMPARED = 24


class StepState(StrEnum):
    """What the files of a step, and the queue, say."""

    DONE = "done"
    RUNNING = "running"
    QUEUED = "queued"
    FAILED = "failed"
    CANCELLED = "cancelled"
    PRUNED = "pruned"  # a trial of a tuning that was stopped early: nothing more is done about it
    STOPPED = "stopped"  # interrupted: the same command goes on from what was saved
    UNKNOWN = "unknown"  # its worker gives no sign of life, and nothing says that it is dead
    WAITING = "waiting"


@dataclass(frozen=True)
class StepStatus:
    """One step.

    Attributes:
        id, kind, what: the step.
        state: its state.
        attempts: how often it was started.
        done, total: progress of the attempt at work, 0 of 0 before it said anything.
        eta_s: seconds to its end at the speed so far, None while that tells nothing.
        metrics: what it measured last; the loss above all.
        heartbeat_s: age of the last sign of life in seconds.
        node: the machine.
        job: its job as Slurm's commands call it, empty outside of Slurm.
        owner: who works on it, in words.
        cause: why it failed, was cancelled, is in the queue, or is unknown.
        log: where its output is.
    """

    id: str
    kind: str
    what: str
    state: StepState
    attempts: int = 0
    done: int = 0
    total: int = 0
    eta_s: float | None = None
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    heartbeat_s: float | None = None
    node: str = ""
    job: str = ""
    owner: str = ""
    cause: str = ""
    log: str = ""


@dataclass(frozen=True)
class RunStatus:
    """One run: its label (arm, context, seed), id and state, and the steps that are left."""

    label: str
    run_id: str
    state: StepState
    left: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """Losses of the arms at the same training step, for one kind, context and seed; ``losses`` is arm -> loss."""

    kind: str
    context: str
    seed: int
    step: int
    losses: Mapping[str, float]


@dataclass(frozen=True)
class StudyStatus:
    """One study: its counts, the steps that are neither done nor waiting, and its report when there is one."""

    name: str
    axis: str
    scale: str
    runs: int
    runs_done: int
    steps: int
    counts: Mapping[str, int]
    controller: str
    current: tuple[StepStatus, ...]
    unfinished: tuple[RunStatus, ...]
    comparisons: tuple[Comparison, ...]
    report: str
    command: str

    @property
    def steps_done(self) -> int:
        """How many steps are done."""
        return self.counts.get(StepState.DONE, 0)

    @property
    def active(self) -> tuple[StepStatus, ...]:
        """The steps that someone works on now."""
        return self._in(StepState.RUNNING)

    @property
    def failed(self) -> tuple[StepStatus, ...]:
        """The steps whose latest attempt failed."""
        return self._in(StepState.FAILED)

    def _in(self, state: StepState) -> tuple[StepStatus, ...]:
        return tuple(step for step in self.current if step.state is state)

    @property
    def state(self) -> str:
        """One word: done, running, queued, failed, cancelled, unknown, or incomplete."""
        if self.runs and self.runs_done == self.runs:
            return "done"
        if self.active or self.controller:
            return "running"
        for state in (StepState.QUEUED, StepState.UNKNOWN, StepState.FAILED, StepState.CANCELLED):
            if self.counts.get(state):
                return state
        return "incomplete"

    @property
    def at_work(self) -> bool:
        """Whether its state can change without anybody giving a command."""
        return self.state in ("running", StepState.QUEUED, StepState.UNKNOWN)


class Look:
    """One look at everything, with one clock and at most one question to the queue."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.trouble = ""
        self._root = str(home)
        self._existing: dict[str, frozenset[str]] = {}

    @cached_property
    def now(self) -> float:
        """The time by the clock of the results folder's file system, which may not be that of this machine."""
        probe = self.home / f"{TEMPORARY_PREFIX}clock-{os.getpid()}"
        try:
            probe.touch()
            return probe.stat().st_mtime
        except OSError:
            return time.time()
        finally:
            with suppress(OSError):
                probe.unlink()

    @cached_property
    def queue(self) -> Mapping[str, Any]:
        """step id -> its place in Slurm's queue (job, state, reason, node); empty where nothing is submitted."""
        if not (self.home / "submissions").is_dir():
            return {}
        from vlmablate.orchestration.slurm.status import queue_states

        try:
            return queue_states(self.home)
        except Exception as error:  # a queue that cannot be asked must not hide what the files say
            self.trouble = f"Slurm could not be asked ({error}); states in the queue are not known"
            return {}

    def step(self, step_id: str, facts: Mapping[str, Any]) -> StepStatus:
        """The status of a step.

        Args:
            step_id: its id.
            facts: {kind, slug, dir}, as ``study.json`` has them.
        """
        kind, what, place = facts["kind"], facts["slug"], f"{self._root}/{facts['dir']}"
        folder, _, name = facts["dir"].rpartition("/")
        exists = name in self._names(folder)
        if exists and os.path.exists(f"{place}/{RESULT}"):
            return StepStatus(step_id, kind, what, StepState.DONE)
        found: dict[str, Any] = {"id": step_id, "kind": kind, "what": what}
        held = os.listdir(place) if exists else []
        attempt = latest(Path(place, ATTEMPTS)) if ATTEMPTS in held else None
        queued = self.queue.get(step_id)
        if attempt is None or attempt.state != RUNNING:
            return self._at_rest(found, place, held, attempt, queued)
        return self._begun(found, place, attempt, queued)

    def _names(self, folder: str) -> frozenset[str]:
        if folder not in self._existing:
            try:
                self._existing[folder] = frozenset(os.listdir(f"{self._root}/{folder}"))
            except OSError:
                self._existing[folder] = frozenset()
        return self._existing[folder]

    def _at_rest(
        self, found: dict[str, Any], place: str, held: Sequence[str], attempt: Attempt | None, queued: Any
    ) -> StepStatus:
        count = attempt.number if attempt is not None else 0
        log = _log_of(attempt, place) if attempt is not None else ""
        if queued is not None:
            return StepStatus(
                **found, state=StepState.QUEUED, attempts=count, job=queued.job, cause=_why(queued)
            )
        if CANCELLED in held:
            cause = cancellation(Path(place))
            return StepStatus(**found, state=StepState.CANCELLED, attempts=count, cause=cause, log=log)
        if attempt is None:
            return StepStatus(**found, state=StepState.WAITING)
        node = str(attempt.record.get("node") or "")
        if attempt.state == "failed" and not (RETRY in held and forgiven(Path(place)) >= count):
            error = attempt.record.get("error") or {}
            kind, message = error.get("type", "error"), str(error.get("message", ""))
            pruned = kind == "Pruned"
            state = StepState.PRUNED if pruned else StepState.FAILED
            cause = message if pruned else f"{kind}: {message}".strip()
        else:
            state, cause = StepState.STOPPED, _ended(attempt)
        return StepStatus(**found, state=state, attempts=count, node=node, cause=cause, log=log)

    def _begun(self, found: dict[str, Any], place: str, attempt: Attempt, queued: Any) -> StepStatus:
        """A step whose latest record says that somebody works on it."""
        try:
            beat = max(0.0, self.now - attempt.path.stat().st_mtime)
        except OSError:
            beat = 0.0
        here = attempt.owner is not None and attempt.owner.on_this_machine()
        slurm = attempt.record.get("slurm") or {}
        facts: dict[str, Any] = {
            **found,
            "attempts": attempt.number,
            "node": str(attempt.record.get("node") or (attempt.owner.host if attempt.owner else "")),
            "job": f"{slurm['job_id']}_{slurm['index']}" if slurm else "",
            "owner": attempt.describe(),
            "heartbeat_s": round(beat, 1),
            "log": _log_of(attempt, place),
        }
        if here and attempt.owner is not None and not attempt.owner.running():
            cause = "its worker is gone from this machine without a word"
            if queued is not None:
                return StepStatus(**{**facts, "job": queued.job}, state=StepState.QUEUED, cause=_why(queued))
            if os.path.exists(f"{place}/{CANCELLED}"):
                return StepStatus(**facts, state=StepState.CANCELLED, cause=cancellation(Path(place)))
            return StepStatus(**facts, state=StepState.STOPPED, cause=cause)
        if here or beat < TTL_S or (queued is not None and queued.state == "RUNNING"):
            return StepStatus(**facts, state=StepState.RUNNING, **_progress(Path(place), attempt))
        if queued is not None:
            return StepStatus(**facts, state=StepState.QUEUED, cause=_why(queued))
        cause = f"no sign of life from {attempt.describe()} for {_age(beat)}"
        return StepStatus(**facts, state=StepState.UNKNOWN, cause=cause)


def _log_of(attempt: Attempt, place: str) -> str:
    # With launcher=debug everything was printed to the terminal.
    log = str(attempt.record.get("log") or f"{place}/{LOG}")
    return log if os.path.exists(log) else ""


def _why(queued: Any) -> str:
    reason = f" ({queued.reason})" if queued.reason not in ("", "None") else ""
    return f"{queued.state}{reason}"


def _ended(attempt: Attempt) -> str:
    return (
        "will be tried again"
        if attempt.state == "failed"
        else f"attempt {attempt.number} ended: {attempt.state}"
    )


def _progress(place: Path, attempt: Attempt) -> dict[str, Any]:
    """{done, total, metrics, eta_s} of a step at work."""
    try:
        said = read_json(place / PROGRESS_FILE)
    except (OSError, ValueError):
        return {}
    done, total = int(said.get("done") or 0), int(said.get("total") or 0)
    # A resumed attempt did not do the steps before its checkpoint, and they say nothing about its speed.
    start = 0
    if attempt.number > 1:
        saved = [record.record.get("checkpoint") for record in attempts(attempt.path.parent)[:-1]]
        start = max((n for n in saved if isinstance(n, int) and n <= done), default=0)
    elapsed = float(said.get("elapsed_s") or 0.0)
    # The first items of a step pay for what is done once.
    telling = total and elapsed and (done - start) / total >= _TELLING
    eta = round(elapsed / (done - start) * (total - done), 1) if telling else None
    return {"done": done, "total": total, "metrics": dict(said.get("metrics") or {}), "eta_s": eta}


def read_status(home: Path, name: str = "", look: Look | None = None) -> list[StudyStatus]:
    """The status of every study under ``home``, or of the one called ``name`` (or of those it started together).

    Raises:
        UserError: when there is no study of that name; lists those there are.
    """
    studies = home / "studies"
    declared = {}
    known = sorted(path.parent.name for path in studies.glob("*/study.json"))
    for study in [name] if name in known else known:
        try:
            declared[study] = read_json(studies / study / "study.json")
        except (OSError, ValueError):
            continue  # being replaced, or damaged; the next sweep writes it again
    wanted = studies_named(name, declared) if name else list(declared)
    if name and not wanted and name not in known:
        raise unknown_name("study", name, known, where=str(studies))
    look = look or Look(home)
    return [_study(look, studies / study, declared[study]) for study in wanted]


def _study(look: Look, folder: Path, declared: dict[str, Any]) -> StudyStatus:
    steps = {step_id: look.step(step_id, facts) for step_id, facts in declared["steps"].items()}
    control = latest(folder / "control")
    html = folder / "report.html"
    quiet = (StepState.DONE, StepState.WAITING)
    runs = declared["runs"]
    unfinished = [run for run in runs if steps[run["run_id"]].state is not StepState.DONE]
    return StudyStatus(
        name=folder.name,
        axis=declared["axis"]["name"],
        scale=declared["scale"],
        runs=len(runs),
        runs_done=len(runs) - len(unfinished),
        steps=len(steps),
        counts=dict(Counter(str(step.state) for step in steps.values())),
        controller=control.describe() if control is not None and control.alive() else "",
        current=tuple(step for step in steps.values() if step.state not in quiet),
        unfinished=tuple(_run(run, steps) for run in unfinished),
        comparisons=tuple(_compare(look.home, declared, steps)),
        report=str(html) if html.exists() else "",
        command=declared["command"],
    )


_LOUDEST = (StepState.FAILED, StepState.CANCELLED, StepState.UNKNOWN, StepState.RUNNING, StepState.QUEUED)


def _run(run: Mapping[str, Any], steps: Mapping[str, StepStatus]) -> RunStatus:
    left = [steps[step_id] for step_id in run["steps"].values() if steps[step_id].state is not StepState.DONE]
    states = {step.state for step in left}
    state = next((loud for loud in _LOUDEST if loud in states), StepState.WAITING)
    place = "" if run["context"] == "default" else f"/{run['context']}"
    label = f"{run['arm']}{place}/s{run['seed']}"
    return RunStatus(label, run["run_id"], state, tuple(f"{step.kind} {step.state}" for step in left))


# Losses at equal steps


def _compare(home: Path, declared: Mapping[str, Any], steps: Mapping[str, StepStatus]) -> list[Comparison]:
    """Losses of the arms at the last training step that all of them have reached, by kind, context and seed.

    Only for steps at work, together with what the other arms of the same seed, done ones too, had at that step.
    """
    active = [step.id for step in steps.values() if step.state is StepState.RUNNING and step.total]
    wanted = set(active[:_COMPARED])
    places = {
        (run["context"], run["seed"])
        for run in declared["runs"]
        if not wanted.isdisjoint(run["steps"].values())
    }
    arms: dict[tuple[str, str, int], dict[str, str]] = {}
    for run in declared["runs"]:
        if (run["context"], run["seed"]) in places:
            for step_id in set(run["steps"].values()):
                key = (steps[step_id].kind, run["context"], run["seed"])
                arms.setdefault(key, {})[run["arm"]] = step_id
    found: list[Comparison] = []
    for (kind, context, seed), ids in arms.items():
        if wanted.isdisjoint(ids.values()) or len(set(ids.values())) < 2:
            continue
        paths = {arm: f"{home}/{declared['steps'][step_id]['dir']}/{LOSSES}" for arm, step_id in ids.items()}
        reached = {arm: last for arm, path in paths.items() if (last := _last_step(path))}
        step = min(reached.values(), default=0)
        losses = {arm: loss for arm in reached if (loss := _loss_at(paths[arm], step)) is not None}
        if len(losses) > 1:
            found.append(Comparison(kind, context, seed, step, losses))
    return found


def _last_step(path: str) -> int:
    try:
        with open(path, "rb") as curve:
            curve.seek(max(0, curve.seek(0, os.SEEK_END) - _TAIL_BYTES))
            lines = curve.read().splitlines()
    except OSError:
        return 0
    for line in reversed(lines):
        with suppress(ValueError, KeyError, TypeError):  # torn, or cut by the seek
            return int(json.loads(line)["step"])
    return 0


def _loss_at(path: str, step: int) -> float | None:
    """The loss noted for ``step``, else the last one noted before it."""
    try:
        with open(path, "rb") as curve:
            content = curve.read()
    except OSError:
        return None
    # Mostly the step itself is there; then one line is parsed instead of all.
    at = content.find(b'"step": %d,' % step)
    begin, end = content.rfind(b"\n", 0, at) + 1, content.find(b"\n", at)
    lines = [content[begin:end]] if at >= 0 and end >= 0 else content.splitlines()
    loss = None
    for line in lines:
        with suppress(ValueError, KeyError, TypeError):
            record = json.loads(line)
            if record["step"] > step:
                break
            loss = float(record.get("smoothed_loss", record["loss"]))
    return loss


# Words

_ACTIVE_LISTED = 30
_CAUSES_LISTED = 8


def render(statuses: Sequence[StudyStatus], home: Path) -> str:
    """The statuses as plain text: a table of the studies, then what is at work and what went wrong in each."""
    if not statuses:
        return f"no studies under {home} yet; start one: python -m vlmablate.sweep axis=image_resize"
    lines = columns(study_rows(statuses))
    for status in statuses:
        body = _body(status)
        if body:
            lines += ["", status.name, *(f"  {line}" for line in body)]
    return "\n".join(lines)


def study_rows(statuses: Sequence[StudyStatus]) -> list[tuple[str, ...]]:
    """The table of the studies, its head first."""
    shown = (
        StepState.RUNNING, StepState.QUEUED, StepState.FAILED, StepState.PRUNED, StepState.CANCELLED,
        StepState.UNKNOWN,
    )  # fmt: skip
    used = [state for state in shown if any(status.counts.get(state) for status in statuses)]
    rows = [("study", "state", "runs", "steps", *map(str, used), "report")]
    for status in statuses:
        numbers = [str(status.counts.get(state, 0)) for state in used]
        runs, steps = f"{status.runs_done}/{status.runs}", f"{status.steps_done}/{status.steps}"
        rows.append((status.name, status.state, runs, steps, *numbers, status.report))
    return rows


def _body(status: StudyStatus) -> list[str]:
    lines = columns(step_rows(status))
    lines += comparison_lines(status)
    lines += trouble_lines(status)
    if not status.at_work and status.state != "done":
        if status.counts.get(StepState.CANCELLED):
            lines.append(f"to have the cancelled steps computed: vlmablate retry {status.name}")
        lines.append(f"to go on: {status.command}")
    return lines


def step_rows(status: StudyStatus) -> list[tuple[str, ...]]:
    """The steps at work and in the queue, one row each: state, step, progress, metrics, ETA, place, sign of life."""
    rows: list[tuple[str, ...]] = []
    for step in status.active[:_ACTIVE_LISTED]:
        progress = f"{step.done}/{step.total} {100 * step.done // step.total} %" if step.total else ""
        known = {name: value for name, value in step.metrics.items() if value is not None}
        names = sorted(known, key=lambda name: name != "loss")[:2]
        metrics = " ".join(f"{name} {known[name]:.3g}" for name in names)
        eta = f"ETA {_age(step.eta_s)}" if step.eta_s is not None else ""
        place = f"job {step.job} on {step.node}" if step.job else step.owner
        again = f"attempt {step.attempts}" if step.job and step.attempts > 1 else ""
        beat = f"seen {_age(step.heartbeat_s)} ago" if step.heartbeat_s is not None else ""
        rows.append(("running", step.kind, step.what, progress, metrics, eta, place, again, beat))
    if len(status.active) > _ACTIVE_LISTED:
        rows.append((f"… {len(status.active) - _ACTIVE_LISTED} more", *("",) * 8))
    alike: dict[tuple[str, str], list[StepStatus]] = {}
    for step in status.current:
        if step.state is StepState.QUEUED:
            alike.setdefault((step.kind, step.cause), []).append(step)
    for (kind, cause), steps in alike.items():
        what = steps[0].what if len(steps) == 1 else f"{len(steps)} steps"
        jobs = list(dict.fromkeys(step.job.partition("_")[0] for step in steps))
        named = f"job {', '.join(jobs[:3])}" + (f" and {len(jobs) - 3} more" if len(jobs) > 3 else "")
        rows.append(("queued", kind, what, "", cause, "", named, "", ""))
    return rows


def comparison_lines(status: StudyStatus) -> list[str]:
    """Losses at equal steps, one line per kind and seed; the first arm is what the others are compared with."""
    lines = []
    for compared in status.comparisons:
        (first, base), *others = compared.losses.items()
        parts = [f"{first} {base:.4g}", *(f"{arm} {loss:.4g} ({loss - base:+.2g})" for arm, loss in others)]
        place = "" if compared.context == "default" else f" {compared.context}"
        where = f"step {compared.step},{place} seed {compared.seed}"
        lines.append(f"loss of {compared.kind} at {where}: {', '.join(parts)}")
    return lines


def trouble_lines(status: StudyStatus) -> list[str]:
    """What failed, was cancelled, or is unknown, every cause once with its log; and how many trials were pruned."""
    causes: dict[tuple[StepState, str], list[StepStatus]] = {}
    for step in status.current:
        if step.state in (StepState.FAILED, StepState.CANCELLED, StepState.UNKNOWN):
            causes.setdefault((step.state, step.cause), []).append(step)
    lines = []
    for (state, cause), steps in list(causes.items())[:_CAUSES_LISTED]:
        names = f"{steps[0].kind} {steps[0].what}" + (f" and {len(steps) - 1} more" if len(steps) > 1 else "")
        word = "FAILED" if state is StepState.FAILED else str(state)
        lines.append(f"{word} {names}: {cause}")
        if steps[0].log:
            lines.append(f"  log: {steps[0].log}")
    if len(causes) > _CAUSES_LISTED:
        lines.append(f"… and {len(causes) - _CAUSES_LISTED} other causes: vlmablate status --json")
    if pruned := status.counts.get(StepState.PRUNED):
        lines.append(
            f"pruned: {pruned} trial{'s' if pruned > 1 else ''} of the tuning stopped early, no failure "
            "(vlmablate why says why of each)"
        )
    return lines


def columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Rows of texts as aligned lines; a column without any text is left out."""
    if not rows:
        return []
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True) if width).rstrip()
        for row in rows
    ]


def _age(seconds: float) -> str:
    if seconds < 90:
        return f"{max(0.0, seconds):.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def to_json(statuses: Sequence[StudyStatus], home: Path) -> str:
    """The statuses as JSON text; the form is told by ``vlmablate status --help``."""
    studies = [
        {**vars(status), "state": status.state, "steps_done": status.steps_done} for status in statuses
    ]
    content = {"schema": SCHEMA, "home": str(home), "studies": studies}
    return json.dumps(content, indent=1, default=vars)
