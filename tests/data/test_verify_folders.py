"""`vlmablate data verify`: everything that is wrong with a folder is told, with its place and what to do."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from drawn_pictures import encoded, photograph, save
from record_folders import write_all

from vlmablate import verbs
from vlmablate.data_verbs import run as data
from vlmablate.errors import UserError

sys.path.append(str(Path(__file__).parents[1] / "evaluation"))
from published_folders import WRITERS

SOURCE = "llava_v15_mix665k"


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLMABLATE_CACHE", str(tmp_path / "cache"))


def record(name: str, picture: str | None, said: str = "That.") -> dict[str, Any]:
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": said}]
    return {"id": name, **({} if picture is None else {"image": picture}), "conversations": turns}


@pytest.fixture
def faulty(tmp_path: Path) -> Path:
    """A source of which little is right: one record a line, so that lines are known."""
    folder = tmp_path / "data"
    coco = folder / "coco" / "train2017"
    for number in range(7):
        save(coco / f"{number:012d}.jpg", photograph(number))
    (coco / "000000000001.jpg").write_bytes(b"")
    (coco / "000000000002.jpg").write_bytes(encoded(photograph(2))[:-40])
    (coco / "000000000003.jpg").write_bytes(b"<html>404 Not Found</html>")
    (coco / "000000000004.jpg").unlink()
    rows: list[Any] = [record(f"r{number}", f"coco/train2017/{number:012d}.jpg") for number in range(6)]
    rows += [
        record("r5", "coco/train2017/000000000005.jpg"),  # line 8: again
        record("r5", "coco/train2017/000000000005.jpg", "Other words."),  # the same id is no fault
        {"id": "bad", "conversations": "none"},  # line 10
        record("r4-too", "coco/train2017/000000000004.jpg", "Something else."),
        {"id": "worse", "image": ["a", "b"], "conversations": []},  # line 12
        record("text", None),
    ]
    (folder / "llava_v1_5_mix665k.json").write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")
    return folder


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def test_every_fault_is_told_and_none_stops_the_others(
    faulty: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report, keep, missing = (tmp_path / name for name in ("report", "keep", "missing"))
    given = ["--report", str(report), "--keep", str(keep), "--missing", str(missing)]
    assert data(["verify", f"{SOURCE}={faulty}", *given]) == 1
    found = [json.loads(line) for line in lines(report)]
    annotations = str(faulty / "llava_v1_5_mix665k.json")
    records = [(one["kind"], one["file"], one["line"]) for one in found if one["file"]]
    assert records == [
        ("duplicate_record", annotations, 8),
        ("malformed_record", annotations, 10),
        ("malformed_record", annotations, 12),
    ]
    pictures = [
        (one["kind"], one["picture"][-5], one["record"], one["records"]) for one in found if one["picture"]
    ]
    assert pictures == [
        ("empty_picture", "1", f"{SOURCE}/r1#2", 1),
        ("truncated_picture", "2", f"{SOURCE}/r2#3", 1),
        ("not_a_picture", "3", f"{SOURCE}/r3#4", 1),
        ("missing_picture", "4", f"{SOURCE}/r4#5", 2),
    ]
    assert all(one["repair"] and one["what"] for one in found)
    assert lines(missing) == [f"coco/train2017/{number:012d}.jpg" for number in (1, 2, 3, 4)]
    assert lines(keep) == [f"{SOURCE}/{name}" for name in ("r0#1", "r5#6", "r5#8", "text#12")]
    said = capsys.readouterr().out
    assert "12 records, 6 pictures" in said
    assert "2  malformed record: correct the record" in said
    assert "and 1 more" in said  # the other record of the missing picture


def test_a_name_that_no_terminal_can_show_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, missing = tmp_path / "data", tmp_path / "missing"
    folder.mkdir()
    (folder / "llava_v1_5_mix665k.json").write_text(json.dumps([record("r", "half \ud800.jpg")]))
    assert data(["verify", f"{SOURCE}={folder}", "--missing", str(missing)]) == 1
    assert "half \\ud800.jpg" in capsys.readouterr().out


def test_neither_verb_needs_torch(faulty: Path, tmp_path: Path) -> None:
    pope = tmp_path / "pope"
    pope.mkdir()
    WRITERS["pope"](pope)
    code = (
        "import sys; from vlmablate.data_verbs import run as data\n"
        "assert not {'numpy', 'PIL', 'torch'} & set(sys.modules)\n"
        f"data(['verify', 'pope={pope}'])\n"
        f"data(['verify', '{SOURCE}={faulty}'])\n"
        f"data(['overlap', 'sharegpt={write_all(tmp_path)['sharegpt']}', 'pope={pope}'])\n"
        "assert not {'torch', 'transformers', 'pandas', 'scipy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_what_was_repaired_is_told_no_more(faulty: Path, tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    data(["verify", f"{SOURCE}={faulty}", "--missing", str(missing)])
    for name in lines(missing):
        save(faulty / name, photograph(50))
    rows = [line.rstrip(",") for line in lines(faulty / "llava_v1_5_mix665k.json")[1:-1]]
    good = [rows[number - 2] for number in range(2, 14) if number not in (8, 10, 12)]
    (faulty / "llava_v1_5_mix665k.json").write_text("\n".join(good))  # JSON lines, this time
    assert data(["verify", f"{SOURCE}={faulty}", "--missing", str(missing)]) == 0
    assert lines(missing) == []


def test_folders_as_they_are_published_are_clean(tmp_path: Path) -> None:
    for name, folder in write_all(tmp_path).items():
        assert data(["verify", f"{name}={folder}"]) == 0, name
    for name, writer in WRITERS.items():
        folder = tmp_path / f"benchmark-{name}"
        folder.mkdir()
        writer(folder)
        assert data(["verify", f"{name}={folder}"]) == 0, name


def test_benchmarks_are_looked_at_as_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "pope"
    folder.mkdir()
    WRITERS["pope"](folder)
    questions = folder / "coco_pope_popular.json"
    first = lines(questions)[0]
    questions.write_text(f"{first}\n{first}\n")
    (folder / "val2014" / "COCO_val2014_000000000073.jpg").unlink()
    assert data(["verify", f"pope={folder}"]) == 1
    said = capsys.readouterr().out
    assert "1  duplicate id" in said
    assert "1  missing picture" in said
    questions.write_text(f"{first}\n{{}}\n")
    assert data(["verify", f"pope={folder}"]) == 1
    assert f"{questions}, line 2" in capsys.readouterr().out


def test_files_that_are_not_as_they_were_are_told(tmp_path: Path) -> None:
    folder, report = tmp_path / "pope", tmp_path / "report"
    folder.mkdir()
    WRITERS["pope"](folder)
    inside = folder / "manifest.jsonl"  # it may lie in the folder itself
    assert data(["verify", f"pope={folder}", "--write-manifest", str(inside)]) == 0
    rows = [json.loads(line) for line in lines(inside)]
    assert [row["path"] for row in rows] == sorted(row["path"] for row in rows)
    assert len(rows) == 5
    again = ["verify", f"pope={folder}", "--manifest", str(inside), "--report", str(report)]
    assert data(again) == 0
    shutil.move(str(folder), str(tmp_path / "moved"))
    folder, inside = tmp_path / "moved", tmp_path / "moved" / "manifest.jsonl"
    again = ["verify", f"pope={folder}", "--manifest", str(inside), "--report", str(report)]
    assert data(again) == 0, "paths are relative to the folder"
    one, two = (folder / "val2014" / f"COCO_val2014_{number:012d}.jpg" for number in (42, 73))
    content = bytearray(one.read_bytes())
    content[len(content) // 2] ^= 1  # decodes all the same, to another picture
    one.write_bytes(content)
    two.write_bytes(two.read_bytes() + b"more")
    (folder / "new.txt").write_text("new")
    (folder / "coco_pope_random.json").rename(folder / ".hidden")
    (folder / "coco_pope_random.json").write_text("")
    (folder / "coco_pope_adversarial.json").unlink()
    assert data(again) == 1
    found = [json.loads(line) for line in lines(report)]
    kinds = {(row["kind"], row["file"]) for row in found if row["kind"].endswith("_file")}
    assert kinds == {
        ("changed_file", "coco_pope_random.json"),
        ("changed_file", "val2014/COCO_val2014_000000000042.jpg"),
        ("changed_file", "val2014/COCO_val2014_000000000073.jpg"),
        ("new_file", "new.txt"),
        ("gone_file", "coco_pope_adversarial.json"),
    }


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["verify"], "usage: vlmablate data verify"),
        (["verify", "pope={0}", "vqav2={0}"], "usage: vlmablate data verify"),
        (["verify", "pop={0}"], "did you mean 'pope'"),
        (["verify", "pope={0}", "--manifest", "a", "--write-manifest", "b"], "give one of them"),
        (["verify", "pope={0}", "--manifset", "a"], "did you mean '--manifest'"),
        (["verify", f"{SOURCE}={{0}}"], "llava_v1_5_mix665k.json"),
        (["verfy"], "did you mean 'verify'"),
    ],
)
def test_mistakes_in_the_command_are_told(tmp_path: Path, arguments: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        data([word.format(tmp_path) for word in arguments])


@pytest.mark.parametrize("line", ["no json", '{"path": "a"}', "[]"])
def test_a_manifest_that_is_none_names_its_line(tmp_path: Path, line: str) -> None:
    folder, manifest = tmp_path / "pope", tmp_path / "manifest"
    folder.mkdir()
    WRITERS["pope"](folder)
    manifest.write_text(f'{{"path": "a", "bytes": 1, "sha256": "0"}}\n{line}\n')
    with pytest.raises(UserError, match="manifest, line 2"):
        data(["verify", f"pope={folder}", "--manifest", str(manifest)])


@pytest.mark.parametrize("arguments", [[], ["--help"], ["verify", "--help"], ["overlap", "-h"]])
def test_help_is_given_and_names_what_exists(arguments: list[str]) -> None:
    with pytest.raises(verbs.Help) as asked:
        data(arguments)
    assert "usage: vlmablate data" in str(asked.value)
    assert "{" not in str(asked.value)
    if len(arguments) == 2:
        assert SOURCE in str(asked.value)
        assert "refcoco_plus" in str(asked.value)
