"""Answers on disk: read back as they were given, each once, and torn lines are no answers."""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from vlmablate.errors import DiskFull, UserError
from vlmablate.evaluation import answers_store
from vlmablate.evaluation.answers_store import Given, attempt, part, read
from vlmablate.evaluation.protocol import Answer
from vlmablate.vlm.image import Frame

FRAME = Frame(640, 427, 336, 336 / 640, 336 / 640, 0.0, 55.9125)
WRITTEN = Given("vqav2", "vqav2/1", Answer('zwölf\nBäume \u2028 "so"'), FRAME)
COMPARED = Given("pope", "pope/random/2", Answer(probabilities={"Yes": 1 / 3, "No": 2 / 3}), FRAME)
BLIND = Given("safety", "safety/3", Answer(""), None)


def put(folder: Path, number: int, given: dict[str, Given], rank: int = 0) -> Path:
    with part(folder, number, rank) as opened:
        opened.add(given)
        return opened.path


def begin_number(folder: Path) -> int:
    """That of the attempt that follows the files there are."""
    return 1 + len(list(folder.glob("part-*")))


def begin(folder: Path) -> int:
    with attempt(folder) as number:
        return number


def test_answers_are_read_as_they_were_given(tmp_path: Path) -> None:
    assert read(tmp_path / "answers") == {}
    number = begin(tmp_path)
    given = {"a": WRITTEN, "b": COMPARED, "c": BLIND}
    put(tmp_path, number, {"a": WRITTEN, "b": COMPARED})
    path = put(tmp_path, number, {"c": BLIND}, rank=1)
    assert read(tmp_path) == given
    assert list(read(tmp_path)["b"].answer.probabilities) == ["Yes", "No"]
    assert read(tmp_path, [path]) == {"c": BLIND}


def test_every_attempt_writes_files_of_its_own(tmp_path: Path) -> None:
    assert begin(tmp_path) == begin(tmp_path) == 1
    put(tmp_path, 1, {"a": WRITTEN})
    with pytest.raises(FileExistsError), part(tmp_path, 1, 0):
        pass
    assert begin(tmp_path) == 2
    put(tmp_path, 12, {"a": COMPARED, "b": BLIND})
    assert begin(tmp_path) == 13
    assert read(tmp_path) == {"a": WRITTEN, "b": BLIND}, "the first answer counts"


def test_no_cut_of_a_file_makes_an_answer_that_was_not_given(tmp_path: Path) -> None:
    given = {"a": WRITTEN, "b": COMPARED, "c": BLIND}
    path = put(tmp_path, 1, given)
    whole = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        kept = sum(end <= cut for end in ends)
        assert read(tmp_path) == dict(list(given.items())[:kept])


@pytest.mark.parametrize("torn", [b"\0" * 40, b"\0\0\n", b'{"key": "a"', b"[1]\n", b'"key"\n', b"\xff\xfe\n"])
def test_what_is_no_answer_is_asked_again(tmp_path: Path, torn: bytes) -> None:
    path = put(tmp_path, 1, {"b": COMPARED})
    path.write_bytes(path.read_bytes() + torn)
    assert read(tmp_path) == {"b": COMPARED}


def test_who_still_writes_is_found(tmp_path: Path) -> None:
    with attempt(tmp_path) as number:
        with pytest.raises(UserError, match="another evaluation writes"):
            begin(tmp_path)
        with part(tmp_path, number, 3) as opened:
            opened.add({"a": WRITTEN})
    with part(tmp_path, number, 4), pytest.raises(UserError, match="out=FOLDER"):
        begin(tmp_path)
    assert begin(tmp_path) == number + 1


def test_an_attempt_that_is_about_to_end_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for earlier in (lambda: attempt(tmp_path), lambda: part(tmp_path, begin(tmp_path), 0)):
        with ExitStack() as stack:
            stack.enter_context(earlier())
            monkeypatch.setattr(answers_store.time, "sleep", lambda seconds, ends=stack: ends.close())
            with attempt(tmp_path, patience_s=60.0) as number:
                assert number == begin_number(tmp_path)


def test_a_file_system_without_locks_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> None:
        raise OSError(errno.EOPNOTSUPP, "no locks")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with part(tmp_path, begin(tmp_path), 0) as opened:
        opened.add({"a": WRITTEN})
    assert begin(tmp_path) == 2
    monkeypatch.setattr(
        fcntl, "flock", lambda *arguments: (_ for _ in ()).throw(OSError(errno.EIO, "broken"))
    )
    with pytest.raises(OSError, match="broken"):
        begin(tmp_path)


def test_a_full_disk_is_told_and_keeps_what_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write

    def full(descriptor: int, data: Any) -> int:
        if len(data) > 100:
            return write(descriptor, data[:100])
        raise OSError(errno.ENOSPC, "full")

    with part(tmp_path, begin(tmp_path), 0) as opened:
        opened.add({"a": BLIND})
        monkeypatch.setattr(answers_store.os, "write", full)
        with pytest.raises(DiskFull, match="no space left"):
            opened.add({"b": WRITTEN})
    monkeypatch.undo()
    assert read(tmp_path) == {"a": BLIND}
    assert begin(tmp_path) == 2
