"""Pictures in files of the user's: what cannot be used is named, with what to do."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vlmablate.errors import UserError
from vlmablate.training import pictures
from vlmablate.training.pictures import read_picture


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "a.png"
    noise = np.random.default_rng(0).integers(0, 256, (20, 30), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    return path


def test_a_picture_is_read_in_colours(picture: Path) -> None:
    assert (read_picture(picture).mode, read_picture(str(picture)).size) == ("RGB", (30, 20))


@pytest.mark.parametrize("content", [b"", b"<html>", None])
def test_what_is_no_whole_picture_is_named(picture: Path, content: bytes | None) -> None:
    whole = picture.read_bytes()
    picture.write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(UserError, match=r"a\.png cannot be read .*data verify"):
        read_picture(picture)


def test_a_picture_that_is_not_there_is_named(picture: Path) -> None:
    for gone in (picture.with_name("b.png"), picture / "b.png", picture.parent / "below" / "b.png"):
        with pytest.raises(UserError, match=r"b\.png is missing"):
            read_picture(gone)


def test_a_disk_that_fails_is_no_mistake_of_the_user(picture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*arguments: Any) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(pictures.Image, "open", failing)
    with pytest.raises(OSError, match="broken"):
        read_picture(picture)
