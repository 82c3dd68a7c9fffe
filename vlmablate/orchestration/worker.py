"""The worker: runs the steps of one frozen job manifest, one after another.

``python -m vlmablate.orchestration.worker --job FILE`` on this machine, ``--batch FOLDER --index N`` as element N of
a Slurm array. A worker never composes a configuration. For each step it takes the lease, checks the dependencies by
size and SHA-256, calls the step function, and commits ``result.json``. Its exit code tells the controller, or the
batch script, what to do next (:class:`Exit`); details are in the step's latest attempt record.

A job may have several ranks. Rank 0 does all of the above; the others run the step functions of collective steps
beside it (:mod:`vlmablate.orchestration.gang`).

On this machine a worker dies with its controller: the kernel kills it (Linux), and the heartbeat thread watches the
parent as well. Nothing half-written stays under a final name, so the step in flight is all that is lost.
"""

from __future__ import annotations

import copy
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import nullcontext, suppress
from enum import IntEnum
from pathlib import Path
from typing import Any, NoReturn

from vlmablate.design.spec import StepSpec
from vlmablate.errors import NoProgress, Pruned, TrainingEnded, UserError, is_disk_full
from vlmablate.files import encode_json, read_json
from vlmablate.orchestration import checkpoint_folder, milestones, provenance
from vlmablate.orchestration.context import StepContext, StepStopped
from vlmablate.orchestration.gang import ALONE, Follower, GangBrokenError, Leader, Place, place_in_job
from vlmablate.orchestration.kinds import is_collective, resolve
from vlmablate.orchestration.lease import (
    Attempt,
    Lease,
    LeaseBusyError,
    LeaseLostError,
    attempts,
    claim,
    now_text,
)
from vlmablate.orchestration.logs import log_to
from vlmablate.orchestration.marks import cancellation
from vlmablate.orchestration.processes import die_with_parent
from vlmablate.orchestration.stop import StopFlag, StopNow
from vlmablate.orchestration.store import (
    ATTEMPTS,
    LOG,
    RESULT,
    CorruptStepError,
    State,
    Store,
    commit,
    inspect_directory,
    payload_files,
    prepare,
    verify_content,
)


class Exit(IntEnum):
    """Exit codes of a worker."""

    DONE = 0
    FAILED = 1
    DISK_FULL = 3
    REQUEUE = 75  # told to make room; what was saved is gone on from
    REPLAN = 76
    BUSY = 77
    STOPPED = 143


_WAIT_S = 1.0
_SIGHT_S = 90.0
"""How long another node's files may take to be seen; network file systems forget after a minute by default."""


