"""Arms that are tuned before they are compared."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from vlmablate.errors import UserError

if TYPE_CHECKING:
    from vlmablate.orchestration.wishes import Question, Wishes


def wishes(question: Question, compared: Callable[[Question], Wishes]) -> Wishes:
    raise UserError("tune= is not there yet")
