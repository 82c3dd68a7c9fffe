"""Fake steps for design spaces: scores that are planted for every combination, and trainings that diverge.

In the remote control (:mod:`tests.orchestration.fakes`) the file ``points.json`` holds combination -> points of its
runs (others have 50), and ``diverge`` the combinations whose finetuning diverges, one a line. A combination is named as
the space names it, ``resize_crop+single+e3``; without the last part where epochs are no axis. Runs of one combination
differ by a few hundredths of a point from seed to seed.
"""

from __future__ import annotations

import copy
import re
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tests.orchestration import fakes
from vlmablate.design.catalogue import Arm, Axis, Context
from vlmablate.design.crossing import CrossedAxis, cross
from vlmablate.errors import Diverged
from vlmablate.files import read_json
from vlmablate.orchestration.context import StepContext
from vlmablate.orchestration.study import Cell

KINDS = {
    **fakes.KINDS,
    "finetune": "tests.orchestration.space_steps:finetune",
    "evaluate": "tests.orchestration.space_steps:evaluate",
}
SMOKE_EPOCHS = 2.0
LEVELS = {
    "image_resize": ("letterbox", "resize_naive", "resize_crop"),
    "stages": ("two_stage", "single"),
    "epochs": ("e2", "e3", "e4", "e5", "e6"),
}


def space() -> CrossedAxis:
    """30 combinations; their overrides are never composed."""
    return cross(
        [
            Axis(
                name=name,
                question=f"Does {name} matter?",
                baseline=levels[0],
                arms=tuple(Arm(level, (f"{name}={level}",), level) for level in levels),
                contexts=(Context("default", ()),),
                affects=(),
                paper=MappingProxyType({}),
                limits=(),
            )
            for name, levels in LEVELS.items()
        ]
    )


def cells(base: dict[str, Any]) -> list[Cell]:
    """The cells of :func:`space`, made of the plain configuration of two stages."""
    found = []
    for arm in space().arms:
        image, stages, epochs = arm.name.split("+")
        config = copy.deepcopy(base)
        config["image"]["resize"] = image
        config["stages"]["finetune"]["epochs"] = float(epochs[1:])
        if stages == "single":
            config["stages"]["align"] = None
        found.append(Cell(arm.name, "default", config))
    return found


def _combination(finetune: Path) -> str:
    """Of a finetuning, by its specification."""
    spec = read_json(finetune / "spec.json")
    image = re.search("letterbox|resize_naive|resize_crop", finetune.name)
    assert image is not None
    aligned = [path.name.rpartition("-")[2] for path in finetune.parents[1].glob("align/*")]
    stages = "two_stage" if set(aligned) & set(spec["deps"].values()) else "single"
    epochs = spec["config"]["stages"]["finetune"]["epochs"]
    return f"{image[0]}+{stages}" + (f"+e{epochs:g}" if epochs != SMOKE_EPOCHS else "")


def _named(combination: str, names: Any) -> bool:
    return combination in names or f"{combination}+e{SMOKE_EPOCHS:g}" in names


def finetune(
    config: dict[str, Any], deps: dict[str, Path], out: Path, context: StepContext
) -> dict[str, Any]:
    """Fake training that may diverge."""
    told = fakes.control() / "diverge"
    if told.exists() and _named(_combination(out), told.read_text().split()):
        raise Diverged("the loss is not finite")
    return fakes.finetune(config, deps, out, context)


def evaluate(
    config: dict[str, Any], deps: dict[str, Path], out: Path, context: StepContext
) -> dict[str, Any]:
    """Planted scores in one benchmark with signal, and the opposite in one without, and in one outside the suite."""
    name = _combination(deps["model"])
    planted = read_json(fakes.control() / "points.json")
    points = planted.get(name, planted.get(f"{name}+e{SMOKE_EPOCHS:g}", 50.0))
    seed = re.search(r"-s(\d+)-", out.name)
    assert seed is not None
    points += 0.02 * (int(seed[1]) % 3)
    means = {"counting": points / 100, "noise": 0.3 - points / 1000, "behaviour": 1 - points / 100}
    facts = {
        benchmark: {"metric": "exact_match", "mean": mean, "majority": 0.3}
        for benchmark, mean in means.items()
    }
    facts["behaviour"] = {"metric": "length", "mean": means["behaviour"], "suite": False}
    return {**fakes.evaluate(config, deps, out, context), "benchmarks": facts}
