"""``vlmablate track sync``: what was told to W&B offline is sent, once.

W&B marks the file of a run that it has sent, and not earlier. What was cut off is sent again from its beginning, under
the same id, so it replaces what came through. Nothing is deleted here: ``wandb clean`` removes what was sent.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from vlmablate.errors import UserError
from vlmablate.tracking.settings import OF_ONE_RUN, Tracking, require_wandb
from vlmablate.tracking.turn import turn
from vlmablate.verbs import Help

HELP = """\
usage: vlmablate track sync [dir=FOLDER]

Send what tracking=wandb wrote while it was offline: every run, and the latest report of every study. Needs a network
and a login (wandb login, or WANDB_API_KEY). What was sent is not sent again, so it may be repeated, interrupted, and
run beside a sweep; a sweep itself never waits for it.

  dir=FOLDER   where the runs lie, if tracking.dir said so; by default wandb/ in the results

examples:
  python -m vlmablate.sweep axis=image_resize tracking=wandb    writes them
  vlmablate track sync                                          sends them, later"""

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_INTERRUPTED = 130
_AT_ONCE = 20
"""Runs of one process. When none of them comes through, the others wait for another time."""
_RETRIES = {"WANDB__GRAPHQL_RETRY_MAX": "4"}
"""Half a minute; W&B by itself would try for hours to reach a network that is away."""

Report = Callable[[str], None]
Send = Callable[[Sequence[Path]], None]


def run(arguments: list[str]) -> int:
    """The track verb: 0 when everything is sent, 1 when something is left, 130 when it was interrupted.

    Raises:
        UserError: for anything but ``sync`` with a folder (prints the usage), and without W&B.
    """
    from vlmablate.paths import home

    if any(word in ("-h", "--help") for word in arguments):
        raise Help(HELP)
    where = {key: value for key, equals, value in (word.partition("=") for word in arguments[1:]) if equals}
    if arguments[:1] != ["sync"] or len(where) != len(arguments) - 1 or set(where) - {"dir"}:
        raise UserError(HELP)
    require_wandb()
    target = Tracking(dir=where.get("dir")).folder(home())
    try:
        return EXIT_OK if sync(home(), target, _wandb_sync, print) else EXIT_FAILED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def unsent(target: Path) -> list[Path]:
    """The folders of offline runs that W&B has not marked as sent, oldest first."""
    files = sorted(target.glob("offline-run-*/*.wandb"))
    return [path.parent for path in files if not path.with_suffix(".wandb.synced").exists()]


def sync(home: Path, target: Path, send: Send, report: Report) -> bool:
    """Send what is unsent below ``target``. True when nothing is left.

    Args:
        send: sends the runs in some folders, and marks those that it has sent.
    """
    if not unsent(target):
        report(f"nothing to send in {target}")
        return True
    with turn(home, report):
        todo = unsent(target)
        for first in range(0, len(todo), _AT_ONCE):
            batch = todo[first : first + _AT_ONCE]
            send(batch)
            if set(batch) <= set(unsent(target)):
                break
        left = unsent(target)
    report(f"W&B: {len(todo) - len(left)} runs sent" + (f", {len(left)} not sent" if left else ""))
    if left:
        report("  they are kept; the same command tries again")
    return not left


def _wandb_sync(folders: Sequence[Path]) -> None:
    given = {key: value for key, value in os.environ.items() if key not in OF_ONE_RUN}
    command = [sys.executable, "-m", "wandb", "sync", *map(str, folders)]
    subprocess.run(command, env={**_RETRIES, **given}, stdin=subprocess.DEVNULL, check=False)
