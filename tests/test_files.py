from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest

from vlmablate import files
from vlmablate.errors import DiskFull, UserError, is_disk_full, unknown_name


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_write_replaces_the_whole_file_and_leaves_nothing_else(tmp_path: Path):
    path = tmp_path / "deep" / "a.json"
    files.write_json(path, {"x": [1, 2.5, "é"]})
    files.write_json(path, {"x": 2})
    assert files.read_json(path) == {"x": 2}
    assert os.listdir(path.parent) == ["a.json"]


def test_the_temporary_file_keeps_the_suffix_that_writers_go_by(tmp_path: Path):
    with files.write_with(tmp_path / "a.npy") as temporary:
        assert temporary.suffix == ".npy"
        assert temporary.parent == tmp_path
        temporary.write_bytes(b"x")
    assert (tmp_path / "a.npy").read_bytes() == b"x"


def test_an_error_while_writing_keeps_the_old_file(tmp_path: Path):
    path = tmp_path / "a"
    files.write_bytes(path, b"old")

    def write() -> None:
        with files.write_with(path) as temporary:
            temporary.write_bytes(b"half")
            raise RuntimeError("stopped half-way")

    with pytest.raises(RuntimeError):
        write()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_a_full_disk_is_a_helpful_error_and_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch, where: str
):
    path = tmp_path / "a.json"
    files.write_json(path, {"old": True})
    monkeypatch.setattr(files.os, where, full)
    with pytest.raises(DiskFull) as caught:
        files.write_json(path, {"new": True})
    monkeypatch.undo()
    assert str(path) in str(caught.value)
    assert "bytes free" in str(caught.value)
    assert "same command" in str(caught.value)
    assert files.read_json(path) == {"old": True}
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_full_disk_is_recognised_when_a_library_wraps_it(tmp_path: Path):
    def write() -> None:
        with files.write_with(tmp_path / "a.parquet"):
            try:
                full()
            except OSError as error:
                raise ValueError("the library could not write") from error

    with pytest.raises(DiskFull):
        write()
    assert not is_disk_full(OSError(errno.EACCES, "denied"))
    assert is_disk_full(OSError(errno.EDQUOT, "quota"))


def test_json_refuses_nan(tmp_path: Path):
    with pytest.raises(ValueError):
        files.write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert os.listdir(tmp_path) == []


def test_damaged_json_is_named(tmp_path: Path):
    (tmp_path / "a.json").write_text('{"half":')
    with pytest.raises(ValueError, match=r"a\.json is not valid JSON"):
        files.read_json(tmp_path / "a.json")


@pytest.mark.parametrize("links", [True, False])
def test_exclusive_creation_has_one_winner(tmp_path: Path, monkeypatch, links: bool):
    if not links:

        def unsupported(*_: object) -> None:
            raise OSError(errno.EPERM, "no hard links here")

        monkeypatch.setattr(files.os, "link", unsupported)
    path = tmp_path / "001.json"
    assert files.create_exclusive(path, b"first")
    assert not files.create_exclusive(path, b"second")
    assert path.read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["001.json"]


def test_exclusive_creation_on_a_full_disk(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(DiskFull):
        files.create_exclusive(tmp_path / "001.json", b"x")
    assert os.listdir(tmp_path) == []


def test_sha256(tmp_path: Path):
    (tmp_path / "a").write_bytes(b"abc" * 100_000)
    assert files.sha256_file(tmp_path / "a") == hashlib.sha256(b"abc" * 100_000).hexdigest()


def test_unknown_names_list_what_exists():
    error = unknown_name("axis", "fusoin", ["epochs", "fusion"], where="conf/axis")
    assert isinstance(error, UserError)
    assert str(error).splitlines() == [
        "unknown axis 'fusoin' in conf/axis (did you mean 'fusion'?)",
        "what exists:",
        "  epochs",
        "  fusion",
    ]
    assert "(none)" in str(unknown_name("study", "a", []))
