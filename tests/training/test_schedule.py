"""Learning rates as data: forms, limits, and the trunk that trainings of different length share."""

from __future__ import annotations

import math

import pytest

from vlmablate.design.schedule import Schedule
from vlmablate.errors import UserError
from vlmablate.training.loop import Recipe


def rates(value, steps: int = 100, warmup: float = 0.1) -> list[float]:
    schedule = Schedule.read(value)
    return [schedule.rate(2.0, warmup, step, steps) for step in range(steps)]


def test_the_cosine_has_the_bits_of_its_formula():
    expected = [2.0 * (s + 1) / 10 for s in range(10)]
    expected += [2.0 * 0.5 * (1.0 + math.cos(math.pi * (s - 10) / 90)) for s in range(10, 100)]
    assert rates("cosine") == expected


def test_a_constant_rate_stays_at_its_peak():
    assert rates("constant")[9:] == [2.0] * 91


@pytest.mark.parametrize(("form", "half"), [("linear", 1.0), ("1-sqrt", 2.0 * (1 - math.sqrt(0.5)))])
def test_wsd_is_stable_and_then_decays_in_its_form(form: str, half: float):
    found = rates({"name": "wsd", "decay": 0.2, "form": form})
    assert found[9:81] == [2.0] * 72
    assert found[90] == pytest.approx(half)
    assert found[80:] == sorted(found[80:], reverse=True)
    assert 0 < found[-1] < 0.11


def test_trainings_of_different_length_share_the_trunk_of_wsd_and_not_of_a_cosine():
    wsd = {"name": "wsd", "decay": 0.2, "warmup_steps": 7}
    trunk = Schedule.read(wsd).trunk(0.1, 100)
    assert trunk == 80
    assert rates(wsd)[:trunk] == rates(wsd, 300)[:trunk]
    assert rates(wsd)[trunk + 1] != rates(wsd, 300)[trunk + 1]
    assert rates("cosine")[11] != rates("cosine", 300)[11]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("cosin", "did you mean 'cosine'"),
        ({"name": "wsd", "form": "sqrt"}, "1-sqrt"),
        ({"name": "wsd", "decay": 0.0}, "schedule.decay"),
        ({"name": "wsd", "warmup_steps": 0}, "schedule.warmup_steps"),
        ({"name": "cosine", "decay": 0.1}, "unknown option 'decay'"),
    ],
)
def test_what_makes_no_schedule_is_refused(value, said: str):
    with pytest.raises(UserError, match=said):
        Schedule.read(value)


def test_a_stage_without_a_schedule_is_a_cosine_and_one_with_factors_keeps_them():
    stage = {"learning_rate": 1.0, "warmup": 0.1, "weight_decay": 0.0, "gradient_clip": 1.0}
    assert Recipe.read(stage, 10) == Recipe(10, 1.0, 0.1, 0.0, 1.0)
    told = Recipe.read({**stage, "schedule": "constant", "learning_rate_factors": {"projector": 3}}, 10)
    assert (told.schedule.name, told.factors) == ("constant", {"projector": 3.0})
