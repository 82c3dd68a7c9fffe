"""A small world of drawn scenes with all its steps, run in this process or as one of several ranks.

``python -m tests.training.vision_world RANK`` is one rank of a pair: it reads what :func:`work` takes from its input,
one JSON object a line, and answers each with one line.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch

from vlmablate.design.compose import composer
from vlmablate.design.spec import RunSpec
from vlmablate.design.steps import build_run
from vlmablate.orchestration.context import StepContext, StepStopped
from vlmablate.orchestration.kinds import KINDS, resolve
from vlmablate.training import loop

SMALL = (
    "scale=smoke", "data.train_scenes=22", "data.evaluation_scenes=12", "llm.layers=2", "llm.width=32",
    "llm.pretrain.steps=2", "llm.pretrain.scenes=8", "llm.pretrain.batch_scenes=4", "stages.finetune.batch_scenes=5",
    "stages.finetune.epochs=1.6", "stages.align.batch_scenes=5", "stages.align.epochs=1.6",
)  # fmt: skip
DIGESTS = dict.fromkeys(
    ("smoke_conv", "smoke_patch", "raw_patches", "test_clip", "test_dinov2", "test_siglip", "test_llama"),
    "random",
)


class World:
    """Finished steps in folders by id. ``done`` runs what is missing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def plan(self, *overrides: str) -> RunSpec:
        """The steps of a run at seed 0."""
        small = SMALL if "stages=single" not in overrides else [s for s in SMALL if ".align." not in s]
        with composer() as made:
            config = {**made.compose([*small, *overrides]), "precision": "fp32"}
        return build_run(config, arm="a", context="c", seed=0, assets={}, weights=DIGESTS)

    def done(self, run: RunSpec, role: str) -> Path:
        """The folder of a finished step."""
        out = self.folder / run.steps[role].id
        if not out.is_dir():
            work(out=str(out), **self.job(run, role))
        return out

    def job(self, run: RunSpec, role: str) -> dict[str, Any]:
        """What `work` takes to run a step, whose dependencies are finished first."""
        step = run.steps[role]
        roles = {other.id: name for name, other in run.steps.items()}
        deps = {name: str(self.done(run, roles[id_])) for name, id_ in step.deps.items()}
        return {"kind": step.kind, "config": step.config, "deps": deps}


def work(
    *,
    kind: str,
    config: dict[str, Any],
    deps: dict[str, str],
    out: str,
    execution: dict[str, Any] | None = None,
    stop_after: int | None = None,
    rank: int = 0,
    ranks: int = 1,
) -> dict[str, Any]:
    """Run a step; its payload with ``losses``, one of every optimiser step. ``stopped``: it was told to stop after
    `stop_after` optimiser steps, and did."""
    Path(out).mkdir(parents=True, exist_ok=True)
    asked = itertools.count()
    context = StepContext(
        execution=execution or {}, attempt=1, assets=Path(out), out=Path(out), rank=rank, world_size=ranks,
        stop_requested=lambda: stop_after is not None and next(asked) >= stop_after,
    )  # fmt: skip
    losses: list[float] = []
    settle = loop._settle

    def noting(*arguments: Any) -> Any:
        settled = settle(*arguments)
        losses.append(settled[0])
        return settled

    loop._settle = noting
    try:
        payload = resolve(kind, KINDS)(
            config, {role: Path(path) for role, path in deps.items()}, Path(out), context
        )
    except StepStopped:
        payload = {"stopped": True}
    finally:
        loop._settle = settle
    return {**payload, "losses": losses}


def main(rank: int) -> None:
    """Serve jobs."""
    torch.set_num_threads(1)
    for line in sys.stdin:
        job = json.loads(line)
        os.environ.update(
            MASTER_ADDR="127.0.0.1", MASTER_PORT=str(job.pop("port")), RANK=str(rank), WORLD_SIZE="2"
        )
        with redirect_stdout(sys.stderr):
            answer = work(rank=rank, **{"ranks": 2, **job})
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
