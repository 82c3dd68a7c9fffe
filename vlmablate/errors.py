"""Errors that are meant for the person at the keyboard.

A :class:`UserError` is printed as one message without a traceback and ends the command with exit code 2: it
says what was wrong, where, and what to do. Everything else is a bug and keeps its traceback.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable

EXIT_USER_ERROR = 2


class UserError(Exception):
    """A mistake or a condition the user can do something about."""


class DataError(UserError, ValueError):
    """Numbers that cannot be analysed: not finite, of the wrong shape, without replication where it is needed.

    A ValueError for whoever calls the statistics as a library; one message for whoever runs a command.
    """


class DiskFull(UserError):  # noqa: N818
    """The disk (or a quota) is full. Nothing half-written was left under a final name."""


class TrainingEnded(UserError):  # noqa: N818
    """A training that ended before its time. ``facts`` say how far it got; they are kept with the attempt."""

    def __init__(self, message: str, **facts: float) -> None:
        super().__init__(message)
        self.facts = facts


class Diverged(TrainingEnded):
    """A loss is not finite: the same steps would only diverge again, so nothing is tried a second time."""


class Pruned(TrainingEnded):
    """A trial of a tuning was stopped early, because the trials before it did better."""


class NoProgress(UserError):  # noqa: N818
    """A job was put back into the queue again and again without getting any further."""


_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


def is_disk_full(error: BaseException | None) -> bool:
    """True when ``error``, or an error that caused it, says that the disk or a quota is full."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, DiskFull) or (isinstance(error, OSError) and error.errno in _FULL):
            return True
        error = error.__cause__ or error.__context__
    return False


def unknown_name(what: str, name: str, known: Iterable[str], where: str = "") -> UserError:
    """The error for a name that does not exist: says which names do, and which one may have been meant.

    >>> str(unknown_name("axis", "fusoin", ["fusion", "epochs"])).splitlines()[0]
    "unknown axis 'fusoin' (did you mean 'fusion'?)"
    """
    import difflib  # only a mistake pays for it

    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    hint = f" (did you mean '{close[0]}'?)" if close else ""
    place = f" in {where}" if where else ""
    listing = "\n".join(f"  {known_name}" for known_name in names) or "  (none)"
    return UserError(f"unknown {what} '{name}'{place}{hint}\nwhat exists:\n{listing}")
