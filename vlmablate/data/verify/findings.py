"""What can be wrong with a folder of data, for people as a table and for programs as JSON lines."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from vlmablate import files

_FETCH = "fetch it again (--missing lists what to fetch)"
REPAIRS: Mapping[str, str] = {
    "malformed_record": "correct the record or take it out",
    "duplicate_record": "take it out (--keep lists the first of each)",
    "duplicate_id": "give it an id of its own, or take it out",
    "missing_picture": _FETCH,
    "empty_picture": _FETCH,
    "truncated_picture": _FETCH,
    "corrupt_picture": _FETCH,
    "not_a_picture": _FETCH,
    "unreadable_picture": "see to its permissions and to the disk",
    "changed_file": "fetch it again, or write a new manifest if the change was meant",
    "new_file": "take it out, or write a new manifest if it belongs there",
    "gone_file": "fetch it again, or write a new manifest if it was taken out on purpose",
}
"""Kind of finding -> what to do, in the order in which they are told."""

_SHOWN = 3
_FETCHED = frozenset(kind for kind, repair in REPAIRS.items() if repair == _FETCH)


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        kind: of `REPAIRS`.
        what: in words.
        file, line: of the annotation file, the line from 1; or the file itself that is not as the manifest says.
        record: the id of the record, or of the first one that names the picture; records: how many are concerned.
        picture: relative to the folder.
    """

    kind: str
    what: str
    file: str | None = None
    line: int | None = None
    record: str | None = None
    records: int = 1
    picture: str | None = None

    def place(self) -> str:
        """Where it is, in words."""
        where = self.file or ""
        if self.line is not None:
            where += f", line {self.line}"
        if self.picture is not None:
            named = f"named by {self.record}" if self.record else ""
            more = f" and {self.records - 1} more" if self.records > 1 else ""
            return f"{self.picture} ({named}{more})" if named else self.picture
        return f"{where} ({self.record})" if self.record and where else where or self.record or ""


def write_report(findings: Iterable[Finding], path: Path) -> None:
    """One finding a line: {kind, what, file, line, record, records, picture, repair}; what it has not is null."""
    with files.write_with(path) as temporary, open(temporary, "w", encoding="utf-8") as report:
        for finding in findings:
            row = {**asdict(finding), "repair": REPAIRS[finding.kind]}
            report.write(json.dumps(row) + "\n")


def to_fetch(findings: Iterable[Finding]) -> list[str]:
    """The pictures that are missing or damaged, relative to the folder, each once."""
    return sorted({str(finding.picture) for finding in findings if finding.kind in _FETCHED})


def table(findings: Sequence[Finding]) -> str:
    """Findings by kind: how many, what to do, and the first of them; empty when there are none."""
    by_kind: dict[str, list[Finding]] = defaultdict(list)
    for finding in findings:
        by_kind[finding.kind].append(finding)
    lines = []
    for kind, repair in REPAIRS.items():
        found = by_kind.get(kind)
        if not found:
            continue
        lines.append(f"{len(found):>9,}  {kind.replace('_', ' ')}: {repair}")
        lines += [f"           {finding.place()}: {finding.what}" for finding in found[:_SHOWN]]
        if len(found) > _SHOWN:
            lines.append(f"           … and {len(found) - _SHOWN:,} more")
    return "\n".join(lines)
