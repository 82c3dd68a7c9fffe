"""Sentences beside the verdicts: each is built from its table and says no more than it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from synthetic_study import design, long_table, make_study

from vlmablate.report import methods, notes
from vlmablate.report.caveats import analysis_caveats
from vlmablate.report.declared import declared_sentence, late_changes
from vlmablate.report.pairs import pairs
from vlmablate.report.study import Study
from vlmablate.stats.table import Analysis, analyse


@lru_cache
def analysis() -> Analysis:
    table = long_table(("letterbox", "resize_naive", "resize_crop"), effects={"resize_naive": -0.35})
    return analyse(table, design(table))


def improvement(p: float, low: float, high: float) -> str:
    row = {"arm": "a", "p_improvement": p, "ci_low": low, "ci_high": high, "n_alternate": 5, "n_baseline": 4}
    return notes.improvement_sentence({**row, "method": "one run"}, "b")


def test_a_probability_is_judged_by_its_interval() -> None:
    assert improvement(0.9, 0.8, 0.97) == (
        "A run of a scores above a run of b with probability 0.90 [0.80, 0.97] (5 against 4 runs), "
        "clearly above 0.75."
    )
    assert improvement(0.4, 0.2, 0.6).endswith("which stays below 0.75.")
    assert improvement(0.9, 0.6, 0.98).endswith("the interval includes 0.75.")
    assert improvement(0.6, 0.3, 0.8).endswith("the interval includes 0.75 and chance.")
    assert improvement(1.0, math.nan, math.nan) == "a: no estimate (one run)."
    assert improvement(math.nan, math.nan, math.nan) == "a: no estimate (one run)."


def test_groups_are_the_arms_that_share_a_letter() -> None:
    for found in pairs(analysis()):
        sentence = notes.groups_sentence(found, 1)
        for a in found.arms:
            for b in found.arms:
                if a < b and set(found.letters[a]) & set(found.letters[b]):
                    assert a in sentence or "no two arms" in sentence
        apart = replace(found, letters=dict(zip(found.arms, "abc", strict=True)))
        assert "all arms are told apart" in notes.groups_sentence(apart, 1)
        alike = replace(found, letters=dict.fromkeys(found.arms, "a"))
        assert "no two arms are told apart; that is not evidence of equality" in notes.groups_sentence(
            alike, 1
        )
        assert "context default" in notes.groups_sentence(alike, 2)


def test_calibration_counts_what_the_table_holds() -> None:
    p = analysis().null_p["p"]
    sentence = notes.calibration_sentence(analysis())
    assert sentence.startswith("3 pairs of runs of letterbox")
    assert f"{int((p <= 0.05).sum())} of {len(p)} (" in sentence
    assert notes.calibration_sentence(replace(analysis(), null_p=analysis().null_p.iloc[:0])) == ""


def test_questions_that_are_asked_twice_are_counted() -> None:
    table = long_table()
    table["question"] = table["benchmark"] + table["example_id"].str[-4:].astype(int).floordiv(2).astype(str)
    doubled = analyse(table, design(table))
    found = notes.duplicate_sentences(doubled)
    assert found[0] == "counting: 24 examples are 12 distinct ones; the most repeated occurs 2 times."
    assert (
        sum("Copies are not independent" in caveat for caveat in analysis_caveats(doubled)) == len(found) == 5
    )
    assert notes.duplicate_sentences(analysis()) == []


def test_cells_without_a_seed_are_named() -> None:
    table = long_table(("a", "b"), contexts=("x", "y"))
    gone = ((table["arm"] == "b") & (table["context"] == "y")) | (
        (table["arm"] == "a") & (table["seed"] == 2)
    )
    told = notes.missing_seeds(analyse(table[~gone], design(table)))
    assert told == ["a / x: seed 2", "a / y: seed 2", "b / y: seeds 0, 1 and 2"]
    assert notes.missing_seeds_sentence([]) == ""


def test_methods_name_the_tests_that_were_used() -> None:
    def of(table: pd.DataFrame, **settings: Any) -> dict[str, methods.Method]:
        made = analyse(table, design(table, **settings))
        return {method.level: method for method in methods.level_methods(made)}

    three = of(long_table())
    assert list(three) == ["design", "items", "checkpoint", "suite"]
    assert "pooled over all 2 cells of the study (4 degrees of freedom" in three["design"].test
    assert "permutation" not in three["design"].test
    seven = of(long_table(seeds=range(7), scenes=6))
    assert "exact permutation of the runs" in seven["design"].test
    assert "Equivalence is always judged by t" in seven["design"].test
    assert "tipping seed SD" in of(long_table(seeds=(0,)))["design"].test
    assert "compared pair by pair" in of(long_table(seeds=range(4)), paired_seeds=True)["design"].test
    assert "rate" in methods.correction_note(analyse(long_table(), design(long_table(), correction="bh")))


def test_weak_and_bare_signal_are_caveats() -> None:
    table = long_table()
    signal = analyse(table, design(table)).signal["counting"]
    bare = signal.baseline - signal.majority - 0.5
    told = "\n".join(analysis_caveats(analyse(table, design(table, signal_margin=bare))))
    assert "only just carries signal" in told
    assert "Not every baseline seed clears" in told


def entries(*given: tuple[float, int]) -> list[dict[str, Any]]:
    return [{"settings": {"margin": margin}, "runs_with_scores": runs} for margin, runs in given]


@pytest.mark.parametrize(
    ("history", "told"),
    [
        ([], []),
        (entries((1.0, 0)), []),
        (entries((1.0, 3)), ["first recorded when 3 runs had scores"]),
        (entries((2.0, 0), (1.0, 1)), ["changed when 1 run had scores: margin from 2 to 1."]),
        (entries((2.0, 2), (1.0, 6)), ["first recorded when 2 runs", "changed when 6 runs had scores"]),
    ],
)
def test_settings_that_were_declared_late_are_a_caveat(
    history: list[dict[str, Any]], told: Sequence[str], tmp_path: Path
) -> None:
    folder = make_study(tmp_path, seeds=(0,), scenes=2, per_scene=1, picture=False)
    facts = json.loads((folder / "study.json").read_text())
    facts |= {"analysis": {"margin": 1.0, "families": {"counting": "scenes"}}, "analysis_history": history}
    study = Study(folder, tmp_path, facts)
    found = late_changes(study)
    assert len(found) == len(told)
    assert all(words in sentence for words, sentence in zip(told, found, strict=True))
    sentence = declared_sentence(study)
    assert sentence.startswith(
        "Settings that differ from their defaults: margin = 1 and family of counting = scenes."
    )
    if not history:
        assert "The first scores were finished at 2030" in sentence
    else:
        assert ("before any run had scores" in sentence) == (not told)
    assert "Every setting has its default." in declared_sentence(
        Study(folder, tmp_path, {**facts, "analysis": None})
    )
