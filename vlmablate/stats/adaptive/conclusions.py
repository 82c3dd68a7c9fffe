"""What an adaptive study concludes about every contrast, and why it stopped: numbers first, then words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vlmablate.stats.adaptive.replay import REASONS, VERDICTS, State, intervals
from vlmablate.stats.adaptive.rule import Rule
from vlmablate.stats.adaptive.simulation import expect, settling_seeds, spent, stopping_bias
from vlmablate.stats.adaptive.spending import SMALLEST_LEVEL
from vlmablate.stats.margins import Verdict
from vlmablate.stats.power import mde

NO_LOOK = "Adaptive replication has decided nothing: its first look is not complete, or no benchmark carries signal."
"""What a report says instead of report_lines while no contrast was looked at."""

NOT_LOOKED_AT: dict[str, Any] = {
    **dict.fromkeys(("ci_low", "ci_high", "p", "p_adjusted", "p_equivalence", "se", "df"), math.nan),
    **dict.fromkeys(("mde", "floor", "new_low", "new_high"), math.nan),
    "verdict": "unresolved",
    "method": "no test: the first look of adaptive replication is not complete",
}
"""What stands in the row of a contrast that was never looked at (see columns)."""


@dataclass(frozen=True)
class Conclusion:
    """One contrast at its last look; everything in points but p-values and counts.

    reason: one of replay.REASONS. looks: how many were taken, of how many. seeds, baseline_seeds: per context, at that
    look. delta: the plain estimate; bias: how much too high such estimates are on average because the study stops
    (simulated at the estimates; nan without spread); ci: repeated confidence interval. p: sequential p of the declared
    question, p_adjusted and p_equivalence after the correction.
    """

    arm: str
    verdict: Verdict
    reason: str
    looks: tuple[int, int]
    seeds: int
    baseline_seeds: int
    delta: float
    bias: float
    se: float
    df: float
    ci: tuple[float, float]
    p: float
    p_adjusted: float
    p_equivalence: float


def conclude(rule: Rule, state: State, arms: Sequence[str]) -> list[Conclusion]:
    """The conclusions of one study (the first of `state`); contrasts that were never looked at are left out."""
    looked = [number for number in range(len(arms)) if state.look[0, number] >= 0]
    if not looked:
        return []
    bias = _bias(rule, state)
    bands = intervals(rule, state)[0]
    found = []
    for number in looked:
        look = int(state.look[0, number])
        sides = {"greater": state.greater[0, number], "less": state.less[0, number]}
        p = sides.get(rule.settings.alternative, min(2 * min(sides.values()), 1.0))
        found.append(
            Conclusion(
                arm=arms[number],
                verdict=VERDICTS[state.verdict[0, number]],
                reason=REASONS[state.reason[0, number]],
                looks=(look + 1, len(rule.arm_looks)),
                seeds=rule.arm_looks[look],
                baseline_seeds=rule.baseline_looks[look],
                delta=float(state.delta[0, number]),
                bias=float(bias[number]),
                se=float(state.se[0, number]),
                df=float(state.df[0, number]),
                ci=(float(bands[number, 0]), float(bands[number, 1])),
                p=float(p),
                p_adjusted=float(state.different[0, number]),
                p_equivalence=float(state.equivalent[0, number]),
            )
        )
    return found


def _bias(rule: Rule, state: State) -> Sequence[float]:
    """Bias of every contrast, simulated with the spread of the latest look and the estimates as the truth."""
    latest = int(np.argmax(state.look[0]))
    look, se = int(state.look[0, latest]), float(state.se[0, latest])
    arm, base = rule.arm_looks[look], rule.baseline_looks[look]
    # With paired seeds the spread is that of differences, which two independent runs of sd / sqrt 2 have as well.
    scale = 2 / arm if rule.settings.paired_seeds else 1 / arm + 1 / base
    sd = se / math.sqrt(scale / rule.contexts)
    if not sd > 0:
        return [math.nan] * rule.contrasts
    biases: Sequence[float] = stopping_bias(rule, sd, state.delta[0].tolist()).tolist()
    return biases


def columns(rule: Rule, conclusion: Conclusion) -> dict[str, Any]:
    """What stands in the contrast's row of significance.csv (families.COLUMNS), family "primary".

    The rest of that row (names, examples, clusters) is as of any study. new_low, new_high are nan: the interval for new
    pictures is one of a fixed number of seeds.
    """
    settings = rule.settings
    look, looks = conclusion.looks
    return {
        "n_seeds": conclusion.seeds,
        "delta": conclusion.delta,
        "ci_low": conclusion.ci[0],
        "ci_high": conclusion.ci[1],
        "p": conclusion.p,
        "p_adjusted": conclusion.p_adjusted,
        "p_equivalence": conclusion.p_equivalence,
        "verdict": conclusion.verdict,
        "se": conclusion.se,
        "df": conclusion.df,
        "mde": mde(
            conclusion.se,
            conclusion.df,
            alpha=settings.alpha,
            power=settings.power,
            alternative=settings.alternative,
        ),
        "floor": SMALLEST_LEVEL * rule.allowance,
        "method": f"group-sequential t over seeds, error spending, pooled error, df = {conclusion.df:.0f}, look {look} "
        f"of {looks}",
        "new_low": math.nan,
        "new_high": math.nan,
    }


def plan_lines(rule: Rule, sd: float | None, source: str) -> list[str]:
    """What to expect of an adaptive study, before there are scores.

    sd: between seeds, in points (with paired seeds, of the difference of two runs of one seed); None when nobody knows.
    source: where it comes from, in words.
    """
    settings = rule.settings
    lines = [
        f"adaptive replication: {rule.arm_looks[0]} to {rule.max_seeds} seeds of an arm, {rule.baseline_looks[0]} to "
        f"{rule.baseline_looks[-1]} of the baseline, at most {len(rule.arm_looks)} looks and {rule.most_runs} runs; "
        f"chance of a false claim over all of them at most {100 * settings.alpha:g} %"
    ]
    if sd is None or not sd > 0:
        return [
            *lines,
            "what it will take is unknown: no two seeds were run and estimates.seed_sd is not given",
        ]
    spread = sd / math.sqrt(2) if settings.paired_seeds else sd
    lines.append(f"expected (SD between seeds {sd:.2f} points, {source}), if every arm truly differs by")
    lines += [
        f"  {abs(e.effect):4.1f} points: {e.runs:.0f} runs in {e.rounds:.1f} rounds; {100 * e.different:.0f} % better "
        f"or worse, {100 * e.equivalent:.0f} % equivalent, {100 * e.unresolved:.0f} % unresolved"
        for e in expect(rule, spread)
    ]
    fixed = settling_seeds(rule, sd)
    if fixed is not None:
        lines.append(
            f"a fixed grid that answers every contrast, whichever way it falls: seeds={fixed}, "
            f"{rule.runs(fixed, fixed * rule.contrasts)} runs"
        )
    return lines


def report_lines(rule: Rule, state: State, conclusions: Sequence[Conclusion]) -> list[str]:
    """What was spent, why every contrast stopped, and what that does to the estimates."""
    runs = int(spent(rule, state)[0])
    grid = rule.runs(rule.max_seeds, rule.max_seeds * rule.contrasts)
    rounds = int(state.look[0].max()) + 1
    in_rounds = "1 round" if rounds == 1 else f"{rounds} rounds"
    budget = f" and a budget of {rule.budget} runs" if rule.budget is not None else ""
    lines = [
        f"Adaptive replication spent {runs} runs in {in_rounds}; a fixed grid of max_seeds = {rule.max_seeds} "
        f"seeds would have taken {grid}. Declared beforehand: looks after {_listed(rule.arm_looks)} seeds of an "
        f"arm{budget}."
    ]
    lines += [
        f"{conclusion.arm}: {_why(rule, conclusion)} {_estimate(conclusion)}" for conclusion in conclusions
    ]
    lines.append(
        "The p-values hold over all looks, and the intervals hold wherever a contrast stops. Which benchmarks carry "
        f"signal was decided by the baseline's first {rule.baseline_looks[0]} seeds. Rows for single benchmarks, "
        "contexts and other levels are tests of a fixed number of seeds; here they describe and do not decide."
    )
    return lines


def _listed(numbers: Sequence[int]) -> str:
    words = [str(number) for number in numbers]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _why(rule: Rule, conclusion: Conclusion) -> str:
    at = f"{conclusion.seeds} seeds against {conclusion.baseline_seeds} of the baseline"
    because = {
        "verdict": f"stopped after {at}, as it was decided: {conclusion.verdict}.",
        "max_seeds": f"unresolved after {at}, all that max_seeds allows.",
        "budget": f"unresolved after {at}, as the budget of {rule.budget} runs was spent.",
        "undecided": f"open after {at}; more seeds are wanted.",
    }
    return because[conclusion.reason]


def _estimate(conclusion: Conclusion) -> str:
    low, high = conclusion.ci
    if not math.isfinite(low):
        return f"Difference {conclusion.delta:+.1f} points, without an interval: the seeds changed nothing."
    text = f"Difference {conclusion.delta:+.1f} points, interval [{low:.1f}, {high:.1f}]"
    if not math.isfinite(conclusion.bias) or abs(conclusion.bias) < 0.05:
        return f"{text}; stopping moves such an estimate by less than 0.05 points on average."
    corrected = conclusion.delta - conclusion.bias
    return (
        f"{text}; stopping makes such an estimate {abs(conclusion.bias):.1f} points too "
        f"{'high' if conclusion.bias > 0 else 'low'} on average, which leaves {corrected:+.1f}."
    )
