"""A loss or a gradient that is no number ends a training on all ranks, before it reaches a weight."""

from __future__ import annotations

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

STEP = 10
SAVING = {"save_every": 4}


@pytest.fixture(scope="module")
def pair(pairs: Callable[[str], Pair]) -> Pair:
    torch.set_num_threads(1)
    return pairs("tests.training.tiny")


def answers(pair: Pair, ranks: int, out: Path, **scenario: Any) -> list[dict[str, Any]]:
    return [tiny.run(out, **scenario)] if ranks == 1 else pair.run(out, **scenario)


@pytest.fixture(scope="module")
def undisturbed(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> dict[int, str]:
    """Number of ranks -> digest of the final weights."""
    outs = {ranks: tmp_path_factory.mktemp(f"undisturbed{ranks}") for ranks in (1, 2)}
    return {ranks: answers(pair, ranks, out)[0]["sha"] for ranks, out in outs.items()}


@pytest.mark.parametrize(
    ("ranks", "rank", "what"),
    [
        (1, 0, "loss"),
        (1, 0, "gradient"),
        (2, 1, "loss"),
        (2, 0, "gradient"),
        pytest.param(2, 0, "loss", marks=pytest.mark.slow),
        pytest.param(2, 1, "gradient", marks=pytest.mark.slow),
    ],
)
def test_all_ranks_end_and_no_weight_was_touched(
    pair: Pair, undisturbed: dict[int, str], tmp_path: Path, ranks: int, rank: int, what: str
) -> None:
    poison = {"rank": rank, "step": STEP, "what": what}
    found = answers(pair, ranks, tmp_path / "poisoned", execution=SAVING, poison=poison)
    assert [answer["error"] for answer in found] == ["Diverged"] * ranks
    told = {answer["message"] for answer in found}
    assert len(told) == 1, told  # every rank says the same, whichever of them it was
    (message,) = told
    assert f"the loss of step {STEP + 1} is" in message
    rows = {(1, 0): "rows 0 to 4", (2, 0): "rows 0 to 1", (2, 1): "rows 2 to 4"}[ranks, rank]
    assert (rows in message) == (what == "loss")
    assert ("is nan" in message) == (what == "loss")
    named = "language.norm.weight" if what == "gradient" else "projector.weight"
    assert named in message or "more" in message
    assert "projector." in message or "language." in message

    # The weights are those after STEP steps, on every rank.
    held = answers(pair, ranks, tmp_path / "held", signal_at={"rank": 0, "step": STEP - 1})
    assert [answer["error"] for answer in held] == ["StepStopped"] * ranks
    assert [answer["shards"] for answer in found] == [answer["shards"] for answer in held]

    # What was saved before is whole, and a training without the fault ends as ever from there.
    kept = sorted(path.name for path in (tmp_path / "poisoned").glob("checkpoint*"))
    assert kept == ["checkpoint-4", "checkpoint-8"]
    resumed = answers(pair, ranks, tmp_path / "poisoned", attempt=2, execution=SAVING)
    assert (resumed[0]["resumed_from_step"], resumed[0]["sha"]) == (8, undisturbed[ranks])


def test_a_part_of_a_batch_is_named_by_its_rows(tmp_path: Path) -> None:
    poison = {"rank": 0, "step": STEP, "what": "loss"}
    answer = tiny.run(tmp_path, execution={"micro_batch": 2}, poison=poison)
    assert "rows 0 to 1, rows 2 to 3, rows 4 to 4" in answer["message"]


def test_a_norm_too_large_for_its_type_is_told_as_such(tmp_path: Path) -> None:
    answer = tiny.run(tmp_path, poison={"rank": 0, "step": STEP, "what": "norm"})
    assert answer["error"] == "Diverged"
    assert "gradient inf (not finite: only the norm, which is too large for its type)" in answer["message"]
