"""The page of a design space: a verdict from fresh seeds alone, and what the explored runs say about each axis."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import pytest
from chosen_study import LEVELS, space_study
from reported import Built

from vlmablate.errors import UserError
from vlmablate.paths import resource
from vlmablate.report import build, figures, notebook
from vlmablate.report import formatting as fmt
from vlmablate.report.build import SPACE_OUTPUTS, build_study, declare
from vlmablate.report.collect import collect
from vlmablate.report.cost import by_kind, by_purpose, sharing
from vlmablate.report.exploration import explore
from vlmablate.report.exploration_section import curse_sentences, percent, percent_interval
from vlmablate.report.records import KEYS, records
from vlmablate.report.sentences import with_seeds
from vlmablate.report.study import Study
from vlmablate.report.study_page import page as study_page
from vlmablate.report.study_page_declared import index_of_folders
from vlmablate.stats.table import analyse

BASELINE, BEST = "letterbox+two_stage", "resize_naive+single"
OTHERS = [arm for arm in map("+".join, product(*LEVELS.values())) if arm != BASELINE]

Report = Callable[[str], Built]

SPACES: dict[str, dict[str, Any]] = {
    "grid": {},
    "baseline leads": {"effects": dict.fromkeys(OTHERS, -0.2), "seeds": (0, 1), "confirm": (1000, 1001)},
    "searched": {"search": "tpe", "seeds": (0,), "left_out": ["resize_crop+two_stage"]},
    "one seed": {"seeds": (0,)},
}


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """The report of a space, made when it is first asked for; figures are not drawn and no notebook is run."""
    made: dict[str, Built] = {}

    def get(name: str) -> Built:
        if name not in made:
            home = tmp_path_factory.mktemp("space")
            folder = space_study(home, **SPACES[name])
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(notebook, "execute", lambda document, folder: 0.0)
                patch.setattr(figures, "save_all", lambda *given: {part: [] for part in figures.SECTIONS})
                made[name] = Built(home, folder, build_study(folder, home))
        return made[name]

    return get


def facts(built: Built) -> dict[str, object]:
    found = json.loads((built.folder / "study.json").read_text())["exploration"]
    assert isinstance(found, dict)
    return found


def suite(built: Built, run_ids: object) -> pd.Series:
    """Suite score of some runs by arm and seed, from the scores themselves."""
    scores = pd.read_parquet(built.folder / "results.parquet")
    own = scores[scores["run_id"].isin(run_ids) & ~scores["benchmark"].isin(_silent(built))]
    of_benchmarks = 100 * own.groupby(["arm", "seed", "benchmark"])["score"].mean()
    return of_benchmarks.groupby(["arm", "seed"]).mean()


def _silent(built: Built) -> set[str]:
    table = built.table()
    return set(table.loc[table["family"].str.startswith("no-signal"), "benchmark"])


def test_the_verdict_rests_on_fresh_seeds_alone(space: Report) -> None:
    built = space("grid")
    table = built.table()
    assert set(table["arm"]) == {BEST}
    assert set(table["baseline"]) == {BASELINE}
    (row,) = records(table[table["family"] == "primary"])
    fresh = suite(built, facts(built)["confirmed"])
    assert row["n_seeds"] == 3
    assert row["delta"] == pytest.approx(fresh[BEST].mean() - fresh[BASELINE].mean())
    (sentence,) = built.answer["verdicts"]
    assert sentence.startswith("Best of 6 explored configurations, trained again with fresh seeds: ")
    assert "3 fresh seeds per arm" in sentence
    scores = pd.read_parquet(built.folder / "results.parquet")
    assert scores["run_id"].nunique() == 6 * 3 + 2 * 3
    assert set(scores["seed"]) == {0, 1, 2, 1000, 1001, 1002}


def test_effects_rest_on_explored_runs_alone(space: Report) -> None:
    built = space("grid")
    means = suite(built, facts(built)["explored"]).groupby("arm").mean()
    table = built.table("effects").set_index(["kind", "level", "level_b", "benchmark"]).sort_index()
    naive = np.mean(
        [means[f"resize_naive+{stage}"] - means[f"letterbox+{stage}"] for stage in LEVELS["stages"]]
    )
    assert table.loc[("main", "resize_naive", np.nan, "suite"), "delta"].item() == pytest.approx(naive)
    both = means[BEST] - means["resize_naive+two_stage"] - means["letterbox+single"] + means[BASELINE]
    assert table.loc[("interaction", "resize_naive", "single", "suite"), "delta"].item() == pytest.approx(
        both
    )
    assert built.table("importance")["share"].sum() == pytest.approx(1)


@pytest.mark.parametrize("name", SPACES)
def test_numbers_of_the_page_are_those_of_the_tables(space: Report, name: str) -> None:
    built = space(name)
    rows = {}
    for table in ("effects", "importance"):
        for row in records(
            pd.read_csv(built.folder / f"{table}.csv", keep_default_na=False, na_values=["nan"])
        ):
            rows[f"{table}:{'|'.join(str(row[column]) for column in KEYS[table])}"] = row
    seen = set()
    for key, column, text in built.reader.cells:
        table = key.partition(":")[0]
        if table not in ("effects", "importance"):
            continue
        seen.add(key)
        row = {name: _number(value) for name, value in rows[key].items()}
        if table == "importance":
            shown = {
                "share": percent(row["share"]),
                "interval": percent_interval(row["share"], row["ci_low"], row["ci_high"]),
                "sd": fmt.points(row["sd"], decimals=fmt.decimals_for(row["sd"])),
            }
        else:
            decimals = fmt.decimals_for(row["delta"], row["ci_low"], row["ci_high"])
            shown = {
                "delta": fmt.points(row["delta"], signed=True, decimals=decimals),
                "interval": fmt.interval(row["ci_low"], row["ci_high"], decimals=decimals),
                "p": fmt.p_value(row["p"]),
                "p_adjusted": fmt.p_value(row["p_adjusted"]),
            }
        assert text == shown[column], (key, column)
    assert seen == set(rows)
    assert not re.search(r"\b(nan|inf)\b|<td[^>]*>\s*None\s*<", built.page)


def _number(value: object) -> float:
    try:
        return float(str(value))
    except ValueError:
        return float("nan")


def test_explored_shrunken_and_fresh_scores_are_side_by_side(space: Report) -> None:
    built = space("grid")
    explored, fresh = (suite(built, facts(built)[which])[BEST].mean() for which in ("explored", "confirmed"))
    text = " ".join(built.reader.text.split())
    assert f"{BEST} is the best of 6 configurations: {explored:.1f} points when explored (3 seeds)" in text
    assert f"{fresh:.1f} with fresh seeds" in text
    assert "after shrinkage" in text
    (row,) = records(built.table()[built.table()["family"] == "primary"])
    assert (
        f"[{fmt.points(row['ci_low'])}, {fmt.points(row['ci_high'])}] with fresh seeds (the verdict)" in text
    )


def test_a_baseline_that_leads_is_said_to(space: Report) -> None:
    (sentence,) = space("baseline leads").answer["verdicts"]
    start = "No explored configuration scored above the baseline; the runner-up of 6, trained again with fresh seeds: "
    assert sentence.startswith(start)
    best = facts(space("baseline leads"))["best"]
    assert str(best) in sentence.removeprefix(start)
    assert f"{BASELINE} is the best of 6 configurations" in " ".join(
        space("baseline leads").reader.text.split()
    )


def test_a_search_describes_and_tests_nothing(space: Report) -> None:
    built = space("searched")
    table = built.table("effects")
    assert table["p"].isna().all()
    assert set(table["verdict"]) == {"unresolved"}
    text = " ".join(built.reader.text.split())
    assert "5 of 6 configurations, chosen by search=tpe" in text
    assert "A search looks where scores are high" in text
    assert "No test here decides:" in text
    assert built.answer["verdicts"][0].startswith("Best of 5 explored configurations")


def test_what_would_settle_it_asks_for_fresh_seeds() -> None:
    command = "python -m vlmablate.sweep 'axis=[a,b]' seeds=3 confirm=5 scale=tiny"
    assert with_seeds(command, 9, "confirm") == (
        "python -m vlmablate.sweep 'axis=[a,b]' seeds=3 scale=tiny confirm=9"
    )


def test_without_fresh_runs_there_is_nothing_to_compare(space: Report, tmp_path: Path) -> None:
    built = space("searched")
    study = json.loads((built.folder / "study.json").read_text())
    fresh = study["exploration"]["confirmed"]
    study["exploration"] |= {"confirmed": [], "final": False}
    study["runs"] = [run for run in study["runs"] if run["run_id"] not in fresh]
    (tmp_path / "study.json").write_text(json.dumps(study))
    with pytest.raises(UserError, match="the best configuration was not run again with fresh seeds"):
        build_study(tmp_path, built.home)


def test_costs_tell_exploring_from_training_again(space: Report) -> None:
    built = space("grid")
    study = Study.load(built.folder, built.home)
    exploring, again = by_purpose(study)
    assert (exploring.steps, again.steps) == (2 + 6 + 2 * 18, 2 * 6)
    assert exploring.wall_s + again.wall_s == by_kind(study)[-1].wall_s
    assert "training the two configurations again 12 steps" in built.reader.text
    assert "3 fresh seeds" in built.reader.text


def test_what_failed_counts_for_exploring(space: Report) -> None:
    built = space("grid")
    study = Study.load(built.folder, built.home)
    (lost,) = (run for run in study.runs if run.arm == "resize_crop+single" and run.seed == 0)
    left = [run for run in study.facts["runs"] if run["run_id"] != lost.run_id]
    told = {**study.facts["exploration"]}
    told["explored"] = [run_id for run_id in told["explored"] if run_id != lost.run_id]
    without = replace(study, facts={**study.facts, "runs": left, "exploration": told})
    assert by_purpose(without) == by_purpose(study)
    own = set(lost.steps.values()) - {step for run in without.runs for step in run.steps.values()}
    forgotten = replace(
        without,
        facts={**without.facts, "steps": {i: s for i, s in study.facts["steps"].items() if i not in own}},
    )
    assert own
    assert sharing(without) == pytest.approx(sharing(forgotten))  # what failed saved nothing and lost nothing


def test_what_was_chosen_by_another_suite_score_is_said(space: Report) -> None:
    built = space("grid")
    study = Study.load(built.folder, built.home)
    other = "resize_naive+two_stage"
    told = {**study.facts["exploration"], "best": other}
    shown = replace(study, facts={**study.facts, "exploration": told})
    collected = collect(study)
    analysis = analyse(collected.of(study.compared).results, declare(study.compared, collected))
    for of, said in ((study, False), (shown, True)):
        explored = explore(of, collected, analysis)
        assert explored is not None
        text = " ".join(curse_sentences(explored, analysis))
        assert (f"What to train again was chosen while {other} led" in text) == said


def test_caveats_and_methods_say_what_was_chosen_on_what(space: Report) -> None:
    text = space("grid").reader.text
    assert "chosen on the same pictures that it is confirmed on" in text
    assert "noise between seeds is taken out" in text
    assert "noise between seeds is taken out" not in space("searched").reader.text
    assert "space = image_resize × stages (all combinations)" in text
    assert "All runs with scores and fresh seeds enter" in text


@pytest.mark.parametrize("lost", SPACE_OUTPUTS)
def test_a_report_without_its_tables_is_written_again(
    space: Report, lost: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(space("grid").folder, folder)
    monkeypatch.setattr(build, "_build", lambda study: {"verdicts": [], "missing": []})
    assert not build_study(folder, space("grid").home)["rebuilt"]
    (folder / lost).unlink()
    assert build_study(folder, space("grid").home)["rebuilt"]


def test_only_compared_runs_are_taken_for_the_comparison(space: Report) -> None:
    built = space("grid")
    study = Study.load(built.folder, built.home)
    assert {run.arm for run in study.compared.runs} == {BASELINE, BEST}
    assert {run.seed for run in study.compared.runs} == {1000, 1001, 1002}


def test_a_page_of_several_studies_takes_a_space(space: Report) -> None:
    built = space("grid")
    shown = study_page(index_of_folders([built.folder.name], built.home), built.home)
    (axis,) = shown["axes"]
    assert axis["way"] == "design space"
    assert [line["arm"] for line in axis["lines"]] == [BEST]


def test_a_space_that_has_no_best_yet_is_not_finished(space: Report, tmp_path: Path) -> None:
    built = space("grid")
    study = json.loads((built.folder / "study.json").read_text())
    told = study["exploration"]
    study["runs"] = [run for run in study["runs"] if run["run_id"] in told["explored"]]
    told |= {"best": None, "confirmed": [], "final": False}
    (folder := tmp_path / "studies" / built.folder.name).mkdir(parents=True)
    (folder / "study.json").write_text(json.dumps(study))
    (tmp_path / "steps").symlink_to(built.home / "steps")
    shown = study_page(index_of_folders([folder.name], tmp_path), tmp_path)
    assert shown["axes"][0]["state"] == "unfinished"
    assert "what it compares is not chosen yet" in str(shown["open"])


def test_cells_about_axes_are_in_the_notebook_of_a_space_only(space: Report) -> None:
    source = (resource("analysis") / "report.py").read_text()
    plain = notebook.from_percent(source, {})
    own = nbformat.read(space("grid").folder / "report.ipynb", as_version=4)
    assert len(own.cells) == len(plain.cells) + 2
    assert sum("effects.csv" in cell.source for cell in own.cells) == 2
    assert not any("effects.csv" in cell.source for cell in plain.cells)


@pytest.mark.parametrize("name", ["grid", "searched", "one seed"])
def test_the_notebook_derives_the_verdict_and_the_effects_again(
    space: Report, run_cells: Callable[[Path], str], name: str
) -> None:
    built = space(name)
    text = run_cells(built.folder)
    assert f"{len(built.table())} adjusted p-values agree with significance.csv" in text
    estimated = built.table("effects")["delta"].notna()
    assert estimated.all() == (name == "grid")
    derived = f"{estimated.sum()} effects agree with effects.csv"
    assert (derived in text) == (name != "searched")


def test_the_notebook_stops_at_an_altered_effect(
    space: Report, run_cells: Callable[[Path], str], tmp_path: Path
) -> None:
    built = space("grid")
    for path in built.folder.iterdir():
        if path.suffix in (".json", ".parquet", ".csv"):
            (tmp_path / path.name).write_bytes(path.read_bytes())
    table = built.table("effects")
    table.loc[0, "delta"] += 0.01
    table.to_csv(tmp_path / "effects.csv", index=False)
    with pytest.raises(AssertionError, match=r"effect of effects\.csv differs"):
        run_cells(tmp_path)
