"""Weights in a folder of the user's own: their identity is their content, wherever they lie."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from vlmablate.data import assets, weight_files
from vlmablate.errors import UserError


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLMABLATE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "model"
    made.mkdir()
    (made / "config.json").write_text("{}")
    (made / "model.safetensors").write_bytes(bytes(64))
    return made


def llm(weights: str) -> dict:
    return {"vision": {"towers": []}, "data": {}, "llm": {"name": "test_llama", "weights": weights}}


def test_a_moved_folder_is_the_same_weights_and_found_where_it_was_named_last(folder: Path, tmp_path: Path):
    first = weight_files.remember(folder)
    assert weight_files.find(first) == folder
    moved = tmp_path / "elsewhere"
    shutil.move(folder, moved)
    with pytest.raises(UserError, match="no weights at"):
        weight_files.find(first)
    assert weight_files.remember(moved) == first
    assert weight_files.find(first) == moved


def test_what_is_in_a_file_decides_and_what_is_read_by_people_does_not(folder: Path):
    first = weight_files.remember(folder)
    (folder / "README.md").write_text("hello")
    (folder / ".gitattributes").write_text("x")
    assert weight_files.remember(folder) == first
    (folder / "model.safetensors").write_bytes(bytes(63) + b"\1")
    assert weight_files.remember(folder) != first
    with pytest.raises(UserError, match="no longer holds the weights"):
        weight_files.find(first)


def test_unchanged_files_are_read_once(folder: Path, monkeypatch: pytest.MonkeyPatch):
    first = weight_files.remember(folder)
    monkeypatch.setattr(weight_files.files, "sha256_file", None)
    assert weight_files.remember(str(folder)) == first


def test_a_damaged_or_lost_note_costs_one_more_reading(folder: Path, tmp_path: Path):
    first = weight_files.remember(folder)
    (note,) = (tmp_path / "cache" / "weight_files").iterdir()
    note.write_text("{")
    assert weight_files.remember(folder) == first
    note.unlink()
    with pytest.raises(UserError, match="nobody has noted where"):
        weight_files.find(first)


def test_the_weights_of_a_configuration(folder: Path, tmp_path: Path):
    named = assets.weights(llm(f"{folder}/"), {})
    assert named == {"test_llama": f"files:{weight_files.remember(folder)}"}
    assert assets.weights(llm("random"), {}) == {"test_llama": "random"}
    with pytest.raises(UserError, match="no weights at"):
        assets.weights(llm("./nothing.gguf"), {})
    with pytest.raises(UserError, match="source of weights"):
        assets.weights(llm("rnadom"), {})
    with pytest.raises(UserError, match="has no pretrained weights"):
        assets.weights(llm("pretrained"), {})


def test_the_asset_of_a_language_model_is_required_and_is_no_part_of_the_scenes():
    config = {
        "vision": {"towers": ["smoke_conv"]}, "data": {"pictures": "drawn_shapes"},
        "llm": {"name": "smollm2_instruct_135m", "weights": "asset"},
    }  # fmt: skip
    assert assets.required(config) == ["smollm2_instruct_135m"]
    assert assets.pictures(config) == []
    known = assets.weights(config, {"smollm2_instruct_135m": "digest"})
    assert known == {"smoke_conv": "random", "smollm2_instruct_135m": "digest"}
    with pytest.raises(UserError, match="no asset set holds the weights of phi2"):
        assets.required({**config, "llm": {"name": "phi2", "weights": "asset"}})
