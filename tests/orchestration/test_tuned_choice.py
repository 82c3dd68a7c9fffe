"""Which trial is chosen, and what a search is told of those that have none of the usual ends."""

from __future__ import annotations

from typing import Any

import pytest

from vlmablate.design.spec import RunSpec, StepSpec
from vlmablate.errors import UserError
from vlmablate.orchestration.study import Cell
from vlmablate.orchestration.tuned import _best, _line, with_choices
from vlmablate.orchestration.tuning_cells import Tunable, with_values
from vlmablate.orchestration.tuning_trials import End, Tried, _as_trial, suite_score
from vlmablate.search.proposals import TrialState, propose
from vlmablate.search.space import Categorical, Float, Space

RATE, DECAY = "stages.finetune.learning_rate", "stages.finetune.weight_decay"
SPACE = Space({RATE: Float(1e-4, 1e-2, log=True), DECAY: Categorical((0.0, 0.1))}, startup=2)
CONFIG: dict[str, Any] = {
    "stages": {"align": None, "finetune": {"learning_rate": 1e-3, "weight_decay": 0.1}},
    "llm": {"weights": "elsewhere"},
}
CELL = Tunable(Cell("arm", "default", CONFIG), {RATE: 1e-3, DECAY: 0.1}, SPACE)


def tried(number: int, rate: float, score: float | None, decay: float = 0.1, **end: Any) -> Tried:
    state = TrialState.FINISHED if score is not None else end.pop("state")
    step = StepSpec("evaluate", 1, f"run{number}", "run", {}, {}, {})
    run = RunSpec("arm", "default", 2000, {"evaluate": step})
    return Tried(number, {RATE: rate, DECAY: decay}, run, End(state, score, **end))


def chosen(*trials: Tried, direction: Any = "maximize") -> int | None:
    cell = Tunable(CELL.cell, CELL.configured, Space(SPACE.parameters, direction=direction))
    best = _best(cell, trials)
    return None if best is None else best.number


def test_the_best_score_is_chosen():
    trials = (tried(0, 1e-3, 60.0), tried(1, 1e-4, 61.0), tried(2, 2e-3, 59.0))
    assert chosen(*trials) == 1
    assert chosen(*trials, direction="minimize") == 2


def test_of_equal_scores_the_nearest_to_the_configured_values_is_chosen():
    assert chosen(tried(0, 1e-3, 60.0), tried(1, 1e-4, 60.0 + 1e-12)) == 0
    assert chosen(tried(1, 1e-4, 60.0), tried(2, 5e-3, 60.0)) == 2
    assert (
        chosen(tried(1, 1e-4, 60.0), tried(2, 1e-3, 60.0, decay=0.0)) == 1
    )  # half the range, and another choice
    assert chosen(tried(2, 2e-3, 60.0), tried(1, 5e-4, 60.0)) in (1, 2)
    assert chosen(tried(4, 2e-3, 60.0), tried(3, 2e-3, 60.0)) == 3


def test_only_what_finished_can_be_chosen():
    lost = (
        tried(1, 1e-4, None, state=TrialState.CENSORED, loss=0.1),
        tried(2, 1e-2, None, state=TrialState.FAILED),
    )
    assert chosen(*lost) is None
    assert chosen(*lost, tried(3, 5e-3, 1.0)) == 3


def test_the_suite_score_is_the_mean_over_benchmarks_of_the_suite():
    entries = {
        "a": {"mean": 0.5, "n": 1000},
        "b": {"mean": 0.75, "n": 10},
        "words": {"mean": 99.0, "suite": False},
    }
    assert suite_score(entries) == pytest.approx(62.5)
    with pytest.raises(UserError, match=r"\['words'\]: none of these is part of the suite score"):
        suite_score({"words": entries["words"]})


def test_what_was_stopped_early_is_told_as_worse_than_all_that_finished():
    finished = [tried(n, rate, 60.0 - n) for n, rate in enumerate((1e-3, 3e-4, 2e-3, 6e-4))]
    censored = tried(4, 9e-3, None, state=TrialState.CENSORED, loss=2.0, step=10)
    told = _as_trial(SPACE, censored)
    assert (told.state, told.score, told.steps) == (TrialState.CENSORED, -2.0, 10)
    down = Space(SPACE.parameters, direction="minimize")
    assert _as_trial(down, censored).score == 2.0
    known = [_as_trial(SPACE, trial) for trial in finished]
    with_it = propose(SPACE, [*known, told], 20, seed=1)
    # Not even one that reports a loss of nothing draws the search to where it was stopped.
    best_loss = _as_trial(SPACE, tried(4, 9e-3, None, state=TrialState.CENSORED, loss=-1e9, step=20))
    assert propose(SPACE, [*known, best_loss], 20, seed=1) == with_it
    near = sum(proposal["values"][RATE] > 5e-3 for proposal in with_it)
    assert near <= 10


def test_values_are_set_without_touching_what_was_composed():
    cell = with_values(CELL.cell, {RATE: 5e-4, DECAY: 0.0})
    assert cell.config["stages"]["finetune"] == {"learning_rate": 5e-4, "weight_decay": 0.0}
    assert CONFIG["stages"]["finetune"] == {"learning_rate": 1e-3, "weight_decay": 0.1}
    record = {"cells": [{"arm": "arm", "context": "default", "chosen": {RATE: 5e-4, DECAY: 0.0}}]}
    other = Cell("other", "default", CONFIG)
    assert with_choices([CELL.cell, other], record) == [cell, other]
    assert with_choices([CELL.cell], None) == [CELL.cell]


def test_what_was_chosen_is_said_with_what_was_configured():
    trials = [
        tried(0, 1e-3, 60.0),
        tried(1, 4.3e-3, 61.24),
        tried(2, 1e-4, None, state=TrialState.CENSORED),
        tried(3, 1e-2, None, state=TrialState.FAILED),
    ]
    assert _line(CELL, trials, trials[1]) == (
        f"arm: {RATE}=0.0043 (configured 0.001), {DECAY}=0.1 (configured 0.1), the best of 4 trials, 1 stopped early, "
        "1 diverged; 61.2 points on the validation scenes"
    )
