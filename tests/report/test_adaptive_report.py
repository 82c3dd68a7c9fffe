"""Reports of studies that gave out seeds by need: the rows that decide, the words, and the second derivation."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from IPython import display
from reported import Built
from synthetic_study import make_study

from vlmablate.paths import resource
from vlmablate.report import build, figures, notebook
from vlmablate.report.build import build_study, declare
from vlmablate.report.collect import collect
from vlmablate.report.study import Study
from vlmablate.stats.adaptive.conclusions import conclude
from vlmablate.stats.adaptive.scores import alternates, follow, rule_of
from vlmablate.stats.data import Data
from vlmablate.stats.families import PRIMARY
from vlmablate.stats.panel import align
from vlmablate.stats.table import significance

SHAPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "contexts": {
        "contexts": ("clip", "siglip"),
        "seeds": range(3),
        "limits": {"max_seeds": 2, "budget": None},
    },
    "paired": {"analysis": {"paired_seeds": True, "margin": 3.0}, "seeds": range(4)},
    "budget": {
        "limits": {"max_seeds": 4, "budget": 9},
        "seeds": range(4),
        "seed_sd": 0.03,
        "analysis": {"alternative": "less", "correction": "bh", "alpha": 0.1},
    },
    "no look": {"unfinished": [("letterbox", 1)], "seeds": range(3)},
}
LIMITS = {"max_seeds": 4, "budget": None}


def run_scores(home: Path, study: Mapping[str, Any]) -> pd.DataFrame:
    """Means that the evaluations recorded, as stats.data.run_table has them."""
    records = []
    for run in study["runs"]:
        path = home / study["steps"][run["run_id"]]["dir"] / "result.json"
        facts = json.loads(path.read_text())["payload"]["benchmarks"] if path.exists() else {}
        keys = (run["arm"], run["context"], run["seed"], run["run_id"])
        records += [(*keys, name, 100 * entry["mean"]) for name, entry in facts.items()]
    return pd.DataFrame(records, columns=["arm", "context", "seed", "run_id", "benchmark", "points"])


def adaptive_study(home: Path, limits: Mapping[str, Any] = LIMITS, **shape: Any) -> Path:
    """A study whose runs are those that its rule paid for."""
    given = {"seeds": range(5), "scenes": 12, "per_scene": 1, "seed_sd": 0.01, "picture": False, **shape}
    folder = make_study(home, effects={"resize_naive": -0.3, "resize_crop": 0.0}, **given)
    path = folder / "study.json"
    facts = {**json.loads(path.read_text()), "replicate": dict(limits)}
    path.write_text(json.dumps(facts))
    study = Study.load(folder, home)
    design = declare(study, collect(study))
    state = follow(design, rule_of(design, **limits), run_scores(home, facts))
    seeds = {design.baseline: int(state.baseline_seeds[0])}
    seeds |= dict(zip(alternates(design), state.arm_seeds[0].tolist(), strict=True))
    facts["runs"] = [run for run in facts["runs"] if run["seed"] < seeds[run["arm"]]]
    path.write_text(json.dumps(facts))
    return folder


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Built]:
    """The report of a shape, made when it is first asked for; without figures, and no kernel is started."""
    made: dict[str, Built] = {}

    def get(name: str) -> Built:
        if name not in made:
            home = tmp_path_factory.mktemp("adaptive")
            folder = adaptive_study(home, **SHAPES[name])
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(notebook, "execute", lambda document, folder: 0.0)
                patch.setattr(
                    figures, "save_all", lambda *given: {section: [] for section in figures.SECTIONS}
                )
                made[name] = Built(home, folder, build_study(folder, home))
        return made[name]

    return get


def primary(built: Built) -> pd.DataFrame:
    table = built.table()
    return table[table["family"] == PRIMARY].set_index("arm")


@pytest.mark.parametrize("name", [name for name in SHAPES if name != "no look"])
def test_the_rows_that_decide_are_those_of_the_rule(name: str, reported: Callable[[str], Built]) -> None:
    built = reported(name)
    study = Study.load(built.folder, built.home)
    design = declare(study, collect(study))
    rule = rule_of(design, design.max_seeds, design.budget)  # type: ignore[arg-type]
    state = follow(design, rule, run_scores(built.home, study.facts))
    assert state.ready
    rows = primary(built)
    found = conclude(rule, state, alternates(design))
    assert [conclusion.arm for conclusion in found] == list(rows.index) == alternates(design)
    for conclusion in found:
        row = rows.loc[conclusion.arm]
        assert row["n_seeds"] == conclusion.seeds
        assert row["verdict"] == conclusion.verdict
        assert row["method"].startswith("group-sequential t over seeds")
        for column in ("delta", "se", "df", "p", "p_adjusted", "p_equivalence"):
            assert row[column] == pytest.approx(getattr(conclusion, column), rel=1e-9)
        assert (row["ci_low"], row["ci_high"]) == pytest.approx(conclusion.ci)
        assert np.isnan([row["new_low"], row["new_high"]]).all()


def test_the_page_says_what_was_spent_and_why_each_contrast_stopped(reported: Callable[[str], Built]) -> None:
    built = reported("plain")
    text = " ".join(built.reader.text.split())
    runs = len(json.loads((built.folder / "study.json").read_text())["runs"])
    assert f"Adaptive replication spent {runs} runs in" in text
    assert "resize_naive: stopped after 2 seeds against 3 of the baseline, as it was decided: worse." in text
    assert "resize_crop: " in text
    assert "made valid over all looks by error spending" in text
    assert "resize_naive falls short of letterbox" in built.answer["verdicts"][0]
    assert "over 2 seeds per arm (group-sequential t over seeds" in built.answer["verdicts"][0]


def test_a_budget_is_told(reported: Callable[[str], Built]) -> None:
    built = reported("budget")
    assert len(json.loads((built.folder / "study.json").read_text())["runs"]) <= 9
    assert "and a budget of 9 runs" in built.reader.text


def test_before_the_first_look_is_complete_nothing_is_decided(reported: Callable[[str], Built]) -> None:
    built = reported("no look")
    rows = primary(built)
    assert set(rows["verdict"]) == {"unresolved"}
    assert rows[["p", "p_adjusted", "p_equivalence"]].isna().all(axis=None)
    assert "its first look is not complete" in built.reader.text
    for verdict in built.answer["verdicts"]:
        assert "without a p-value: the first look of adaptive replication is not complete" in verdict


@pytest.mark.parametrize(
    "name", [pytest.param("contexts", marks=pytest.mark.slow), "plain", "paired", "budget", "no look"]
)
def test_the_notebook_derives_the_same_once_more(
    name: str,
    reported: Callable[[str], Built],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    built = reported(name)
    monkeypatch.chdir(built.folder)
    monkeypatch.setattr(display, "display", lambda *shown: None)
    source = (resource("analysis") / "report.py").read_text()
    exec(compile(source, "report.py", "exec"), {})
    text, table = capsys.readouterr().out, built.table()
    assert f"{(table['level'] == 'design').sum()} design-level contrasts agree" in text
    assert f"{len(table)} adjusted p-values agree" in text


def test_the_notebook_stops_at_a_row_that_the_rule_did_not_give(
    reported: Callable[[str], Built], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = reported("plain")
    for name in ("study.json", "benchmarks.json", "results.parquet", "secondary.csv"):
        (tmp_path / name).write_bytes((built.folder / name).read_bytes())
    table = built.table()
    table.loc[table["family"] == PRIMARY, "se"] *= 1.001
    table.to_csv(tmp_path / "significance.csv", index=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(display, "display", lambda *shown: None)
    with pytest.raises(AssertionError, match="design-level contrasts"):
        exec(compile((resource("analysis") / "report.py").read_text(), "report.py", "exec"), {})


def test_the_signal_of_an_adaptive_study_is_that_of_its_first_look(tmp_path: Path) -> None:
    """Baseline runs of later looks change no benchmark's part in the suite score."""
    folder = adaptive_study(tmp_path, limits={"max_seeds": 4, "budget": None}, seed_sd=0.03)
    study = Study.load(folder, tmp_path)
    collected = collect(study)
    design, results = declare(study, collected), collected.results
    late = results["arm"].eq(design.baseline) & results["seed"].ge(3)
    assert late.any()
    changed = results.assign(score=results["score"].mask(late & results["benchmark"].eq("counting"), 0.0))
    scores = Data.of(align(changed, design.metrics), design)
    assert "counting" not in scores.with_signal
    table = significance(changed, design)
    rows = table[(table["level"] == "design") & (table["benchmark"] == "counting")]
    assert not rows["family"].str.startswith("no-signal").any()


def test_the_code_of_adaptive_replication_is_part_of_what_a_report_depends_on() -> None:
    assert {"adaptive/replay.py", "adaptive/spending.py"} <= {name for name, _ in build._sources()}
