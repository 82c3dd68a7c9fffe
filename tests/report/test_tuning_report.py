"""The page of tuned arms: what was tried and chosen, what that is worth, and what it cost."""

from __future__ import annotations

import math
from dataclasses import replace

import pandas as pd
import pytest
from chosen_study import CONFIGURED, PARAMETER, TRIALS, tuned_study
from matplotlib.figure import Figure
from reported import Built
from synthetic_study import design, long_table

from vlmablate.report import figures, notebook
from vlmablate.report.build import build_study
from vlmablate.report.cost import by_arm, by_kind, by_purpose, sharing
from vlmablate.report.declared import declared_sentence, late_changes
from vlmablate.report.study import Study
from vlmablate.report.study_page_cost import shared
from vlmablate.report.tuning import Cell, Trial, Tuning, best_of, noise, read_tuning
from vlmablate.report.tuning_plot import tuning_plots
from vlmablate.report.tuning_section import budget_sentence, edges, lead, luck, show_value, tuning_caveats


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Built:
    home = tmp_path_factory.mktemp("tuned")
    folder = tuned_study(home)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(notebook, "execute", lambda document, folder: 0.0)
        patch.setattr(figures, "save_all", lambda *given: {section: [] for section in figures.SECTIONS})
        return Built(home, folder, build_study(folder, home))


@pytest.fixture
def tuning(tuned: Built) -> Tuning:
    found = read_tuning(Study.load(tuned.folder, tuned.home))
    assert found is not None
    return found


def cell(*trials: tuple[float, str, float], chosen: float | None = None, arm: str = "letterbox") -> Cell:
    tried = tuple(
        Trial(number, {PARAMETER: value}, state, score, 1.0, "")
        for number, (value, state, score) in enumerate(trials)
    )
    return Cell(
        arm, "default", {PARAMETER: CONFIGURED}, None if chosen is None else {PARAMETER: chosen}, tried
    )


def test_the_verdicts_say_that_arms_were_tuned(tuned: Built) -> None:
    assert len(tuned.answer["verdicts"]) == 2
    for sentence in tuned.answer["verdicts"]:
        assert sentence.startswith("With lr tuned for every arm: ")
        assert sentence in tuned.reader.text.replace("\n", " ") or "`" in sentence
    assert "Unresolved" not in tuned.answer["verdicts"][1]


def test_what_was_chosen_is_in_the_table(tuned: Built) -> None:
    text = tuned.reader.text
    assert "0.001 → 0.009" in text
    assert "0.001 → 0.001" in text
    assert "0.001 → 0.0004" in text
    assert "2 finished, 1 pruned" in text
    assert "2 finished, 1 failed" in text
    scores = pd.read_parquet(tuned.folder / "results.parquet")
    runs = scores.groupby(["arm", "seed", "benchmark"])["score"].mean().groupby("arm").mean()
    assert f"{100 * runs['letterbox']:.1f}2 seeds" in text.replace("\n", "")
    assert "Every trial (9)" in text
    assert tuned.reader.anchors.index("tuning") < tuned.reader.anchors.index("pairs")


def test_trials_are_in_no_table_of_the_comparison(tuned: Built) -> None:
    study = Study.load(tuned.folder, tuned.home)
    trials = {trial.steps["evaluate"] for trial in study.trials}
    assert len(trials) == 9
    assert not trials & set(pd.read_parquet(tuned.folder / "results.parquet")["run_id"])


def test_costs_count_trials(tuned: Built) -> None:
    study = Study.load(tuned.folder, tuned.home)
    kinds = {cost.name: cost for cost in by_kind(study)}
    assert kinds["finetune"].steps == 6 + 7  # two trials left no result
    assert kinds["all steps"].wall_s == sum(result["wall_s"] for result in study.results.values())
    tuning, compared = by_purpose(study)
    assert (tuning.steps, tuning.wall_s) == (14, 7 * 80.0)
    assert tuning.wall_s + compared.wall_s == kinds["all steps"].wall_s
    own = {cost.name: cost.steps for cost in by_arm(study)}
    assert own == {"letterbox": 7 + 4, "resize_naive": 7 + 4, "resize_crop": 7 + 6}
    # Trials share nothing here, so they change nothing about what sharing saves.
    plain = replace(study, facts={**study.facts, "tuning": None, "steps": _steps_of_runs(study)})
    assert sharing(study) == pytest.approx(sharing(plain))
    work, without = shared([study]), shared([plain])
    assert (work.alone - without.alone, work.steps - without.steps) == (18, 18)
    assert work.saved == pytest.approx(without.saved)
    assert f"{round(100 * tuning.wall_s / kinds['all steps'].wall_s)} % of the study" in tuned.reader.text


