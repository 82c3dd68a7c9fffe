"""Training with the towers in the loop: the pictures, what learns, interruption, ranks, and the evaluation."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from tests.training.vision_world import World, work  # noqa: E402
from vlmablate.data.scenes_store import SceneStore  # noqa: E402
from vlmablate.design.spec import RunSpec  # noqa: E402
from vlmablate.errors import UserError  # noqa: E402
from vlmablate.evaluation.sight import features_for  # noqa: E402
from vlmablate.orchestration.gang import free_port  # noqa: E402
from vlmablate.training.pictures import AHEAD, PictureStream, SquarePictures  # noqa: E402
from vlmablate.training.ranks import ALONE  # noqa: E402
from vlmablate.training.sight import open_sight, tune_vision  # noqa: E402
from vlmablate.training.steps import MODEL_FILE, load_model  # noqa: E402
from vlmablate.training.visits import order_of, steps_of  # noqa: E402
from vlmablate.vlm.feature_store import open_features  # noqa: E402
from vlmablate.vlm.features_step import BATCH  # noqa: E402
from vlmablate.vlm.seen import open_vision  # noqa: E402

DEADLINE_S = 120.0
FULL = "stages.finetune.vision=full"
LAST = "stages.finetune.vision={last: 1}"
WAYS = {"frozen": "stages.finetune.vision=frozen", "last": LAST, "full": FULL}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    torch.set_num_threads(1)
    return World(tmp_path_factory.mktemp("world"))


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / MODEL_FILE)


def assert_same_bits(one: Path, other: Path) -> None:
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


# ---- the stream


def squares(row: int) -> list[np.ndarray]:
    return [np.full((2, 2, 3), row, np.uint8), np.full((4, 4, 3), row + 100, np.uint8)]


def rows_at(step: int) -> list[int]:
    return [3 * step, 3 * step + 1, 3 * step + 2]


def test_pictures_come_in_the_order_of_the_step_whoever_is_ready_first() -> None:
    later = {row: threading.Event() for row in range(30)}

    def load(row: int) -> list[np.ndarray]:
        if row % 3 == 0:
            assert later[row + 2].wait(DEADLINE_S)  # the first of a step is ready after the last
        later[row].set()
        return squares(row)

    with PictureStream(load, rows_at, 10, threads=3) as stream:
        for step in range(10):
            small, large = stream.at(step)
            assert small[:, 0, 0, 0].tolist() == rows_at(step)
            assert large[:, 3, 3, 2].tolist() == [row + 100 for row in rows_at(step)]


@pytest.mark.parametrize("first", [0, 4, 9])
def test_a_step_has_the_same_pictures_wherever_one_begins(first: int) -> None:
    with PictureStream(squares, rows_at, 10, threads=2) as stream:
        assert stream.at(1)[0][:, 0, 0, 0].tolist() == rows_at(1)
        assert stream.at(first)[0][:, 0, 0, 0].tolist() == rows_at(first)


def test_no_more_than_the_next_steps_are_prepared_ahead() -> None:
    asked: list[int] = []
    with PictureStream(lambda row: asked.append(row) or squares(row), rows_at, 10) as stream:  # type: ignore[func-returns-value]
        stream.at(0)
        stream.at(1)
    assert set(asked) <= {row for step in range(2 + AHEAD) for row in rows_at(step)}
    with PictureStream(lambda row: asked.append(row) or squares(row), rows_at, 10) as stream:  # type: ignore[func-returns-value]
        asked.clear()
        stream.at(9)
    assert sorted(asked) == rows_at(9)


def test_pictures_that_were_prepared_for_nothing_are_let_go() -> None:
    gate, asked = threading.Event(), []

    def load(row: int) -> list[np.ndarray]:
        asked.append(row)
        if row >= 3:
            assert gate.wait(DEADLINE_S)
        return squares(row)

    stream = PictureStream(load, rows_at, 10)
    stream.at(0)  # one thread is held by row 3 now, the rest of steps 1 and 2 waits
    threading.Timer(0.0, gate.set).start()
    stream.close()
    assert set(asked) <= {0, 1, 2, 3, 4, 5, 6, 7, 8}
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("pictures")]


def test_an_error_of_a_thread_comes_out_at_its_step() -> None:
    def load(row: int) -> list[np.ndarray]:
        if row == 4:
            raise UserError("picture 4")
        return squares(row)

    with PictureStream(load, rows_at, 10) as stream:
        stream.at(0)
        with pytest.raises(UserError, match="picture 4"):
            stream.at(1)


# ---- pixels and features


@pytest.mark.parametrize("vision", ["vision=smoke_conv", "vision=smoke_both"])
@pytest.mark.parametrize("image", ["image=letterbox", "image=resize_crop"])
def test_live_towers_see_what_the_features_step_saw(world: World, vision: str, image: str) -> None:
    run = world.plan(vision, image, FULL)
    folders = {role: world.done(run, role) for role in run.steps if role.startswith("features")}
    store = SceneStore(world.done(run, "scenes"), "train")
    live = open_sight(run.steps["finetune"].config["live"], {}, store)
    stored = open_sight(None, folders, store)
    assert (list(live.ids), live.cells, live.channels) == (list(stored.ids), stored.cells, stored.channels)
    assert list(live.frames) == list(stored.frames)
    every = np.arange(len(store))
    rows = slice(2 * BATCH, 2 * BATCH + 4)
    assert live.vision is not None
    with live.stream(lambda step: every, 1, ALONE, 2) as look_at, torch.inference_mode():
        live.vision.eval()
        seen = live.vision(look_at(0)(rows))
    with stored.stream(lambda step: every, 1, ALONE, 2) as look_at:
        features = look_at(0)(rows)
    assert isinstance(features, torch.Tensor)
    torch.testing.assert_close(seen, features, rtol=2**-11, atol=2**-14)


def test_pixels_are_those_of_the_features_step(world: World) -> None:
    run = world.plan()
    store = SceneStore(world.done(run, "scenes"), "train")
    pictures = SquarePictures(store, "letterbox", [(32, (9, 8, 7)), (48, (1, 2, 3))])
    from vlmablate.vlm.image import letterbox

    for row in (0, 7, 21):
        for got, (size, fill) in zip(pictures.at(row), [(32, (9, 8, 7)), (48, (1, 2, 3))], strict=True):
            np.testing.assert_array_equal(got, np.asarray(letterbox(store.image(row), size, fill)[0]))


def damaged(world: World, copy: Path, run: RunSpec, victim: str, content: bytes | None) -> Path:
    """A copy of the scenes in which one picture has this content, is missing (None), or cut off (nothing)."""
    scenes = world.done(run, "scenes")
    shutil.copytree(scenes, copy)
    with (
        zipfile.ZipFile(scenes / "train.pictures.zip") as old,
        zipfile.ZipFile(copy / "train.pictures.zip", "w") as new,
    ):
        for name in old.namelist():
            if name != f"{victim}.jpg":
                new.writestr(name, old.read(name))
            elif content is not None:
                new.writestr(name, content or old.read(name)[:200])
    return copy


@pytest.mark.parametrize("content", [b"", b"no picture", None], ids=["truncated", "other", "missing"])
def test_a_damaged_picture_is_named(world: World, tmp_path: Path, content: bytes | None) -> None:
    run = world.plan("stages=single", FULL)
    job = world.job(run, "finetune")
    victim = SceneStore(world.done(run, "scenes"), "train").ids[5]
    scenes = damaged(world, tmp_path / "scenes", run, victim, content)
    with pytest.raises(UserError, match=f"picture {victim} in .*(.|\n)*start the sweep again"):
        work(out=str(tmp_path / "out"), **{**job, "deps": {**job["deps"], "scenes": str(scenes)}})
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("pictures")]


# ---- what learns


@pytest.mark.parametrize("stages", ["single", "two_stage"])
def test_what_learns_is_what_was_asked_for(world: World, stages: str) -> None:
    outs = {way: world.done(world.plan(f"stages={stages}", how), "finetune") for way, how in WAYS.items()}
    run = world.plan(f"stages={stages}", FULL)
    before = open_vision(run.steps["finetune"].config["live"]).state_dict()
    assert not [name for name in weights(outs["frozen"]) if name.startswith("vision.")]
    moved = {
        way: {
            name
            for name, tensor in before.items()
            if not torch.equal(weights(outs[way])[f"vision.{name}"], tensor)
        }
        for way in ("last", "full")
    }
    assert moved["full"] == set(before)
    assert moved["last"] == {name for name in before if ".layers.2." in name}
    losses = {way: weights(out)["projector.out.weight"] for way, out in outs.items()}
    assert not torch.equal(losses["full"], losses["last"])


def test_towers_have_a_learning_rate_of_their_own(world: World) -> None:
    run = world.plan("stages=single", FULL, "stages.finetune.vision_learning_rate=0.0")
    before = open_vision(run.steps["finetune"].config["live"]).state_dict()
    after = weights(world.done(run, "finetune"))
    assert all(torch.equal(after[f"vision.{name}"], tensor) for name, tensor in before.items())
    frozen = weights(world.done(world.plan("stages=single", WAYS["frozen"]), "finetune"))
    # It learns from 32-bit features here and from 16-bit ones there; else the two are one training.
    torch.testing.assert_close(
        after["projector.out.weight"], frozen["projector.out.weight"], rtol=0.0, atol=5e-3
    )


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"last": 9}, "last 9 layers of the tower smoke_conv, which has 3"),
        ("some", "unknown way to train a module 'some'"),
        ({"lora": {"rank": 1, "alpha": 1, "targets": ["x"], "dropout": 0.0}}, "no LoRA"),
    ],
)
def test_a_way_that_towers_do_not_have_is_refused(world: World, how: Any, message: str) -> None:
    vision = open_vision(world.plan(FULL).steps["finetune"].config["live"])
    with pytest.raises(UserError, match=message):
        tune_vision(vision, how)


# ---- interruption and ranks

STAGES = {
    "align": ("align", WAYS["frozen"]),
    "finetune-frozen": ("finetune", WAYS["frozen"]),
    "finetune-last": ("finetune", LAST),
    "finetune-full": ("finetune", FULL),
}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_that_is_stopped_ends_with_the_same_bits(world: World, tmp_path: Path, stage: str) -> None:
    role, how = STAGES[stage]
    run = world.plan("vision=smoke_both", how)
    job = world.job(run, role)
    whole = work(out=str(tmp_path / "whole"), **job)
    first = work(out=str(tmp_path / "parts"), stop_after=3, **job)
    assert first.get("stopped")
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("pictures")]
    second = work(out=str(tmp_path / "parts"), execution={"threads": 2}, **job)
    assert second["resumed_from_step"] == 3
    assert [*first["losses"], *second["losses"]] == whole["losses"]
    assert len(whole["losses"]) == whole["steps"] == 7
    assert_same_bits(tmp_path / "whole", tmp_path / "parts")


class Pair:
    """Two ranks that wait for jobs."""

    def __init__(self) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        self._ranks = [
            subprocess.Popen(
                [sys.executable, "-m", "tests.training.vision_world", str(rank)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment,
            )
            for rank in range(2)
        ]  # fmt: skip

    def run(self, **job: Any) -> dict[str, Any]:
        """What rank 0 answers; ranks that wait for each other for ever are killed, which is an error here."""
        line = json.dumps({"port": free_port("127.0.0.1"), **job})
        timer = threading.Timer(DEADLINE_S, self.close)
        timer.start()
        try:
            for process in self._ranks:
                assert process.stdin is not None
                process.stdin.write(f"{line}\n")
                process.stdin.flush()
            first, _ = [json.loads(process.stdout.readline()) for process in self._ranks if process.stdout]
            return first
        finally:
            timer.cancel()

    def close(self) -> None:
        for process in self._ranks:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    found = Pair()
    yield found
    found.close()


@pytest.mark.parametrize("way", ["frozen", pytest.param("last", marks=pytest.mark.slow), "full"])
def test_ranks_and_parts_of_a_batch_change_no_loss(
    world: World, pair: Pair, tmp_path: Path, way: str
) -> None:
    job = world.job(world.plan("vision=smoke_both", "stages=single", WAYS[way]), "finetune")
    whole = work(out=str(tmp_path / "whole"), **job)
    others = {
        "micro": work(out=str(tmp_path / "micro"), execution={"micro_batch": 1}, **job),
        "ranks": pair.run(out=str(tmp_path / "ranks"), **job),
        "both": pair.run(out=str(tmp_path / "both"), execution={"micro_batch": 1}, **job),
    }
    for name, other in others.items():
        assert other["losses"] == pytest.approx(whole["losses"], rel=1e-6), name
        assert other["parameters"] == whole["parameters"]
        state = weights(tmp_path / name)
        for key, tensor in weights(tmp_path / "whole").items():
            torch.testing.assert_close(state[key], tensor, rtol=1e-3, atol=2e-4)


def test_two_ranks_that_are_stopped_end_with_the_same_bits(world: World, pair: Pair, tmp_path: Path) -> None:
    job = world.job(world.plan("vision=smoke_both", "stages=single", FULL), "finetune")
    whole = pair.run(out=str(tmp_path / "whole"), **job)
    first = pair.run(out=str(tmp_path / "parts"), stop_after=3, **job)
    second = pair.run(out=str(tmp_path / "parts"), **job)
    assert (first["stopped"], second["resumed_from_step"]) == (True, 3)
    assert [*first["losses"], *second["losses"]] == whole["losses"]
    assert_same_bits(tmp_path / "whole", tmp_path / "parts")


# ---- evaluation


def test_a_tuned_tower_is_evaluated_with_its_own_features(world: World, tmp_path: Path) -> None:
    run = world.plan("vision=smoke_both", FULL)
    tuned, scenes = world.done(run, "finetune"), world.done(run, "scenes")
    assert run.steps["evaluate"].deps.keys() == {"model", "scenes"}
    store, model = SceneStore(scenes, "evaluation"), load_model(tuned)
    assert model.vision is not None
    found = features_for(model, {}, store, "fp32")
    pictures = SquarePictures(store, "letterbox", model.vision.squares())
    rows = np.array([10, 0, 11])
    with torch.inference_mode():
        stacked = [torch.from_numpy(np.stack(parts)) for parts in zip(*map(pictures.at, rows), strict=True)]
        expected = model.vision(stacked)
    torch.testing.assert_close(found.batch(rows), expected, rtol=1e-5, atol=1e-5)
    assert list(found.ids) == store.ids
    stored = np.concatenate(
        [open_features(world.done(run, f"features{i}"), "evaluation").features[rows] for i in (0, 1)], axis=2
    )
    assert not np.allclose(found.batch(rows).numpy(), stored, rtol=1e-2, atol=1e-2)


def test_the_scores_come_from_the_saved_tower(world: World, tmp_path: Path) -> None:
    run = world.plan("stages=single", FULL)
    job = world.job(run, "evaluate")
    tuned = Path(job["deps"]["model"])
    (tmp_path / "blind").mkdir()
    state = weights(tuned)
    for name, tensor in state.items():
        if name.startswith("vision."):
            tensor.zero_()
    save_file(state, tmp_path / "blind" / MODEL_FILE)
    (tmp_path / "blind" / "model.json").write_bytes((tuned / "model.json").read_bytes())
    work(out=str(tmp_path / "eval"), **job)
    work(
        out=str(tmp_path / "eval_blind"), **{**job, "deps": {**job["deps"], "model": str(tmp_path / "blind")}}
    )
    import pyarrow.parquet as pq

    answers = [pq.read_table(tmp_path / name / "examples.parquet") for name in ("eval", "eval_blind")]
    assert answers[0].column("example_id") == answers[1].column("example_id")
    assert answers[0].column("prediction") != answers[1].column("prediction")


# ---- epochs


@pytest.mark.parametrize(
    ("epochs", "rows", "size", "steps"),
    [(1, 64, 8, 8), (1.25, 64, 8, 10), (1.5, 64, 8, 12), (2.4, 50, 8, 15), (0.5, 2400, 16, 75),
     (3.75, 2390, 16, 560), (1.1, 10, 1, 11), (0.01, 10, 8, 1), (1.25, 665298, 128, 6497)],
)  # fmt: skip
def test_epochs_are_counted_in_whole_batches(epochs: float, rows: int, size: int, steps: int) -> None:
    assert steps_of(epochs, rows, size) == steps
    assert steps == 1 or abs(steps * size - epochs * rows) <= size / 2 + 1e-6


def test_more_epochs_begin_with_the_same_pictures_and_show_each_as_often_as_can_be() -> None:
    counts = {epochs: steps_of(epochs, 40, 5) * 5 for epochs in (1, 1.25, 1.5, 2, 3)}
    orders = {epochs: order_of(40, needed, seed=5) for epochs, needed in counts.items()}
    for epochs, order in orders.items():
        assert len(order) == epochs * 40
        assert (order == orders[3][: len(order)]).all()
        seen = np.bincount(order, minlength=40)
        assert seen.min() == int(epochs)
        assert seen.max() == -(-epochs // 1)
