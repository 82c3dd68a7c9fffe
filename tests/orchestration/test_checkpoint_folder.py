"""Checkpoints: whole or not counted, and all ranks of one mind; ranks are threads here."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest

from vlmablate.errors import DiskFull
from vlmablate.files import read_json, write_bytes
from vlmablate.orchestration import checkpoint_folder
from vlmablate.orchestration.checkpoint_folder import Alone, Group
from vlmablate.orchestration.store import payload_files


class Threads:
    """Two threads that act as ranks. A rank that stays away breaks the barrier, so a deadlock is an error."""

    def __init__(self, size: int = 2) -> None:
        self.size = size
        self._values: list[Any] = [None] * size
        self._barrier = Barrier(size, timeout=20.0)

    def rank(self, number: int) -> Group:
        outer = self

        class Rank:
            rank = number
            size = outer.size

            def share(self, value: Any) -> list[Any]:
                outer._values[number] = value
                outer._barrier.wait()
                values = list(outer._values)
                outer._barrier.wait()
                return values

        return Rank()

    def run(self, work: Callable[[Group], Any]) -> list[Any]:
        """What each rank returned or raised."""

        def one(number: int) -> Any:
            try:
                return work(self.rank(number))
            except Exception as error:
                return error

        with ThreadPoolExecutor(self.size) as pool:
            return list(pool.map(one, range(self.size)))


def save(parent: Path, step: int, group: Group, fault: Exception | None = None, attempt: int = 1) -> Path:
    def write(folder: Path) -> list[str]:
        write_bytes(folder / f"part-{group.rank}", f"{step} {group.rank} ".encode() * 50)
        if fault is not None and group.rank == group.size - 1:
            raise fault
        return [f"part-{group.rank}"]

    return checkpoint_folder.save(parent, step, attempt, group, write, {"step": step}).folder


def names(parent: Path) -> list[str]:
    return sorted(path.name for path in parent.iterdir())


def test_a_commit_names_every_file_and_the_two_newest_are_kept(tmp_path: Path):
    for step in (9, 10, 11):
        assert len(Threads().run(lambda group, step=step: save(tmp_path, step, group))) == 2
    assert names(tmp_path) == ["checkpoint-10", "checkpoint-11"]
    commit = read_json(tmp_path / "checkpoint-11" / "COMMIT")
    assert (commit["step"], commit["ranks"], commit["note"]) == (11, 2, {"step": 11})
    assert commit["files"] == {
        name: facts for name, facts in payload_files(tmp_path / "checkpoint-11").items() if name != "COMMIT"
    }
    first, second = Threads().run(lambda group: checkpoint_folder.newest(tmp_path, group))
    assert first == second
    assert (first.step, first.folder) == (11, tmp_path / "checkpoint-11")


def truncate(folder: Path) -> None:
    os.truncate(folder / "part-1", 7)


def flip(folder: Path) -> None:
    content = bytearray((folder / "part-1").read_bytes())
    content[20] ^= 1
    (folder / "part-1").write_bytes(content)


def forget_commit(folder: Path) -> None:
    (folder / "COMMIT").unlink()


def tear_commit(folder: Path) -> None:
    os.truncate(folder / "COMMIT", 30)


def lose_part(folder: Path) -> None:
    (folder / "part-0").unlink()


def leave_draft(folder: Path) -> None:
    folder.rename(folder.with_name(f"{folder.name}.tmp-3"))


def take_other(folder: Path) -> None:
    folder.rename(folder.with_name("checkpoint-77"))


DAMAGES = [truncate, flip, forget_commit, tear_commit, lose_part, leave_draft, take_other]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("readers", [1, 2, 3])
def test_all_ranks_go_on_from_the_checkpoint_before_a_damaged_one(tmp_path: Path, damage, readers: int):
    for step in (10, 20):
        Threads().run(lambda group, step=step: save(tmp_path, step, group))
    damage(tmp_path / "checkpoint-20")
    found = Threads(readers).run(lambda group: checkpoint_folder.newest(tmp_path, group))
    assert [checkpoint.step for checkpoint in found] == [10] * readers
    aside = [name for name in names(tmp_path) if name.startswith("checkpoint-quarantine-")]
    assert len(aside) == 1
    assert names(tmp_path) == ["checkpoint-10", *aside]
    # Saved again, it counts; what was moved aside does not fill the disk for ever.
    Threads().run(lambda group: save(tmp_path, 20, group, attempt=2))
    assert checkpoint_folder.newest(tmp_path, Alone()).step == 20
    assert names(tmp_path) == ["checkpoint-10", "checkpoint-20"]


def test_without_any_valid_checkpoint_all_ranks_start_anew(tmp_path: Path, capsys):
    Threads().run(lambda group: save(tmp_path, 10, group))
    flip(tmp_path / "checkpoint-10")
    (tmp_path / "checkpoint.pt").write_bytes(b"of another time")
    assert Threads().run(lambda group: checkpoint_folder.newest(tmp_path, group)) == [None, None]
    said = capsys.readouterr().out
    assert "the content of part-1 is not what was committed" in said
    assert "it was never committed" in said


def test_one_rank_with_a_full_disk_stops_all_and_the_checkpoint_before_stays(tmp_path: Path):
    Threads().run(lambda group: save(tmp_path, 10, group))
    full = OSError(errno.ENOSPC, "No space left on device")
    errors = Threads().run(lambda group: save(tmp_path, 20, group, full))
    assert isinstance(errors[0], DiskFull)
    assert "rank 1 failed" in str(errors[0])
    assert errors[1] is full
    assert names(tmp_path) == ["checkpoint-10"]
    assert checkpoint_folder.newest(tmp_path, Alone()).step == 10


def test_one_rank_that_fails_stops_all(tmp_path: Path):
    errors = Threads().run(lambda group: save(tmp_path, 20, group, ValueError("a bug")))
    assert [type(error) for error in errors] == [RuntimeError, ValueError]
    assert str(errors[0]) == "rank 1 failed: ValueError: a bug"
    assert names(tmp_path) == []


def test_a_disk_that_fills_up_at_any_flush_keeps_the_checkpoint_before(tmp_path: Path, monkeypatch):
    save(tmp_path, 10, Alone())
    flush = os.fsync
    met = 0
    for call in range(1, 20):
        count = 0

        def fsync(descriptor: int, call: int = call) -> None:
            nonlocal count
            count += 1
            if count == call:
                raise OSError(errno.ENOSPC, "No space left on device")
            flush(descriptor)

        monkeypatch.setattr(os, "fsync", fsync)
        try:
            save(tmp_path, 20 + call, Alone())
        except OSError:
            met += 1
        except DiskFull:
            met += 1
        monkeypatch.setattr(os, "fsync", flush)
        found = checkpoint_folder.newest(tmp_path, Alone())
        assert found is not None
        assert not [name for name in names(tmp_path) if ".tmp-" in name]
        if count < call:
            break
    assert met >= 2


def test_a_checkpoint_saved_by_an_overtaken_attempt_is_no_obstacle(tmp_path: Path):
    save(tmp_path, 10, Alone(), attempt=1)
    save(tmp_path, 10, Alone(), attempt=2)
    assert checkpoint_folder.newest(tmp_path, Alone()).step == 10


def test_discard_leaves_only_the_payload(tmp_path: Path):
    save(tmp_path, 10, Alone())
    (tmp_path / "checkpoint-quarantine-x").mkdir()
    (tmp_path / "model.json").write_text("{}")
    checkpoint_folder.discard(tmp_path)
    assert names(tmp_path) == ["model.json"]
    checkpoint_folder.discard(tmp_path / "nowhere")
