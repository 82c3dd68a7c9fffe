"""What a design space wants, as a function of the scores there are: planted scores, and nothing trained."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from tests.orchestration import fakes, space_steps
from vlmablate.design.compose import composer
from vlmablate.design.spec import RunSpec
from vlmablate.files import write_json
from vlmablate.orchestration.detectable import Spread
from vlmablate.orchestration.space import wishes
from vlmablate.orchestration.space_line import line_through
from vlmablate.orchestration.space_words import course, detectable_line
from vlmablate.orchestration.store import Store
from vlmablate.orchestration.study import Cell, Request, build_runs
from vlmablate.orchestration.trial_batches import next_batch
from vlmablate.orchestration.wishes import Question, Wishes
from vlmablate.search.proposals import Trial, TrialState
from vlmablate.search.space import Categorical, Space

BASELINE = "letterbox+two_stage+e2"
GOOD = "resize_crop+single+e5"
SPACE = space_steps.space()
Points = Mapping[str, float]


@pytest.fixture(scope="module")
def cells() -> list[Cell]:
    with composer() as compose:
        base = compose.compose(["scale=smoke"])
    return space_steps.cells({**base, "precision": "fp32"})


@pytest.fixture
def ask(cells: list[Cell], store: Store):
    """Makes a question about the space of 30 combinations."""

    def make(seeds: tuple[int, ...] = (0,), **more: Any) -> Question:
        request = Request(
            axis=SPACE.name, axes=tuple(space_steps.LEVELS), seeds=seeds, confirm=3, scale="smoke", **more
        )

        def build(cells: Sequence[Cell], seeds: Sequence[int], validation: bool = False) -> list[RunSpec]:
            return build_runs(cells, seeds, {}, fakes.Assets(), "smoke", validation)

        return Question(request, SPACE, cells, {}, store, build)

    return make


def score(run: RunSpec, store: Store, benchmarks: Mapping[str, Mapping[str, Any]]) -> None:
    folder = store.directory(run.steps["evaluate"])
    folder.mkdir(parents=True)
    write_json(folder / "result.json", {"payload": {"benchmarks": benchmarks}})


def evaluate(runs: Sequence[RunSpec], store: Store, points: Points) -> int:
    """Give every run a score that has none; how many there were."""
    new = [run for run in runs if not store.has_result("evaluate", run.run_id)]
    for run in new:
        mean = points.get(run.arm, 50.0) / 100
        score(run, store, {"counting": {"metric": "exact_match", "mean": mean, "majority": 0.3}})
    return len(new)


def settle(question: Question, points: Points) -> list[Wishes]:
    """Every answer until nothing new is wanted."""
    found = [wishes(question)]
    while evaluate(found[-1].runs, question.store, points):
        found.append(wishes(question))
    return found


def facts(answer: Wishes) -> dict[str, Any]:
    record: dict[str, Any] = answer.facts["exploration"]
    return record


def arms(runs: Sequence[RunSpec]) -> list[str]:
    return list(dict.fromkeys(run.arm for run in runs))


def test_everything_is_explored_then_two_are_compared(ask):
    first, second, third = settle(ask((0, 1)), {GOOD: 62.0, BASELINE: 60.0})
    assert (len(first.runs), first.final, first.lines) == (60, False, ())
    assert facts(first)["best"] is None
    assert second.final
    assert third.runs == second.runs
    fresh = [run for run in second.runs if run.seed >= 1000]
    assert arms(fresh) == [BASELINE, GOOD]
    assert sorted({run.seed for run in fresh}) == [1000, 1001, 1002]
    assert facts(second)["confirmed"] == [run.run_id for run in fresh]
    assert facts(second)["order"][:2] == [GOOD, BASELINE]


def test_a_baseline_that_leads_is_compared_with_the_next_one(ask):
    last = settle(ask(), {BASELINE: 70.0, GOOD: 63.0})[-1]
    assert (facts(last)["best"], facts(last)["baseline_leads"], facts(last)["order"][0]) == (
        GOOD,
        True,
        BASELINE,
    )
    assert f"the baseline {BASELINE} leads with 70.0 points; next is {GOOD}, 63.0" in last.lines[0]


def test_equally_good_ones_are_ranked_as_the_space_names_them(ask):
    last = settle(ask(), dict.fromkeys((GOOD, "resize_naive+single+e3", BASELINE), 60.0))[-1]
    assert facts(last)["order"][:3] == [BASELINE, "resize_naive+single+e3", GOOD]
    assert (facts(last)["best"], facts(last)["baseline_leads"]) == ("resize_naive+single+e3", True)


def test_more_seeds_only_add_and_may_change_what_is_compared(ask):
    first = settle(ask((0,)), {GOOD: 62.0, BASELINE: 58.0})[-1]
    other = "resize_naive+single+e3"
    second = settle(ask((0, 1)), {other: 80.0, BASELINE: 58.0})
    assert set(facts(first)["explored"]) < set(facts(second[0])["explored"])
    assert (facts(first)["best"], facts(second[-1])["best"]) == (GOOD, other)
    assert facts(second[-1])["confirm_seeds"] == facts(first)["confirm_seeds"]
    # The baseline's fresh runs are those of before.
    assert len(set(facts(second[-1])["confirmed"]) & set(facts(first)["confirmed"])) == 3
    assert not [run for run in second[-1].runs if run.seed >= 1000 and run.arm == GOOD]


def test_one_missing_score_leaves_the_choice_open(ask, store: Store):
    question = ask()
    first = wishes(question)
    evaluate(first.runs[:-1], store, {GOOD: 62.0})
    assert not wishes(question).final
    assert facts(wishes(question))["order"] == []


def test_only_benchmarks_that_the_report_counts_choose(ask, store: Store):
    """One that the baseline does no better in than a constant answer, and one outside the suite, say the opposite."""
    question = ask()
    for run in wishes(question).runs:
        good = run.arm == GOOD
        score(
            run,
            store,
            {
                "counting": {"metric": "exact_match", "mean": 0.62 if good else 0.6, "majority": 0.3},
                "silent": {"metric": "exact_match", "mean": 0.1 if good else 0.3, "majority": 0.3},
                "length": {"metric": "length", "mean": 0.0 if good else 9.0, "suite": False},
            },
        )
    assert facts(wishes(question))["best"] == GOOD


def test_without_any_signal_all_benchmarks_choose(ask, store: Store):
    question = ask()
    settle(question, {arm.name: 20.0 for arm in SPACE.arms} | {GOOD: 21.0})
    assert facts(wishes(question))["best"] == GOOD


def test_a_plan_counts_what_follows(ask):
    ahead = wishes(ask((0, 1))).ahead()
    assert "all 30 combinations (3 image_resize x 2 stages x 5 epochs), 2 seeds each" in ahead.text
    assert len(ahead.runs) == 2 * 3
    searching = wishes(ask(search="tpe", trials=13))
    assert len(searching.runs) == 8
    assert "13 of 30 combinations" in searching.ahead().text
    assert len(searching.ahead().runs) == 5 + 2 * 3
    assert len({run.arm for run in (*searching.runs, *searching.ahead().runs[:5])}) == 13
    assert settle(ask(), {})[-1].ahead().text == ""


# Searching


def hill(arm: str) -> float:
    """A score that grows towards GOOD."""
    return 50.0 + 4.0 * sum(part in GOOD.split("+") for part in arm.split("+"))


HILL = {arm.name: hill(arm.name) for arm in SPACE.arms}


def test_a_search_starts_at_the_baseline_and_goes_by_the_scores(ask):
    question = ask(search="tpe", trials=13)
    answers = settle(question, HILL)
    explored = [[run for run in answer.runs if run.seed < 1000] for answer in answers]
    assert [len(runs) for runs in explored] == [8, 12, 13, 13, 13]
    assert explored[0][0].arm == BASELINE
    assert explored[-1][:8] == explored[0]
    assert len(set(arms(explored[-1]))) == 13
    found = facts(answers[-1])
    assert (found["search"], found["trials"], found["final"]) == ("tpe", 13, True)
    assert list(found["levels"]) == arms(explored[-1])
    assert hill(found["best"]) == max(map(hill, found["levels"]))
    # Other scores, other proposals; the first batch is drawn before there are any.
    flipped = ask(search="tpe", trials=13)
    shutil.rmtree(question.store.home)
    other = [r.arm for r in settle(flipped, {arm: 100 - points for arm, points in HILL.items()})[-1].runs]
    assert other[:8] == arms(explored[-1])[:8]
    assert other[8:13] != arms(explored[-1])[8:]


def test_a_search_that_lost_results_asks_for_the_same(ask, store: Store):
    question = ask(search="tpe", trials=13)
    before = settle(question, HILL)[-1]
    lost = [run for run in before.runs if run.seed < 1000][2:11:3]
    for run in lost:
        shutil.rmtree(store.directory(run.steps["evaluate"]))
    answer = wishes(question)
    assert not answer.final
    assert [run.arm for run in answer.runs if not store.has_result("evaluate", run.run_id)] == [
        lost[0].arm,
        lost[1].arm,
    ], "of the first batch; the second one follows from it"
    again = settle(question, HILL)[-1]
    assert again.facts == before.facts
    assert again.runs == before.runs


def test_more_trials_go_on_from_those_there_are(ask):
    few = arms(settle(ask(search="random", trials=10), HILL)[-1].runs)
    more = settle(ask(search="random", trials=14), HILL)
    assert arms(more[-1].runs)[:10] == few[:10]
    assert len(more[0].runs) == 12, "the batch that was cut short is filled up"


def test_every_seed_counts_in_a_search_of_several(ask):
    answer = settle(ask((0, 1), search="random", trials=9), HILL)[-1]
    assert len([run for run in answer.runs if run.seed < 1000]) == 18


def test_a_search_that_may_try_all_tries_all_at_once(ask):
    first = wishes(ask(search="tpe", trials=30))
    assert len(first.runs) == 30
    assert (facts(first)["search"], facts(first)["trials"]) == ("", 30)


# Pieces


def test_batches_follow_each_other():
    space = Space({"a": Categorical(tuple("abcdefgh")), "b": Categorical((1, 2, 3))}, "random", startup=3)
    first = next_batch(space, {"a": "c", "b": 2}, [], 20, 4, 0)
    assert [made["number"] for made in first] == [0, 1, 2]
    assert first[0]["values"] == {"a": "c", "b": 2}
    known = [Trial(made["number"], made["values"], TrialState.FINISHED, 1.0) for made in first]
    assert [made["number"] for made in next_batch(space, {}, known, 20, 4, 0)] == [3, 4, 5, 6]
    assert [made["number"] for made in next_batch(space, {}, known, 5, 4, 0)] == [3, 4]
    assert next_batch(space, {}, known, 3, 4, 0) == []
    assert next_batch(space, {"a": "c", "b": 2}, [], 1, 4, 0) == first[:1]


def test_what_can_be_found_is_what_the_analysis_says():
    from vlmablate.stats.factorial import detectable_effect
    from vlmablate.stats.settings import Settings

    request = Request(axis=SPACE.name, axes=tuple(space_steps.LEVELS), seeds=(0, 1, 2))
    expected = detectable_effect([3, 2, 5], 3, 1.5, Settings())
    text = detectable_line(SPACE, request, {}, Spread(1.5, 0))
    told = ", ".join(
        f"{name} {points:.1f}" for name, points in zip(space_steps.LEVELS, expected, strict=True)
    )
    assert f"with 80 % power from so many points on: {told} (SD between seeds 1.50 points, assumed)" in text
    assert "unknown" in detectable_line(SPACE, request, {}, None)


def test_a_search_promises_no_tests_of_effects():
    request = Request(axis=SPACE.name, axes=tuple(space_steps.LEVELS), seeds=(0,), search="tpe", trials=9)
    assert "described, not tested" in detectable_line(SPACE, request, {}, Spread(1.5, 4))
    assert "9 of 30 combinations (3 image_resize x 2 stages x 5 epochs), 1 seed each: 8 drawn" in course(
        SPACE, request
    )


def test_a_run_lies_on_a_line_along_the_shortest_axis():
    def axis(name: str, levels: Mapping[str, list[str]], context: Sequence[str] = ()) -> dict[str, Any]:
        listed = [{"name": level, "overrides": texts} for level, texts in levels.items()]
        return {"name": name, "levels": listed, "context": list(context)}

    exploration = {
        "axes": [
            axis("three", {"a": [], "b": ["x.y=1", "image=b"], "c": []}, ["stages=single", "z=1"]),
            axis("two", {"p": [], "q": ["llm=q"]}, ["stages=single"]),
        ],
        "levels": {"b+q": {"three": "b", "two": "q"}},
    }
    line = line_through(exploration, "b+q")
    assert (line.axis, line.arm, line.arms) == ("two", "q", 2)
    assert line.overrides == ("z=1", "x.y=1", "image=b"), "what its own axis holds fixed comes with it"
