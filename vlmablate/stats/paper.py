"""The published p-values of Prismatic VLMs, derived again from the published tables: reproduction, not evidence.

Source of the numbers: Karamcheti et al., ICML 2024, arXiv 2402.07865 v2 (analysis/reference/README.md). The paper
describes "a 1-sided Fisher T-test" on "normalized performance differences". What returns the printed values is
this rule: for every pair of models and every benchmark d = (alternate - base) / ((alternate + base) / 2); all d of a
comparison are pooled as if they were independent; a one-sample t-test against 0; its **two-sided** p.

The rule is replayed to be understood, not to be used. It counts pairs x benchmarks as replications although one
training run is scored on all benchmarks at once, so its error rate grows with the correlation between benchmarks
(see vlmablate.stats.pooled_rule). The paper trains every model once; at the level of the design (would training
again give the same answer?) such data leave every comparison unresolved, and what can be said instead is how large
the spread between training runs may be before the difference drowns in it (``tipping_seed_sd``).

Scores are percentages (0-100) as printed; p-values, t and rounding bands have no unit.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from vlmablate.errors import UserError, unknown_name
from vlmablate.stats.multiplicity import adjust
from vlmablate.stats.paper_words import notes, sentence
from vlmablate.stats.pooled_rule import ALPHA, PAPER_ALPHA, one_sample_t, relative_difference
from vlmablate.stats.reference import BENCHMARKS, FIRST_VERSION, Reference, load_reference
from vlmablate.stats.rounding import digits, meets, rounding_band
from vlmablate.stats.runs import tipping_sd

Array = NDArray[np.float64]

LABEL = "reproduction, not evidence"

RANDOM_LEVEL, RANDOM_DRAWS = 0.99, 4000
"""The second, narrower rounding band: the central share of seeded draws of all rounding errors."""


@dataclass(frozen=True)
class Replay:
    """The comparisons of the paper, replayed.

    table: one row per comparison (columns: :func:`replay`). differences: one row per (comparison, pair,
    benchmark) with `relative` (the rule's d) and `points`. leave_one_out: one row per (comparison, benchmark left
    out) with p and delta_points. benchmarks: the suite used; complete: whether it is the paper's 12, so that the
    printed values can be expected to return.
    """

    table: pd.DataFrame
    differences: pd.DataFrame
    leave_one_out: pd.DataFrame
    benchmarks: tuple[str, ...]
    complete: bool

    @property
    def counts(self) -> dict[str, int]:
        """How many comparisons agree with what is printed, and in which sense."""
        table, first = self.table, self.table["printed_v1"] != ""
        return {
            "comparisons": len(table),
            "within_band": int(table["within_band"].sum()),
            "within_random_band": int(table["within_random_band"].sum()),
            "rounded": int(table["agrees_to_last_digit"].sum()),
            "last_digit": int(table["agrees_up_to_truncation"].sum()),
            "first_version": int(first.sum()),
            "first_version_agrees": int(table.loc[first, "agrees_v1"].sum()),
            "holm": int((table["p_holm"] <= ALPHA).sum()),
            "holm_paper_alpha": int((table["p_holm"] <= PAPER_ALPHA).sum()),
        }

    def summary(self) -> str:
        """One line: how far the printed values return."""
        n = self.counts
        first = (
            f"first version (11 benchmarks) {n['first_version_agrees']} of {n['first_version']} "
            "to the last printed digit"
        )
        agreement = (
            f"{n['within_band']} of {n['comparisons']} inside the rounding band, {n['last_digit']} to the last "
            f"printed digit ({n['rounded']} rounded, {n['last_digit'] - n['rounded']} truncated)"
        )
        if self.complete:
            return f"{agreement}; {first}"
        chosen = "1 benchmark" if len(self.benchmarks) == 1 else f"{len(self.benchmarks)} benchmarks"
        return f"with {chosen} (the printed values belong to the paper's 12): {agreement}; {first}"


def replay(benchmarks: Sequence[str] | None = None, reference: Reference | None = None) -> Replay:
    """Derive the p-values of the paper's comparisons again, and what else those tables can and cannot bear.

    Args:
        benchmarks: names of columns of the published tables; None means the paper's 12.
        reference: the published tables; read from the package if not given.

    Columns of the table, in this order:

    * comparison, label, section, figure, axis, claim, claimed_direction, claimed_significant: the paper's words;
    * printed (text), p (the rule, two-sided), p_low and p_high (:func:`rounding_band`: every table entry may be off
      by half a unit of its last digit, in the worst way), p_random_low and p_random_high (the central 99 % when
      those errors are independent and uniform), within_band and within_random_band (the printed value +- half a
      unit of its own last digit meets that band), agrees_to_last_digit (p rounds to the printed digits),
      agrees_up_to_truncation (rounds or truncates to them), t, df, n_pairs, n (pairs x benchmarks),
      mean_difference (percent, mean of the rule's d);
    * printed_v1, p_v1 (always on the first version's 11 benchmarks), agrees_v1 (rounded or truncated; None where
      nothing is printed);
    * p_one_sided (in the direction that the data show), p_zscore and p_zscore_48 (differences of z-scores over
      the 44 trained models, or all 48 rows, standard deviation with ddof 0; pooled, two-sided: the reading that
      section 4 of the paper suggests), p_holm over all comparisons, holm and holm_paper_alpha (significant
      at .05 and at the paper's .01 after Holm), p_benchmarks (pairs averaged first, so that the benchmarks are
      the units; they are not independent either);
    * delta_points (points, mean over benchmarks and pairs), tipping_seed_sd (points: the SD between training
      runs above which the difference is no longer significant at .05 if the contrast is one pair of runs,
      |delta| / (1.96 sqrt 2)), tipping_seed_sd_models (the same if every model of the comparison counts as one
      independent run of its side: |delta| / (1.96 sqrt sum w^2), w the weight of a model in delta);
    * loo_p_low, loo_p_low_without, loo_p_high, loo_p_high_without, loo_delta_low, loo_delta_high: p and
      delta_points with one benchmark left out; most_influential, delta_without: the benchmark whose absence
      changes delta_points most, and delta_points without it;
    * verdict, sentence: what the data bear at the design level; notes: where words and numbers part.

    A score that the paper prints as N/A takes no part.

    Raises:
        UserError: for an unknown benchmark, naming the known ones, a repeated one, or none.
        DataError: if the published tables are missing or altered.
    """
    reference = reference or load_reference()
    names = _suite(benchmarks, reference)
    complete = set(names) == set(BENCHMARKS)
    rows, differences = [], []
    left_out: list[pd.DataFrame] = []
    for comparison in reference.comparisons.index:
        cells = _Cells.of(reference, comparison, names)
        left_out.append(_leave_one_out(cells, comparison, names))
        differences += cells.long(comparison, names)
        rows.append(_row(reference, comparison, cells, left_out[-1], names))
    table = pd.DataFrame(rows)
    table["p_holm"] = adjust(table["p"].to_numpy(), "holm")
    table["holm"] = table["p_holm"] <= ALPHA
    table["holm_paper_alpha"] = table["p_holm"] <= PAPER_ALPHA
    table["verdict"] = "unresolved"  # one training run per model: nothing to judge retraining by
    records: list[dict[Any, Any]] = table.to_dict("records")
    table["sentence"] = [sentence(row, len(names)) for row in records]
    table["notes"] = [" ".join(notes(row, len(table), complete)) for row in records]
    everything = pd.concat(left_out, ignore_index=True)
    return Replay(table[list(COLUMNS)], pd.DataFrame(differences), everything, names, complete)


COLUMNS = (
    *(
        "comparison",
        "label",
        "section",
        "figure",
        "axis",
        "claim",
        "claimed_direction",
        "claimed_significant",
    ),
    *("printed", "p", "p_low", "p_high", "p_random_low", "p_random_high"),
    *("within_band", "within_random_band", "agrees_to_last_digit", "agrees_up_to_truncation"),
    *("t", "df", "n_pairs", "n", "mean_difference", "printed_v1", "p_v1", "agrees_v1"),
    *("p_one_sided", "p_zscore", "p_zscore_48", "p_holm", "holm", "holm_paper_alpha", "p_benchmarks"),
    *("delta_points", "tipping_seed_sd", "tipping_seed_sd_models"),
    *(
        "loo_p_low",
        "loo_p_low_without",
        "loo_p_high",
        "loo_p_high_without",
        "loo_delta_low",
        "loo_delta_high",
    ),
    *("most_influential", "delta_without", "verdict", "sentence", "notes"),
)


def _suite(benchmarks: Sequence[str] | None, reference: Reference) -> tuple[str, ...]:
    if benchmarks is None:
        return BENCHMARKS
    known = list(reference.scores.columns)
    for name in benchmarks:
        if name not in known:
            raise unknown_name("benchmark", name, known, "the published tables")
    repeated = sorted({name for name in benchmarks if list(benchmarks).count(name) > 1})
    if repeated:
        raise UserError(f"benchmark {repeated[0]} is named twice; it would count as two")
    if not benchmarks:
        raise UserError(f"no benchmark is named; there are {', '.join(known)}")
    return tuple(benchmarks)


@dataclass(frozen=True)
class _Cells:
    """The printed scores behind one comparison, [pairs, benchmarks], and their half units."""

    pairs: list[tuple[str, str]]
    base: Array
    alternate: Array
    base_half: Array
    alternate_half: Array

    @classmethod
    def of(cls, reference: Reference, comparison: str, names: Sequence[str]) -> _Cells:
        pairs = reference.pairs(comparison)
        bases, alternates = [base for base, _ in pairs], [alternate for _, alternate in pairs]
        tables = [(reference.scores, bases), (reference.scores, alternates)]
        tables += [(reference.half_units, bases), (reference.half_units, alternates)]
        return cls(pairs, *(table.loc[ids, list(names)].to_numpy(np.float64) for table, ids in tables))

    @property
    def relative(self) -> Array:
        return relative_difference(self.alternate, self.base)

    @property
    def points(self) -> Array:
        return self.alternate - self.base

    def band(self) -> tuple[float, float]:
        # d grows with the alternate and falls with the base score.
        low = relative_difference(self.alternate - self.alternate_half, self.base + self.base_half)
        high = relative_difference(self.alternate + self.alternate_half, self.base - self.base_half)
        return rounding_band(low.ravel(), high.ravel())

    def random_band(self, seed: int) -> tuple[float, float]:
        """Central RANDOM_LEVEL range of p over uniform rounding errors, one per printed entry."""
        rng = np.random.default_rng(seed)
        order = {model: i for i, model in enumerate(dict.fromkeys(itertools.chain(*self.pairs)))}
        errors = rng.uniform(-1, 1, (RANDOM_DRAWS, len(order), self.base.shape[1]))
        base = self.base + self.base_half * errors[:, [order[base] for base, _ in self.pairs]]
        alternate = self.alternate + self.alternate_half * errors[:, [order[name] for _, name in self.pairs]]
        d = relative_difference(alternate, base).reshape(RANDOM_DRAWS, -1)
        d = d[:, np.isfinite(d[0])]
        n = d.shape[1]
        if n < 2:
            return math.nan, math.nan
        t = d.mean(axis=1) / (d.std(axis=1, ddof=1) / math.sqrt(n))
        ends = np.quantile(2 * stats.t.sf(np.abs(t), n - 1), [(1 - RANDOM_LEVEL) / 2, (1 + RANDOM_LEVEL) / 2])
        return float(ends[0]), float(ends[1])

    def squared_weights(self) -> float:
        """sum w^2 over the distinct models, w = a model's weight in delta."""
        weights: dict[str, float] = {}
        for base, alternate in self.pairs:
            weights[base] = weights.get(base, 0.0) - 1 / len(self.pairs)
            weights[alternate] = weights.get(alternate, 0.0) + 1 / len(self.pairs)
        return sum(weight**2 for weight in weights.values())

    def long(self, comparison: str, names: Sequence[str]) -> list[dict[str, object]]:
        return [
            {
                "comparison": comparison,
                "base": base,
                "alternate": alternate,
                "benchmark": name,
                "relative": float(self.relative[i, j]),
                "points": float(self.points[i, j]),
            }
            for i, (base, alternate) in enumerate(self.pairs)
            for j, name in enumerate(names)
        ]


def _leave_one_out(cells: _Cells, comparison: str, names: Sequence[str]) -> pd.DataFrame:
    rows = [
        {
            "comparison": comparison,
            "without": name,
            "p": one_sample_t(np.delete(cells.relative, j, axis=1)).p,
            "delta_points": float(np.nanmean(np.delete(cells.points, j, axis=1))),
        }
        for j, name in enumerate(names)
        if len(names) > 1
    ]
    return pd.DataFrame(rows, columns=["comparison", "without", "p", "delta_points"])


def _zscore_p(reference: Reference, cells: _Cells, names: Sequence[str], pool: list[str]) -> float:
    # A z-score's mean cancels in a difference; only the spread of the pool remains.
    spread = reference.scores.loc[pool, list(names)].std(ddof=0).to_numpy()
    return one_sample_t(cells.points / spread).p


def _row(
    reference: Reference, comparison: str, cells: _Cells, without: pd.DataFrame, names: Sequence[str]
) -> dict[str, object]:
    words = reference.comparisons.loc[comparison]
    printed, printed_v1 = str(words["printed"]), str(words["printed_v1"])
    rule = one_sample_t(cells.relative)
    low, high = cells.band()
    random_low, random_high = cells.random_band(seed=0)
    rounded, truncated = digits(rule.p, printed)
    p_v1 = one_sample_t(_Cells.of(reference, comparison, FIRST_VERSION).relative).p
    delta = float(np.nanmean(cells.points))
    kept = ("label", "section", "figure", "axis", "claim", "claimed_direction", "claimed_significant")
    return {
        "comparison": comparison,
        **{name: words[name] for name in kept},
        "printed": printed,
        "p": rule.p,
        "p_low": low,
        "p_high": high,
        "p_random_low": random_low,
        "p_random_high": random_high,
        "within_band": meets(printed, low, high),
        "within_random_band": meets(printed, random_low, random_high),
        "agrees_to_last_digit": rounded,
        "agrees_up_to_truncation": truncated,
        "t": rule.t,
        "df": rule.df,
        "n_pairs": len(cells.pairs),
        "n": rule.n,
        "mean_difference": 100 * rule.mean,
        "printed_v1": printed_v1,
        "p_v1": p_v1,
        "agrees_v1": digits(p_v1, printed_v1)[1] if printed_v1 else None,
        "p_one_sided": rule.p / 2,
        "p_zscore": _zscore_p(reference, cells, names, reference.trained),
        "p_zscore_48": _zscore_p(reference, cells, names, list(reference.scores.index)),
        "p_benchmarks": one_sample_t(cells.relative.mean(axis=0)).p,
        "delta_points": delta,
        "tipping_seed_sd": tipping_sd(delta, 2.0, ALPHA),
        "tipping_seed_sd_models": tipping_sd(delta, cells.squared_weights(), ALPHA),
        **_influence(without, delta),
        "entries": int(np.isfinite(cells.alternate).sum()),
        "zeros": int(np.sum(np.round(100 * cells.alternate) % 10 == 0)),
    }


def _influence(without: pd.DataFrame, delta: float) -> dict[str, object]:
    """The loo_ columns; nan and empty text where nothing can be left out."""
    found: dict[str, object] = {}
    for name, column in (("p", "p"), ("delta", "delta_points")):
        values = without.set_index("without")[column].dropna()
        for end, at in (("low", values.idxmin), ("high", values.idxmax)):
            place = str(at()) if len(values) else ""
            found[f"loo_{name}_{end}"] = float(values[place]) if place else math.nan
            if name == "p":
                found[f"loo_p_{end}_without"] = place
    deltas = without.set_index("without")["delta_points"]
    name = str((deltas - delta).abs().idxmax()) if len(deltas) else ""
    return {**found, "most_influential": name, "delta_without": float(deltas[name]) if name else math.nan}