class Worker:
    """Runs the steps of a job manifest.

    Args:
        manifest: the parsed job file (see :func:`vlmablate.orchestration.jobs.manifest`).
        stop: the stop request of this process.
        redirect: send the output of each step to its ``log.txt``; otherwise it stays on the terminal.
        watch: called at every heartbeat.
        slurm: {job_id, index, restart} when this is an element of a Slurm array.
    """

    def __init__(
        self,
        manifest: dict[str, Any],
        *,
        stop: StopFlag | None = None,
        redirect: bool = True,
        watch: Callable[[], None] | None = None,
        slurm: dict[str, Any] | None = None,
    ) -> None:
        self._manifest = manifest
        self._slurm = slurm
        self._lease: Lease | None = None
        self._leader = Leader(ALONE, Path(os.devnull), self._broken)
        self._store = Store(Path(manifest["home"]))
        self._stop = stop or StopFlag()
        self._redirect = redirect
        self._watch = watch
        self._verified: set[tuple[str, str]] = set()

    def run(self) -> Exit:
        """Run the job's steps in order; the first one that does not end well ends the job."""
        for entry in self._manifest["steps"]:
            if self._stop.requested:
                return self._stopped()
            try:
                outcome = self._run_step(entry)
            except Exception as error:
                if not is_disk_full(error):
                    raise
                print(error, file=sys.stderr, flush=True)
                return Exit.DISK_FULL
            if outcome is not Exit.DONE:
                return outcome
        return Exit.DONE

    def lead(self, place: Place, meeting: Path) -> Exit:
        """As :meth:`run`, at the head of a job of several ranks.

        Raises:
            GangBrokenError: when the other ranks do not appear.
        """
        self._leader = Leader(place, meeting, self._broken)
        code = Exit.FAILED
        try:
            code = self.run()
        finally:
            self._leader.close(code)
        return code

    def _stopped(self) -> Exit:
        return Exit.REQUEUE if self._reason() == "requeue" else Exit.STOPPED

    def _reason(self) -> str:
        # All ranks stop together, but the signal may have come to another one first.
        return self._stop.reason or self._leader.reason()

    def _run_step(self, entry: dict[str, Any]) -> Exit:
        step = StepSpec.from_dict(entry["spec"])
        directory = Path(entry["dir"])
        if inspect_directory(directory, step.id).state is State.DONE:
            return Exit.DONE
        if said := cancellation(directory):
            print(f"not computed, {step.kind} {step.name} was {said}", flush=True)
            return Exit.FAILED
        try:
            lease = self._claim(directory)
        except LeaseBusyError as busy:
            print(busy, flush=True)
            return Exit.BUSY
        # Between the look and the claim another worker may have finished the step, or left a damaged one.
        found = inspect_directory(directory, step.id)
        if found.state is State.DONE:
            lease.finish("unneeded")
            return Exit.DONE
        if found.state is State.CORRUPT:
            lease.abandon()
            self._store.quarantine(directory, found.reason, print)
            return self._run_step(entry)
        self._lease = lease
        try:
            with log_to(directory / LOG) if self._redirect else nullcontext():
                return self._attempt(step, directory, entry["deps"], lease)
        finally:
            self._lease = None

    def _claim(self, directory: Path) -> Lease:
        """The lease of a step. An element of an array waits for a holder that may be dying: nobody else would
        start it again.
        """
        ttl_s, waited = self._manifest["lease"]["ttl_s"], 0.0
        while True:
            try:
                return claim(
                    directory / ATTEMPTS,
                    ttl_s=ttl_s,
                    heartbeat_s=self._manifest["lease"]["heartbeat_s"],
                    watch=self._watch,
                    supersedes=self._is_former_life,
                    job=self._manifest["job"],
                    log=str(directory / LOG),
                    node=os.environ.get("SLURMD_NODENAME") or socket.gethostname(),
                    ranks=self._leader.place.size,
                    slurm=self._slurm,
                )
            except LeaseBusyError:
                if self._slurm is None or waited > ttl_s or self._stop.requested:
                    raise
            time.sleep(_WAIT_S)
            waited += _WAIT_S

    def _is_former_life(self, attempt: Attempt) -> bool:
        """Slurm starts a job again only after the former one was ended; a node that was cut off is fenced."""
        before, now = attempt.record.get("slurm"), self._slurm
        if not before or not now:
            return False
        same = (before["job_id"], before["index"]) == (now["job_id"], now["index"])
        return same and before["restart"] < now["restart"]

    def _attempt(self, step: StepSpec, directory: Path, deps: dict[str, Any], lease: Lease) -> Exit:
        """One attempt under a held lease; always ends the lease's record, whatever happens."""
        print(
            f"== {step.kind} {step.name}, attempt {lease.number}, {now_text()}, pid {os.getpid()}", flush=True
        )
        try:
            result = self._compute(step, directory, deps, lease)
            commit(directory, lease, result)
            checkpoint_folder.discard(directory)  # only now is there nothing left to go on with
        except CorruptStepError as error:
            lease.finish("dep-corrupt", error=error_record(error))
            if (error.directory / RESULT).exists():
                self._store.quarantine(error.directory, error.reason, print)
            return Exit.REPLAN
        except LeaseLostError as error:
            lease.abandon()
            print(error, flush=True)
            return Exit.BUSY
        except (StopNow, StepStopped, KeyboardInterrupt):
            if lease.lost:
                lease.abandon()
                print(f"attempt {lease.number} was overtaken by a later one", flush=True)
                return Exit.BUSY
            self._finish_quietly(lease, "stopped", reason=self._reason())
            return self._stopped()
        except BaseException as error:
            if self._stop.requested and not is_disk_full(error):
                self._finish_quietly(lease, "stopped", reason=self._stop.reason, error=error_record(error))
                return self._stopped()
            if is_collective(step):
                self._leader.settle()
            if isinstance(error, Pruned):
                print(error, flush=True)
            else:
                traceback.print_exc()
            self._finish_quietly(lease, "failed", error=error_record(error))
            return Exit.DISK_FULL if is_disk_full(error) else Exit.FAILED
        self._verified.add((str(directory), step.id))
        self._finish_quietly(lease, "done", wall_s=result["wall_s"])
        print(f"== done in {result['wall_s']:.1f} s", flush=True)
        return Exit.DONE

    @staticmethod
    def _finish_quietly(lease: Lease, state: str, **fields: Any) -> None:
        # On a full disk the record cannot be written; the exit code still tells the controller what happened.
        with suppress(Exception):
            lease.finish(state, **fields)
        lease.abandon()

    def _broken(self, broken: GangBrokenError) -> None:
        """Another rank failed or died. This one may hang in a collective for ever, so it ends here and now."""
        if self._stop.requested and broken.error is None:
            return  # ranks that are told to stop may leave one after the other
        print(broken, file=sys.stderr, flush=True)
        lease = self._lease
        if lease is not None:
            record = broken.error or error_record(broken)
            self._finish_quietly(lease, "failed", error=record)
        os._exit(Exit.FAILED)

    def _compute(self, step: StepSpec, directory: Path, deps: dict[str, Any], lease: Lease) -> dict[str, Any]:
        """Check the dependencies, call the step function, and assemble the result record."""
        self._check_progress(directory)
        prepare(directory, step)
        paths = {role: self._dependency(dep) for role, dep in deps.items()}
        function = resolve(step.kind, self._manifest["kinds"])
        execution = dict(self._manifest["execution"])
        place = self._leader.place if is_collective(step) else ALONE
        context = StepContext(
            execution=execution,
            attempt=lease.number,
            assets=Path(self._manifest["assets"]),
            out=directory,
            stop_requested=lambda: self._stop.requested or lease.lost,
            saving=self._stop.uninterrupted,
            on_saved=lambda number: lease.note(checkpoint=number),
            rank=0,
            world_size=place.size,
            local_rank=place.local_rank,
            milestones=milestones.of_step(self._manifest, step.id),
        )
        provenance.reset_peak_memory()
        started, wall, cpu = now_text(), time.monotonic(), _cpu_seconds()
        if place.size > 1:
            order = {"do": "step", "spec": step.to_dict(), "dir": str(directory), "attempt": lease.number}
            os.environ.update(self._leader.start({**order, "deps": {r: str(p) for r, p in paths.items()}}))
        with self._stop.interruptible():
            payload = function(copy.deepcopy(step.config), paths, directory, context)
        if place.size > 1:
            self._leader.join()
        if self._stop.requested:
            raise StepStopped("the step returned after a stop request; its result is not committed")
        lease.check()
        if not isinstance(payload, dict):
            raise TypeError(f"the {step.kind} step returned a {type(payload).__name__}, not a dict")
        encode_json(payload)  # a NaN or a tensor fails here, with the payload at fault
        return {
            "id": step.id,
            "kind": step.kind,
            "payload": payload,
            "files": payload_files(directory),
            "attempt": lease.number,
            "started": started,
            "finished": now_text(),
            "wall_s": round(time.monotonic() - wall, 3),
            "cpu_s": round(_cpu_seconds() - cpu, 3),
            "peak_rss_mb": provenance.peak_memory_mb(),
            "ranks": place.size,
            "host": provenance.host(),
            "versions": provenance.versions(),
            **provenance.of_attempt(self._store.home),
            "execution": execution,
        }

    def _check_progress(self, directory: Path) -> None:
        """A job that goes back to the queue is bounded by what it gets done, never by how often it is interrupted.

        Raises:
            NoProgress: when the last allocations of this very job left no new checkpoint.
        """
        now, limit = self._slurm, int(self._manifest["no_progress_after"])
        if now is None or not now["restart"] or not limit:
            return
        mine = [
            attempt.record
            for attempt in attempts(directory / ATTEMPTS)[:-1]
            if (attempt.record.get("slurm") or {}).get("job_id") == now["job_id"]
            and attempt.record["slurm"]["index"] == now["index"]
        ]
        if len(mine) < limit:
            return
        saved = [int(record.get("checkpoint") or 0) for record in mine]
        if max(saved[-limit:]) <= max(saved[:-limit], default=0):
            raise NoProgress(
                f"the last {limit} allocations of this job ended without a new checkpoint (the last one is "
                f"of step {max(saved)}): raise execution.slurm.time_min, or execution.slurm.signal_delay_s if saving "
                "takes longer than that"
            )

    def _dependency(self, dep: dict[str, Any]) -> Path:
        key = (dep["dir"], dep["id"])
        if key not in self._verified:
            if self._slurm is not None:
                self._await_sight(Path(dep["dir"]), dep["id"])
            verify_content(Path(dep["dir"]), dep["id"])
            self._verified.add(key)
        return Path(dep["dir"])

    def _await_sight(self, directory: Path, step_id: str) -> None:
        """Slurm starts this job the moment another node has committed its dependency, which a network file system may
        show here only when its caches have expired. What is not seen by then is judged as it looks.
        """
        waited = 0.0
        while inspect_directory(directory, step_id).state is not State.DONE and waited < _SIGHT_S:
            if self._stop.requested:
                raise StepStopped("stopped on request")
            for folder in (directory.parent, directory):
                with suppress(OSError):
                    os.listdir(folder)  # reading a folder renews what is known of it
            time.sleep(_WAIT_S)
            waited += _WAIT_S


