"""Evaluation pictures that are training pictures: said on the page and among the caveats, or said not to be known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from reported import Built
from synthetic_study import make_study

from vlmablate.data.overlap_table import FILE, Row, write_table
from vlmablate.errors import UserError
from vlmablate.report import build, figures, notebook
from vlmablate.report.build import build_study, stamp
from vlmablate.report.overlap import overlap_caveats, overlap_cells, share
from vlmablate.report.study import Study

CLEAN = Row("counting", "training scenes", 40, 0, 0, 120, 0, 0, 100, 0)
TOUCHED = Row("open_vqa", "training scenes", 40, 3, 2, 120, 15, 1, 100, 0)


def small(home: Path) -> Path:
    return make_study(home, seeds=(0, 1), scenes=6, per_scene=1)


def scenes_folder(home: Path) -> Path:
    [folder] = (home / "steps" / "scenes").iterdir()
    return folder


@pytest.fixture
def light(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports without figures and without a kernel."""
    monkeypatch.setattr(notebook, "execute", lambda document, folder: 0.0)
    monkeypatch.setattr(figures, "save_all", lambda *given: {section: [] for section in figures.SECTIONS})


@pytest.mark.usefixtures("light")
def test_shared_pictures_are_in_the_table_and_among_the_caveats(tmp_path: Path) -> None:
    folder = small(tmp_path)
    unasked = replace(TOUCHED, benchmark="spatial")  # the study does not evaluate it
    write_table([CLEAN, TOUCHED, unasked], scenes_folder(tmp_path) / FILE)
    published = replace(TOUCHED, source="lvis_instruct_4v", by_id=40, by_hash=0, touched=120)
    write_table([published], folder / FILE)
    text = Built(tmp_path, folder, build_study(folder, tmp_path)).reader.text
    caveat = (
        "Evaluation pictures that are also training pictures: open VQA (5 of 40 pictures and 12.5 % of the questions, "
        "from training scenes) and open VQA (40 of 40 pictures and 100.0 % of the questions, from lvis_instruct_4v)."
    )
    assert caveat in " ".join(text.split())
    table = text[text.index("Training pictures in the evaluation") : text.index("Training curves")]
    shown = [line for line in table.splitlines() if line.startswith(("counting", "open VQA", "spatial"))]
    assert shown == [
        "countingtraining scenes400001200 (0.0 %)",
        "open VQAtraining scenes4032112015 (12.5 %)",
        "open VQAlvis_instruct_4v404001120120 (100.0 %)",
    ]
    assert "Not computed" not in table


def test_scenes_of_an_earlier_version_are_said_to_be_unknown(built: Built) -> None:
    assert "Not computed: these scenes were composed before they were compared" in built.reader.text
    assert "also training pictures" not in built.reader.text


def test_nothing_shared_is_no_caveat() -> None:
    assert overlap_caveats(None) == overlap_caveats([]) == overlap_caveats([CLEAN]) == []


@pytest.mark.parametrize(
    ("touched", "words"),
    [(0, "0.0 %"), (1, "<0.1 %"), (5000, "50.0 %"), (9999, ">99.9 %"), (10000, "100.0 %")],
)
def test_a_share_is_never_rounded_to_none_or_all(touched: int, words: str) -> None:
    assert share(replace(TOUCHED, questions=10000, touched=touched)) == words


def test_pictures_that_nobody_looked_at_are_not_counted_as_different() -> None:
    assert overlap_cells(replace(TOUCHED, unhashed=40, by_hash=0))["by_hash"] == "not looked"
    assert overlap_cells(TOUCHED)["by_hash"] == "2"


def test_a_new_table_makes_a_new_report(tmp_path: Path) -> None:
    folder = small(tmp_path)
    study = Study.load(folder, tmp_path)
    before: tuple[Any, ...] = (stamp(study), build.fingerprint(study))
    write_table([TOUCHED], folder / FILE)
    after = (stamp(study), build.fingerprint(study))
    assert before[0] != after[0]
    assert before[1] != after[1]


@pytest.mark.usefixtures("light")
def test_a_table_that_is_torn_is_named(tmp_path: Path) -> None:
    folder = small(tmp_path)
    (folder / FILE).write_text("{ torn")
    with pytest.raises(UserError, match=FILE):
        build_study(folder, tmp_path)
