from __future__ import annotations

import dataclasses
import json
import math
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from vlmablate.errors import UserError
from vlmablate.search.proposals import Trial, TrialState, propose
from vlmablate.search.space import Categorical, Float, Int, Space, grid, spelled

SPACE = Space(
    {
        "rate": Float(1e-5, 1e-1, log=True, points=4),
        "decay": Float(0.0, 0.5, points=3),
        "epochs": Int(1, 8),
        "schedule": Categorical(("cosine", "linear", 1, True, None)),
    },
    startup=4,
)
METHODS = ("tpe", "random", "grid")


def goodness(values: dict[str, Any]) -> float:
    """Best at rate 1e-3, no decay, 5 epochs, cosine."""
    away = (math.log10(values["rate"]) + 3) ** 2 + values["decay"] + 0.1 * (values["epochs"] - 5) ** 2
    return -away - (values["schedule"] != "cosine")


def tried(space: Space = SPACE, count: int = 12, seed: int = 3) -> list[Trial]:
    """A search with ends of all kinds in it."""
    trials: list[Trial] = []
    for index in range(count):
        (proposal,) = propose(space, trials, 1, seed)
        trial = Trial(
            proposal["number"], proposal["values"], TrialState.FINISHED, goodness(proposal["values"])
        )
        if index % 6 == 4:
            trial = dataclasses.replace(trial, state=TrialState.FAILED, score=None)
        if index % 6 == 5:
            trial = dataclasses.replace(trial, state=TrialState.CENSORED, steps=50)
        trials.append(trial)
    return trials


def using(method: str, space: Space = SPACE) -> Space:
    return dataclasses.replace(space, method=method)


@pytest.mark.parametrize("method", METHODS)
def test_five_at_once_are_five_new_ones_in_range_with_new_numbers(method: str):
    space, trials = using(method), tried()
    proposals = propose(space, trials, 5, seed=0)
    assert [proposal["number"] for proposal in proposals] == [12, 13, 14, 15, 16]
    assert all(space.holds(proposal["values"]) for proposal in proposals)
    seen = {spelled(values) for values in [*(p["values"] for p in proposals), *(t.values for t in trials)]}
    assert len(seen) == 5 + len(trials)


@pytest.mark.parametrize("method", METHODS)
def test_proposals_asked_for_one_by_one_are_those_asked_for_together(method: str):
    space, trials = using(method), tried()
    together = propose(space, trials, 4, seed=1)
    alone = []
    for _ in range(4):
        (proposal,) = propose(space, trials, 1, seed=1)
        trials.append(Trial(proposal["number"], proposal["values"], TrialState.RUNNING))
        alone.append(proposal)
    assert alone == together


@pytest.mark.parametrize("method", ["tpe", "random"])
def test_other_seeds_propose_something_else(method: str):
    assert propose(using(method), tried(), 1, seed=0) != propose(using(method), tried(), 1, seed=1)


def test_other_processes_propose_the_same_whatever_lies_around_and_in_any_order(tmp_path: Path):
    trials = tried()
    expected = propose(SPACE, trials, 3, seed=7)
    shuffled = [{**dataclasses.asdict(trial), "state": str(trial.state)} for trial in trials]
    random.Random(0).shuffle(shuffled)
    (tmp_path / "trials.json").write_text(json.dumps(shuffled))
    # What a search with a journal would read: half a line of somebody else's.
    for name in ("journal.log", "optuna.log", "study.db"):
        (tmp_path / name).write_text('{"op_code": 4, "worker_id"')
    program = (
        "import json, sys; sys.path.insert(0, sys.argv[1])\n"
        "from tests.search.test_proposals import SPACE, Trial, TrialState, propose\n"
        "raw = json.load(open('trials.json'))\n"
        "trials = [Trial(**{**r, 'state': TrialState(r['state'])}) for r in raw]\n"
        "print(json.dumps(propose(SPACE, trials, 3, seed=7)))"
    )
    before = sorted(os.listdir(tmp_path))
    for hash_seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", program, str(Path(__file__).parents[2])],
            cwd=tmp_path,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert json.loads(done.stdout) == expected
    assert sorted(os.listdir(tmp_path)) == before


