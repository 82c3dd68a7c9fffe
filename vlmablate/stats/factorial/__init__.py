"""Design spaces: several axes at once, and what each of them, and each pair of them, does to the score.

Scores come as one row per (run, benchmark) of the *explored* runs: columns arm, seed, run_id, benchmark, points
(`data.run_table`, whose column context is not needed). :class:`Space` says which levels an arm stands for. All
differences, intervals and SDs are points; shares lie in [0, 1]. `with_signal` names the benchmarks that make up the
suite score (None: all); the others get rows of their own that decide nothing, as everywhere.

There are two kinds of evidence, and the functions choose by what is there, never by the scores:

* replicated: every configuration has a run with each of two seeds or more, and nothing was searched. Seeds are blocks,
  and every effect is tested against its own interaction with the seeds (:mod:`.strata`), so a design-level claim holds
  whatever runs of one seed have in common (a shared alignment, the data order). `steps` (run_id -> {role: step id},
  as in study.json) tells which runs share which trained steps, and so which effects may pool their error; without it
  none do. A seed that some configuration lacks is left out and named in `reason`.
* fitted: a search, one seed, or runs that are missing. Main effects (and pairs of axes, where there are runs enough)
  are fitted to the configurations' means (:mod:`.fitted`). Estimates and intervals describe; p is nan and every verdict
  is unresolved, for the reason in `reason`. With one seed the interval of an axis before a shared trained step is too
  short: that step's luck is not in it.

What there is:

* ``Space(axes, levels, searched)``, ``Factor(name, baseline, levels)``; ``Space.read(study["exploration"])``.
* ``effects(scores, space, settings, with_signal=None, steps=None) -> DataFrame`` with EFFECT_COLUMNS: term, kind
  (main | interaction), axis, level, baseline (what the level is compared with), axis_b, level_b, baseline_b (all ""
  for main effects), benchmark, delta, ci_low, ci_high, p, p_adjusted, family, method, verdict, margin, n_runs, n_seeds,
  se, df, p_equivalence, mde, reason ("" where nothing stands in the way of a verdict). Family of suite rows: "main" or
  "interaction"; of a benchmark's rows: "main:axis=level", "interaction:axis=level:axis_b=level_b", with "no-signal:"
  before it where the benchmark carries no signal (`families.is_silent`).
* ``importance(scores, space, settings, with_signal=None, steps=None) -> DataFrame`` with IMPORTANCE_COLUMNS, of the
  suite score: term, kind (main | interaction | higher order | unexplained), share, ci_low, ci_high, sd, sd_low,
  sd_high, df, method, reason. The shares add up to 1. "higher order" is there for three replicated axes or more;
  "unexplained" (fitted spaces only) is what the fitted effects do not account for: noise between runs and all that is
  not in the model.
  Empty without benchmarks with signal.
* ``curse(scores, space, with_signal=None) -> Selection``: best (arm), explored_mean, shrunken, expected_optimism
  (explored_mean - shrunken), lead and shrunken_lead (best minus the baseline arm), noise_sd (between runs), spread_sd
  (between true means), configurations, n_seeds, reason (why shrunken is nan, or what noise_sd stands for).
* ``configurations(scores, space, with_signal=None) -> DataFrame``: arm, rank, n_seeds, mean, shrunken; best first.
* ``level_means(scores, space, settings, axis, axis_b, with_signal=None) -> DataFrame``: level, level_b, mean, ci_low,
  ci_high, n_seeds; suite means over the other axes, for drawing an interaction. nan where a pair of levels has no
  interval or no run.
* ``detectable_effect(levels, seeds, sd, settings) -> tuple[float, ...]``: per axis the smallest main effect that the
  study finds with the declared power, for a plan.

Errors: DataError for scores that cannot be these runs' (unknown arms, an arm's seed twice, missing benchmarks, values
that are not finite), UserError for a space that is none. Only numpy, scipy and pandas, only when a name is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vlmablate.stats.factorial.effect_table import EFFECT_COLUMNS, effects
    from vlmablate.stats.factorial.level_table import level_means
    from vlmablate.stats.factorial.planning import detectable_effect
    from vlmablate.stats.factorial.selection import Selection, configurations, curse
    from vlmablate.stats.factorial.shares import IMPORTANCE_COLUMNS, importance
    from vlmablate.stats.factorial.space import Factor, Space

_WHERE = {
    "EFFECT_COLUMNS": "effect_table",
    "Factor": "space",
    "IMPORTANCE_COLUMNS": "shares",
    "Selection": "selection",
    "Space": "space",
    "configurations": "selection",
    "curse": "selection",
    "detectable_effect": "planning",
    "effects": "effect_table",
    "importance": "shares",
    "level_means": "level_table",
}

__all__ = [
    "EFFECT_COLUMNS",
    "IMPORTANCE_COLUMNS",
    "Factor",
    "Selection",
    "Space",
    "configurations",
    "curse",
    "detectable_effect",
    "effects",
    "importance",
    "level_means",
]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
