"""The section "Design space" of a page: what each axis does, what depends on what, and what the best one is worth."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from vlmablate.report import formatting as fmt
from vlmablate.report.cost import by_purpose
from vlmablate.report.exploration import Explored
from vlmablate.report.records import Record, records, row_key
from vlmablate.report.study import Study
from vlmablate.stats.factorial.shares import UNEXPLAINED
from vlmablate.stats.families import PRIMARY, is_silent
from vlmablate.stats.table import Analysis
from vlmablate.stats.units import SUITE

MAIN, INTERACTION = "main", "interaction"
INTERACTION_VERDICTS = {"better": "positive", "worse": "negative", "equivalent": "negligible"}
"""Verdict of an interaction -> the word for it: a difference of differences is not better than anything."""
BEST_SHOWN = 24
"""So many configurations stand in the open table; the others are folded away."""


def title(explored: Explored) -> str:
    """'image_resize × stages'."""
    return " × ".join(factor.name for factor in explored.space.axes)


def intro(explored: Explored) -> str:
    """What was explored and run again, for the head of the page."""
    declared, space = explored.declared, explored.space
    axes = fmt.listing([f"{factor.name} ({len(factor.levels)})" for factor in space.axes])
    every = math.prod(len(factor.levels) for factor in space.axes)
    tried = explored.scores["arm"].nunique()
    how = (
        f"{tried} of {every} configurations, chosen by search={declared['search']}"
        if declared["search"]
        else fmt.plural(tried, "configuration")
    )
    again = len(declared["confirm_seeds"])
    runs = fmt.plural(explored.scores["run_id"].nunique(), "run")
    return (
        f"{axes}: {how}, explored in {runs}; then the baseline {declared['baseline']} and the best other one were "
        f"trained again, with {fmt.plural(again, 'fresh seed')} each."
    )


def lead(explored: Explored) -> str:
    """How the verdict of a design space begins."""
    tried = explored.scores["arm"].nunique()
    if explored.declared["baseline_leads"]:
        return (
            f"No explored configuration scored above the baseline; the runner-up of {tried}, trained again with fresh "
            "seeds"
        )
    return f"Best of {tried} explored configurations, trained again with fresh seeds"


def exploration_section(study: Study, explored: Explored, analysis: Analysis) -> Record:
    """What the section "Design space" prints."""
    effects = explored.effects
    suite = effects[effects["benchmark"] == SUITE]
    single = effects[effects["benchmark"] != SUITE]
    sizes = effects[effects["p"].notna()].groupby("family").size().to_dict()
    configurations = [_configuration(explored, row) for row in records(explored.configurations)]
    return {
        "axes": [
            {
                "name": axis["name"],
                "question": axis["question"],
                "baseline": axis["baseline"],
                "levels": axis["levels"],
            }
            for axis in explored.declared["axes"]
        ],
        "suite": suite_sentence(explored),
        "tested": explored.tested,
        "main": [_effect(row, sizes) for row in records(suite[suite["kind"] == MAIN])],
        "interactions": [_effect(row, sizes) for row in records(suite[suite["kind"] == INTERACTION])],
        "single": [_effect(row, sizes) for row in records(single)],
        "reasons": list(dict.fromkeys(str(text) for text in suite["reason"] if text)),
        "importance": [_share(row) for row in records(explored.importance)],
        "importance_reasons": list(
            dict.fromkeys(str(text) for text in explored.importance.get("reason", ()) if text)
        ),
        "best": configurations[:BEST_SHOWN],
        "others": configurations[BEST_SHOWN:],
        "curse": curse_sentences(explored, analysis),
        "cannot": SEARCHED_CANNOT if explored.space.searched else "",
        "cost": cost_sentence(study),
    }


SEARCHED_CANNOT = (
    "A search looks where scores are high: configurations it left out were never trained, and how well it covered the "
    "space differs from axis to axis. Effects are fitted to what it chose to try, so they describe these runs; none of "
    "them is a test. Ask for all combinations (leave search= out) where effects are the question."
)


def suite_sentence(explored: Explored) -> str:
    """What the suite score of this section is."""
    if not explored.with_signal:
        return "No benchmark carries signal, so there is no suite score."
    return "The suite score is the same as in the verdict."


def methods_note(explored: Explored) -> str:
    """The methods of a design space, for the methods section."""
    how = (
        "Effects are least-squares estimates over the configurations that were tried, for description only."
        if not explored.tested
        else "A main effect is a level minus its axis' baseline level, averaged over the levels of the other axes; an "
        "interaction is a difference of such differences. Main effects of the suite score are one family, "
        "interactions another."
    )
    noise = (
        f'what the fitted effects leave over, noise between runs included, is the term "{UNEXPLAINED}"'
        if (explored.importance["kind"] == UNEXPLAINED).any()
        else "noise between seeds is taken out"
    )
    return (
        f"{how} Importance is the share of the variance between configurations that an axis, or a pair of axes beyond "
        f"its two axes, accounts for (functional analysis of variance); {noise}. All of that uses the explored runs "
        "only. The verdict uses none of them: the baseline and the other configuration with the best explored mean "
        "are trained again with fresh seeds, so that the luck of seeds which made it the best is not in the difference."
    )


def exploration_caveats(explored: Explored | None) -> list[str]:
    """What a reader has to know about the verdict and the effects of a design space."""
    if explored is None:
        return []
    found = []
    if not explored.declared["final"]:
        found.append(
            "The exploration is not finished; the same command goes on, and the best may still change."
        )
    failed = explored.declared.get("failed") or {}
    if failed:
        whys = "; ".join(f"{arm} ({why})" for arm, why in failed.items())
        found.append(
            f"{fmt.plural(len(failed), 'configuration')} that the search proposed could not be trained, and count as "
            f"tried without a score: {whys}."
        )
    found.append(
        "The best configuration was chosen on the same pictures that it is confirmed on: fresh seeds take away the "
        "luck of training, not that a configuration happens to suit these pictures. The interval over new pictures as "
        "well is wider for the pictures, but not moved for this choice."
    )
    return found


def curse_sentences(explored: Explored, analysis: Analysis) -> list[str]:
    """Explored, shrunken and fresh score of the best configuration, and the same of its lead over the baseline."""
    found = explored.selection
    if found is None:
        return []
    baseline = str(explored.declared["baseline"])
    leads = found.best == baseline
    of = fmt.plural(found.configurations, "configuration")
    seeds = fmt.plural(found.n_seeds, "seed")
    text = f"{found.best} is the best of {of}: {_one(found.explored_mean)} points when explored ({seeds})"
    if math.isfinite(found.shrunken):
        text += (
            f", {_one(found.shrunken)} after shrinkage: choosing the highest of so many is expected to overstate it by "
            f"{_one(found.expected_optimism)} points"
        )
    fresh = _fresh(analysis, found.best)
    if math.isfinite(fresh):
        text += f"; {_one(fresh)} with fresh seeds"
    told = [f"{text}."]
    if not leads and math.isfinite(found.lead):
        text = f"Its lead over {baseline}: {_signed(found.lead)} points when explored"
        if math.isfinite(found.shrunken_lead):
            text += f", {_signed(found.shrunken_lead)} after shrinkage"
        row = _primary(analysis)
        if row is not None and row["arm"] == found.best:
            decimals = fmt.decimals_for(row["delta"], row["ci_low"], row["ci_high"])
            band = fmt.interval(row["ci_low"], row["ci_high"], decimals=decimals)
            delta = fmt.points(row["delta"], signed=True, decimals=decimals)
            text += f", {delta} {band} with fresh seeds (the verdict)"
        told.append(f"{text}.")
    if math.isfinite(found.noise_sd):
        text = f"Runs of one configuration differ by an SD of {_one(found.noise_sd)} points"
        if math.isfinite(found.spread_sd):
            text += f", configurations by an SD of {_one(found.spread_sd)} beyond that"
        told.append(f"{text}.")
    if found.reason:
        told.append(f"{found.reason[0].upper()}{found.reason[1:].rstrip('.')}.")
    led = baseline if explored.declared["baseline_leads"] else str(explored.declared["best"])
    if found.best != led:
        told.append(
            f"What to train again was chosen while {led} led: then the suite score was over the benchmarks that "
            "carried signal in the explored runs of the baseline, here it is over those that do in its fresh runs."
        )
    return told


def _fresh(analysis: Analysis, arm: str) -> float:
    own = analysis.suite_scores[analysis.suite_scores["arm"] == arm]["points"]
    return float(own.mean()) if len(own) else math.nan


def _primary(analysis: Analysis) -> Record | None:
    table = analysis.significance
    rows = records(table[table["family"] == PRIMARY])
    return rows[0] if rows else None


def cost_sentence(study: Study) -> str:
    """What exploring and running again took."""
    exploring, again = by_purpose(study)
    return (
        f"Exploring took {fmt.plural(exploring.steps, 'step')} and {fmt.duration(exploring.wall_s)} of wall time, "
        f"training the two configurations again {fmt.plural(again.steps, 'step')} and {fmt.duration(again.wall_s)} "
        "more; steps that both need are counted for exploring."
    )


# Cells


def _one(value: float) -> str:
    return fmt.points(value, decimals=fmt.decimals_for(value))


def _signed(value: float) -> str:
    return fmt.points(value, signed=True, decimals=fmt.decimals_for(value))


def effect_name(row: Mapping[str, Any]) -> str:
    """'resize_naive' of a main effect, 'resize_naive × single' of an interaction."""
    return f"{row['level']} × {row['level_b']}" if row["kind"] == INTERACTION else str(row["level"])


def effect_verdict(row: Mapping[str, Any]) -> str:
    """The verdict of an effect as the page says it."""
    verdict = str(row["verdict"])
    return INTERACTION_VERDICTS.get(verdict, verdict) if row["kind"] == INTERACTION else verdict


def _against(row: Mapping[str, Any]) -> str:
    if row["kind"] == INTERACTION:
        return f"{row['baseline']}, {row['baseline_b']}"
    return str(row["baseline"])


def _effect(row: Mapping[str, Any], sizes: Mapping[Any, int]) -> Record:
    family = str(row["family"])
    decimals = fmt.decimals_for(row["delta"], row["ci_low"], row["ci_high"])
    return {
        "key": row_key("effects", row),
        "term": str(row["term"]),
        "name": effect_name(row),
        "against": _against(row),
        "benchmark": fmt.title(str(row["benchmark"])),
        "delta": fmt.points(row["delta"], signed=True, decimals=decimals),
        "interval": fmt.interval(row["ci_low"], row["ci_high"], decimals=decimals),
        "p": fmt.p_value(row["p"]),
        "p_adjusted": fmt.p_value(row["p_adjusted"]),
        "of": f"of {sizes[family]}" if sizes.get(family) and not is_silent(family) else "",
        "verdict": "no signal" if is_silent(family) else effect_verdict(row),
        "numbers": f"{fmt.plural(int(row['n_runs']), 'run')}, {fmt.plural(int(row['n_seeds']), 'seed')}",
        "family": family,
        "method": str(row["method"]),
    }


def _share(row: Mapping[str, Any]) -> Record:
    return {
        "key": row_key("importance", row),
        "term": str(row["term"]),
        "kind": str(row["kind"]),
        "share": percent(row["share"]),
        "interval": percent_interval(row["share"], row["ci_low"], row["ci_high"]),
        "sd": _one(row["sd"]),
        "sd_interval": fmt.interval(row["sd_low"], row["sd_high"], decimals=fmt.decimals_for(row["sd"])),
        "method": str(row["method"]),
    }


def percent(share: float) -> str:
    """'37 %'; '–' for nan; what is above 0 is never shown as 0."""
    if not math.isfinite(share):
        return fmt.NOTHING
    return "<1 %" if 0 < share < 0.005 else f"{100 * share:.0f} %"


def percent_interval(share: float, low: float, high: float) -> str:
    """'[12 %, 60 %]'; '–' without one."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return fmt.NOTHING
    return f"[{percent(low)}, {percent(high)}]"


def _configuration(explored: Explored, row: Mapping[str, Any]) -> Record:
    arm, declared = str(row["arm"]), explored.declared
    marks = [
        word
        for word, of in (("baseline", declared["baseline"]), ("trained again", declared["best"]))
        if of == arm
    ]
    mean = fmt.decimals_for(row["mean"])
    return {
        "key": f"configurations:{arm}",
        "arm": arm,
        "levels": [declared["levels"][arm][factor.name] for factor in explored.space.axes],
        "rank": int(row["rank"]),
        "mean": fmt.points(row["mean"], decimals=mean),
        "shrunken": fmt.points(row["shrunken"], decimals=mean),
        "n_seeds": int(row["n_seeds"]),
        "marks": ", ".join(marks),
    }
