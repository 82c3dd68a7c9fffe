"""What people decided about a step, as files in its folder: it is cancelled, or its failures are forgiven.

``cancelled.json`` {by, when, why}: nothing starts the step before the file is gone. ``retry.json``
{by, when, attempts}: failures up to that attempt count no more.
"""

from __future__ import annotations

import getpass
import socket
from pathlib import Path
from typing import Any

from vlmablate.files import read_json, write_json
from vlmablate.orchestration.lease import now_text

CANCELLED = "cancelled.json"
RETRY = "retry.json"


def cancel(directory: Path, why: str = "", by: str | None = None) -> None:
    """Mark a step as cancelled, by the person at the keyboard unless ``by`` says otherwise.

    The folder is made when the step was never started. Raises DiskFull.
    """
    write_json(directory / CANCELLED, {"by": by or who(), "when": now_text(), "why": why})


def is_cancelled(directory: Path) -> bool:
    """Whether somebody cancelled the step and nobody took that back."""
    return (directory / CANCELLED).exists()


def cancellation(directory: Path) -> str:
    """Who cancelled a step, when and why, in words; empty when nobody did."""
    try:
        mark = _read(directory / CANCELLED)
    except FileNotFoundError:
        return ""
    said = f"cancelled by {mark.get('by') or 'somebody'}"
    if mark.get("when"):
        said += f" at {mark['when']}"
    return f"{said} ({mark['why']})" if mark.get("why") else said


def forgive(directory: Path, number: int) -> None:
    """Forgive the failures of a step up to attempt ``number``, and take a cancellation back. Raises DiskFull."""
    write_json(directory / RETRY, {"by": who(), "when": now_text(), "attempts": number})
    (directory / CANCELLED).unlink(missing_ok=True)


def forgiven(directory: Path) -> int:
    """Number of the last attempt whose failure was forgiven; 0 when none was."""
    try:
        number = _read(directory / RETRY).get("attempts")
    except FileNotFoundError:
        return 0
    return number if isinstance(number, int) else 0


def retried(directory: Path, since: str) -> bool:
    """Whether somebody asked for the step again since a moment (as :func:`now_text` writes it)."""
    try:
        return str(_read(directory / RETRY).get("when", "")) >= since
    except FileNotFoundError:
        return False


def who() -> str:
    """The person at the keyboard, as ``name@machine``."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a user without an entry in the password file, as in some containers
        name = "somebody"
    return f"{name}@{socket.gethostname()}"


def _read(path: Path) -> dict[str, Any]:
    try:
        mark = read_json(path)
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(path) from None
    except (OSError, ValueError):
        return {}  # that it is there is what counts
    return mark if isinstance(mark, dict) else {}
