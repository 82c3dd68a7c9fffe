"""Milestones in the training loop: they note the curve, end a trial, and change nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.training import tiny
from vlmablate.errors import Pruned
from vlmablate.orchestration.context import StepContext, StepStopped
from vlmablate.orchestration.milestones import Milestone, limits, read_curve
from vlmablate.training import loop
from vlmablate.training.ranks import ranks_of

STEPS = 15


def train(out: Path, milestones: tuple[Milestone, ...] = (), stop: bool = False) -> str:
    """Train the tiny model; the digest of its weights."""
    out.mkdir(exist_ok=True)
    noted = out / "metrics.jsonl"
    context = StepContext(
        execution={"save_every": 4},
        attempt=1,
        assets=out,
        out=out,
        milestones=milestones,
        # Asked to stop when the step of the first milestone is at work.
        stop_requested=lambda: stop and noted.exists(),
    )
    model = tiny.Tiny()
    recipe = loop.Recipe(STEPS, 0.01, 0.1, 0.01, 1.0)
    with ranks_of(context) as group:
        loop.train(
            model,
            model.language.logits,
            lambda step: tiny.batch(model, step, 3),
            recipe,
            out,
            context,
            "fp32",
            group,
        )
        return tiny.digest(group.full_state(model))


def steps_noted(out: Path) -> list[int]:
    return [step for step, _ in read_curve(out / "metrics.jsonl")]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    out = tmp_path_factory.mktemp("plain")
    return train(out), out


def test_without_milestones_the_curve_is_as_it_was(plain: tuple[str, Path]) -> None:
    assert steps_noted(plain[1]) == [1, 10, 15]


def test_a_milestone_that_is_reached_only_notes_the_curve(tmp_path: Path, plain: tuple[str, Path]) -> None:
    watched = train(tmp_path / "a", (Milestone(1 / 3, None), Milestone(2 / 3, 1e9)))
    assert watched == plain[0]
    assert steps_noted(tmp_path / "a") == [1, 5, 10, 15]
    # And so the limits of the next trials can be told: here those of three equal ones.
    curve = read_curve(tmp_path / "a" / "metrics.jsonl")
    third, two_thirds = limits([(STEPS, curve)] * 3)
    assert (third.limit, two_thirds.limit) == (dict(curve)[5], dict(curve)[10])
    # A trial that does as well as they did goes on.
    assert train(tmp_path / "b", (third, two_thirds)) == plain[0]


def test_a_trial_above_the_limit_ends_there_and_says_how_far_it_got(tmp_path: Path) -> None:
    with pytest.raises(Pruned, match="stopped early, at 67 % of its training") as raised:
        train(tmp_path, (Milestone(1 / 3, None), Milestone(2 / 3, 1e-3)))
    facts = raised.value.facts
    assert (facts["step"], facts["share"]) == (10, 2 / 3)
    last = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["step"] == 10
    assert facts["loss"] == pytest.approx(last["smoothed_loss"], abs=1e-5)


def test_a_milestone_comes_before_a_request_to_stop(tmp_path: Path) -> None:
    """So no checkpoint lies behind a milestone that was not passed, and going on from one ends the same way."""
    with pytest.raises(Pruned):
        train(tmp_path, (Milestone(1 / STEPS, 1e-3),), stop=True)
    assert not list(tmp_path.glob("checkpoint-*"))
    with pytest.raises(StepStopped):
        train(tmp_path / "other", (Milestone(1 / STEPS, None),), stop=True)
    assert list((tmp_path / "other").glob("checkpoint-*"))
