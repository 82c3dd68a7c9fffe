"""The worker: runs the steps of one frozen job manifest, one after another, in one process.

``python -m vlmablate.orchestration.worker --job FILE``. A worker never composes a configuration. For each
step it takes the lease, checks the dependencies by size and SHA-256, calls the step function, and commits
``result.json``. Its exit code tells the controller what to do next (:class:`Exit`); details are in the step's
latest attempt record.

A worker dies with its controller: the kernel kills it (Linux), and the heartbeat thread watches the parent as
well. Nothing half-written stays under a final name, so the step in flight is all that is lost.
"""

from __future__ import annotations

import copy
import os
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import nullcontext, suppress
from enum import IntEnum
from pathlib import Path
from typing import Any

from vlmablate.design.spec import StepSpec
from vlmablate.errors import UserError, is_disk_full
from vlmablate.files import encode_json, read_json
from vlmablate.orchestration import provenance
from vlmablate.orchestration.context import StepContext, StepStopped
from vlmablate.orchestration.kinds import resolve
from vlmablate.orchestration.lease import Lease, LeaseBusyError, LeaseLostError, claim, now_text
from vlmablate.orchestration.logs import log_to
from vlmablate.orchestration.processes import die_with_parent
from vlmablate.orchestration.stop import StopFlag, StopNow
from vlmablate.orchestration.store import (
    ATTEMPTS,
    LOG,
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
    BUSY = 75
    REPLAN = 76
    STOPPED = 143


class Worker:
    """Runs the steps of a job manifest.

    Args:
        manifest: the parsed job file (see :func:`vlmablate.orchestration.jobs.manifest`).
        stop: the stop request of this process.
        redirect: send the output of each step to its ``log.txt``; otherwise it stays on the terminal.
        watch: called at every heartbeat.
    """

    def __init__(
        self,
        manifest: dict[str, Any],
        *,
        stop: StopFlag | None = None,
        redirect: bool = True,
        watch: Callable[[], None] | None = None,
    ) -> None:
        self._manifest = manifest
        self._store = Store(Path(manifest["home"]))
        self._stop = stop or StopFlag()
        self._redirect = redirect
        self._watch = watch
        self._verified: set[tuple[str, str]] = set()

    def run(self) -> Exit:
        """Run the job's steps in order; the first one that does not end well ends the job."""
        for entry in self._manifest["steps"]:
            if self._stop.requested:
                return Exit.STOPPED
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

    def _run_step(self, entry: dict[str, Any]) -> Exit:
        step = StepSpec.from_dict(entry["spec"])
        directory = Path(entry["dir"])
        if inspect_directory(directory, step.id).state is State.DONE:
            return Exit.DONE
        try:
            lease = claim(
                directory / ATTEMPTS,
                ttl_s=self._manifest["lease"]["ttl_s"],
                heartbeat_s=self._manifest["lease"]["heartbeat_s"],
                watch=self._watch,
                job=self._manifest["job"],
                log=str(directory / LOG),
            )
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
        with log_to(directory / LOG) if self._redirect else nullcontext():
            return self._attempt(step, directory, entry["deps"], lease)

    def _attempt(self, step: StepSpec, directory: Path, deps: dict[str, Any], lease: Lease) -> Exit:
        """One attempt under a held lease; always ends the lease's record, whatever happens."""
        print(
            f"== {step.kind} {step.name}, attempt {lease.number}, {now_text()}, pid {os.getpid()}", flush=True
        )
        try:
            result = self._compute(step, directory, deps, lease)
            commit(directory, lease, result)
        except CorruptStepError as error:
            lease.finish("dep-corrupt", error=_error_record(error))
            self._store.quarantine(error.directory, error.reason, print)
            return Exit.REPLAN
        except LeaseLostError as error:
            lease.abandon()
            print(error, flush=True)
            return Exit.BUSY
        except (StopNow, StepStopped, KeyboardInterrupt):
            self._finish_quietly(lease, "stopped")
            return Exit.STOPPED
        except BaseException as error:
            if self._stop.requested and not is_disk_full(error):
                self._finish_quietly(lease, "stopped", error=_error_record(error))
                return Exit.STOPPED
            traceback.print_exc()
            self._finish_quietly(lease, "failed", error=_error_record(error))
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

    def _compute(self, step: StepSpec, directory: Path, deps: dict[str, Any], lease: Lease) -> dict[str, Any]:
        """Check the dependencies, call the step function, and assemble the result record."""
        prepare(directory, step)
        paths = {role: self._dependency(dep) for role, dep in deps.items()}
        function = resolve(step.kind, self._manifest["kinds"])
        execution = dict(self._manifest["execution"])
        context = StepContext(
            execution=execution,
            attempt=lease.number,
            assets=Path(self._manifest["assets"]),
            out=directory,
            stop_requested=lambda: self._stop.requested or lease.lost,
        )
        provenance.reset_peak_memory()
        started, wall, cpu = now_text(), time.monotonic(), _cpu_seconds()
        with self._stop.interruptible():
            payload = function(copy.deepcopy(step.config), paths, directory, context)
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
            "host": provenance.host(),
            "versions": provenance.versions(),
            "execution": execution,
        }

    def _dependency(self, dep: dict[str, Any]) -> Path:
        key = (dep["dir"], dep["id"])
        if key not in self._verified:
            verify_content(Path(dep["dir"]), dep["id"])
            self._verified.add(key)
        return Path(dep["dir"])


def _cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _error_record(error: BaseException) -> dict[str, Any]:
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
    }


def _rank() -> int:
    """The rank of this process from submitit's job environment; 0 when started by hand."""
    import submitit

    try:
        environment = submitit.JobEnvironment()
    except RuntimeError:
        return 0
    if environment.num_tasks > 1:
        raise UserError("this worker runs a job with one task; the launcher asked for more")
    return int(environment.global_rank)


def _watch_parent(parent: int) -> Callable[[], None]:
    def watch() -> None:
        if os.getppid() != parent:
            os._exit(Exit.STOPPED)

    return watch


def main(arguments: list[str] | None = None) -> int:
    """Command line of the worker; returns an :class:`Exit` code."""
    given = sys.argv[1:] if arguments is None else arguments
    if len(given) != 2 or given[0] != "--job":
        print("usage: python -m vlmablate.orchestration.worker --job FILE", file=sys.stderr)
        return 2
    import faulthandler

    faulthandler.enable()
    stop = StopFlag()
    stop.install()
    manifest = read_json(Path(given[1]))
    parent = manifest.get("parent")
    if parent is not None and not die_with_parent(parent):
        return Exit.STOPPED
    if _rank() != 0:
        return Exit.DONE
    watch = _watch_parent(parent) if parent is not None else None
    return Worker(manifest, stop=stop, watch=watch).run()


if __name__ == "__main__":
    raise SystemExit(main())
