"""Learning rates of parts of the model, through real trainings: 0 changes nothing, 1 is no factor, and a training that
goes on keeps them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from tests.training import tiny  # noqa: E402
from tests.training.pairs import Pair  # noqa: E402
from tests.training.vision_world import World, work  # noqa: E402
from vlmablate.training.steps import MODEL_FILE  # noqa: E402

LIVE = ("vision=smoke_both", "stages=single", "stages.finetune.vision=full")
DEEP = {"projector": 0.5, "language": 1.0, "language.blocks": 0.0}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    torch.set_num_threads(1)
    return World(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def pair(pairs: Callable[[str], Pair]) -> Pair:
    return pairs("tests.training.tiny")


def start(world: World, *overrides: str) -> dict[str, Tensor]:
    """What the finetuning of a plan without rates of its own begins with: one whose learning rate is 0 in float32."""
    return trained(world, *overrides, "stages.finetune.learning_rate=1e-300")


def trained(world: World, *overrides: str) -> dict[str, Tensor]:
    return load_file(world.done(world.plan(*overrides), "finetune") / MODEL_FILE)


def moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    """The parts of which anything changed."""
    assert before.keys() == after.keys()
    return {name.partition(".")[0] for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize("part", ["projector", "language"])
def test_a_factor_of_0_leaves_every_bit_of_a_part(world: World, part: str) -> None:
    factors = f"+stages.finetune.learning_rate_factors={{{part}: 0.0}}"
    other = {"projector": "language", "language": "projector"}[part]
    assert moved(start(world), trained(world, factors)) == {other}


def test_a_factor_of_1_is_no_factor(world: World) -> None:
    factors = "+stages.finetune.learning_rate_factors={projector: 1.0, language: 1.0}"
    plain, told = trained(world), trained(world, factors)
    assert all(torch.equal(plain[name], told[name]) for name in plain)
    assert moved(start(world), plain) == {"projector", "language"}


@pytest.mark.parametrize(
    "rate",
    ["stages.finetune.vision_learning_rate=0.0", "+stages.finetune.learning_rate_factors={vision: 0.0}"],
)
def test_towers_at_a_rate_of_0_stay_as_they_were(world: World, rate: str) -> None:
    assert moved(start(world, *LIVE), trained(world, *LIVE, rate)) == {"projector", "language"}


def test_towers_at_the_rate_of_the_rest_are_those_without_a_rate(world: World) -> None:
    plan = world.plan(*LIVE)
    rate = plan.steps["finetune"].config["stages"]["finetune"]["learning_rate"]
    plain, told = (
        trained(world, *LIVE),
        trained(world, *LIVE, f"stages.finetune.vision_learning_rate={rate}"),
    )
    assert all(torch.equal(plain[name], told[name]) for name in plain)
    assert "vision" in moved(start(world, *LIVE), plain)


def test_a_finetuning_that_goes_on_keeps_the_rates_of_its_parts(world: World, tmp_path: Path) -> None:
    rates = (
        "+stages.finetune.learning_rate_factors={projector: 0.0}",
        "stages.finetune.vision_learning_rate=1e-4",
    )
    run = world.plan(*LIVE, *rates)
    whole = world.done(run, "finetune")
    job = world.job(run, "finetune")
    assert work(out=str(tmp_path), stop_after=2, **job)["stopped"]
    assert work(out=str(tmp_path), **job)["resumed_from_step"] == 2
    states = [load_file(folder / MODEL_FILE) for folder in (whole, tmp_path)]
    assert moved(*states) == set()


@pytest.mark.slow
def test_a_part_of_a_part_has_its_own_factor_on_one_rank_and_on_two(pair: Pair, tmp_path: Path) -> None:
    """Inner parts come first, and shards keep the rate of their part, also after going on."""
    torch.set_num_threads(1)
    tiny.run(tmp_path / "one", factors=DEEP)
    whole = pair.run(tmp_path / "two", factors=DEEP)[0]
    before = tiny.Tiny().state_dict()
    for out in (tmp_path / "one", tmp_path / "two"):
        after = torch.load(out / "final.pt")
        for name, tensor in before.items():
            assert torch.equal(tensor, after[name]) == name.startswith("language.blocks."), name
    cut: dict[str, Any] = {"factors": DEEP, "signal_at": {"rank": 1, "step": 8}}
    pair.run(tmp_path / "cut", **cut)
    resumed = pair.run(tmp_path / "cut", factors=DEEP, attempt=2)[0]
    assert (resumed["resumed_from_step"], resumed["sha"]) == (9, whole["sha"])


def test_twice_the_rate_of_a_part_is_a_factor_of_2(tmp_path: Path) -> None:
    by_factor = tiny.run(tmp_path / "factor", factors={"projector": 2.0})
    by_rate = tiny.run(tmp_path / "rate", rates={"projector": 0.02})
    plain = tiny.run(tmp_path / "plain")
    assert by_factor["sha"] == by_rate["sha"] != plain["sha"]
