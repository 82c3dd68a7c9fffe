"""Tuning with the real steps at `scale=smoke`: scenes of its own, trials that are stopped, a comparison on the test."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vlmablate.data.scenes_store import SceneStore, read_world, splits_in
from vlmablate.files import read_json
from vlmablate.orchestration import tuned
from vlmablate.orchestration.controller import Controller
from vlmablate.orchestration.parts import Parts
from vlmablate.orchestration.study import Request
from vlmablate.search.space import Float, Space

pytestmark = pytest.mark.slow

RATE = "stages.finetune.learning_rate"
SPACE = Space({RATE: Float(0.01, 10.0, log=True, relative=True)}, startup=3)
OVERRIDES = ("stages=single", "sizes.epochs=1.0", "benchmark.names=[counting,existence]")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results folder of a tuned sweep: 5 trials of each arm, the last two under limits, and one seed."""
    results = tmp_path_factory.mktemp("results")
    request = Request(
        axis="image_resize", seeds=(0,), scale="smoke", launcher="debug", study="study", overrides=OVERRIDES,
        command="the same command", tune="lr", trials=5,
    )  # fmt: skip

    def build(study: Path, home: Path, force: bool = False) -> dict[str, Any]:
        return {"verdicts": [], "html": ""}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuned, "load_space", lambda name: SPACE)
        assert Controller(request, Parts(home=results, build=build)).run() == 0
    return results


@pytest.fixture(scope="module")
def study(home: Path) -> dict[str, Any]:
    found: dict[str, Any] = read_json(home / "studies" / "study" / "study.json")
    return found


def place(home: Path, study: dict[str, Any], step_id: str) -> Path:
    return home / str(study["steps"][step_id]["dir"])


def scenes_of(home: Path, study: dict[str, Any]) -> tuple[Path, Path]:
    """The folders of the scenes of the comparison and of the tuning."""
    trial = study["tuning"]["cells"][0]["trials"][0]
    compared = study["runs"][0]["steps"]["scenes"]
    return place(home, study, compared), place(home, study, trial["steps"]["validation_scenes"])


def pictures(folder: Path, split: str) -> set[bytes]:
    """The pixels of the pictures of a split, decoded."""
    with zipfile.ZipFile(folder / f"{split}.pictures.zip") as archive:
        encoded = [archive.read(name) for name in archive.namelist()]
    return {np.asarray(Image.open(io.BytesIO(one))).tobytes() for one in encoded}


def test_no_picture_and_no_layout_of_tuning_is_one_of_training_or_test(home: Path, study: dict[str, Any]):
    compared, held_out = scenes_of(home, study)
    assert (splits_in(compared), splits_in(held_out)) == (["train", "evaluation"], ["evaluation"])
    tuning = SceneStore(held_out, "evaluation")
    assert len(tuning) == 48
    assert all(scene.split == "validation" for scene in tuning.scenes)
    own = pictures(held_out, "evaluation")
    assert len(own) == 48
    layouts = {repr([(thing.cutout, thing.box) for thing in scene.things]) for scene in tuning.scenes}
    for split in ("train", "evaluation"):
        other = SceneStore(compared, split)
        assert not own & pictures(compared, split)
        assert not layouts & {repr([(t.cutout, t.box) for t in scene.things]) for scene in other.scenes}
        assert not set(tuning.ids) & set(other.ids)


def test_tuning_asks_the_same_kinds_of_questions_in_the_same_words(home: Path, study: dict[str, Any]):
    compared, held_out = scenes_of(home, study)
    assert read_world(compared) == read_world(held_out)
    asked = [
        {(q.benchmark, q.subset) for qs in SceneStore(folder, "evaluation").questions.values() for q in qs}
        for folder in (compared, held_out)
    ]
    assert asked[0] == asked[1]
    assert ("open_vqa", "unseen_category") in asked[1]


def test_trials_and_runs_are_scored_on_their_own_scenes(home: Path, study: dict[str, Any]):
    import pyarrow.parquet as pq

    def clusters(step_id: str) -> set[str]:
        table = pq.read_table(place(home, study, step_id) / "examples.parquet")
        return {str(name).partition("-")[0] for name in table["cluster_id"].to_pylist()}

    finished = [t for cell in study["tuning"]["cells"] for t in cell["trials"] if t["state"] == "finished"]
    assert {name for trial in finished for name in clusters(trial["run_id"])} == {"validation"}
    assert {name for run in study["runs"] for name in clusters(run["run_id"])} == {"evaluation"}


def test_every_arm_was_tuned_and_what_was_worse_was_stopped(home: Path, study: dict[str, Any]):
    cells = study["tuning"]["cells"]
    assert study["tuning"]["final"] is True
    assert [len(cell["trials"]) for cell in cells] == [5, 5, 5]
    for cell in cells:
        assert all(trial["state"] == "finished" for trial in cell["trials"][:3])
        best = max(trial["score"] for trial in cell["trials"] if trial["state"] == "finished")
        assert cell["score"] == best
        (run,) = [run for run in study["runs"] if run["arm"] == cell["arm"]]
        spec = read_json(place(home, study, run["steps"]["finetune"]) / "spec.json")
        assert spec["config"]["stages"]["finetune"]["learning_rate"] == cell["chosen"][RATE]
    for trial in (t for cell in cells for t in cell["trials"] if t["state"] == "censored"):
        folder = place(home, study, trial["steps"]["finetune"])
        assert not (folder / "result.json").exists()
        assert 0.3 < trial["share"] < 0.7
