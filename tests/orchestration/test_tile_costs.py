"""Features of a picture that is cut into tiles take a grid of cells for every tile, and are priced so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.orchestration import fakes
from vlmablate.design.compose import composer
from vlmablate.design.spec import StepSpec
from vlmablate.files import write_json
from vlmablate.orchestration.estimates import Estimator, read_estimates
from vlmablate.orchestration.store import Store
from vlmablate.orchestration.study import Cell, build_runs

CUT = {"letterbox": 1, "tiles": 5}
"""Image group -> grids of cells of a picture: 2 x 2 tiles and the whole once more."""


@pytest.fixture(scope="module")
def features() -> dict[str, StepSpec]:
    with composer() as compose:
        configs = {
            image: compose.compose(["scale=tiny", "vision=smoke_conv", f"image={image}"]) for image in CUT
        }
    cells = [Cell(image, "default", {**config, "precision": "fp32"}) for image, config in configs.items()]
    runs = build_runs(cells, [0], {}, fakes.Assets(), "tiny")
    return {run.arm: run.steps["features0"] for run in runs}


def finish(store: Store, step: StepSpec, seconds: float, megabytes: float) -> None:
    directory = store.directory(step)
    write_json(directory / "spec.json", step.to_dict())
    files = {"x": {"bytes": megabytes * 1e6}}
    write_json(directory / "result.json", {"id": step.id, "files": files, "wall_s": seconds, "payload": {}})


def test_the_declared_size_is_that_of_a_picture_in_one_piece(features: dict[str, StepSpec]) -> None:
    with composer() as compose:
        declared = read_estimates(compose.compose(["scale=tiny"])["estimates"])
    estimator = Estimator(None, declared.seconds, disk_mb=declared.disk_mb)
    costs = {image: estimator.cost(step) for image, step in features.items()}
    assert {image: cost.megabytes for image, cost in costs.items()} == {"letterbox": 186, "tiles": 930}
    assert costs["tiles"].seconds == 5 * costs["letterbox"].seconds


@pytest.mark.parametrize(("measured", "asked"), [("letterbox", "tiles"), ("tiles", "letterbox")])
def test_what_was_measured_of_other_tiles_is_scaled(
    tmp_path: Path, features: dict[str, StepSpec], measured: str, asked: str
) -> None:
    store = Store(tmp_path)
    finish(store, features[measured], 10.0 * CUT[measured], 8.0 * CUT[measured])
    for image in (asked, measured):
        cost = Estimator(store, {}).cost(features[image])
        assert (cost.seconds, cost.megabytes) == pytest.approx((10.0 * CUT[image], 8.0 * CUT[image]))


def test_a_step_from_before_there_were_units_of_disk_takes_one(features: dict[str, StepSpec]) -> None:
    step = features["tiles"]
    step = replace(step, hints={name: hint for name, hint in step.hints.items() if name != "disk_units"})
    assert Estimator(None, {}, disk_mb={"features": 3.0}).cost(step).megabytes == 3.0
