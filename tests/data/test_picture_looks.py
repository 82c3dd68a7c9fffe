"""Looking at pictures: every fault has its name, nothing is looked at twice, and processes change nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from drawn_pictures import encoded, photograph, save
from PIL import Image

from vlmablate.data import picture_looks, picture_workers
from vlmablate.data.picture_looks import Look, look, looks


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLMABLATE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "pictures"
    for number in range(5):
        save(root / f"{number}.jpg", photograph(number))
    return root


NAMES = [f"{number}.jpg" for number in range(5)]


def seen(root: Path, names: list[str]) -> dict[str, Look]:
    return dict(looks(root, names, workers=1))


@pytest.mark.parametrize(
    ("content", "fault", "words"),
    [
        (b"", "empty_picture", "0 bytes"),
        (b"\0" * 4096, "empty_picture", "4,096 zero bytes"),
        (b"<!DOCTYPE html><html>", "not_a_picture", "<!DOCTYPE html>"),
        (encoded(photograph(0))[:-50], "truncated_picture", "truncated"),
        (encoded(photograph(0))[:30], "truncated_picture", ""),
        (encoded(photograph(0), "PNG")[:-400], "truncated_picture", "truncated"),
    ],
)
def test_every_fault_is_named(tmp_path: Path, content: bytes, fault: str, words: str) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    found = look(path)
    assert found.fault == fault
    assert words in found.what
    assert found.hash is None


def test_damage_inside_a_png_is_found(tmp_path: Path) -> None:
    content = bytearray(encoded(photograph(0), "PNG"))
    content[len(content) // 2] ^= 0xFF
    (tmp_path / "a.png").write_bytes(content)
    assert look(tmp_path / "a.png").fault in ("corrupt_picture", "truncated_picture")


def test_a_folder_in_place_of_a_picture_is_unreadable(tmp_path: Path) -> None:
    assert look(tmp_path).fault == "unreadable_picture"


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "CMYK", "1", "I;16"])
def test_pictures_of_every_mode_are_fine(tmp_path: Path, mode: str) -> None:
    form = "TIFF" if mode == "CMYK" else "PNG"
    picture = photograph(0).convert("L").convert("I;16") if mode == "I;16" else photograph(0).convert(mode)
    path = tmp_path / "a"
    path.write_bytes(encoded(picture, form))
    assert not look(path).fault


@pytest.mark.parametrize("name", ["a\0b.jpg", "x" * 5000, "half \ud800.jpg"])
def test_a_name_that_no_file_can_have_is_unreadable(folder: Path, name: str) -> None:
    assert seen(folder, [name, "0.jpg"])[name].fault == "unreadable_picture"


def test_a_missing_picture_is_told_and_never_noted(folder: Path) -> None:
    assert seen(folder, ["0.jpg", "no.jpg", "0.jpg/under.jpg"])["no.jpg"].fault == "missing_picture"
    save(folder / "no.jpg", photograph(9))
    assert not seen(folder, ["no.jpg"])["no.jpg"].fault


def test_a_second_look_decodes_nothing_and_says_the_same(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "1.jpg").write_bytes(b"no picture")
    first = seen(folder, NAMES)
    assert first["1.jpg"].fault == "not_a_picture"
    assert first["0.jpg"].hash is not None
    monkeypatch.setattr(picture_looks, "look", lambda path: pytest.fail(f"{path} was looked at again"))
    assert seen(folder, NAMES) == first


def test_a_file_that_changed_is_looked_at_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen(folder, NAMES)
    before = (folder / "2.jpg").stat()
    content = bytearray((folder / "2.jpg").read_bytes())
    content[:4] = b"junk"  # of the same size
    (folder / "2.jpg").write_bytes(content)
    os.utime(folder / "2.jpg", ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    again: list[str] = []
    monkeypatch.setattr(picture_looks, "look", lambda path: again.append(path) or look(path))
    assert seen(folder, NAMES)["2.jpg"].fault == "not_a_picture"
    assert again == [str(folder / "2.jpg")]


def test_an_interrupted_look_goes_on_where_it_was(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    running = looks(folder, NAMES, workers=1)
    for _ in range(3):
        next(running)
    running.close()
    [notes] = (folder.parent / "cache" / "picture_looks").iterdir()
    with notes.open("ab") as torn:
        torn.write(b'{"name": "4.jpg", "by')  # killed in the middle of a line
    again: list[str] = []
    monkeypatch.setattr(picture_looks, "look", lambda path: again.append(Path(path).name) or look(path))
    assert set(seen(folder, NAMES)) == set(NAMES)
    assert again == ["3.jpg", "4.jpg"]
    again.clear()
    assert len(seen(folder, NAMES)) == 5
    assert again == []


def test_progress_counts_pictures_that_were_known_as_well(folder: Path) -> None:
    seen(folder, NAMES[:2])
    told: list[tuple[int, int]] = []
    list(looks(folder, NAMES, workers=1, progress=lambda done, total: told.append((done, total))))
    assert told == [(2, 5), (3, 5), (4, 5), (5, 5)]


def test_other_processes_give_the_same_in_the_same_order(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(picture_workers, "_ALONE", 0)
    paths = [str(folder / name) for name in [*NAMES, "no.jpg", *NAMES]]
    assert list(picture_workers.in_order(look, paths, 2)) == [look(path) for path in paths]


def test_work_that_is_given_up_leaves_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture_workers, "_ALONE", 0)
    running: Iterator[float] = picture_workers.in_order(abs, list(range(2000)), 2)
    assert next(running) == 0
    running.close()  # type: ignore[attr-defined]
    import multiprocessing

    assert not multiprocessing.active_children()


def test_pictures_that_the_folder_holds_twice_by_link_are_both_seen(folder: Path) -> None:
    os.symlink(folder / "0.jpg", folder / "link.jpg")
    found = seen(folder, ["0.jpg", "link.jpg"])
    assert found["0.jpg"] == found["link.jpg"]
    assert Image.open(folder / "link.jpg").size == (160, 120)