def follow(manifest: dict[str, Any], follower: Follower, stop: StopFlag) -> Exit:
    """What every rank but the first does: the steps that rank 0 names, until it says that there are no more."""
    while (order := follower.next()) is not None:
        os.environ.update(order["environment"])
        step = StepSpec.from_dict(order["spec"])
        directory = Path(order["dir"])
        context = StepContext(
            execution=dict(manifest["execution"]),
            attempt=order["attempt"],
            assets=Path(manifest["assets"]),
            out=directory,
            stop_requested=lambda: stop.requested,
            saving=stop.uninterrupted,
            rank=follower.place.rank,
            world_size=follower.place.size,
            local_rank=follower.place.local_rank,
            milestones=milestones.of_step(manifest, step.id),
        )
        print(f"== {step.kind} {step.name}, rank {follower.place.rank}, {now_text()}", flush=True)
        try:
            with stop.interruptible():
                deps = {role: Path(path) for role, path in order["deps"].items()}
                resolve(step.kind, manifest["kinds"])(copy.deepcopy(step.config), deps, directory, context)
        except (StopNow, StepStopped, KeyboardInterrupt):
            pass  # rank 0 knows, because all ranks agreed; its word ends the job
        except BaseException as error:
            traceback.print_exc()
            follower.answer(error_record(error))
            return Exit.DISK_FULL if is_disk_full(error) else Exit.FAILED
        follower.answer(reason=stop.reason)
    return Exit(follower.code)


