"""What an offline W&B run would send, read from its file: a log in 32 KiB blocks of records in protobuf."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record

HEADER = 7  # of the file: ':W&B', magic number, version; of a record: CRC, length, type
BLOCK = 32768
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def run_folders(folder: Path) -> list[Path]:
    """Every folder that `wandb sync` could be given, at any depth."""
    return sorted(path for path in folder.rglob("*run-*-*") if path.is_dir())


def sent(folder: Path) -> list[Record]:
    """The records of a run, in order."""
    (path,) = folder.glob("*.wandb")
    data = path.read_bytes()
    assert data[:4] == b":W&B"
    position, parts, found = HEADER, b"", []
    while position + HEADER <= len(data):
        left = BLOCK - position % BLOCK
        if left < HEADER:
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        position += HEADER
        parts += data[position : position + length]
        position += length
        if kind in (FULL, LAST):
            record = Record()
            record.ParseFromString(parts)
            found.append(record)
            parts = b""
    return found


def rows(folder: Path) -> list[dict[str, Any]]:
    """What was logged, row by row."""
    return [
        {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        for record in sent(folder)
        if record.WhichOneof("record_type") == "history"
    ]


def of_kind(folder: Path, kind: str) -> Any:
    """The last record of a kind."""
    return [getattr(r, kind) for r in sent(folder) if r.WhichOneof("record_type") == kind][-1]