def _steps_of_runs(study: Study) -> dict[str, object]:
    used = {step_id for run in study.runs for step_id in run.steps.values()}
    return {step_id: step for step_id, step in study.facts["steps"].items() if step_id in used}


def test_a_choice_at_the_edge_of_its_range_is_warned_about(tuning: Tuning) -> None:
    (sentence,) = edges(tuning)
    assert sentence.startswith("letterbox: the chosen learning rate 0.009 lies at the upper end of its range")
    assert "1e−05 to 0.01" in sentence
    assert "conf/search/lr.yaml" in sentence
    low = replace(tuning, cells=(cell((1.2e-5, "finished", 1.0), chosen=1.2e-5),))
    assert "lies at the lower end" in edges(low)[0]
    middle = replace(tuning, cells=(cell((3e-4, "finished", 1.0), chosen=3e-4),))
    assert edges(middle) == []
    whole = {PARAMETER: {"kind": "int", "low": 1, "high": 5}}
    for value, found in ((1, 1), (2, 0), (5, 1)):
        one = replace(tuning, parameters=whole, cells=(cell((value, "finished", 1.0), chosen=value),))
        assert len(edges(one)) == found
    named = replace(tuning, parameters={PARAMETER: {"kind": "categorical", "choices": [1, 2]}})
    assert edges(replace(named, cells=(cell((1, "finished", 1.0), chosen=1),))) == []


def test_a_chosen_number_outside_its_range_is_said_to_be(tuning: Tuning) -> None:
    (sentence,) = edges(replace(tuning, cells=(cell((0.0, "finished", 1.0), chosen=0.0),)))
    assert "the chosen learning rate 0 lies outside its range (1e−05 to 0.01)" in sentence


def test_multiples_are_of_what_each_cell_is_configured_with(tuning: Tuning) -> None:
    times = {PARAMETER: {"kind": "float", "low": 0.1, "high": 10.0, "log": True, "relative": True}}
    inside = cell((CONFIGURED, "finished", 1.0), chosen=CONFIGURED)
    above = replace(
        cell((0.19, "finished", 1.0), chosen=0.19, arm="resize_naive"), configured={PARAMETER: 0.02}
    )
    found = replace(tuning, parameters=times, cells=(inside, above))
    (sentence,) = edges(found)
    assert sentence.startswith(
        "resize_naive: the chosen learning rate 0.19 lies at the upper end of its range"
    )
    assert "(0.002 to 0.2)" in sentence
    assert "learning rate (0.1 to 10 times the configured value, logarithmic)" in budget_sentence(found)
    (figure,) = tuning_plots(found, design(long_table()))
    for axis, configured in zip(figure.axes, (CONFIGURED, 0.02), strict=False):
        low, high = axis.get_xlim()
        assert 0.05 * configured < low < 0.1 * configured < 10 * configured < high < 20 * configured


def test_trials_within_noise_of_the_chosen_one_are_counted(tuning: Tuning) -> None:
    scores = pd.DataFrame(
        [(arm, "default", seed, f"{arm}{seed}", "counting", 50.0 + seed) for arm in "ab" for seed in (0, 1)],
        columns=["arm", "context", "seed", "run_id", "benchmark", "points"],
    )
    found = noise(scores, 0.05)
    assert (found.sd, found.df) == (pytest.approx(math.sqrt(0.5)), 2)
    assert found.difference == pytest.approx(4.3027, abs=1e-3)  # t(.975, 2) = 4.3027, times √2 · √.5
    told = luck(tuning, found)
    assert [text.partition(":")[0] for text in told] == ["letterbox", "resize_crop"]
    assert "2 of 2 other finished trials scored within 4.3 points of the chosen one" in told[1]
    assert all("the configured values among them" in text for text in told)
    assert luck(tuning, replace(found, difference=0.05)) == []
    assert luck(tuning, noise(scores[scores["seed"] == 0], 0.05)) == []
    # A run that two cells share is one run.
    twice = pd.concat([scores, scores.assign(arm="c")])
    assert noise(twice, 0.05) == found


