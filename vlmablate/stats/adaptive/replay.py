"""Follow the rule through the scores that there are: what is decided, what stopped, and which seeds are wanted next.

Nothing is remembered between rounds. The looks are taken again from seed 0 on, and the first one whose runs are not all
there says which are wanted; so a study that was cut off goes on where it was, and its report repeats its decisions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import special

from vlmablate.errors import DataError
from vlmablate.stats.adaptive.families import adjust_rows
from vlmablate.stats.adaptive.looks import Floats, Ints, look_at
from vlmablate.stats.adaptive.rule import Rule
from vlmablate.stats.adaptive.spending import critical_level, sequential_p
from vlmablate.stats.margins import Verdict

Bools = NDArray[np.bool_]

VERDICTS: tuple[Verdict, ...] = ("unresolved", "better", "worse", "equivalent")
"""Codes of State.verdict."""

REASONS = ("undecided", "verdict", "max_seeds", "budget")
"""Codes of State.reason: why a contrast gets no more seeds. undecided: it does get more."""

_UNRESOLVED, _BETTER, _WORSE, _EQUIVALENT = range(4)
_GOING_ON, _DECIDED, _NO_SEEDS, _NO_BUDGET = range(4)


@dataclass(frozen=True)
class State:
    """Where studies stand. All arrays are [studies, contrasts] but for baseline_seeds [studies].

    baseline_seeds, arm_seeds: seeds that are paid for. look: number (from 0) of a contrast's last look, -1 before the
    first; delta, se, df: of that look. greater, less: sequential p of "the arm is not better" and "is not worse";
    above, below: of "worse by the margin or more" and "better by the margin or more". different, equivalent: sequential
    p of the two questions, adjusted over the contrasts. verdict, reason: codes of VERDICTS and REASONS. ready: the
    scores of all seeds that are paid for were there to be looked at.
    """

    baseline_seeds: Ints
    arm_seeds: Ints
    look: Ints
    delta: Floats
    se: Floats
    df: Floats
    greater: Floats
    less: Floats
    above: Floats
    below: Floats
    different: Floats
    equivalent: Floats
    verdict: Ints
    reason: Ints
    ready: bool

    @property
    def active(self) -> Bools:
        """Contrasts that get seeds."""
        return np.asarray(self.reason == _GOING_ON)


def _start(studies: int, contrasts: int) -> State:
    shape = (studies, contrasts)
    ones, nan, zeros = np.ones(shape), np.full(shape, np.nan), np.zeros(shape, dtype=np.int64)
    return State(
        baseline_seeds=np.zeros(studies, dtype=np.int64),
        arm_seeds=zeros,
        look=zeros - 1,
        delta=nan,
        se=nan,
        df=nan,
        greater=ones,
        less=ones,
        above=ones,
        below=ones,
        different=ones,
        equivalent=ones,
        verdict=zeros,
        reason=zeros,
        ready=True,
    )


def replay(rule: Rule, baseline: Floats, arms: Floats) -> State:
    """Where studies stand with the scores that there are.

    baseline [studies, contexts, rule.baseline_looks[-1]], arms [studies, contrasts, contexts, rule.max_seeds]: suite
    scores in points by seed; nan: not trained yet. If a score is missing that some study wants at a look, the result is
    the state before that look with the wanted seeds, and `ready` is False.

    At every look the one-sided t tails of the contrasts that are still followed become sequential p-values
    (spending.sequential_p), each the smallest so far; p of "different" is twice the smaller of two of them (or the one
    that was declared), p of "equivalent" the larger of the other two (Schuirmann's two one-sided tests). Both are
    adjusted over all contrasts as declared, and the verdict is margins.verdict's, if the estimate of the contrast's
    last look does not contradict it. A verdict is final. It follows that over all looks and all contrasts a false
    difference is claimed with probability alpha at most (holm), and so is a false equivalence; when and why one stops
    does not matter. Raises DataError for arrays of other sizes.
    """
    studies = len(baseline)
    wanted = (
        (studies, rule.contexts, rule.baseline_looks[-1]),
        (studies, rule.contrasts, rule.contexts, rule.max_seeds),
    )
    if (baseline.shape, arms.shape) != wanted:
        raise DataError(f"expected scores of the shapes {wanted}, got {baseline.shape} and {arms.shape}")
    state = _start(studies, rule.contrasts)
    for look in range(len(rule.arm_looks)):
        state = _fund(rule, state, look)
        if not state.active.any():
            break
        if _missing(baseline, state.baseline_seeds) or _missing(arms, state.arm_seeds):
            return replace(state, ready=False)
        state = _decide(rule, _observe(rule, state, look, baseline, arms))
    return replace(state, reason=np.where(state.active, _NO_SEEDS, state.reason))


def _missing(scores: Floats, seeds: Ints) -> bool:
    """Whether one of the first `seeds` scores is nan."""
    counted = np.arange(scores.shape[-1]) < seeds[..., None, None]
    return bool(np.isnan(scores[np.broadcast_to(counted, scores.shape)]).any())


def _fund(rule: Rule, state: State, look: int) -> State:
    """Pay for the seeds of a look; where the budget is short, the contrasts that are furthest from a verdict stop."""
    reason = state.reason
    distance = np.minimum(state.different, state.equivalent)
    while True:
        active = reason == _GOING_ON
        arm_seeds = np.where(active, rule.arm_looks[look], state.arm_seeds)
        baseline_seeds = np.where(active.any(axis=1), rule.baseline_looks[look], state.baseline_seeds)
        if rule.budget is None:
            break
        runs = rule.contexts * (baseline_seeds + arm_seeds.sum(axis=1))
        short = np.flatnonzero((runs > rule.budget) & active.any(axis=1))
        if not len(short):
            break
        # Of contrasts that are equally far, the one that was declared last stops first.
        far = np.where(active, distance, -1.0)[short, ::-1].argmax(axis=1)
        reason = reason.copy()
        reason[short, rule.contrasts - 1 - far] = _NO_BUDGET
    return replace(state, reason=reason, arm_seeds=arm_seeds, baseline_seeds=baseline_seeds)


def _observe(rule: Rule, state: State, look: int, baseline: Floats, arms: Floats) -> State:
    """The statistics of a look, for the contrasts that are followed."""
    here, margin, active = np.flatnonzero(state.active.any(axis=1)), rule.settings.margin, state.active
    seen = look_at(rule, baseline[here], arms[here], state.baseline_seeds[here], state.arm_seeds[here])

    def follow(old: Floats, new: Floats) -> Floats:
        """`old` with the values of the contrasts that are followed replaced."""
        made = old.copy()
        made[here] = np.where(active[here], new, old[here])
        return made

    def smallest(old: Floats, shift: float, sign: int) -> Floats:
        new = sequential_p(seen.tail(shift, sign), rule.fractions, look, rule.allowance)
        return np.minimum(old, follow(old, new))

    return replace(
        state,
        look=np.where(active, look, state.look),
        delta=follow(state.delta, seen.delta),
        se=follow(state.se, seen.se),
        df=follow(state.df, np.broadcast_to(seen.df, seen.delta.shape)),
        greater=smallest(state.greater, 0.0, 1),
        less=smallest(state.less, 0.0, -1),
        above=smallest(state.above, margin, 1),
        below=smallest(state.below, -margin, -1),
    )


def _decide(rule: Rule, state: State) -> State:
    """Adjust both questions over the contrasts, and stop those with a verdict."""
    settings = rule.settings
    two_sided = np.minimum(2 * np.minimum(state.greater, state.less), 1.0)
    raw = {"greater": state.greater, "less": state.less}.get(settings.alternative, two_sided)
    # Without a new look nothing has changed, so a study that stopped stays as it is.
    different = adjust_rows(raw, settings.correction)
    equivalent = adjust_rows(np.maximum(state.above, state.below), settings.correction)
    upwards = state.greater <= state.less
    # The smallest p-values may be those of an earlier look; what the latest estimate contradicts is not said.
    agrees = np.where(upwards, state.delta > 0, state.delta < 0)
    found = np.where((different <= settings.alpha) & agrees, np.where(upwards, _BETTER, _WORSE), _UNRESOLVED)
    same = (equivalent <= settings.alpha) & (np.abs(state.delta) < settings.margin)
    found = np.where(same, _EQUIVALENT, found)
    # A contrast that ran out of seeds can still be decided when others are: the correction asks less of it then.
    verdict = np.where(state.verdict == _UNRESOLVED, found, state.verdict)
    decided = (verdict != _UNRESOLVED) & (state.reason != _DECIDED)
    return replace(
        state,
        different=different,
        equivalent=equivalent,
        verdict=verdict,
        reason=np.where(decided, _DECIDED, state.reason),
    )


def intervals(rule: Rule, state: State) -> Floats:
    """Repeated confidence intervals [studies, contrasts, 2] of the true differences, at every contrast's last look.

    delta +- t se with t at the look's nominal level (spending.critical_level at alpha / 2): they hold the truth at all
    looks at once with probability 1 - alpha, so also at the one at which a contrast stopped (Jennison & Turnbull, J. R.
    Statist. Soc. B 51, 1989, 305-361). Like all intervals of the table they are not adjusted for the family. nan
    before the first look, and without spread between seeds.
    """
    reach = np.full(state.delta.shape, np.nan)
    for look in np.unique(state.look[state.look >= 0]).tolist():
        here = state.look == look
        level = critical_level(rule.settings.alpha / 2, rule.fractions, look, rule.allowance)
        reach[here] = -special.stdtrit(state.df[here], level) * state.se[here]
    reach = np.where(state.se > 0, reach, np.nan)
    return np.stack([state.delta - reach, state.delta + reach], axis=-1)
