"""A study that was reported, read back: its tables, and the numbers that its page marks."""

from __future__ import annotations

from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd

from vlmablate.report.build import TABLES
from vlmablate.report.records import KEYS, records

SHAPES: dict[str, dict[str, Any]] = {
    "contexts": {"contexts": ("clip", "siglip"), "same_runs": [("resize_crop", "siglip")]},
    "one seed": {"seeds": (0,)},
    "no signal": {"analysis": {"signal_margin": 60.0, "margin": 1.0}},
    "no baseline": {"unfinished": [("letterbox", 0), ("letterbox", 1)]},
    "exact": {"seeds": range(7), "analysis": {"families": {"counting": "scenes", "existence": "scenes"}}},
    "paired": {"seeds": range(4), "analysis": {"paired_seeds": True, "margin": 3.0}},
    "soft": {"soft": True, "analysis": {"alternative": "less", "correction": "bh", "alpha": 0.1}},
}
"""Studies that are not the plain one: name -> arguments of make_study."""


class Reader(HTMLParser):
    """Collects cells marked with data-row, the addresses the page refers to, headings and text."""

    def __init__(self) -> None:
        super().__init__()
        self.cells: list[tuple[str, str, str]] = []
        self.addresses: list[str] = []
        self.anchors: list[str] = []
        self.text = ""
        self._open: tuple[str, str, str] | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if "data-row" in values:
            self._open = (str(values["data-row"]), str(values["data-column"]), "")
        self.addresses += [
            str(values[name]) for name in ("src", "href", "srcset", "action") if name in values
        ]
        if tag == "h2":
            self.anchors.append(str(values.get("id")))

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._open:
            self._open = (*self._open[:2], self._open[2] + data)

    def handle_endtag(self, tag: str) -> None:
        if self._open and tag in ("td", "span"):
            self.cells.append((self._open[0], self._open[1], self._open[2].strip()))
            self._open = None


@dataclass(frozen=True)
class Built:
    """A reported study."""

    home: Path
    folder: Path
    answer: dict[str, Any]

    @property
    def page(self) -> str:
        return Path(self.answer["html"]).read_text(encoding="utf-8")

    @property
    def reader(self) -> Reader:
        reader = Reader()
        reader.feed(self.page)
        return reader

    def table(self, name: str = "significance") -> pd.DataFrame:
        return pd.read_csv(self.folder / f"{name}.csv")

    def rows(self) -> dict[str, dict[str, Any]]:
        """Rows of all tables by the key that the page names them by."""
        found = {}
        for name in TABLES:
            kind = "significance" if name == "sensitivity" else name
            if kind not in KEYS:
                continue
            for row in records(self.table(name)):
                key = "|".join(str(row[column]) for column in KEYS[kind])
                found[key if kind == "significance" else f"{kind}:{key}"] = row
        return found
