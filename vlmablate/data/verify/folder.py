"""Looks at all records of a data set and at the pictures that they name; nothing stops at the first fault."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from vlmablate.data.picture_looks import Progress, looks
from vlmablate.data.verify.findings import Finding


@dataclass(frozen=True)
class Entry:
    """One record of an annotation file, of whichever format.

    Attributes:
        record: its id; empty for a malformed one.
        picture: relative to the folder; None for text alone.
        once: what no other record may equal, as text: its id, or all that it says.
        file, line: where it stands; the line from 1, None in a format without lines.
        problem: what is wrong with it; empty for a record that can be read.
    """

    record: str
    picture: str | None
    once: str
    file: str | None = None
    line: int | None = None
    problem: str = ""


@dataclass
class Verified:
    """What was found: how many records and distinct pictures there are, and what is wrong with them."""

    records: int = 0
    pictures: int = 0
    findings: list[Finding] = field(default_factory=list)


def verify(
    entries: Iterable[Entry],
    root: Path,
    *,
    repeated: str,
    workers: int,
    progress: Progress = lambda done, total: None,
) -> Verified:
    """Look at every record, and decode every picture that one names, relative to `root`.

    repeated: the kind of a record that occurs again, ``duplicate_record`` or ``duplicate_id``.
    """
    found = Verified()
    first: dict[bytes, str] = {}
    named: dict[str, str] = {}
    uses: Counter[str] = Counter()
    for entry in entries:
        found.records += 1
        if entry.problem:
            found.findings.append(Finding("malformed_record", entry.problem, entry.file, entry.line))
            continue
        key = _digest(entry.once)
        if key in first:
            what = "was there before" + (f", as {first[key]}" if first[key] != entry.record else "")
            found.findings.append(Finding(repeated, what, entry.file, entry.line, entry.record))
        else:
            first[key] = entry.record
        if entry.picture is not None:
            named.setdefault(entry.picture, entry.record)
            uses[entry.picture] += 1
    first.clear()
    found.pictures = len(named)
    at_fault = [
        Finding(seen.fault, seen.what, record=named[name], records=uses[name], picture=name)
        for name, seen in looks(root, list(named), workers=workers, progress=progress)
        if seen.fault
    ]
    found.findings += sorted(at_fault, key=lambda finding: finding.picture or "")
    return found


def sound(entries: Iterable[Entry], findings: Iterable[Finding]) -> Iterator[str]:
    """The ids of the records that nothing is wrong with; of records that repeat one another, the first."""
    faulty = {finding.picture for finding in findings if finding.picture is not None}
    seen: set[bytes] = set()
    for entry in entries:
        if entry.problem:
            continue
        key = _digest(entry.once)
        if key not in seen and (entry.picture is None or entry.picture not in faulty):
            yield entry.record
        seen.add(key)


def _digest(text: str) -> bytes:
    """Sixteen bytes for a text, so that a million long records are told apart in little memory."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
