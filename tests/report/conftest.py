"""One study that is reported once, with its notebook executed, for all tests that only read the outcome."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from synthetic_study import make_study

from vlmablate.report.build import build_study


@dataclass(frozen=True)
class Built:
    home: Path
    folder: Path
    answer: dict[str, Any]

    @property
    def page(self) -> str:
        return Path(self.answer["html"]).read_text(encoding="utf-8")

    def table(self, name: str = "significance") -> pd.DataFrame:
        return pd.read_csv(self.folder / f"{name}.csv")


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Three arms, three seeds, one run without scores; the only report whose notebook runs in a kernel."""
    home = tmp_path_factory.mktemp("home")
    folder = make_study(home, unfinished=[("resize_crop", 2)])
    return Built(home, folder, build_study(folder, home))
