"""What a configuration may say of a finetuning's mixture. Data and pure functions; the questions themselves are made in
:mod:`vlmablate.data.mixtures`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from vlmablate.errors import UserError, unknown_name

TEXT_ONLY = "text_only"
SOURCES = ("detailed", "negative")
WHERE = "stages.finetune.mixture"


@dataclass(frozen=True)
class Mixture:
    """What is added to the questions of the scenes.

    Attributes:
        questions: source -> how many of its questions every visit of a picture adds.
        text_only: share of rows without a picture among all rows, exact (a decimal is not a binary fraction).
    """

    questions: Mapping[str, int] = field(default_factory=dict)
    text_only: Fraction = Fraction(0)

    @staticmethod
    def read(declared: Mapping[str, Any] | None) -> Mixture:
        """The mixture of a stage's configuration; nothing declared adds nothing.

        Raises UserError for what is no mapping, an unknown source (lists the known ones), a count that is no whole
        number from 0 up, and a share outside [0, 1).
        """
        if not isinstance(declared, Mapping | None):
            raise UserError(f"{WHERE} holds {', '.join((*SOURCES, TEXT_ONLY))}, it is not {declared!r}")
        questions: dict[str, int] = {}
        share = Fraction(0)
        for name, value in (declared or {}).items():
            where = f"{WHERE}.{name}"
            if name == TEXT_ONLY:
                share = read_share(value, where)
            elif name not in SOURCES:
                raise unknown_name("source of training data", str(name), [*SOURCES, TEXT_ONLY], WHERE)
            elif isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise UserError(f"{where} is how many questions a visit adds, a whole number, not {value!r}")
            elif value:
                questions[name] = value
        return Mixture(questions, share)


def read_share(value: Any, where: str) -> Fraction:
    """The share of rows without a picture, as the decimal it is written as. Raises UserError outside [0, 1)."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 <= value < 1:
        raise UserError(f"{where} is the share of rows without a picture, from 0 to below 1, not {value!r}")
    return Fraction(str(value))
