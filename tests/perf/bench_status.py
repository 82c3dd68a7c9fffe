"""`vlmablate status` of 1,000 runs with 4,000 steps in a made-up results folder, against a bare interpreter that only
looks whether each of the results is there."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ARMS, CONTEXTS, SEEDS = 5, 2, 100
KINDS = ("features", "align", "finetune", "evaluate")
ROUNDS = 7


def make_home(home: Path) -> None:
    """40 % of the runs done, 64 steps at work on other machines, 200 failed, the rest not begun."""
    runs, steps = [], {}
    for number in range(ARMS * CONTEXTS * SEEDS):
        arm, context = f"arm{number % ARMS}", f"context{number // ARMS % CONTEXTS}"
        seed = number // (ARMS * CONTEXTS)
        ids = {kind: f"{kind[:2]}{number:014d}" for kind in KINDS}
        runs.append({"arm": arm, "context": context, "seed": seed, "run_id": ids["evaluate"], "steps": ids})
        for kind, step_id in ids.items():
            slug = f"{arm}-{context}-s{seed}"
            place = f"steps/{kind}/{slug}-{step_id}"
            steps[step_id] = {"kind": kind, "slug": slug, "dir": place}
            done = number < 400 or (number < 664 and kind in ("features", "align"))
            busy = kind == "finetune" and 400 <= number < 464
            failed = kind == "finetune" and 464 <= number < 664
            if not (done or busy or failed):
                continue
            attempts = home / place / "attempts"
            attempts.mkdir(parents=True)
            owner = {"host": f"node{number % 16}", "boot": "b", "namespace": "n", "pid": 1, "started": "1"}
            record = {
                "attempt": 1,
                "state": "running",
                "token": step_id,
                "owner": owner,
                "node": owner["host"],
            }
            if done:
                (home / place / "result.json").write_text(json.dumps({"id": step_id, "wall_s": 1.0}))
                record["state"] = "done"
            if failed:
                record |= {
                    "state": "failed",
                    "error": {"type": "RuntimeError", "message": f"cause {number % 3}"},
                }
            if busy:
                said = {"done": 300 + number, "total": 1200, "elapsed_s": 60.0, "metrics": {"loss": 0.5}}
                (home / place / "progress.json").write_text(json.dumps(said))
                curve = "".join(
                    json.dumps({"step": n, "loss": 1 / n}) + "\n" for n in range(10, 300 + number, 10)
                )
                (home / place / "metrics.jsonl").write_text(curve)
            (attempts / "001.json").write_text(json.dumps(record, indent=1))
    folder = home / "studies" / "large"
    folder.mkdir(parents=True)
    study = {
        "name": "large",
        "axis": {"name": "made_up"},
        "scale": "tiny",
        "command": "python -m vlmablate.sweep",
    }
    (folder / "study.json").write_text(json.dumps({**study, "runs": runs, "steps": steps}, indent=1))


def best(*arguments: str, home: Path) -> float:
    """Shortest wall time of a whole process in seconds."""
    environment = {**os.environ, "VLMABLATE_HOME": str(home)}
    times = []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True, env=environment)
        times.append(time.perf_counter() - begun)
    return min(times)


LOOK = """
import json, os, sys
home = os.environ["VLMABLATE_HOME"]
steps = json.load(open(f"{home}/studies/large/study.json"))["steps"]
print(sum(os.path.exists(f"{home}/{step['dir']}/result.json") for step in steps.values()))
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        make_home(home)
        peer = best("-c", LOOK, home=home)
        for words in (("status",), ("status", "--json")):
            took = best("-m", "vlmablate.cli", *words, home=home)
            name = f"{' '.join(words)}, 1,000 runs on {socket.gethostname()}"
            print(
                f"{name:<34} {took * 1e3:9.1f} ms   {took / peer:6.2f} x   "
                f"of looking for 4,000 files ({peer * 1e3:.0f} ms); the bar is 300 ms"
            )


if __name__ == "__main__":
    main()
