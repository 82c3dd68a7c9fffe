"""Rows without a picture among others: how a batch is cut over ranks and parts changes no loss, even where one of them
gets no picture at all."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from tests.training.pairs import Pair  # noqa: E402
from tests.training.vision_world import World, work  # noqa: E402
from vlmablate.data.mixtures import text_rows  # noqa: E402
from vlmablate.design.mixture import read_share  # noqa: E402
from vlmablate.training.loop import pieces  # noqa: E402

TEXT = ("llm=small_text", "sizes.posttrain_scenes=8", "sizes.posttrain_steps=2")
LIVE = ("stages=single", "vision=smoke_both", "stages.finetune.vision=full")
MIXTURES = {
    # rows of a batch, share without a picture, further overrides
    "among others": (8, 0.25, ()),
    "one rank has none but these": (4, 0.75, ()),
    "every part is of one kind": (2, 0.5, ()),
    "towers in the loop": (4, 0.75, LIVE),
}
QUICK = ("every part is of one kind",)
ATOL = 1e-6


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    torch.set_num_threads(1)
    return World(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def pair(pairs: Callable[[str], Pair]) -> Pair:
    return pairs("tests.training.vision_world")


def kinds(rows: int, share: float, rank: int, ranks: int, micro: int | None) -> list[list[bool]]:
    """Which rows of a rank's parts of the first batch have no picture."""
    text = text_rows(rows, read_share(share, "share"))
    return [text[piece].tolist() for piece in pieces(rows, rank, ranks, micro)]


def test_the_mixtures_are_what_they_are_called() -> None:
    assert all(kinds(4, 0.75, 1, 2, None)[0])
    assert not all(kinds(4, 0.75, 0, 2, None)[0])
    assert kinds(2, 0.5, 0, 2, None) + kinds(2, 0.5, 1, 2, None) == [[False], [True]]
    assert len(kinds(8, 0.25, 0, 1, 2)) == 4


@pytest.mark.parametrize(
    "mixture",
    [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in MIXTURES],
    ids=list(MIXTURES),
)
def test_ranks_and_parts_of_a_batch_change_no_loss(
    world: World, pair: Pair, tmp_path: Path, mixture: str
) -> None:
    rows, share, more = MIXTURES[mixture]
    plan = world.plan(
        *TEXT, *more, f"stages.finetune.batch_scenes={rows}", f"stages.finetune.mixture.text_only={share}",
        "stages.finetune.epochs=1.2",
    )  # fmt: skip
    job = world.job(plan, "finetune")
    whole = work(out=str(tmp_path / "whole"), **job)
    assert whole["mixture"]["text_only"]["rows"] > 0
    quarter: dict[str, Any] = {"micro_batch": max(1, rows // 4)}
    others = {
        "parts": work(out=str(tmp_path / "parts"), execution=quarter, **job),
        "ranks": pair.run(tmp_path / "ranks", **job)[0],
        "both": pair.run(tmp_path / "both", execution={"micro_batch": 1}, **job)[0],
    }
    assert len(whole["losses"]) == whole["steps"] > 3
    assert len(set(whole["losses"])) > 1
    for how, other in others.items():
        apart = np.abs(np.array(other["losses"]) - np.array(whole["losses"])).max()
        assert apart <= ATOL, (how, apart)
        assert other["mixture"] == whole["mixture"]
        assert other["tokens"] == whole["tokens"]
