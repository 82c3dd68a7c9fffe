"""Which evaluation pictures were trained on: by id, by hash, and what is counted."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from drawn_pictures import photograph, save

from vlmablate.data.overlap import Match, Pictures, matches, row
from vlmablate.data.overlap_scenes import scene_rows
from vlmablate.data.overlap_table import FILE, read_table, text_table, write_table
from vlmablate.data.picture_hash import perceptual_hash, thumbnail
from vlmablate.data.questions import Question
from vlmablate.data_verbs import run as data
from vlmablate.errors import UserError

sys.path.append(str(Path(__file__).parents[1] / "evaluation"))
from published_folders import WRITERS

Drawn = Sequence[tuple[str | None, int | None]]


def pictures(drawn: Drawn) -> Pictures:
    """Each (id, number of the photograph that it is a copy of; None for a flat one)."""
    smalls = [
        np.zeros((32, 32), dtype=np.uint8) if number is None else thumbnail(photograph(number))
        for _, number in drawn
    ]
    return Pictures(
        [f"{place}.jpg" for place in range(len(drawn))],
        [name for name, _ in drawn],
        [perceptual_hash(small) for small in smalls],
        lambda numbers: (smalls[number] for number in numbers),
    )


def test_pairs_by_id_and_the_rest_by_hash() -> None:
    evaluation = pictures([("coco/1", 1), ("coco/2", 2), (None, 3), (None, 4), (None, None)])
    training = pictures([("coco/1", 9), (None, 1), (None, 3), ("vg/5", 3), ("coco/7", 4), (None, None)])
    assert matches(evaluation, training) == [
        Match(0, 0, None),  # its copy under number 1 is not needed any more
        Match(2, 2, 0),
        Match(2, 3, 0),
        Match(3, 4, 0),
    ]


def test_near_hashes_of_pictures_that_are_not_alike_are_no_pair() -> None:
    evaluation, training = pictures([(None, 1)]), pictures([(None, 2)])
    chance = Pictures(training.names, training.ids, evaluation.hashes, training.thumbnails)
    assert matches(evaluation, chance) == []


def test_a_row_counts_pictures_and_the_questions_about_them() -> None:
    evaluation = pictures([("coco/1", 1), (None, 2), (None, 3), (None, None)])
    training = pictures([("coco/1", 8), (None, 2), (None, None)])
    one = row("pope", "lvis", evaluation, training, {0: 5, 1: 2, 3: 1}, matches(evaluation, training))
    assert (one.pictures, one.by_id, one.by_hash, one.questions, one.touched) == (3, 1, 1, 8, 7)
    assert (one.unhashed, one.training, one.unhashed_training) == (1, 3, 1)
    other = row("vsr", "lvis", evaluation, training, {2: 4}, matches(evaluation, training))
    assert (other.by_id, other.by_hash, other.touched) == (0, 0, 0)


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    evaluation = pictures([("coco/1", 1)])
    rows = [row("pope", "lvis", evaluation, evaluation, {0: 3}, matches(evaluation, evaluation))]
    write_table(rows, tmp_path / FILE)
    assert read_table(tmp_path / FILE) == rows
    assert "3 (100.0 %)" in text_table(rows)
    assert read_table(tmp_path / "none") is None
    (tmp_path / FILE).write_text('{"rows": [{"benchmark": "pope"}]}')
    with pytest.raises(UserError, match=FILE):
        read_table(tmp_path / FILE)


def test_scenes_of_both_splits_that_came_out_the_same_are_found() -> None:
    training = {f"train/{number}": thumbnail(photograph(number)) for number in range(4)}
    evaluation = {f"evaluation/{number}": thumbnail(photograph(number)) for number in (3, 7)}
    asked = [
        Question("a", "evaluation/3", "counting", "all", "how many zebra?", "one"),
        Question("b", "evaluation/7", "counting", "all", "how many zebra?", "two"),
        Question("c", "evaluation/7", "spatial", "all", "is zebra left of teapot?", "yes"),
        Question("d", "request-1", "refusal", "all", "no picture", "sorry"),
    ]
    counting, spatial = scene_rows(training, evaluation, asked)
    assert (counting.benchmark, counting.pictures, counting.by_hash, counting.touched) == (
        "counting",
        2,
        1,
        1,
    )
    assert (spatial.benchmark, spatial.pictures, spatial.by_hash, spatial.touched) == ("spatial", 1, 0, 0)


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """VQAv2 val (pictures 42, 73, 74 of val2014) and POPE (42, 73) beside LVIS-Instruct-4V, whose train2017 and val2017
    hold 42 and 73 under the same numbers, and 74 under the name of another data set, smaller and saved again."""
    monkeypatch.setenv("VLMABLATE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("VLMABLATE_HOME", str(tmp_path / "home"))
    folders = {name: tmp_path / name for name in ("vqav2", "pope", "lvis_instruct_4v")}
    for name in ("vqav2", "pope"):
        folders[name].mkdir()
        WRITERS[name](folders[name])
        for number in (42, 73, 74):
            place = folders[name] / "val2014" / f"COCO_val2014_{number:012d}.jpg"
            if place.exists():
                save(place, photograph(number, (640, 480)))
    lvis = folders["lvis_instruct_4v"]
    places = {
        "coco/train2017/000000000042.jpg": photograph(42, (640, 480)),
        "coco/val2017/000000000073.jpg": photograph(73, (640, 480)),
        "other/copy.jpg": photograph(74, (640, 480)).resize((400, 300)),
        "other/else.jpg": photograph(99),
    }
    said = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "That."}]
    rows = [{"id": name, "image": name, "conversations": said} for name in places]
    for name, picture in places.items():
        save(lvis / name, picture, quality=70)
    (lvis / "lvis_instruct4v_220k.json").write_text(json.dumps(rows))
    return folders


def words(folders: dict[str, Path]) -> list[str]:
    return [f"{name}={folder}" for name, folder in folders.items()]


def test_lvis_instruct_contains_pictures_that_vqav2_and_pope_ask_about(
    published: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = tmp_path / "pairs.jsonl"
    assert data(["overlap", *words(published), "--pairs", str(pairs)]) == 1
    table = [line.split() for line in capsys.readouterr().out.splitlines()]
    # Pictures, by id, by hash only, questions, about them: all three pictures of VQAv2 are training pictures.
    assert table[1] == [*["vqav2", "lvis_instruct_4v", "3", "2", "1", "5", "5", "(100.0", "%)"]]
    assert table[2] == [*["pope", "lvis_instruct_4v", "2", "2", "0", "7", "7", "(100.0", "%)"]]
    found = [json.loads(line) for line in pairs.read_text().splitlines()]
    assert {(one["benchmark"], one["by"], one["training"]) for one in found} == {
        ("vqav2", "id", "coco/train2017/000000000042.jpg"),
        ("vqav2", "id", "coco/val2017/000000000073.jpg"),
        ("vqav2", "hash", "other/copy.jpg"),
        ("pope", "id", "coco/train2017/000000000042.jpg"),
        ("pope", "id", "coco/val2017/000000000073.jpg"),
    }
    assert {one["id"] for one in found if one["by"] == "id"} == {"coco/42", "coco/73"}


def test_ids_alone_need_no_pictures(published: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    for place in [*published["lvis_instruct_4v"].rglob("*.jpg"), *published["vqav2"].rglob("*.jpg")]:
        place.unlink()
    assert data(["overlap", *words(published), "--ids-only"]) == 1
    line = capsys.readouterr().out.splitlines()[1].split()
    assert line == [*["vqav2", "lvis_instruct_4v", "3", "2", "-", "5", "4", "(80.0", "%)"]]


def test_a_table_goes_to_a_study_that_exists(published: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown study 'mine'"):
        data(["overlap", *words(published), "--study", "mine"])
    study = tmp_path / "home" / "studies" / "mine"
    study.mkdir(parents=True)
    (study / "study.json").write_text("{}")
    data(["overlap", *words(published), "--study", "mine", "--ids-only"])
    rows = read_table(study / FILE)
    assert rows is not None
    assert [one.benchmark for one in rows] == ["vqav2", "pope"]


def test_data_that_shares_nothing_ends_well(published: dict[str, Path]) -> None:
    for name in ("42", "73"):
        [place] = published["lvis_instruct_4v"].rglob(f"*0{name}.jpg")
        place.unlink()
    rows = [{"id": "x", "image": "other/else.jpg", "conversations": [
        {"from": "human", "value": "What?"}, {"from": "gpt", "value": "That."}]}]  # fmt: skip
    (published["lvis_instruct_4v"] / "lvis_instruct4v_220k.json").write_text(json.dumps(rows))
    assert data(["overlap", *words(published)]) == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["vqav2={vqav2}"], "there is no source of training data"),
        (["lvis_instruct_4v={lvis_instruct_4v}"], "there is no benchmark"),
        (["vqav2"], "NAME=FOLDER"),
        (["vqa=/"], "did you mean 'gqa'|did you mean 'vqav2'"),
        (["vqav2=/nowhere/at/all"], "there is no such folder"),
        (["vqav2={vqav2}", "vqav2={pope}"], "given twice"),
        (["--workers", "0", "vqav2={vqav2}", "lvis_instruct_4v={lvis_instruct_4v}"], "--workers"),
    ],
)
def test_mistakes_are_told(published: dict[str, Path], arguments: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        data(["overlap", *(word.format(**published) for word in arguments)])


def test_a_malformed_training_record_names_file_and_line(published: dict[str, Path]) -> None:
    (published["lvis_instruct_4v"] / "lvis_instruct4v_220k.json").write_text('[\n{"id": 1}\n]')
    with pytest.raises(UserError, match=r"lvis_instruct4v_220k.json, line 2: .*\n.*data verify"):
        data(["overlap", *words(published)])
