from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from vlmablate.design.spec import StepSpec
from vlmablate.files import sha256_file, write_json, write_with
from vlmablate.orchestration.lease import LeaseLostError, claim
from vlmablate.orchestration.store import (
    ATTEMPTS,
    CorruptStepError,
    State,
    Store,
    commit,
    payload_files,
    prepare,
    verify_content,
)

STEP = StepSpec("features", 1, "abcdefgh", "conv-letterbox", {"tower": "conv"}, {}, {"scale": "smoke"})


def finish(store: Store, content: bytes = b"0123456789") -> Path:
    directory = store.directory(STEP)
    (directory / "train").mkdir(parents=True)
    (directory / "train" / "x.npy").write_bytes(content)
    write_json(directory / "spec.json", STEP.to_dict())
    write_json(directory / "result.json", {"id": STEP.id, "files": payload_files(directory), "wall_s": 2.0})
    return directory


def test_a_step_is_done_when_its_files_have_the_recorded_sizes(store: Store):
    assert store.inspect(STEP).state is State.ABSENT
    directory = finish(store)
    found = store.inspect(STEP)
    assert found.state is State.DONE
    assert found.result is not None
    assert found.result["files"] == {
        "train/x.npy": {"bytes": 10, "sha256": sha256_file(directory / "train" / "x.npy")}
    }
    assert directory == store.home / "steps" / "features" / "conv-letterbox-abcdefgh"


def test_a_step_is_found_by_its_id_whatever_the_words(store: Store):
    directory = finish(store)
    renamed = directory.rename(directory.with_name("other-words-abcdefgh"))
    assert Store(store.home).directory(STEP) == renamed
    assert store.inspect(STEP).state is State.DONE


@pytest.mark.parametrize("damage", ["truncated", "missing", "torn result", "foreign result", "no files"])
def test_damage_is_seen_by_size_alone(store: Store, damage: str):
    directory = finish(store)
    result = directory / "result.json"
    if damage == "truncated":
        os.truncate(directory / "train" / "x.npy", 4)
    elif damage == "missing":
        (directory / "train" / "x.npy").unlink()
    elif damage == "torn result":
        os.truncate(result, 20)
    elif damage == "foreign result":
        result.write_text(json.dumps({**json.loads(result.read_text()), "id": "other"}))
    else:
        result.write_text("{}")
    found = store.inspect(STEP)
    assert found.state is State.CORRUPT
    assert found.reason


def test_a_flipped_byte_is_seen_by_content(store: Store):
    directory = finish(store)
    verify_content(directory, STEP.id)
    (directory / "train" / "x.npy").write_bytes(b"0123456780")
    assert store.inspect(STEP).state is State.DONE
    with pytest.raises(CorruptStepError, match=r"train/x\.npy"):
        verify_content(directory, STEP.id)


def test_quarantine_moves_the_step_aside_and_says_so(store: Store):
    directory = finish(store)
    said: list[str] = []
    store.quarantine(directory, "x.npy is short", said.append)
    assert store.inspect(STEP).state is State.ABSENT
    assert said[0].startswith("CORRUPT")
    assert "x.npy is short" in said[0]
    assert len(list((directory.parent / ".quarantine").iterdir())) == 1
    store.quarantine(directory, "again", said.append)
    assert len(said) == 1


def test_bookkeeping_is_no_payload(tmp_path: Path):
    for name in (
        "spec.json",
        "progress.json",
        "log.txt",
        "attempts/001.json",
        "checkpoint.pt",
        ".tmp-1-x",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "metrics.jsonl").write_text("y")
    assert list(payload_files(tmp_path)) == ["metrics.jsonl"]


def test_a_new_attempt_leaves_alone_what_another_process_is_writing(tmp_path: Path):
    with (
        write_with(tmp_path / "cancelled.json") as cancellation,
        write_with(tmp_path / "payload.bin") as torn,
    ):
        cancellation.write_text("{}")
        torn.write_text("half")
        prepare(tmp_path, STEP)
        assert not torn.exists()
        torn.touch()  # so that this block can end
    assert (tmp_path / "cancelled.json").read_text() == "{}"


def test_a_new_attempt_starts_clean_unless_it_resumes(tmp_path: Path):
    for name in ("metrics.jsonl", ".tmp-9-half", "progress.json", "log.txt", "attempts/001.json", "sub/a"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "checkpoint.pt").touch()
    prepare(tmp_path, STEP)
    assert {p.name for p in tmp_path.iterdir()} == {
        "metrics.jsonl", "log.txt", "attempts", "sub", "checkpoint.pt", "spec.json",
    }  # fmt: skip
    (tmp_path / "checkpoint.pt").unlink()
    prepare(tmp_path, STEP)
    assert {p.name for p in tmp_path.iterdir()} == {"log.txt", "attempts", "spec.json"}


def test_a_result_is_committed_once_and_only_by_the_latest_attempt(store: Store):
    directory = store.directory(STEP)
    lease = claim(directory / ATTEMPTS, heartbeat_s=60.0)
    (directory / ATTEMPTS / "002.json").write_text(json.dumps({"state": "running", "owner": None}))
    with pytest.raises(LeaseLostError):
        commit(directory, lease, {"id": STEP.id})
    assert not (directory / "result.json").exists()
    lease.abandon()
    (directory / ATTEMPTS / "002.json").write_text(json.dumps({"state": "failed", "owner": None}))
    latest = claim(directory / ATTEMPTS, heartbeat_s=60.0)
    commit(directory, latest, {"id": STEP.id})
    with pytest.raises(LeaseLostError, match="already finished"):
        commit(directory, latest, {"id": STEP.id})
    latest.abandon()


def test_history_passes_over_what_cannot_be_read(store: Store):
    directory = finish(store)
    assert [result["wall_s"] for _, result in store.results("features")] == [2.0]
    (directory / "spec.json").write_text("{")
    assert list(store.results("features")) == []
    assert list(store.results("unheard")) == []
