"""Trainings on a trunk have the bits of trainings of their own: every model, interrupted or not, with several ranks."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from tests.training.pairs import Pair  # noqa: E402
from tests.training.vision_world import World, work  # noqa: E402
from vlmablate.design.schedule import Schedule  # noqa: E402
from vlmablate.design.spec import RunSpec  # noqa: E402
from vlmablate.errors import UserError  # noqa: E402
from vlmablate.training import loop  # noqa: E402
from vlmablate.training.balance import DataOrder  # noqa: E402
from vlmablate.training.steps import MODEL_FILE  # noqa: E402
from vlmablate.training.trunks import STATE, Piece, check_start, end_of  # noqa: E402

BRANCHES = (
    "stages=single", "stages.finetune.epochs=1.6",
    "stages.finetune.schedule={name: wsd, decay: 0.3, form: linear, warmup_steps: 1}",
)  # fmt: skip
TRUNK = "stages.finetune.branches=[1.0,1.6]"
STEPS, ENDS = 7, [3, 5]
"""Of 22 pictures in batches of 5: 7 steps in 1.6 epochs, which decay from step 5; and 4 in 1.0, from step 3."""
MODELS = {
    "small": (),
    "text": ("llm=small_text", "stages.finetune.mixture={detailed: 2, negative: 0, text_only: 0.2}"),
    "live": ("stages.finetune.vision=full",),
    "causal": ("llm=random_llama", "position=rope_1d"),
    "lora": (
        "llm=random_llama", "position=rope_1d", "tuning=lora", "stages.finetune.language.lora.targets=[q_proj,v_proj]",
        "stages.finetune.language.lora.dropout=0.2",
    ),
}  # fmt: skip
SLOW = ("text", "causal", "lora")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@cache
def planned(world: World, *overrides: str) -> RunSpec:
    """A run of the branches, composed once."""
    return world.plan(*BRANCHES, *overrides)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("trunks"))


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    made = Pair("tests.training.vision_world")
    yield made
    made.close()


@pytest.fixture(scope="module")
def small(world: World) -> tuple[RunSpec, RunSpec]:
    """A run on a trunk of two pieces, and the same without branches."""
    return planned(world, TRUNK), planned(world)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / MODEL_FILE)


def assert_same(one: Path, other: Path, atol: float = 0.0) -> None:
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        torch.testing.assert_close(tensor, second[name], rtol=0.0, atol=atol)


def curve(folder: Path) -> dict[int, float]:
    return {
        row["step"]: row["loss"]
        for row in map(json.loads, (folder / loop.CURVE_FILE).read_text().splitlines())
    }


@pytest.mark.parametrize(
    "model",
    [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in MODELS],
)
def test_a_training_on_a_trunk_has_the_bits_of_one_of_its_own(
    world: World, tmp_path: Path, model: str
) -> None:
    more = MODELS[model]
    on_trunk, alone = planned(world, *more, TRUNK), planned(world, *more)
    payloads = {}
    for role in ("trunk0", "trunk1", "finetune"):
        payloads[role] = work(out=str(world.folder / on_trunk.steps[role].id), **world.job(on_trunk, role))
    whole = work(out=str(tmp_path), **world.job(alone, "finetune"))
    branch = world.done(on_trunk, "finetune")
    assert_same(branch, tmp_path)
    assert [loss for payload in payloads.values() for loss in payload["losses"]] == whole["losses"]
    ended = payloads["finetune"]
    told = [
        name for name in ("steps", "final_loss", "tokens", "parameters", "mixture", "cut") if name in whole
    ]
    assert [ended[name] for name in told] == [whole[name] for name in told]
    done = [(p["from_step"], p["steps"], len(p["losses"])) for p in payloads.values()]
    if model != "text":  # which has more rows
        assert done == [(0, 3, 3), (3, 5, 2), (5, 7, 2)]
    assert "from_step" not in whole
    assert curve(branch).items() >= {step: loss for step, loss in curve(tmp_path).items() if step > 1}.items()
    assert not (world.done(on_trunk, "trunk1") / MODEL_FILE).exists()


@pytest.mark.slow
def test_a_shorter_training_has_the_bits_of_one_of_its_own(
    world: World, small: tuple[RunSpec, RunSpec]
) -> None:
    once = "stages.finetune.epochs=1.0"
    shorter, alone = planned(world, once, TRUNK), planned(world, once)
    assert shorter.steps["trunk0"].id == small[0].steps["trunk0"].id
    assert_same(world.done(shorter, "finetune"), world.done(alone, "finetune"))


class _Killed(BaseException):
    """As sudden as SIGKILL: nothing is saved."""


@pytest.mark.parametrize("role", ["trunk1", "finetune"])
def test_a_piece_that_is_killed_goes_on_from_its_own_checkpoint(
    world: World, small: tuple[RunSpec, RunSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, role: str
) -> None:
    run, _ = small
    job, at = world.job(run, role), {"trunk1": 4, "finetune": 6}[role]
    rate = loop.Recipe.rate

    def killed(recipe: loop.Recipe, step: int) -> float:
        if step == at:
            raise _Killed
        return rate(recipe, step)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Recipe, "rate", killed)
        with pytest.raises(_Killed):
            work(out=str(tmp_path), execution={"save_every": 1}, **job)
    resumed = work(out=str(tmp_path), **job)
    begun = {"trunk1": ENDS[0], "finetune": ENDS[1]}[role]
    assert (resumed["resumed_from_step"], resumed["from_step"]) == (at, begun)
    done = world.done(run, role)
    if role == "finetune":
        assert_same(tmp_path, done)
    else:
        assert state(tmp_path) == state(done)
    assert curve(done).items() <= curve(tmp_path).items()


def state(folder: Path) -> dict[str, list[float]]:
    """What a trunk hands on, by name."""
    (found,) = (folder / STATE).glob("*/state.pt")
    return {name: tensor.flatten().tolist() for name, tensor in torch.load(found).items()}


def test_half_a_state_of_a_killed_attempt_is_cleared_away(
    world: World, small: tuple[RunSpec, RunSpec], tmp_path: Path
) -> None:
    draft = tmp_path / STATE / f"checkpoint-{ENDS[0]}.tmp-1"
    draft.mkdir(parents=True)
    (draft / "state.pt").write_bytes(b"half")
    work(out=str(tmp_path), **world.job(small[0], "trunk0"))
    assert [path.name for path in (tmp_path / STATE).iterdir()] == [f"checkpoint-{ENDS[0]}"]
    assert state(tmp_path) == state(world.done(small[0], "trunk0"))


def test_a_trunk_that_lost_its_state_is_an_error_that_says_what_to_do(
    world: World, small: tuple[RunSpec, RunSpec], tmp_path: Path
) -> None:
    job = world.job(small[0], "finetune")
    emptied = tmp_path / "trunk"
    shutil.copytree(job["deps"]["trunk"], emptied)
    shutil.rmtree(emptied / STATE)
    job["deps"] = {**job["deps"], "trunk": str(emptied)}
    with pytest.raises(UserError, match="holds no checkpoint to go on from: there is none"):
        work(out=str(tmp_path / "out"), **job)


def test_a_decay_that_is_not_that_of_its_trunk_is_an_error(
    world: World, small: tuple[RunSpec, RunSpec], tmp_path: Path
) -> None:
    job = world.job(small[0], "finetune")
    job["deps"] = {**job["deps"], "trunk": str(world.done(small[0], "trunk0"))}
    with pytest.raises(ValueError, match="ends at step 3, this training decays from step 5"):
        work(out=str(tmp_path), **job)


@pytest.mark.slow
@pytest.mark.parametrize(("trunk_ranks", "ranks"), [(2, 2), (2, 1), (1, 2)])
def test_any_number_of_ranks_goes_on_from_a_trunk_of_any_number(
    world: World, small: tuple[RunSpec, RunSpec], pair: Pair, tmp_path: Path, trunk_ranks: int, ranks: int
) -> None:
    run, alone = small

    def train(out: Path, job: dict[str, Any], count: int) -> dict[str, Any]:
        return pair.run(out, **job)[0] if count == 2 else work(out=str(out), **job)

    train(tmp_path / "0", world.job(run, "trunk0"), trunk_ranks)
    job = world.job(run, "trunk1")
    train(tmp_path / "1", {**job, "deps": {**job["deps"], "trunk": str(tmp_path / "0")}}, trunk_ranks)
    job = world.job(run, "finetune")
    answer = train(tmp_path / "2", {**job, "deps": {**job["deps"], "trunk": str(tmp_path / "1")}}, ranks)
    assert (answer["from_step"], answer["steps"]) == (ENDS[1], STEPS)
    whole = tmp_path / "whole"
    train(whole, world.job(alone, "finetune"), trunk_ranks)
    assert_same(tmp_path / "2", whole, atol=0.0 if ranks == trunk_ranks else 1e-6)


# The arithmetic of pieces


@pytest.mark.parametrize("epochs", [1.0, 1.25, 1.5])
@pytest.mark.parametrize(("count", "batch"), [(1000, 7), (29, 8), (64, 8)])
def test_records_are_shown_in_the_same_order_until_a_shorter_training_decays(
    epochs: float, count: int, batch: int
) -> None:
    shorter, longer = (DataOrder(count, batch, length, seed=3) for length in (epochs, 3.0))
    schedule = Schedule.read({"name": "wsd", "decay": 0.1, "warmup_steps": 1})
    for step in range(schedule.trunk(0.0, shorter.steps)):
        assert shorter.at(step).tolist() == longer.at(step).tolist()


def test_a_trunk_ends_at_the_branch_point_and_not_in_its_warm_up() -> None:
    schedule = Schedule.read({"name": "wsd", "decay": 0.1, "warmup_steps": 18})
    assert end_of(Piece(), schedule, 0.1, 20) == 20
    assert end_of(Piece(trunk=True), schedule, 0.1, 20) == 18
    with pytest.raises(
        UserError, match="a warm-up of 18 steps is longer than the trunk of a training of 19 steps"
    ):
        end_of(Piece(trunk=True), schedule, 0.1, 19)


def test_a_file_of_lines_begins_where_the_trunk_ended_it(tmp_path: Path) -> None:
    trunk, out = tmp_path / "trunk", tmp_path / "out"
    for folder in (trunk, out):
        folder.mkdir()
    for name in ("cut.jsonl", "metrics.jsonl"):
        (trunk / name).write_text("of the trunk")
    (out / "metrics.jsonl").write_text("gone on from")
    for name in ("cut.jsonl", "metrics.jsonl", "none.jsonl"):
        Piece(trunk).inherit(name, out)
        Piece().inherit(name, tmp_path)
    assert {path.name: path.read_text() for path in out.iterdir()} == {
        "cut.jsonl": "of the trunk",
        "metrics.jsonl": "gone on from",
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "trunk"]


def test_branches_at_one_step_are_refused() -> None:
    check_start(Piece(Path("trunk"), trunk=True), 9, 10, 10)
    with pytest.raises(UserError, match=r"two of stages\.finetune\.branches leave the trunk at step 10"):
        check_start(Piece(Path("trunk"), trunk=True), 10, 10, 10)
