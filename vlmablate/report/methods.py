"""The methods section: for every level the unit, the test, the interval, the family and its adjustment."""

from __future__ import annotations

from dataclasses import dataclass

from vlmablate.report.formatting import correction_name, listing, plural, title
from vlmablate.stats.families import is_silent
from vlmablate.stats.table import Analysis

LEVELS = ("design", "items", "checkpoint", "suite")

SIDES = {
    "two-sided": "two-sided: the arm differs from the baseline",
    "greater": "one-sided: the arm is better than the baseline",
    "less": "one-sided: the arm is worse than the baseline",
}


@dataclass(frozen=True)
class Method:
    """One level of the significance table in words."""

    level: str
    claim: str
    unit: str
    test: str
    interval: str
    family: str


def level_methods(analysis: Analysis) -> list[Method]:
    """The levels that the analysis holds, the deciding one first."""
    table, design = analysis.significance, analysis.design
    several = len(design.contexts) > 1
    adjusted = f"{correction_name(design.settings.correction)} within the family"
    each = " and context" if several else ""
    described = {
        "design": (
            "training again with this choice changes the score",
            _design_test(analysis),
            "inverts the same test; “new pictures as well” adds the variance of items and takes off once what both "
            "count (two components, Satterthwaite degrees of freedom)",
            f"primary: one suite contrast per arm{', averaged over contexts' if several else ''}"
            f"{'; contexts: the suite contrasts of each context' if several else ''}; the benchmarks with signal "
            f"of each arm{each}; {adjusted}",
        ),
        "items": (
            "these trained checkpoints differ on new pictures of this kind",
            "paired by example id, averaged over seeds first; exact sign flips of cluster sums (all flips by "
            "counting where scores have a common step, else flips of a subgroup)",
            "cluster-robust standard error (CR1), t on clusters − 1",
            f"the benchmarks with signal of each arm{each}; the suite scores of all arms{each and ' of each context'}; "
            f"{adjusted}",
        ),
        "checkpoint": (
            "these two checkpoints (same seed) differ on these pictures",
            "as at the items level, for one pair of runs",
            "inverts the sign-flip test",
            f"the benchmarks with signal of each pair of checkpoints; {adjusted}",
        ),
        "suite": (
            "the difference holds on benchmarks like these",
            "random effects over benchmark families on seed-averaged differences (DerSimonian–Laird, "
            "Hartung–Knapp), t on families − 1",
            "the same t; “one more benchmark” is the prediction interval",
            f"suite: one per arm{each}; {adjusted}",
        ),
    }
    methods = []
    for level in LEVELS:
        rows = table[table["level"] == level]
        if len(rows):
            claim, test, interval, family = described[level]
            unit = listing([str(unit) for unit in dict.fromkeys(rows["unit"])])
            methods.append(Method(level, claim, unit, test, interval, family))
    return methods


def _design_test(analysis: Analysis) -> str:
    rows = analysis.significance[analysis.significance["level"] == "design"]
    texts = [str(text) for text in rows["method"]]
    used = []
    if any(text.startswith("exact") for text in texts):
        used.append("exact permutation of the runs between the arms, complete enumeration")
    if any(text.startswith(("t ", "paired t")) for text in texts):
        df = f" ({analysis.seed_df:g} degrees of freedom for the suite score)" if analysis.seed_df else ""
        blocks = ", once what all runs of a seed have in common is taken off (randomised blocks)"
        blocks = blocks if analysis.design.settings.paired_seeds else ""
        used.append(
            f"t over seeds with the error variance pooled over all {plural(analysis.cells, 'cell')} of the "
            f"study{df}, which assumes that all arms vary equally from seed to seed{blocks}"
        )
    if any(text.startswith("group-sequential") for text in texts):
        used.append(
            "of the suite contrasts, which get seeds until they are decided: the same t at every look, with one-sided "
            "p-values made valid over all looks by error spending (Lan–DeMets; the smallest so far counts) and "
            "repeated confidence intervals"
        )
    if any("tipping" in text for text in texts):
        used.append("none with one seed per arm; the tipping seed SD is given instead")
    pairing = (
        "Runs with the same seed are compared pair by pair"
        if analysis.design.settings.paired_seeds
        else "Runs of different arms are treated as independent, also where they share a seed number"
    )
    alike = (
        ". Equivalence is always judged by t with that error, since shifting the runs by the margin needs its law"
        if any(text.startswith("exact") for text in texts)
        else ""
    )
    return f"{'; '.join(used) or 'none was possible'}{alike}. {pairing}"


def families(analysis: Analysis) -> list[tuple[str, int]]:
    """(family, number of tests) of the families that decide something; checkpoints are too many to list."""
    return [
        (family, size)
        for family, size in sorted(analysis.family_sizes.items())
        if not is_silent(family) and not family.startswith("checkpoint")
    ]


def correction_note(analysis: Analysis) -> str:
    """Which error the adjustment controls."""
    correction = analysis.design.settings.correction
    name = correction_name(correction)
    if correction in ("bh", "by"):
        return (
            f"{name} controls the expected share of false claims among the claims of a family (false discovery "
            "rate), not the chance of any false claim."
        )
    return f"{name} controls the chance of any false claim in a family."


def metric_sentence(analysis: Analysis) -> str:
    """Which metrics the scores are, so that none is averaged with another unnoticed."""
    by_metric: dict[str, list[str]] = {}
    for name in analysis.signal:
        by_metric.setdefault(str(analysis.design.metrics.get(name, "unknown")), []).append(title(name))
    parts = [f"{metric} ({listing(names)})" for metric, names in sorted(by_metric.items())]
    return f"Metrics: {'; '.join(parts)}; each is a fraction from 0 to 1, shown as 0 to 100 points."


def related_sentence(analysis: Analysis) -> str:
    """The declared families of related benchmarks; empty if every benchmark is its own."""
    members: dict[str, list[str]] = {}
    for name in analysis.signal:
        family = analysis.design.families.get(name)
        if family:
            members.setdefault(family, []).append(title(name))
    several = [f"{family} ({listing(names)})" for family, names in sorted(members.items()) if len(names) > 1]
    return f"Related benchmarks count as one at the suite level: {'; '.join(several)}." if several else ""
