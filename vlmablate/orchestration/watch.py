"""``vlmablate status --watch``: the status as a table that redraws itself until nothing is at work any more."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from vlmablate.orchestration.status import (
    Look,
    StudyStatus,
    comparison_lines,
    read_status,
    render,
    step_rows,
    study_rows,
    trouble_lines,
)

if TYPE_CHECKING:
    from rich.console import Group

EVERY_S = 2.0


def watch(
    home: Path,
    name: str = "",
    pause: Callable[[float], None] = time.sleep,
    write: Callable[[str], object] = print,
    live: bool | None = None,
) -> int:
    """Show the status until every study is at rest, or Ctrl-C; only looking, so the sweeps go on.

    Args:
        home: the results folder.
        name: one study, or empty for all.
        pause: waits between two looks.
        write: where plain text goes when standard output is no terminal; then only changes are written.
        live: whether to redraw; by default only on a terminal.

    Returns:
        0 when all that was watched is done, else 1.

    Raises:
        UserError: for an unknown study.
    """
    statuses = read_status(home, name)
    if not (sys.stdout.isatty() if live is None else live):
        return _plainly(home, name, pause, write)
    from rich.console import Console
    from rich.live import Live

    console = Console()
    with suppress(KeyboardInterrupt), Live(console=console, auto_refresh=False, screen=False) as shown:
        while True:
            look = Look(home)
            statuses = read_status(home, name, look)
            shown.update(draw(statuses, look.trouble), refresh=True)
            if not any(status.at_work for status in statuses):
                break
            pause(EVERY_S)
    return _code(statuses)


def _plainly(home: Path, name: str, pause: Callable[[float], None], write: Callable[[str], object]) -> int:
    said = ""
    statuses: list[StudyStatus] = []
    with suppress(KeyboardInterrupt):
        while True:
            statuses = read_status(home, name)
            text = render(statuses, home)
            if text != said:
                write(text)
                said = text
            if not any(status.at_work for status in statuses):
                break
            pause(EVERY_S)
    return _code(statuses)


def _code(statuses: Sequence[StudyStatus]) -> int:
    return 0 if all(status.state == "done" for status in statuses) else 1


def draw(statuses: Sequence[StudyStatus], trouble: str = "") -> Group:
    """The statuses as tables of the rich library."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    def table(rows: Sequence[tuple[str, ...]], head: bool) -> Table:
        made = Table(box=None, pad_edge=False, show_header=head)
        used = [i for i in range(len(rows[0])) if any(row[i] for row in rows)]
        for i in used:
            made.add_column(rows[0][i] if head else "", no_wrap=True, overflow="ellipsis")
        for row in rows[1:] if head else rows:
            made.add_row(*(Text(row[i]) for i in used))
        return made

    parts: list[Table | Text] = [table(study_rows(statuses), head=True)] if statuses else []
    for status in statuses:
        rows = step_rows(status)
        lines = [*comparison_lines(status), *trouble_lines(status)]
        if rows or lines:
            parts += [Text(""), Text(status.name, style="bold")]
        if rows:
            parts.append(table(rows, head=False))
        parts += [Text(line) for line in lines]
    if trouble:
        parts.append(Text(trouble))
    return Group(*parts)
