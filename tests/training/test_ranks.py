"""Several ranks, and batches in several parts: the same training, interrupted at any place or not.

The pair of ranks is real: two processes with sharded parameters (FSDP2 over gloo). It is started once.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from tests.training import tiny  # noqa: E402
from tests.training.pairs import Pair  # noqa: E402
from vlmablate.errors import UserError  # noqa: E402
from vlmablate.training import loop  # noqa: E402

WEIGHTS_ATOL = 2e-4
"""Of weights that move by 0.1: the bias of a key has a gradient of nothing but rounding, which AdamW makes larger."""


@pytest.fixture(scope="module")
def pair(pairs: Callable[[str], Pair]) -> Pair:
    return pairs("tests.training.tiny")


@pytest.fixture(scope="module")
def undisturbed(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, Any]]:
    """Number of ranks -> an undisturbed training: its answer, and ``out``."""
    outs = {ranks: tmp_path_factory.mktemp(f"undisturbed{ranks}") for ranks in (1, 2)}
    torch.set_num_threads(1)
    answers = {1: tiny.run(outs[1]), 2: pair.run(outs[2])[0]}
    return {ranks: {**answers[ranks], "out": outs[ranks]} for ranks in outs}


def curve(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / loop.CURVE_FILE).read_text().splitlines()]


def assert_same_training(one: Path, other: Path) -> None:
    """Equal but for the order of sums."""
    first, second = curve(one), curve(other)
    assert [row["step"] for row in first] == [row["step"] for row in second]
    for ours, theirs in zip(first, second, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5, abs=1e-5)
        assert ours["gradient_norm"] == pytest.approx(theirs["gradient_norm"], rel=1e-3)
    states = [torch.load(out / "final.pt") for out in (one, other)]
    assert states[0].keys() == states[1].keys()
    for name, tensor in states[0].items():
        torch.testing.assert_close(tensor, states[1][name], rtol=1e-3, atol=WEIGHTS_ATOL)


@pytest.mark.parametrize("micro", [1, 2, 4, 100])
def test_how_many_rows_fit_into_one_forward_changes_nothing(tmp_path: Path, undisturbed, micro: int):
    answer = tiny.run(tmp_path, execution={"micro_batch": micro})
    assert_same_training(undisturbed[1]["out"], tmp_path)
    assert answer["tokens"] == undisturbed[1]["tokens"]
    assert (answer["sha"] == undisturbed[1]["sha"]) == (micro == 100)


def test_a_number_of_rows_that_makes_no_sense_is_refused(tmp_path: Path):
    answer = tiny.run(tmp_path, execution={"micro_batch": 0})
    assert answer["error"] == UserError.__name__
    assert "execution.micro_batch" in answer["message"]


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("micro", [None, 1, 2, 3, 100])
def test_every_row_is_taken_once_and_all_ranks_take_equally_many_turns(size: int, micro: int | None):
    for rows in range(1, 12):
        shares = [loop.pieces(rows, rank, size, micro) for rank in range(size)]
        assert len({len(share) for share in shares}) == 1
        taken = [row for share in shares for piece in share for row in range(rows)[piece]]
        assert taken == list(range(rows))
        assert micro is None or all(p.stop - p.start <= micro for share in shares for p in share)


def test_two_ranks_train_as_one_does(pair: Pair, undisturbed):
    assert_same_training(undisturbed[1]["out"], undisturbed[2]["out"])
    same = ("steps", "tokens", "parameters", "precision")
    assert [undisturbed[1][name] for name in same] == [undisturbed[2][name] for name in same]


def test_two_ranks_with_parts_of_a_batch_train_as_one_does(pair: Pair, undisturbed, tmp_path: Path):
    pair.run(tmp_path, execution={"micro_batch": 1})
    assert_same_training(undisturbed[1]["out"], tmp_path)


def test_two_ranks_train_a_projector_in_front_of_a_frozen_model(pair: Pair, tmp_path: Path):
    tiny.run(tmp_path / "one", frozen=True)
    first, _ = pair.run(tmp_path / "two", frozen=True)
    assert_same_training(tmp_path / "one", tmp_path / "two")
    trained = sum(p.numel() for p in tiny.Tiny().projector.parameters())
    assert first["parameters"]["trained"] == trained


@pytest.mark.parametrize("signalled", [0, 1])
def test_all_ranks_stop_after_the_step_in_which_one_was_told_to(
    pair: Pair, undisturbed, tmp_path: Path, signalled: int
):
    answers = pair.run(tmp_path, signal_at={"rank": signalled, "step": 8})
    assert [answer["error"] for answer in answers] == ["StepStopped"] * 2
    assert answers[0]["saved"] == [9]
    assert [path.name for path in tmp_path.glob("checkpoint*")] == ["checkpoint-9"]
    resumed = pair.run(tmp_path, attempt=2)
    assert [answer["resumed_from_step"] for answer in resumed] == [9, 9]
    assert resumed[0]["sha"] == undisturbed[2]["sha"]
    assert resumed[0]["final_loss"] == undisturbed[2]["final_loss"]
    assert {row["step"]: row["loss"] for row in curve(undisturbed[2]["out"])}.items() <= {
        row["step"]: row["loss"] for row in curve(tmp_path)
    }.items()


def truncate(folder: Path) -> None:
    os.truncate(next(folder.glob("__1_*")), 100)


def flip(folder: Path) -> None:
    path = next(folder.glob("__0_*"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def forget_commit(folder: Path) -> None:
    (folder / "COMMIT").unlink()


def leave_draft(folder: Path) -> None:
    folder.rename(folder.with_name(f"{folder.name}.tmp-1"))


@pytest.mark.parametrize("damage", [truncate, flip, forget_commit, leave_draft], ids=lambda d: d.__name__)
def test_two_ranks_go_on_from_the_checkpoint_before_a_damaged_one(
    pair: Pair, undisturbed, tmp_path: Path, damage
):
    pair.run(tmp_path, execution={"save_every": 4}, signal_at={"rank": 0, "step": 10})
    damage(tmp_path / "checkpoint-11")
    resumed = pair.run(tmp_path, attempt=2)
    assert [answer["resumed_from_step"] for answer in resumed] == [8, 8]
    assert resumed[0]["sha"] == undisturbed[2]["sha"]


@pytest.mark.parametrize("before", [1, 2])
def test_another_number_of_ranks_goes_on(pair: Pair, undisturbed, tmp_path: Path, before: int):
    told: dict[str, Any] = {"signal_at": {"rank": 0, "step": 8}}
    if before == 1:
        tiny.run(tmp_path, **told)
        answer, _ = pair.run(tmp_path, attempt=2)
    else:
        pair.run(tmp_path, **told)
        answer = tiny.run(tmp_path, attempt=2)
    assert answer["resumed_from_step"] == 9
    last = [curve(out)[-1]["loss"] for out in (undisturbed[1]["out"], tmp_path)]
    assert last[0] == pytest.approx(last[1], rel=1e-5, abs=1e-5)
    states = [torch.load(out / "final.pt") for out in (undisturbed[1]["out"], tmp_path)]
    for name, tensor in states[0].items():
        torch.testing.assert_close(tensor, states[1][name], rtol=1e-3, atol=WEIGHTS_ATOL)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_full_disk_of_one_rank_ends_all_and_keeps_the_checkpoint_before(
    pair: Pair, undisturbed, tmp_path: Path, rank: int
):
    answers = pair.run(tmp_path, execution={"save_every": 4}, full_from={"rank": rank, "step": 9})
    assert {answer["error"] for answer in answers} <= {"DiskFull", "OSError"}
    assert all("No space left" in answer["message"] for answer in answers)
    assert sorted(path.name for path in tmp_path.glob("checkpoint*")) == ["checkpoint-4", "checkpoint-8"]
    resumed = pair.run(tmp_path, attempt=2)
    assert resumed[0]["resumed_from_step"] == 8
    assert resumed[0]["sha"] == undisturbed[2]["sha"]


def test_a_diverged_loss_ends_all_ranks(pair: Pair, tmp_path: Path):
    answers = pair.run(tmp_path, rate=float("inf"))
    assert [answer["error"] for answer in answers] == ["Diverged"] * 2


@pytest.mark.parametrize("before", [1, 2])
def test_a_checkpoint_of_another_model_is_an_error_that_says_what_to_do(
    pair: Pair, tmp_path: Path, monkeypatch, before: int
):
    for frozen in (False, True):  # with the language model frozen, its weights are not saved
        run = tiny.run if before == 1 else pair.run
        run(tmp_path / str(frozen), frozen=frozen, signal_at={"rank": 0, "step": 8})
    missing = tiny.run(tmp_path / "True", attempt=2)
    monkeypatch.setattr(tiny, "CHANNELS", 6)
    other = tiny.run(tmp_path / "False", attempt=2)
    for answer in (missing, other):
        assert answer["error"] == UserError.__name__
        assert "does not fit the model of this step" in answer["message"]


@pytest.mark.parametrize(
    "execution",
    [
        {"shard": "hybrid", "nodes": 1},
        {"shard": "hybrid", "nodes": 2},
        {"shard": "none", "micro_batch": 1, "accumulate": "shard"},
        {"micro_batch": 1, "accumulate": "shard", "reshard_after_forward": False},
        {"activation_checkpointing": "full", "micro_batch": 1},
        {"activation_checkpointing": {"keep": ["attention"]}, "shard": "hybrid", "nodes": 2},
    ],
    ids=str,
)
def test_no_layout_over_two_ranks_changes_the_loss(pair: Pair, undisturbed, tmp_path: Path, execution):
    answer, _ = pair.run(tmp_path, execution=execution)
    assert answer.get("final_loss") == pytest.approx(undisturbed[1]["final_loss"], rel=1e-6), answer
    assert_same_training(undisturbed[1]["out"], tmp_path)


def test_two_ranks_that_shard_what_is_frozen_train_as_one_does(pair: Pair, tmp_path: Path):
    tiny.run(tmp_path / "one", frozen=True)
    pair.run(tmp_path / "two", frozen=True, execution={"frozen": "shard"})
    assert_same_training(tmp_path / "one", tmp_path / "two")


def test_several_nodes_resume_a_hybrid_layout_with_the_same_bits(pair: Pair, tmp_path: Path):
    layout = {"shard": "hybrid", "nodes": 2}
    whole, _ = pair.run(tmp_path / "whole", execution=layout)
    pair.run(tmp_path / "cut", execution=layout, signal_at={"rank": 1, "step": 8})
    resumed, _ = pair.run(tmp_path / "cut", attempt=2, execution=layout)
    assert (resumed["resumed_from_step"], resumed["sha"]) == (9, whole["sha"])
