"""The rule of an adaptive study, declared before there are scores: when it looks, and what it may spend."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from vlmablate.errors import UserError
from vlmablate.stats.adaptive.spending import ALLOWANCE, SINGLE_PAIR_ALLOWANCE
from vlmablate.stats.settings import Settings

MOST_LOOKS = 12
"""Every look is a round of trainings that waits for the one before, and costs a little power."""

FIRST_SEEDS = 2
FIRST_PAIRS = 3
"""Seeds per arm at the first look: every cell is replicated, so that the pooled spread speaks for all of them. Paired
seeds have fewer degrees of freedom and begin with one more."""


@dataclass(frozen=True)
class Rule:
    """What an adaptive study may do.

    contrasts: arms that are compared with the baseline. contexts: of the axis; a seed of an arm is one run in each.
    max_seeds: seeds of an arm after which it gets no more. budget: most runs of the whole study; None sets no limit.
    settings: the declared analysis.

    At look j an undecided arm has arm_looks[j] seeds and the baseline baseline_looks[j], a quarter more, as every
    contrast needs it (with paired seeds as many). Both are fixed beforehand, so that how much is known at a look does
    not depend on what was seen: error spending needs that.

    Raises UserError for too few seeds and for a budget that does not pay for the first look.
    """

    contrasts: int
    contexts: int
    max_seeds: int
    budget: int | None
    settings: Settings

    def __post_init__(self) -> None:
        if self.contrasts < 1 or self.contexts < 1:
            raise UserError(
                "replicate=adaptive needs an arm beside the baseline, and a context; "
                f"got {self.contrasts} arms and {self.contexts} contexts"
            )
        if self.max_seeds < self.first_seeds:
            raise UserError(
                f"max_seeds={self.max_seeds}: replicate=adaptive begins with {self.first_seeds} seeds of every arm"
            )
        least = self.runs(self.baseline_looks[0], self.contrasts * self.arm_looks[0])
        if self.budget is not None and self.budget < least:
            raise UserError(
                f"budget={self.budget}: the first round of replicate=adaptive alone takes {least} runs "
                f"({self.baseline_looks[0]} seeds of the baseline, {self.arm_looks[0]} of every other arm, in "
                f"{self.contexts} context(s))"
            )

    @property
    def first_seeds(self) -> int:
        """Seeds of an arm at the first look."""
        return FIRST_PAIRS if self.settings.paired_seeds else FIRST_SEEDS

    @cached_property
    def arm_looks(self) -> tuple[int, ...]:
        """Seeds of an undecided arm at every look: one more each time, or as many as MOST_LOOKS looks ask for."""
        first, last = self.first_seeds, self.max_seeds
        step = max(1, -(-(last - first) // (MOST_LOOKS - 1)))
        return (*range(first, last, step), last)

    @cached_property
    def baseline_looks(self) -> tuple[int, ...]:
        """Seeds of the baseline at every look while some arm is undecided."""
        return tuple(seeds if self.settings.paired_seeds else -(-5 * seeds // 4) for seeds in self.arm_looks)

    @cached_property
    def fractions(self) -> tuple[float, ...]:
        """Share of a contrast's largest information at every look: 1 / (1 / arm + 1 / baseline) seeds, or pairs."""
        looks = list(zip(self.arm_looks, self.baseline_looks, strict=True))
        known = [arm if self.settings.paired_seeds else 1 / (1 / arm + 1 / base) for arm, base in looks]
        return tuple(value / known[-1] for value in known)

    @property
    def allowance(self) -> float:
        """What sequential p-values are multiplied by, see spending."""
        single = self.settings.paired_seeds and self.contrasts * self.contexts == 1
        return SINGLE_PAIR_ALLOWANCE if single else ALLOWANCE

    def runs(self, baseline_seeds: int, arm_seeds: int) -> int:
        """Trainings of that many seeds of the baseline and, over all arms, of the others."""
        return self.contexts * (baseline_seeds + arm_seeds)

    @property
    def most_runs(self) -> int:
        """Trainings if no contrast is decided before its last look."""
        every = self.runs(self.baseline_looks[-1], self.contrasts * self.max_seeds)
        return every if self.budget is None else min(every, self.budget)
