"""Which evaluation pictures of a study are also training pictures, as its steps or `vlmablate data overlap` found."""

from __future__ import annotations

from vlmablate.data.overlap_table import FILE, Row, read_table
from vlmablate.report.collect import Collected
from vlmablate.report.formatting import listing, title
from vlmablate.report.records import Record
from vlmablate.report.study import Study


def shared_pictures(study: Study, collected: Collected) -> list[Row] | None:
    """A row for each benchmark of the study and each source of training pictures; None when nobody has looked.

    Composed scenes are compared by the step that makes them, published data by `vlmablate data overlap --study`.
    Raises UserError for a table that cannot be read.
    """
    places = [study.directory(step_id) for step_id in study.results if study.kind(step_id) == "scenes"]
    tables = [read_table(place / FILE) for place in [*sorted(places), study.folder]]
    if all(table is None for table in tables):
        return None
    rows = dict.fromkeys(row for table in tables for row in table or [])
    return [row for row in rows if row.benchmark in collected.benchmarks]


def overlap_cells(row: Row) -> Record:
    """A row as the page shows it."""
    looked = row.pictures - row.unhashed
    return {
        "benchmark": title(row.benchmark),
        "source": row.source,
        "pictures": f"{row.pictures:,}",
        "by_id": f"{row.by_id:,}",
        "by_hash": f"{row.by_hash:,}" if looked else "not looked",
        "unhashed": f"{row.unhashed:,}",
        "questions": f"{row.questions:,}",
        "touched": f"{row.touched:,} ({share(row)})",
    }


def share(row: Row) -> str:
    """The touched share of the questions in per cent; never 0 for some, nor 100 for fewer than all."""
    value = 100 * row.touched / max(row.questions, 1)
    text = f"{value:.1f}"
    if row.touched and text == "0.0":
        return "<0.1 %"
    if row.touched < row.questions and text == "100.0":
        return ">99.9 %"
    return f"{text} %"


def overlap_caveats(rows: list[Row] | None) -> list[str]:
    """One sentence about the benchmarks whose pictures were trained on; none when there are none."""
    touched = [row for row in rows or [] if row.touched]
    if not touched:
        return []
    found = [
        f"{title(row.benchmark)} ({row.by_id + row.by_hash:,} of {row.pictures:,} pictures and {share(row)} of the "
        f"questions, from {row.source})"
        for row in touched
    ]
    return [
        f"Evaluation pictures that are also training pictures: {listing(found)}. Scores there are partly about "
        "pictures that were seen in training, and say less about new ones."
    ]
