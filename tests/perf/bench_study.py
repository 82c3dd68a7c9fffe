"""What sharing steps is worth: a study of several axes from an empty results folder, against every run on its own.

    python tests/perf/bench_study.py [--scale smoke] [--seeds 1] [--study quickstart] [--workers 2]

On its own means: each run of each axis by a command of its own with a results folder of its own, as many at a time as
the study has workers, as somebody does who launches every training by hand. Both ways use the same executor and
compute the same numbers, which is checked; reports are written in neither. Both are measured in one run of this script.
No assertion depends on time. --scale tiny takes most of an hour on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from vlmablate.design.compose import composer  # noqa: E402
from vlmablate.files import read_json  # noqa: E402
from vlmablate.orchestration import controller  # noqa: E402
from vlmablate.orchestration.parts import Parts  # noqa: E402
from vlmablate.orchestration.study import Request, Sweep, compose_cells  # noqa: E402
from vlmablate.sweep import asked, parse  # noqa: E402


@dataclass(frozen=True)
class Taken:
    """What a way of computing took: seconds by the clock, seconds of all steps, steps, and digest of the scores of
    every run by its id."""

    wall_s: float
    steps_s: float
    steps: int
    scores: dict[str, str]


def no_report(study_dir: Path, home: Path, force: bool = False) -> dict[str, Any]:
    """In place of a report."""
    return {"verdicts": [], "html": study_dir / "report.html", "missing": [], "rebuilt": False}


def compute(asked_for: Request | Sweep, home: Path) -> None:
    """Compute a request into a results folder. Raises SystemExit when that fails."""
    with open(home.with_suffix(".log"), "w") as log:
        parts = Parts(home=home, build=no_report, report=lambda text: print(text, file=log, flush=True))
        code = controller.Controller(asked_for, parts).run()
    if code:
        raise SystemExit(f"the sweep ended with {code}; it said:\n{home.with_suffix('.log').read_text()}")


def compute_one(words: list[str], home: Path, axis: str, arm: str, context: str, seed: int) -> None:
    """Compute a single run of one axis of the study."""

    def one_cell(request: Request, compose: Any, axes: Path | None = None) -> Any:
        found, cells = compose_cells(request, compose, axes)
        return found, [cell for cell in cells if (cell.arm, cell.context) == (arm, context)]

    controller.compose_cells = one_cell  # type: ignore[assignment]
    (request,) = (request for request in asked(parse(words)).requests if request.axis == axis)
    alone = replace(request, seeds=(seed,), overrides=(*request.overrides, "execution.workers=1"))
    compute(alone, home)


def taken(homes: list[Path], begun: float) -> Taken:
    """What lies in some results folders, and the time since the beginning."""
    wall_s = time.perf_counter() - begun
    results = [read_json(path) for home in homes for path in home.glob("steps/*/*/result.json")]
    return Taken(
        wall_s=wall_s,
        steps_s=sum(float(result["wall_s"]) for result in results),
        steps=len(results),
        scores={
            result["id"]: result["files"]["examples.parquet"]["sha256"]
            for result in results
            if result["kind"] == "evaluate"
        },
    )


def commands(words: list[str]) -> list[list[str]]:
    """Axis, arm, context and seed of every run that the study asks for."""
    found = []
    with composer() as compose:
        for request in asked(parse(words)).requests:
            _, cells = compose_cells(request, compose)
            found += [
                [request.axis, cell.arm, cell.context, str(seed)] for seed in request.seeds for cell in cells
            ]
    return found


def own_process(words: list[str], home: Path, *which: str) -> None:
    """The same script with other words, in a process of its own. Raises SystemExit when it fails."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--child", json.dumps([words, str(home), *which])]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--study", default="quickstart")
    parser.add_argument("--scale", default="smoke")
    parser.add_argument("--seeds", default="1")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        words, home, *which = json.loads(given.child)
        if which:
            compute_one(words, Path(home), *which[:3], seed=int(which[3]))
        else:
            compute(asked(parse(words)), Path(home))
        return
    words = [f"study={given.study}", f"scale={given.scale}", f"seeds={given.seeds}"]
    words.append(f"execution.workers={given.workers}")
    with tempfile.TemporaryDirectory() as folder:
        together = Path(folder) / "together"
        begun = time.perf_counter()
        own_process(words, together)
        shared = taken([together], begun)
        runs = commands(words)
        homes = [Path(folder) / f"alone-{number}" for number in range(len(runs))]
        begun = time.perf_counter()
        with ThreadPoolExecutor(given.workers) as pool:
            list(pool.map(lambda pair: own_process(words, pair[0], *pair[1]), zip(homes, runs, strict=True)))
        alone = taken(homes, begun)
    if alone.scores != shared.scores:
        raise SystemExit("runs on their own have other scores than runs that share steps")
    print(
        f"{' '.join(words)}: {len(runs)} runs asked for, {len(shared.scores)} different; the same scores both ways"
    )
    for what, ours, theirs in (
        ("steps", shared.steps, alone.steps),
        ("wall seconds", shared.wall_s, alone.wall_s),
        ("seconds of steps", shared.steps_s, alone.steps_s),
    ):
        print(f"{what:<18}{ours:>8.0f} shared {theirs:>8.0f} alone   ratio {theirs / ours:.2f}")


if __name__ == "__main__":
    main()
