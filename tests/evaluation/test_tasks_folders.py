"""Benchmarks are known by their questions, wherever they lie."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from vlmablate.errors import UserError
from vlmablate.evaluation.tasks import folders

sys.path.insert(0, str(Path(__file__).parent))

import published_folders


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLMABLATE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "benchmarks"
    published_folders.write("pope", root / "pope")
    return root


def test_questions_that_moved_are_the_same(root: Path) -> None:
    digest = folders.remember("pope", root)
    assert folders.find("pope", digest) == root / "pope"
    moved = shutil.move(root, root.with_name("elsewhere"))
    with pytest.raises(UserError, match="is not there"):
        folders.find("pope", digest)
    assert folders.remember("pope", moved) == digest
    assert folders.find("pope", digest) == Path(moved) / "pope"


def test_unchanged_questions_are_read_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = folders.remember("pope", root)
    monkeypatch.setattr(folders, "load", None)
    assert folders.remember("pope", root) == digest


def test_questions_that_changed_are_others(root: Path) -> None:
    digest = folders.remember("pope", root)
    path = root / "pope" / "coco_pope_random.json"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    published_folders.put_lines(path, rows[1:])
    assert folders.remember("pope", root) != digest
    with pytest.raises(UserError, match="no longer holds the questions of pope"):
        folders.find("pope", digest)
    with pytest.raises(UserError, match=r"benchmark\.folder=FOLDER"):
        folders.find("pope", "0" * 64)


def test_questions_that_come_with_the_package_need_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = folders.remember("safety_probes", tmp_path / "nowhere")
    assert digest == folders.remember("safety_probes", tmp_path)
    folders.find("safety_probes", digest)
    load = folders.load
    monkeypatch.setattr(folders, "load", lambda *given: (load(*given)[0][1:], []))
    with pytest.raises(UserError, match="this version of vlmablate asks other questions of safety_probes"):
        folders.find("safety_probes", digest)
