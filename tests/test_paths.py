from __future__ import annotations

from pathlib import Path

import pytest

from vlmablate import paths


def test_home_follows_the_environment(monkeypatch, tmp_path: Path):
    monkeypatch.setenv("VLMABLATE_HOME", str(tmp_path))
    assert paths.home() == tmp_path
    monkeypatch.setenv("VLMABLATE_HOME", "")
    monkeypatch.chdir(tmp_path)
    assert paths.home() == tmp_path / "outputs"
    assert not (tmp_path / "outputs").exists()


def test_cache_follows_the_environment(monkeypatch, tmp_path: Path):
    monkeypatch.setenv("VLMABLATE_CACHE", str(tmp_path))
    assert paths.cache_dir() == tmp_path
    monkeypatch.delenv("VLMABLATE_CACHE")
    assert paths.cache_dir().name == "vlmablate"


def test_resources_are_found_in_the_checkout():
    assert (paths.resource("conf") / "config.yaml").is_file()


def test_resources_are_found_in_an_installed_package(monkeypatch, tmp_path: Path):
    package = tmp_path / "site-packages" / "vlmablate"
    (package / "_resources" / "conf").mkdir(parents=True)
    (tmp_path / "site-packages" / "conf").mkdir()  # another package's folder must not be taken for ours
    monkeypatch.setattr(paths, "_PACKAGE", package)
    assert paths.resource("conf") == package / "_resources" / "conf"
    with pytest.raises(FileNotFoundError, match="reinstall"):
        paths.resource("analysis")


def test_unknown_resource():
    with pytest.raises(KeyError):
        paths.resource("secrets")