def test_lost_trials_change_what_is_learnt_but_never_give_a_number_twice():
    kept = [trial for trial in tried() if trial.number % 3 == 2]
    proposals = propose(SPACE, kept, 3, seed=7)
    assert [proposal["number"] for proposal in proposals] == [12, 13, 14]
    assert proposals == propose(SPACE, list(reversed(kept)), 3, seed=7)


def test_the_same_trials_come_to_the_good_region():
    trials = tried(count=40)
    late = [goodness(dict(trial.values)) for trial in trials[-15:]]
    chance = [goodness(p["values"]) for p in propose(using("random"), [], 200, seed=5)]
    assert sum(late) / len(late) > sum(chance) / len(chance) + 1


def test_minimising_is_maximising_the_negative():
    down = dataclasses.replace(SPACE, direction="minimize")
    # Stopped early is bad either way, so only whole trials mirror each other.
    whole = [trial for trial in tried() if trial.state is TrialState.FINISHED]
    negative = [dataclasses.replace(trial, score=-(trial.score or 0.0)) for trial in whole]
    assert propose(down, negative, 2, seed=0) == propose(SPACE, whole, 2, seed=0)


@pytest.mark.parametrize("score", [None, math.nan, math.inf, -math.inf])
def test_a_score_that_is_no_number_counts_as_a_failure(score: float | None):
    trials = tried()
    odd = Trial(12, {**trials[0].values, "epochs": 7}, TrialState.FINISHED, score)
    failed = dataclasses.replace(odd, state=TrialState.FAILED, score=None)
    assert propose(SPACE, [*trials, odd], 2, seed=0) == propose(SPACE, [*trials, failed], 2, seed=0)


def test_trials_that_are_outside_of_a_changed_space_are_not_learnt_from():
    trials = tried()
    # Three that say nothing to this space: out of range, a setting too few, a setting too many.
    values = dict(trials[0].values)
    outside = [{**values, "rate": 5.0}, {"rate": 1e-3}, {**values, "more": 1}]
    more = [Trial(12 + i, values, TrialState.FINISHED, 1e9) for i, values in enumerate(outside)]
    lost = Trial(14, {"nothing": 0}, TrialState.FAILED)  # keeps the number
    assert propose(SPACE, [*trials, *more], 2, 0) == propose(SPACE, [*trials, lost], 2, 0)


@pytest.mark.parametrize("method", METHODS)
def test_a_small_space_is_used_up_without_repeats_and_then_there_is_nothing(method: str):
    small = Space({"n": Int(1, 3), "c": Categorical(("a", True, 1))}, method, startup=2)
    trials: list[Trial] = []
    for _ in range(5):
        trials += [
            Trial(p["number"], p["values"], TrialState.FINISHED, float(p["values"]["n"]))
            for p in propose(small, trials, 2, seed=0)
        ]
    assert sorted(spelled(trial.values) for trial in trials) == sorted(map(spelled, grid(small)))
    assert propose(small, trials, 2, seed=0) == []


def test_a_grid_comes_in_its_order_and_leaves_out_what_is_there():
    space = using("grid")
    points = grid(space)
    there = [Trial(0, points[1], TrialState.FAILED), Trial(5, points[3], TrialState.RUNNING)]
    proposed = propose(space, there, 3, seed=0)
    assert [p["values"] for p in proposed] == [points[0], points[2], points[4]]
    assert [p["number"] for p in proposed] == [6, 7, 8]


def test_tpe_may_start_from_nothing():
    assert len(propose(dataclasses.replace(SPACE, startup=0), [], 3, seed=0)) == 3


def test_mistakes_of_the_caller():
    twice = [Trial(1, {"n": 1}, TrialState.RUNNING), Trial(1, {"n": 2}, TrialState.RUNNING)]
    with pytest.raises(UserError, match="two trials have the number 1"):
        propose(SPACE, twice, 1, seed=0)
    with pytest.raises(UserError, match="-1 proposals"):
        propose(SPACE, [], -1, seed=0)


def test_without_optuna_only_tpe_is_refused(monkeypatch: pytest.MonkeyPatch):
    trials = tried()
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UserError, match=r"vlmablate\[search\]"):
        propose(SPACE, trials, 1, seed=0)
    assert propose(using("random"), trials, 1, seed=0)
    assert propose(using("grid"), trials, 1, seed=0)
