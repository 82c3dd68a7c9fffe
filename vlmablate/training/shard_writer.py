"""The writer of torch.distributed.checkpoint, with errors that survive the way to the other ranks."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.distributed.checkpoint.storage import WriteResult

from vlmablate.errors import is_disk_full


@contextmanager
def _plain_errors() -> Iterator[None]:
    """A full disk shows as an error of the zip file, caused by the real one; the cause would be lost in pickling."""
    try:
        yield
    except Exception as error:
        if is_disk_full(error):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
        raise


class ShardWriter(FileSystemWriter):
    """Writes the shards of this rank."""

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Any:
        """As the parent, which writes before it returns."""
        with _plain_errors():
            return super().write_data(plan, planner)

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """As the parent: the index of all shards."""
        with _plain_errors():
            super().finish(metadata, results)
