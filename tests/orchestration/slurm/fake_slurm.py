"""A Slurm of one file, for what a real one does too rarely or too slowly: it lies, hangs, forgets and refuses.

Linked as ``sbatch``, ``squeue``, ``scontrol``, ``scancel`` and ``sacct`` into a folder on the PATH. ``$FAKE_SLURM`` is
its memory: ``jobs.json``, one line per call in ``calls``, and files ``mode-<command>`` that tell a command how to
behave. It runs nothing by itself; ``run_element`` does.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

# Only looked for: submitit takes srun as the sign of a cluster, and this machine may have none.
COMMANDS = ("sbatch", "squeue", "scontrol", "scancel", "sacct", "srun")


def memory() -> Path:
    return Path(os.environ["FAKE_SLURM"])


def install(folder: Path) -> None:
    """Put the commands into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in COMMANDS:
        script = folder / name
        script.write_text(f'#!/bin/sh\nexec {sys.executable} -S -E {Path(__file__).resolve()} {name} "$@"\n')
        script.chmod(0o755)


def read_jobs() -> list[dict[str, Any]]:
    try:
        return list(json.loads((memory() / "jobs.json").read_text()))
    except FileNotFoundError:
        return []


def write_jobs(jobs: list[dict[str, Any]]) -> None:
    (memory() / "jobs.json").write_text(json.dumps(jobs))


def set_state(name: str, state: str, reason: str = "None") -> None:
    """Give an element (``7_0``) or all elements of an array (``7``) a state."""
    jobs = read_jobs()
    for job in jobs:
        if name in (job["id"], f"{job['id']}_{job['index']}"):
            job.update(state=state, reason=reason)
    write_jobs(jobs)


def forget(name: str) -> None:
    """Forget an array, as Slurm does some minutes after its end."""
    write_jobs([job for job in read_jobs() if job["id"] != name])


def run_element(name: str, restart: int = 0) -> int:
    """Run the script of an element to its end, as slurmd would, and note its final state."""
    array, _, index = name.partition("_")
    job = next(job for job in read_jobs() if job["id"] == array)
    set_state(name, "RUNNING")
    environment = {
        **os.environ,
        "SLURM_ARRAY_JOB_ID": array, "SLURM_ARRAY_TASK_ID": index, "SLURM_JOB_ID": f"{array}{index}",
        "SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0",
        "SLURM_JOB_NUM_NODES": "1", "SLURM_JOB_NODELIST": "node1", "SLURMD_NODENAME": "node1",
        "SLURM_RESTART_COUNT": str(restart),
    }  # fmt: skip
    done = subprocess.run(
        ["bash", job["script"]], env=environment, capture_output=True, text=True, check=False
    )
    set_state(name, "COMPLETED" if done.returncode == 0 else "FAILED")
    return done.returncode


def _mode(name: str) -> str:
    try:
        return (memory() / f"mode-{name}").read_text().strip()
    except FileNotFoundError:
        return ""


def _indices(text: str) -> list[int]:
    found: list[int] = []
    for part in text.partition("%")[0].split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


def _sbatch(arguments: list[str]) -> int:
    mode = _mode("sbatch")
    after, _, later = _mode("sbatch-after").partition(" ")
    if later and len({job["id"] for job in read_jobs() if job["state"] in ("PENDING", "RUNNING")}) >= int(
        after
    ):
        mode = later
    if mode == "refuse":
        print("sbatch: error: invalid partition specified: nowhere", file=sys.stderr)
        return 1
    if mode == "full":
        print("sbatch: error: Job violates accounting/QOS policy (job submit limit)", file=sys.stderr)
        return 1
    if mode == "down":
        print(
            "sbatch: error: Batch job submission failed: Unable to contact slurm controller", file=sys.stderr
        )
        return 1
    text = Path(arguments[-1]).read_text()
    flags = dict(re.findall(r"^#SBATCH --([\w-]+)=(.*)$", text, re.MULTILINE))
    jobs = read_jobs()
    number = str(1 + max((int(job["id"]) for job in jobs), default=100))
    for index in _indices(flags["array"].strip("'")):
        jobs.append(
            {
                "id": number, "index": index, "name": flags["job-name"], "comment": flags["comment"].strip("'"),
                "state": "PENDING", "reason": "Priority", "script": arguments[-1],
                "dependency": flags.get("dependency", "").strip("'"),
            }
        )  # fmt: skip
    write_jobs(jobs)
    if mode == "accept-then-fail":
        print("sbatch: error: Batch job submission failed: Socket timed out on send/recv", file=sys.stderr)
        return 1
    print("chatter of a submit plugin" if mode == "noise" else number)
    return 0


def _squeue() -> int:
    mode = _mode("squeue")
    if mode == "error":
        print("slurm_load_jobs error: Unable to contact slurm controller", file=sys.stderr)
        return 1
    for job in [] if mode == "empty" else read_jobs():
        state = "HIBERNATING" if mode == "strange" else job["state"]
        name, comment = (job["name"], job["comment"]) if mode != "reused" else ("another", "")
        shown = "FAILED" if mode == "reused" else state
        print(
            f"{job['id']}|{job['index']}|{job['id']}{job['index']}|{name}|{shown}|{job['reason']}|node1|{comment}"
        )
    return 0


def _scontrol(arguments: list[str]) -> int:
    if arguments[:2] == ["show", "config"]:
        print("MaxArraySize            = 1001")
        return 0
    if "show" in arguments:
        if _mode("scontrol") == "error":
            print("slurm_load_jobs error: Unable to contact slurm controller", file=sys.stderr)
            return 1
        found = [job for job in read_jobs() if job["id"] == arguments[-1]]
        if not found:
            print("slurm_load_jobs error: Invalid job id specified", file=sys.stderr)
            return 1
        for job in found:
            print(
                f"JobId={job['id']}{job['index']} ArrayJobId={job['id']} ArrayTaskId={job['index']} "
                f"JobName={job['name']} JobState={job['state']} Reason={job['reason']}"
            )
    return 0


def main(arguments: list[str]) -> int:
    command, rest = arguments[0], arguments[1:]
    with open(memory() / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with open(memory() / "calls", "a") as calls:
            calls.write(" ".join([command, *rest]) + "\n")
        if command == "sbatch":
            code = _sbatch(rest)
        elif command == "squeue":
            return _squeue()
        elif command == "scontrol":
            return _scontrol(rest)
        elif command == "scancel":
            for name in rest:
                set_state(name, "CANCELLED")
            return 0
        else:
            print("Slurm accounting storage is disabled", file=sys.stderr)
            return 1
    if _mode("sbatch") == "hang":
        time.sleep(60)
    return code


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
