"""What is said about a replayed comparison; every sentence is made from its numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from scipy import stats

from vlmablate.stats.pooled_rule import ALPHA, PAPER_ALPHA


def agreement(row: Mapping[str, Any]) -> str:
    """How a row's p agrees with what is printed: to the last digit (rounded or truncated), inside the band, not."""
    if row["agrees_up_to_truncation"]:
        return "rounded" if row["agrees_to_last_digit"] else "truncated"
    if not math.isfinite(row["p"]):
        return "no test"
    return "inside the band" if row["within_band"] else "outside"


def sentence(row: Mapping[str, Any], benchmarks: int) -> str:
    suite = "one benchmark" if benchmarks == 1 else f"{benchmarks} benchmarks"
    taken = ""
    if row["n_pairs"] > 1:
        taken = (
            f", with the contrast taken as one pair of trainings ({row['tipping_seed_sd_models']:.2f} if each of its "
            "models counts as an independent training)"
        )
    return (
        f"Unresolved: every model was trained once. The difference of {row['delta_points']:+.2f} points over {suite} "
        f"is not significant at {ALPHA:g} if training again moves a model's mean by an SD above "
        f"{row['tipping_seed_sd']:.2f} points{taken}."
    )


def notes(row: Mapping[str, Any], family: int, complete: bool) -> list[str]:
    """Where the paper's words and its numbers part; every sentence is made from the numbers."""
    said = []
    delta, mean, p = row["delta_points"], row["mean_difference"], row["p"]
    sign = {"better": 1, "worse": -1, "none": 0}[row["claimed_direction"]]
    if sign * mean < 0:
        told, seen = ("an improvement", "negative") if sign > 0 else ("a loss", "positive")
        said.append(
            f"The text claims {told} ({row['claim']}), but the mean difference is {seen}: {mean:+.1f} %, "
            f"{delta:+.2f} points."
        )
    if mean * delta < 0:
        said.append(
            f"The relative mean ({mean:+.1f} %) and the mean in points ({delta:+.2f}) differ in sign."
        )
    if complete and row["within_band"] and not row["agrees_up_to_truncation"]:
        said.append(
            f"The rule gives {p:.4g}, not the printed digits; the printed value lies inside the rounding band "
            f"{row['p_low']:.4g} to {row['p_high']:.4g}."
        )
        zeros, entries = row["zeros"], row["entries"]
        if stats.binom.sf(zeros - 1, entries, 0.1) < 1e-3:
            said.append(
                f"{zeros} of the {entries} scores of its alternate models end in the digit 0 (about "
                f"{entries / 10:.0f} would be expected): they may have been rounded to one decimal, which the band "
                "does not allow for."
            )
    printed = float(row["printed"])
    if sign and row["claimed_significant"] != "no" and printed > PAPER_ALPHA:
        said.append(
            f"The text states a direction although the printed p is above the paper's own threshold {PAPER_ALPHA:g}."
        )
    if p > PAPER_ALPHA >= row["p_one_sided"]:
        said.append(
            f"With the one-sided test that the text names, p would be {row['p_one_sided']:.2g} and pass "
            f"{PAPER_ALPHA:g}."
        )
    if printed <= PAPER_ALPHA < row["p_holm"]:
        said.append(
            f"Adjusted for {family} comparisons (Holm) p is {row['p_holm']:.2g}, above {PAPER_ALPHA:g}."
        )
    if delta * row["delta_without"] < 0:
        said.append(
            f"Without {row['most_influential']} alone the mean difference changes sign: "
            f"{row['delta_without']:+.2f} instead of {delta:+.2f} points."
        )
    return said