def test_the_best_of_equals_looks_better_by_known_amounts() -> None:
    assert [round(best_of(count), 2) for count in (1, 2, 5, 20, 50)] == [0.0, 0.56, 1.16, 1.87, 2.25]
    assert best_of(2) == pytest.approx(1 / math.sqrt(math.pi), abs=1e-6)


def test_what_is_not_finished_is_said(tuning: Tuning) -> None:
    running = cell((CONFIGURED, "finished", 50.0), (2e-4, "running", math.nan), arm="resize_naive")
    part = replace(tuning, final=False, cells=(tuning.cells[0], running))
    assert lead(part) == "With lr tuned for 1 of 2 arms so far"
    assert "1 not finished yet" in budget_sentence(part)
    assert "the same command goes on" in budget_sentence(part)
    assert any("resize_naive run with no chosen values yet" in text for text in tuning_caveats(part))
    other = replace(running, context="small")
    assert lead(replace(part, cells=(*part.cells, other))) == (
        "With lr tuned for 1 of 3 pairs of arm and context so far"
    )
    assert lead(None) == ""
    assert tuning_caveats(None) == []


def test_the_methods_keep_the_winners_curse_out(tuned: Built) -> None:
    text = tuned.reader.text
    assert "the best of 3 equally good configurations looks 0.85 SDs between seeds better than it is" in text
    assert "Bouthillier et al., MLSys 2021" in text
    assert "Every arm got the same budget: 3 trials of learning rate (1e−05 to 0.01, logarithmic)" in text
    assert "tune = lr (3 trials per arm)" in text
    assert "At the edge." in text


def test_a_late_change_of_the_tuning_is_told(tuned: Built) -> None:
    study = Study.load(tuned.folder, tuned.home)
    before = {"settings": {}, "runs_with_scores": 0}
    after = {"settings": {}, "tune": {"space": "lr", "trials": 3}, "runs_with_scores": 6}
    changed = replace(study, facts={**study.facts, "analysis_history": [before, after]})
    (told,) = late_changes(changed)
    assert "tune from none to lr (3 trials per arm)" in told
    assert "Not all of this was declared before" in declared_sentence(changed)


def test_figures_show_every_trial(tuning: Tuning) -> None:
    table = long_table(tuple(TRIALS))
    (figure,) = tuning_plots(tuning, design(table))
    panels = [axis for axis in figure.axes if axis.get_visible()]
    assert [axis.get_title(loc="left") for axis in panels] == list(TRIALS)
    assert all(axis.get_xscale() == "log" for axis in panels)
    for axis, outcomes in zip(panels, TRIALS.values(), strict=True):
        drawn = {line.get_gid(): line for line in axis.get_lines()}
        finished = sorted((value, score) for value, state, score in outcomes if state == "finished")
        assert sorted(zip(*drawn["finished"].get_data(), strict=True)) == finished
        best = max(finished, key=lambda pair: pair[1])
        assert (drawn["chosen"].get_xdata()[0], drawn["chosen"].get_ydata()[0]) == best
        for state in ("censored", "failed"):
            missed = [value for value, of, _ in outcomes if of == state]
            assert (list(drawn[state].get_xdata()) if state in drawn else []) == missed


def test_categories_and_many_panels_are_drawn(tuning: Tuning) -> None:
    choices = {"kind": "categorical", "choices": [0.0, None, "cosine"]}
    parameters = {PARAMETER: tuning.parameters[PARAMETER], "stages.finetune.schedule": choices}
    values = {PARAMETER: CONFIGURED, "stages.finetune.schedule": None}
    trial = Trial(0, values, "finished", 50.0, 1.0, "")
    cells = tuple(Cell(f"arm{i}", "default", values, values, (trial,)) for i in range(10))
    drawn = tuning_plots(replace(tuning, parameters=parameters, cells=cells), design(long_table()))
    assert [len([a for a in figure.axes if a.get_visible()]) for figure in drawn] == [18, 2]
    axis = drawn[0].axes[1]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["0", "null", "cosine"]
    assert next(line for line in axis.get_lines() if line.get_gid() == "finished").get_xdata()[0] == 1
    assert all(isinstance(figure, Figure) for figure in drawn)
    assert (
        tuning_plots(replace(tuning, cells=(cell((1e-4, "failed", math.nan)),)), design(long_table())) == []
    )


def test_values_are_shown_as_they_are_written() -> None:
    shown = [show_value(value) for value in (0.00043123, 3e-5, 2, True, None, "cosine", 0.0)]
    assert shown == ["0.0004312", "3e−05", "2", "true", "null", "cosine", "0"]
