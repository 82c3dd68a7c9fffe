"""A design space of several axes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vlmablate.errors import UserError

if TYPE_CHECKING:
    from vlmablate.orchestration.wishes import Question, Wishes


def wishes(question: Question) -> Wishes:
    raise UserError("axis=[…] is not there yet")
