"""The fake steps, with a training whose loss and an evaluation whose scores depend on the learning rate.

Every arm of image_resize has a rate of its own that suits it. The loss of a training falls from 3 to what its rate is
worth, over 30 steps; it is noted at every tenth and at its milestones, and these may end it. The file ``diverges`` in
the remote control says above which rate a loss is not finite half-way.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

from tests.orchestration import fakes
from vlmablate.errors import Diverged
from vlmablate.files import read_json
from vlmablate.orchestration.context import StepContext

KINDS = {
    **fakes.KINDS,
    "finetune": "tests.orchestration.tuned_steps:finetune",
    "evaluate": "tests.orchestration.tuned_steps:evaluate",
}
ARMS = ("letterbox", "resize_naive", "resize_crop")
BEST = {"letterbox": 1e-3, "resize_naive": 4e-3, "resize_crop": 1e-2}
"""The learning rate that suits an arm; all are configured with 2e-3."""
STEPS = 30


def away(rate: float, arm: str) -> float:
    """How far a rate is from the one that suits the arm, in factors of ten."""
    return abs(math.log10(rate / BEST[arm]))


def loss_at(step: int, rate: float, arm: str) -> float:
    return 3.0 - (2.0 - away(rate, arm)) * step / STEPS


def points(rate: float, arm: str) -> float:
    return 60.0 - 10.0 * away(rate, arm)


def finetune(
    config: dict[str, Any], deps: dict[str, Path], out: Path, context: StepContext
) -> dict[str, Any]:
    """Train in pretence."""
    rate, arm = config["stages"]["finetune"]["learning_rate"], arm_of(out)
    payload = fakes.finetune(config, deps, out, context)
    limit = fakes.control() / "diverges"
    marks = {milestone.step(STEPS): milestone for milestone in context.milestones}
    with open(out / "metrics.jsonl", "w") as curve:
        for step in range(1, STEPS + 1):
            loss = loss_at(step, rate, arm)
            if step % 10 == 0 or step in marks:
                curve.write(json.dumps({"step": step, "smoothed_loss": round(loss, 5)}) + "\n")
            if limit.exists() and rate > float(limit.read_text()) and step == STEPS // 2:
                raise Diverged(f"the loss of step {step} is inf", share=(step - 1) / STEPS)
            if step in marks:
                marks[step].judge(loss, STEPS)
    return payload


def evaluate(
    config: dict[str, Any], deps: dict[str, Path], out: Path, context: StepContext
) -> dict[str, Any]:
    """Fake scores of two benchmarks of the suite, and of one that is none."""
    rate = read_json(deps["model"] / "spec.json")["config"]["stages"]["finetune"]["learning_rate"]
    mean = points(rate, arm_of(out)) / 100
    scores = {"counting": mean + 0.1, "spatial": mean - 0.1}
    benchmarks: dict[str, Any] = {
        name: {"metric": "exact_match", "mean": value, "majority": 0.3} for name, value in scores.items()
    }
    benchmarks["captioning"] = {"metric": "words", "mean": 900.0, "suite": False}
    return {**fakes.evaluate(config, deps, out, context), "benchmarks": benchmarks}


def arm_of(folder: Path) -> str:
    """The arm whose step lives in a folder, by its name."""
    found = re.search(r"-(\w+)-s\d+-", folder.name)
    assert found is not None
    return found[1]
