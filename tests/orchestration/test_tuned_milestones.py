"""What ends a trial: limits by the curves of those that finished, on their way to the worker and back."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from vlmablate.errors import Diverged, Pruned, UserError
from vlmablate.orchestration.evidence import Evidence, FailureClass, classify
from vlmablate.orchestration.milestones import Milestone, limits, of_step, read_curve, to_json
from vlmablate.orchestration.policy import Action, PastFailure, Policy, decide, read_policy
from vlmablate.orchestration.worker import error_record

C = FailureClass


@pytest.mark.parametrize(
    ("share", "steps", "step"),
    [
        (1 / 3, 9, 3),
        (2 / 3, 9, 6),
        (1 / 3, 16, 6),
        (2 / 3, 16, 11),
        (1 / 3, 1, 1),
        (2 / 3, 2, 2),
        (0.1, 30, 3),
    ],
)
def test_a_share_is_reached_at_the_first_step_that_is_not_before_it(share: float, steps: int, step: int):
    assert Milestone(share, None).step(steps) == step


def test_only_what_is_above_the_limit_ends():
    Milestone(0.5, None).judge(math.inf, 10)
    Milestone(0.5, 2.0).judge(2.0, 10)
    with pytest.raises(Pruned) as raised:
        Milestone(0.5, 2.0).judge(2.001, 10)
    assert raised.value.facts == {"share": 0.5, "step": 5, "steps": 10, "loss": 2.001}


def curve(loss: float, until: int = 30) -> list[tuple[int, float]]:
    return [(step, loss - step / 100) for step in (1, 10, 20, 30) if step <= until]


def trial(loss: float, until: int = 30) -> tuple[int, list[tuple[int, float]]]:
    return 30, curve(loss, until)


def test_the_limit_is_the_median_at_that_share():
    third, two_thirds = limits([trial(1.0), trial(3.0), trial(2.0)])
    assert (third.limit, two_thirds.limit) == pytest.approx((1.9, 1.8))
    third, _ = limits([trial(loss) for loss in (1.0, 3.0, 2.0, 7.0)])
    assert third.limit == pytest.approx(2.4)


def test_two_trials_make_no_median_and_a_lost_curve_is_passed_over():
    assert [m.limit for m in limits([trial(1.0), trial(2.0)])] == [None, None]
    assert [m.limit for m in limits([])] == [None, None]
    whole = limits([trial(1.0), trial(2.0), trial(3.0)])
    assert limits([trial(1.0), (30, []), trial(2.0), trial(3.0)]) == whole


def test_what_was_ended_at_a_milestone_counts_there_and_not_beyond():
    ended = [trial(5.0, until=10), trial(6.0, until=10)]
    third, two_thirds = limits([trial(1.0), trial(2.0), trial(3.0), *ended])
    assert (third.limit, two_thirds.limit) == pytest.approx((2.9, 1.8))


def test_a_torn_curve_is_read_as_far_as_it_goes(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    assert read_curve(path) == []
    lines = [json.dumps({"step": step, "smoothed_loss": loss}) for step, loss in curve(1.0)]
    path.write_text("\n".join(lines)[:-9])
    assert read_curve(path) == curve(1.0)[:-1]


def test_milestones_travel_in_a_manifest():
    marks = (Milestone(1 / 3, 1.25), Milestone(2 / 3, None))
    manifest = json.loads(json.dumps({"milestones": to_json({"a": marks, "b": ()})}))
    assert of_step(manifest, "a") == marks
    assert of_step(manifest, "b") == of_step(manifest, "c") == of_step({}, "a") == ()


def recorded(error: Exception) -> Evidence:
    return Evidence(error_record(error), code=1)


def test_the_end_of_a_trial_is_no_failure_and_nothing_tries_it_again():
    pruned, diverged = recorded(Pruned("stopped", share=0.5, loss=2.0)), recorded(Diverged("nan", share=0.2))
    assert pruned.error["facts"] == {"share": 0.5, "loss": 2.0}
    assert (classify(pruned), classify(diverged)) == (C.PRUNED, C.NAN)
    eager = read_policy({"nan": {"action": "retry", "retries": 9}})
    for cls in (C.PRUNED, C.NAN):
        assert decide(cls, [PastFailure(cls)], eager, trial=True).action is Action.END
    assert decide(C.NAN, [PastFailure(C.NAN)], eager).action is Action.RETRY
    assert decide(C.CODE, [PastFailure(C.CODE)], Policy(), trial=True).action is Action.FAIL


@pytest.mark.parametrize("table", [{"pruned": {"action": "retry", "retries": 1}}, {"nan": {"action": "end"}}])
def test_a_policy_has_no_say_in_the_end_of_a_trial(table: dict):
    with pytest.raises(UserError, match="unknown"):
        read_policy(table)
