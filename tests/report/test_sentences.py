"""Sentences say what the numbers say, and never the opposite."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from vlmablate.report import formatting as fmt
from vlmablate.report.sentences import (
    Outlook,
    consistent,
    paper_sentence,
    suite_sentence,
    verdict_sentence,
    verdict_sentences,
    with_seeds,
)
from vlmablate.stats.margins import equivalence, verdict
from vlmablate.stats.runs import PooledError, design_test

OUTLOOK = Outlook(
    seed_sd=1.0,
    cells=3,
    alpha=0.05,
    family_size=2,
    benchmarks=["counting", "open_vqa"],
    contexts=1,
    command="python -m vlmablate.sweep axis=image_resize scale=tiny seeds=3",
)


def row(**changes: Any) -> dict[str, Any]:
    facts = {
        "arm": "resize_naive",
        "baseline": "letterbox",
        "context": "default",
        "level": "design",
        "n_seeds": 3,
        "delta": 3.2,
        "ci_low": 1.1,
        "ci_high": 5.3,
        "p": 0.012,
        "p_adjusted": 0.024,
        "method": "t over seeds, error pooled over 3 cells, df = 6",
        "verdict": "better",
        "margin": 2.0,
        "se": 0.87,
        "alternative": "two-sided",
        "correction": "holm",
        "floor": 1e-300,
        "new_low": 0.9,
        "new_high": 5.5,
        "tipping_sd": 2.0,
    }
    return {**facts, **changes}


def test_better() -> None:
    assert verdict_sentence(row(), OUTLOOK) == (
        "resize_naive beats letterbox by 3.2 points [1.1, 5.3], p = 0.012 (Holm 0.024), decided at the "
        "design level over 3 seeds per arm (t over seeds, error pooled over 3 cells, df = 6)."
    )


def test_worse() -> None:
    text = verdict_sentence(row(delta=-3.2, ci_low=-5.3, ci_high=-1.1, verdict="worse"), OUTLOOK)
    assert text.startswith(
        "resize_naive falls short of letterbox by 3.2 points: −3.2 [−5.3, −1.1], p = 0.012"
    )


def test_equivalent_says_when_the_difference_is_detectable() -> None:
    text = verdict_sentence(
        row(delta=0.4, ci_low=-0.2, ci_high=1.0, p=0.2, p_adjusted=0.4, verdict="equivalent"), OUTLOOK
    )
    assert "are equivalent within ±2 points: difference +0.4 [−0.2, 1.0]" in text
    assert "detectable" not in text
    text = verdict_sentence(row(delta=0.4, ci_low=0.1, ci_high=0.7, verdict="equivalent"), OUTLOOK)
    assert "detectable difference, but smaller than what was declared to matter" in text


def test_unresolved_says_what_would_settle_it() -> None:
    unresolved = row(delta=0.9, ci_low=-1.6, ci_high=3.4, p=0.38, p_adjusted=0.76, verdict="unresolved")
    text = verdict_sentence(unresolved, OUTLOOK)
    found = re.search(r"About (\d+) seeds per arm would settle it .* `(.+)`\.", text)
    assert found is not None
    assert int(found[1]) > 3
    assert found[2] == f"python -m vlmablate.sweep axis=image_resize scale=tiny seeds={found[1]}"
    assert "neither a difference nor equivalence within ±2 points" in text
    hopeless = verdict_sentence(unresolved, replace(OUTLOOK, seed_sd=60.0))
    assert "more than 200 seeds" in hopeless


def test_one_seed_gets_the_tipping_sd_and_no_p() -> None:
    nan = math.nan
    single = row(
        n_seeds=1, p=nan, p_adjusted=nan, ci_low=nan, ci_high=nan, floor=nan, new_low=nan, new_high=nan
    )
    single |= {"method": "no test: one seed per cell; tipping seed SD 1.15", "verdict": "unresolved"}
    text = verdict_sentence({**single, "tipping_sd": 1.153}, replace(OUTLOOK, seed_sd=nan))
    assert "without a p-value" in text
    assert "SD of more than 1.2 points (tipping seed SD)" in text
    assert "seeds=3`" in text
    assert "nan" not in text
    assert " p = " not in text
    text = verdict_sentence({**single, "tipping_sd": 1.153}, replace(OUTLOOK, seed_sd=nan, command=""))
    assert text.endswith("3 runs per arm would measure it.")
    nothing = {**single, "method": "no test: the seeds changed nothing, so they are no replication"}
    assert verdict_sentence(nothing, OUTLOOK).endswith(
        "the seeds changed nothing, so they are no replication."
    )


def test_an_arm_that_was_trained_once_borrows_its_spread_and_says_so() -> None:
    text = verdict_sentence(row(n_seeds=1), OUTLOOK)
    assert "was trained once, so the spread between its runs is taken from other cells" in text
    assert "by an SD of more than 2.0 points (tipping seed SD)" in text
    assert "trained once" not in verdict_sentence(row(), OUTLOOK)


def test_the_floor_of_a_test_is_told_where_it_matters() -> None:
    few = row(method="exact permutation of 3 and 3 seeds, 20 arrangements", floor=0.1, p=0.1, p_adjusted=0.2)
    text = verdict_sentence({**few, "verdict": "unresolved"}, OUTLOOK)
    assert "cannot give a p below 0.10 (0.20 for the smallest of 2 after adjustment)" in text
    assert "could not have shown a difference of any size" in text
    exact = row(method="exact permutation of 5 and 5 seeds, 252 arrangements", floor=0.0079, p=0.0079)
    assert "the smallest p that the test can give" in verdict_sentence(
        {**exact, "p_adjusted": 0.016}, OUTLOOK
    )
    assert "smallest p" not in verdict_sentence(row(), OUTLOOK)


def test_a_verdict_that_new_pictures_would_not_bear_out_says_so() -> None:
    text = verdict_sentence(row(new_low=-0.4, new_high=6.8), OUTLOOK)
    assert "over new pictures as well the interval is [−0.4, 6.8], which includes 0" in text
    same = {
        "delta": 0.4,
        "ci_low": -0.2,
        "ci_high": 1.0,
        "p": 0.2,
        "p_adjusted": 0.4,
        "verdict": "equivalent",
    }
    text = verdict_sentence(row(**same, new_low=-1.8, new_high=2.6), OUTLOOK)
    assert "which reaches beyond ±2" in text
    assert "new pictures" not in verdict_sentence(row(), OUTLOOK)


def test_one_sided_tests_and_paired_seeds_are_named() -> None:
    assert "one-sided p = 0.012 (Hochberg 0.024)" in verdict_sentence(
        row(alternative="greater", correction="hochberg"), OUTLOOK
    )
    unresolved = row(ci_low=-1.0, ci_high=7.0, p=0.1, p_adjusted=0.2, verdict="unresolved")
    unresolved |= {"method": "t over 4 paired seeds, df = 3", "n_seeds": 4}
    text = verdict_sentence(unresolved, replace(OUTLOOK, paired=True, seed_sd=1.74))
    assert "if the SD of 1.7 points of paired differences holds" in text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"verdict": "better", "alternative": "less"}, "contradicts its alternative"),
        ({"verdict": "better", "p_adjusted": 0.2}, "contradicts its adjusted p"),
        ({"verdict": "equivalent", "delta": 2.5}, "contradicts its difference"),
        ({"p": 0.0}, "is not one"),
        ({"p": 0.012, "floor": 0.1}, "smallest that its test can give"),
        ({"p": 0.012, "p_adjusted": 0.006}, "is below its p"),
    ],
)
def test_a_row_that_contradicts_itself_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        consistent(row(**changes), 0.05)
    consistent(row(), 0.05)


def test_metrics_that_differ_are_named() -> None:
    assert suite_sentence(OUTLOOK) == (
        "The suite score is the mean over the 2 benchmarks with signal: counting and open VQA."
    )
    mixed = replace(OUTLOOK, metrics={"counting": "exact_match", "open_vqa": "vqa_soft"})
    text = suite_sentence(mixed)
    assert "averages 2 different metrics, each in points from 0 to 100" in text
    assert "exact_match (counting); vqa_soft (open VQA)" in text


@pytest.mark.parametrize(("delta", "claimed"), [(-1.0, "better"), (1.0, "worse"), (0.0, "better")])
def test_a_verdict_against_its_sign_is_never_printed(delta: float, claimed: str) -> None:
    with pytest.raises(ValueError, match="contradicts"):
        verdict_sentence(row(delta=delta, verdict=claimed), OUTLOOK)


def test_direction_words_follow_the_sign_for_any_numbers() -> None:
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(500):
        delta = float(rng.normal(0, 3) * 10 ** rng.uniform(-3, 0))
        error = PooledError(float(10 ** rng.uniform(-3, 0.5)), 6, 3)
        test = design_test([delta] * 3, [0.0] * 3, error=error, method="t")
        alike = equivalence(delta, test.se, test.df, 2.0, 0.05)
        given = verdict(delta, test.p, alike.p, 0.05)
        numbers = {"delta": delta, "ci_low": test.ci[0], "ci_high": test.ci[1], "p": test.p, "se": test.se}
        numbers |= {"p_adjusted": test.p, "new_low": math.nan, "new_high": math.nan}
        text = verdict_sentence(row(**numbers, verdict=given), OUTLOOK)
        seen.add(given)
        assert ("beats" in text) == (given == "better")
        assert ("falls short" in text) == (given == "worse")
        if "beats" in text:
            assert delta > 0
        if "falls short" in text:
            assert delta < 0
        for sign, size in re.findall(r"([+−])(\d+\.\d+) \[", text):
            assert (sign == "+") == (delta > 0), text
            assert float(size) > 0
    assert seen == {"better", "worse", "equivalent", "unresolved"}


def test_missing_runs_are_admitted() -> None:
    assert "over at least 3 seeds" in verdict_sentence(row(), replace(OUTLOOK, complete=False))


def test_nothing_to_say_is_said() -> None:
    no_baseline = replace(OUTLOOK, baseline_ran=False, benchmarks=[])
    assert "no run of the baseline is finished" in verdict_sentences([], no_baseline)[0]
    assert "no signal at this scale" in verdict_sentences([], replace(OUTLOOK, benchmarks=[]))[0]
    assert "no pair of finished runs" in verdict_sentences([], OUTLOOK)[0]


def test_contexts_are_named() -> None:
    both = replace(OUTLOOK, contexts=2)
    assert "on average over 2 contexts" in verdict_sentence(row(context="(all)"), both)
    assert "in context clip" in verdict_sentence(row(context="clip"), both)


def test_command_with_another_number_of_seeds() -> None:
    assert with_seeds("python -m vlmablate.sweep axis=a", 5) == "python -m vlmablate.sweep axis=a seeds=5"
    assert with_seeds("p axis=a seeds=3 'x=[1, 2]'", 5) == "p axis=a 'x=[1, 2]' seeds=5"


def test_the_paper_is_context_only() -> None:
    axis = {"paper": {"section": "4.2", "figure": "6", "p_published": 0.0176, "verdict": "not significant"}}
    text = paper_sentence(axis, [row()])
    assert "(section 4.2, figure 6) reports p = 0.0176. Its reading: not significant. This study" in text
    assert "resize_naive p = 0.012" in text
    assert "as if they were independent" in text
    assert paper_sentence({}, [row()]) == ""
    assert "no design-level p-value" in paper_sentence(axis, [row(p=math.nan)])


def test_numbers_keep_their_sign_and_are_never_zero_by_rounding() -> None:
    assert fmt.points(-0.04) == "0.0"
    assert fmt.points(0.04, signed=True) == "0.0"
    assert fmt.decimals_for(0.04, -2.0) == 2
    assert fmt.points(-3.25, signed=True) == "−3.2"
    assert fmt.points(math.nan) == "–"
    assert fmt.interval(math.nan, 1.0) == "–"
    assert [fmt.p_value(p) for p in (1e-300, 0.00012, 0.0123, 0.3, 1.0, math.nan)] == [
        *("<0.0001", "0.00012", "0.012", "0.30", "1", "–"),
    ]
    assert fmt.p_value(0.0301) == "0.030"
    probabilities = [fmt.probability(p) for p in (0.0, 0.001, 0.5, 0.996, 1.0, math.nan)]
    assert probabilities == ["0", "<0.01", "0.50", ">0.99", "1", "–"]
    assert fmt.equals_p(1e-9) == "p < 0.0001"
    assert [fmt.duration(s) for s in (4.21, 59.7, 190, 7500)] == [
        "4.2 s",
        "1 min 00 s",
        "3 min 10 s",
        "2 h 05 min",
    ]
