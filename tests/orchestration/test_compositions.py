from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.design.synthetic_conf import write_tree
from vlmablate.design import compose as composing
from vlmablate.design.compose import composer
from vlmablate.orchestration import compositions
from vlmablate.orchestration.compositions import Compositions


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tree(tmp_path_factory.mktemp("conf"))


@pytest.fixture
def conf(tree: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tree, tmp_path / "conf")


def remember(conf: Path, home: Path) -> dict:
    known = Compositions(conf, home)
    with composer(conf, known) as compose:
        made = compose.compose(["g02=b"])
    known.save()
    return made


def test_what_was_composed_before_needs_no_hydra(conf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    made = remember(conf, tmp_path)
    monkeypatch.setattr(composing, "_initialise", lambda conf: pytest.fail("Hydra was asked"))
    with composer(conf, Compositions(conf, tmp_path)) as compose:
        assert compose.compose(["g02=b"]) == made


@pytest.mark.parametrize("name", ["g02/b.yaml", "g07/c.yaml", "axis/new.yaml"])
def test_any_change_of_the_tree_is_noticed(conf: Path, tmp_path: Path, name: str):
    remember(conf, tmp_path)
    assert ("g02=b",) in Compositions(conf, tmp_path)
    path = conf / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("name: changed\n")
    assert ("g02=b",) not in Compositions(conf, tmp_path)
    with composer(conf, Compositions(conf, tmp_path)) as compose:
        assert (compose.compose(["g02=b"])["g02"]["name"] == "changed") is (name == "g02/b.yaml")


def test_other_libraries_are_noticed(conf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    remember(conf, tmp_path)
    monkeypatch.setattr(compositions, "lock_text", lambda: "omegaconf==9\n")
    assert ("g02=b",) not in Compositions(conf, tmp_path)


def test_nothing_is_written_before_it_is_saved_and_damage_is_passed_over(conf: Path, tmp_path: Path):
    known = Compositions(conf, tmp_path)
    with composer(conf, known) as compose:
        made = compose.compose(["g02=b"])
    assert not (tmp_path / "cache").exists()
    known.save()
    (file,) = (tmp_path / compositions.FOLDER).iterdir()
    file.write_text(file.read_text()[:100])
    with composer(conf, Compositions(conf, tmp_path)) as compose:
        assert compose.compose(["g02=b"]) == made


def test_what_asks_the_environment_is_not_kept(conf: Path, tmp_path: Path):
    (conf / "g02" / "b.yaml").write_text("name: ${oc.env:PATH}\n")
    remember(conf, tmp_path)
    assert not (tmp_path / "cache").exists()


def test_a_sweep_that_is_finished_starts_without_hydra(sweeps, monkeypatch: pytest.MonkeyPatch):
    from vlmablate.orchestration import controller, study

    monkeypatch.setattr(controller, "compose_cells", study.compose_cells)
    assert sweeps.run() == 0
    monkeypatch.setattr(composing, "_initialise", lambda conf: pytest.fail("Hydra was asked"))
    assert sweeps.run() == 0
    assert "nothing to submit" in sweeps.text
