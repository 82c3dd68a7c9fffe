"""The fake steps, with an evaluation whose scores hold planted differences between the arms of image_resize.

The file ``sd`` in the remote control says by how many points the runs of one arm differ from seed to seed.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from tests.orchestration import fakes
from vlmablate.orchestration.context import StepContext

KINDS = {**fakes.KINDS, "evaluate": "tests.orchestration.adaptive_steps:evaluate"}
ARMS = ("letterbox", "resize_naive", "resize_crop")
EFFECTS = {"letterbox": 0.0, "resize_naive": 0.0, "resize_crop": -9.0}
"""Points."""


def evaluate(
    config: dict[str, Any], deps: dict[str, Path], out: Path, context: StepContext
) -> dict[str, Any]:
    """Fake scores of one benchmark with signal; arm and seed are read from the name of the step's folder."""
    found = re.search(r"-(\w+)-s(\d+)-", out.name)
    assert found is not None
    arm, seed = found[1], int(found[2])
    sd = float((fakes.control() / "sd").read_text())
    noise = np.random.default_rng([ARMS.index(arm), seed, 3]).standard_normal()
    points = 60 + EFFECTS[arm] + sd * noise
    counting = {"metric": "exact_match", "mean": points / 100, "majority": 0.3}
    return {**fakes.evaluate(config, deps, out, context), "benchmarks": {"counting": counting}}
