"""How a learning rate moves through a training: warm-up, and then one of the forms below. Data and pure functions.

As it stands in a configuration, ``schedule`` is a name (``cosine``, ``constant``, ``wsd``) or a mapping with that name
and its options:

* ``cosine``: half a cosine from the peak to zero (paper, table 1). Every step's rate depends on how long the training
  is, so trainings of different length share nothing.
* ``constant``: the peak until the end.
* ``{name: wsd, decay: 0.1, form: linear, warmup_steps: 100}``: warm-up, stable, decay (Hu et al. 2024, section 4). The
  last ``decay`` share of the steps goes down to zero: ``linear``, or ``1-sqrt`` (Hägele et al. 2024, section 3.2). With
  ``warmup_steps`` the warm-up is as long in every training, and not a share of it: then trainings of different length
  are the same until the shorter one decays. The trunk can be trained once, and each length needs its decay only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from vlmablate.errors import UserError, unknown_name

SCHEDULES = ("constant", "cosine", "wsd")

DECAYS: Mapping[str, Callable[[float], float]] = {
    "linear": lambda done: 1.0 - done,
    "1-sqrt": lambda done: 1.0 - math.sqrt(done),
}
"""Form -> share of the peak when a share of the decay is done; each goes from 1 to 0."""


@dataclass(frozen=True)
class Schedule:
    """A schedule that was read.

    Attributes:
        name: one of `SCHEDULES`.
        decay: share of the steps in which the rate goes down (wsd).
        form: one of `DECAYS` (wsd).
        warmup_steps: length of the warm-up (wsd); None: a share of the steps, like that of all others.
    """

    name: str = "cosine"
    decay: float = 0.1
    form: str = "linear"
    warmup_steps: int | None = None

    @staticmethod
    def read(value: str | Mapping[str, Any], where: str = "schedule") -> Schedule:
        """Raises UserError for an unknown schedule, form or option, and for a number out of range; it names `where`."""
        if not isinstance(value, str | Mapping):
            raise UserError(f"{where} is {', '.join(SCHEDULES)} or a mapping with that name, not {value!r}")
        options = {"name": value} if isinstance(value, str) else dict(value)
        name = str(options.pop("name", ""))
        if name not in SCHEDULES:
            raise unknown_name("schedule", name, SCHEDULES, where)
        known = ("decay", "form", "warmup_steps") if name == "wsd" else ()
        for option in options:
            if option not in known:
                raise unknown_name("option", str(option), known, f"{where}, {name}")
        found = Schedule(name, **options)
        if found.form not in DECAYS:
            raise unknown_name("form of decay", str(found.form), DECAYS, f"{where}.form")
        if (
            isinstance(found.decay, bool)
            or not isinstance(found.decay, int | float)
            or not 0 < found.decay <= 1
        ):
            raise UserError(
                f"{where}.decay is a share of the steps, above 0 and at most 1, not {found.decay!r}"
            )
        warm = found.warmup_steps
        if warm is not None and (isinstance(warm, bool) or not isinstance(warm, int) or warm < 1):
            raise UserError(
                f"{where}.warmup_steps must be a whole number of at least 1, or null, not {warm!r}"
            )
        return found

    def warm(self, share: float, steps: int) -> int:
        """Steps of the warm-up; `share`: that of the recipe."""
        return max(1, round(share * steps)) if self.warmup_steps is None else self.warmup_steps

    def decay_steps(self, steps: int) -> int:
        """Steps of the decay (wsd)."""
        return max(1, round(self.decay * steps))

    def trunk(self, share: float, steps: int) -> int:
        """How many of the first steps have the same rate in every longer training, if the warm-up is as long there.

        For cosine and its like these are only the steps of the warm-up.
        """
        if self.name == "constant":
            return steps
        warm = min(self.warm(share, steps), steps)
        return max(warm, steps - self.decay_steps(steps)) if self.name == "wsd" else warm

    def rate(self, peak: float, share: float, step: int, steps: int) -> float:
        """Learning rate of optimiser step `step` of `steps`, counted from 0, with a warm-up of `share` of the steps.

        The warm-up reaches the peak at its last step. A decay starts from the peak, and would be zero one step after
        the last.
        """
        warm = self.warm(share, steps)
        if step < warm:
            return peak * (step + 1) / warm
        if self.name == "cosine":
            return peak * 0.5 * (1.0 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))
        begin = self.trunk(share, steps)
        if step < begin:
            return peak
        return peak * DECAYS[self.form]((step - begin) / (steps - begin))