def _cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def error_record(error: BaseException) -> dict[str, Any]:
    """What the controller and ``status`` show of an error; the fingerprint is equal for the same
    bug twice.
    """
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    return {
        "type": type(error).__name__,
        "message": str(error),
        "user": isinstance(error, UserError),
        "fingerprint": f"{type(error).__name__}@{place}",
        "traceback": "".join(traceback.format_exception(error)),
        **({"facts": dict(error.facts)} if isinstance(error, TrainingEnded) else {}),
    }


def _watch_parent(parent: int) -> Callable[[], None]:
    def watch() -> None:
        if os.getppid() != parent:
            os._exit(Exit.STOPPED)

    return watch


def _read_arguments(given: list[str]) -> tuple[dict[str, Any], dict[str, Any] | None, Path]:
    """(manifest, identity in Slurm, file in which the ranks of this life of the job meet)."""
    words = dict(zip(given[::2], given[1::2], strict=True))
    if set(words) == {"--job"}:
        path = Path(words["--job"])
        return read_json(path), None, path.with_suffix(".meeting")
    from vlmablate.orchestration.slurm.journal import read_manifest

    folder, index = Path(words["--batch"]), int(words["--index"])
    slurm = {
        "job_id": os.environ.get("SLURM_ARRAY_JOB_ID", ""),
        "index": index,
        "restart": int(os.environ.get("SLURM_RESTART_COUNT") or 0),
        "token": folder.name,
        "nodes": _nodes(os.environ.get("SLURM_JOB_NODELIST", "")),
    }
    return read_manifest(folder, index), slurm, folder / f"meeting-{index}-{slurm['restart']}.json"


def _nodes(listed: str) -> list[str]:
    """Slurm's short form of a list of nodes, written out where it is short for several."""
    if "[" not in listed:
        return [name for name in listed.split(",") if name]
    from submitit.slurm.slurm import _parse_node_list

    return list(_parse_node_list(listed))


def _leave(code: Exit) -> NoReturn:
    """End a rank at once. srun ends the others as soon as one has gone, and a rank that were still taking its libraries
    down would die of that signal, which would become the code of the whole job.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def main(arguments: list[str] | None = None) -> int:
    """Command line of the worker; returns an :class:`Exit` code."""
    given = sys.argv[1:] if arguments is None else arguments
    if sorted(given[::2]) not in (["--job"], ["--batch", "--index"]) or len(given) % 2:
        print(
            "usage: python -m vlmablate.orchestration.worker (--job FILE | --batch FOLDER --index N)",
            file=sys.stderr,
        )
        return 2
    import faulthandler

    faulthandler.enable()
    stop = StopFlag()
    stop.install()
    manifest, slurm, meeting = _read_arguments(given)
    if "grace_s" in manifest:
        stop.grace_s, stop.requeue_grace_s = manifest["grace_s"]["stop"], manifest["grace_s"]["requeue"]
    parent = manifest.get("parent")
    if parent is not None and not die_with_parent(parent):
        return Exit.STOPPED
    place = place_in_job()
    if place.rank:
        try:
            _leave(follow(manifest, Follower(place, meeting), stop))
        except GangBrokenError as error:
            print(error, file=sys.stderr, flush=True)
            return Exit.FAILED
    watch = _watch_parent(parent) if parent is not None else None
    worker = Worker(manifest, stop=stop, watch=watch, slurm=slurm)
    if place.size == 1:
        return worker.run()
    _leave(worker.lead(place, meeting))


if __name__ == "__main__":
    raise SystemExit(main())
