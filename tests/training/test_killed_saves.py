"""SIGKILL of one of two ranks, or of both, while a checkpoint is on its way: training goes on from a whole one, and
nobody can tell from its curve or its weights."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from tests.training import doomed  # noqa: E402
from tests.training.pairs import Pair  # noqa: E402
from vlmablate.orchestration.checkpoint_folder import COMMIT  # noqa: E402
from vlmablate.training import loop  # noqa: E402

pytestmark = pytest.mark.slow

SAVING = {"save_every": 4}
DEATHS = [
    (moment, rank, victims)
    for moment in doomed.MOMENTS
    for rank in (0, 1)
    for victims in ([rank], [0, 1])
    if rank == 0 or moment not in doomed.ALONE_ON_0
] + [("committing", 0, [1])]
"""Where a process dies while it saves, on which rank, and who dies with it."""
KEPT = [death for death in DEATHS if death[1:] in ((0, [0, 1]), (0, [1]))] + [("half", 1, [1])]
"""Those that are tried whenever something changes."""


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    found = Pair("tests.training.doomed")
    yield found
    found.close()


@pytest.fixture(scope="module")
def undisturbed(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("undisturbed")
    answer = pair.run(out, execution=SAVING)[0]
    return {"curve": curve(out), "sha": answer["sha"], "final_loss": answer["final_loss"]}


def curve(out: Path) -> list[tuple[int, float, float]]:
    rows = [json.loads(line) for line in (out / loop.CURVE_FILE).read_text().splitlines()]
    return [(row["step"], row["loss"], row["gradient_norm"]) for row in rows]


@pytest.mark.parametrize(
    ("moment", "rank", "victims"),
    [pytest.param(*death, marks=() if death in KEPT else pytest.mark.long) for death in DEATHS],
    ids=str,
)
def test_training_goes_on_from_the_last_whole_checkpoint(
    pair: Pair, undisturbed: dict[str, Any], tmp_path: Path, moment: str, rank: int, victims: list[int]
) -> None:
    kill = {"moment": moment, "rank": rank, "victims": victims}
    answers = pair.run(tmp_path, execution=SAVING, kill=kill)
    for number, answer in enumerate(answers):
        if number in victims:
            assert answer == {"signal": signal.SIGKILL}
        else:  # it hears of the other's death, and does not wait for it
            assert answer["error"], answer
    whole = [path.name for path in tmp_path.glob("checkpoint-*") if (path / COMMIT).exists()]
    committed = moment == "renamed" or (victims == [1] and moment in ("committing", "hashed"))
    if moment != "hashed":  # then rank 0 may or may not have come to its commit
        named = {path.name for path in tmp_path.glob("checkpoint-*") if path.suffix == ""}
        assert named == {"checkpoint-4", *(["checkpoint-8"] if committed else [])}
    assert "checkpoint-4" in whole
    resumed = pair.run(tmp_path, attempt=2, execution=SAVING)
    at = resumed[0]["resumed_from_step"]
    assert at in (4, 8) if moment == "hashed" else at == (8 if committed else 4)
    assert {answer["resumed_from_step"] for answer in resumed} == {at}
    assert resumed[0]["sha"] == undisturbed["sha"]
    assert resumed[0]["final_loss"] == undisturbed["final_loss"]
    assert curve(tmp_path) == undisturbed["curve"]
    drafts = [name for name in os.listdir(tmp_path) if ".tmp-" in name]
    assert all(name.startswith("checkpoint-quarantine-") for name in drafts)
