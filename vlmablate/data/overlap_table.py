"""The table of shared pictures: how a finished comparison (`data.overlap`) is kept, read and shown. Imports little."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from vlmablate import files
from vlmablate.errors import UserError

FILE = "overlap.json"
"""Its name: in the folder of a `scenes` step, and in that of a study whose data is published."""


@dataclass(frozen=True)
class Row:
    """How much of a benchmark was seen in a training source.

    Attributes:
        pictures: evaluation pictures with a question; by_id, by_hash: of these, how many are training pictures by id,
            and how many more by hash alone.
        questions: of the benchmark; touched: of these, how many are about a training picture.
        unhashed: evaluation pictures, unhashed_training: training pictures, that have no hash: not looked at, missing,
            damaged, or flat.
        training: training pictures.
    """

    benchmark: str
    source: str
    pictures: int
    by_id: int
    by_hash: int
    questions: int
    touched: int
    unhashed: int
    training: int
    unhashed_training: int


def write_table(rows: Iterable[Row], path: Path) -> None:
    """Write rows where a report finds them."""
    files.write_json(path, {"schema": 1, "rows": [asdict(one) for one in rows]})


def read_table(path: Path) -> list[Row] | None:
    """The rows of a file; None where there is none. Raises UserError for a file that is no such table."""
    try:
        return [Row(**one) for one in files.read_json(path)["rows"]]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a table of shared pictures ({error}); delete it") from error


def text_table(rows: Sequence[Row]) -> str:
    """The rows for a terminal, with what they cannot tell below."""
    head = ("benchmark", "source", "pictures", "by id", "by hash only", "questions", "about them")
    cells = [
        (
            one.benchmark, one.source, f"{one.pictures:,}", f"{one.by_id:,}",
            "-" if one.unhashed == one.pictures else f"{one.by_hash:,}", f"{one.questions:,}",
            f"{one.touched:,} ({100 * one.touched / max(one.questions, 1):.1f} %)",
        )
        for one in rows
    ]  # fmt: skip
    widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if place < 2 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in (head, *cells)
    ]
    notes = {
        f"{name}: {without:,} of {all_of:,} pictures have no hash (missing, damaged, flat, or not opened)"
        for one in rows
        for name, without, all_of in (
            (one.benchmark, one.unhashed, one.pictures),
            (one.source, one.unhashed_training, one.training),
        )
        if without
    }
    return "\n".join([*lines, *sorted(notes)])
