"""Published files: a malformed record is named by file, line and what to do; a pickle runs nothing."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vlmablate.errors import UserError
from vlmablate.evaluation.tasks import reading

ROWS = [{"id": 1, "q": 'a "quoted, {text"'}, {"id": 2, "q": "b"}, {"id": "three", "q": ["c"]}]


def put(folder: Path, text: str) -> Path:
    path = folder / "file.json"
    path.write_text(text, encoding="utf-8")
    return path


def read(rows: Iterator[reading.Row]) -> list[int]:
    return [row.whole("id") for row in rows]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (json.dumps(ROWS), 1),
        (json.dumps(ROWS, indent=1), 10),
        ("\n\n" + ",\n".join(map(json.dumps, ROWS)).join("[]"), 5),
        ("\ufeff".strip("\ufeff") + "[\n" + ",\n".join(map(json.dumps, ROWS)) + "\n]", 4),
    ],
)
def test_a_malformed_record_of_an_array_is_named_by_its_line(tmp_path: Path, text: str, line: int) -> None:
    path = put(tmp_path, text)
    with pytest.raises(UserError) as raised:
        read(reading.array(path))
    assert str(raised.value) == (
        f"{path}, line {line} (record 3): 'id' is 'three', expected a whole number; "
        "download the file again, or correct the record"
    )


def test_a_record_inside_an_object_is_named_by_its_line(tmp_path: Path) -> None:
    path = put(tmp_path, json.dumps({"info": {"rows": [1, 2]}, "rows": ROWS}, indent=2))
    with pytest.raises(UserError, match=r"line 17 \(record 3\)"):
        read(reading.array(path, "rows"))


def test_a_member_of_an_object_is_named_by_line_and_name(tmp_path: Path) -> None:
    path = put(tmp_path, '{\n"a": {"id": 1},\n"b{": {"q": "}"}\n}')
    with pytest.raises(UserError, match=r"line 3 \(record 2 'b\{'\): no 'id' in a record that has 'q'"):
        read(reading.mapping(path))


def test_a_record_of_json_lines_is_named_by_its_line(tmp_path: Path) -> None:
    path = put(tmp_path, '{"id": 1}\n\n{"id": true}\n')
    with pytest.raises(UserError, match="line 3: 'id' is True, expected a whole number"):
        read(reading.lines(path))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[{"id": 1},\n{"id": 2', "line 2, column 9: not JSON"),
        ('{"id": 1}', "is not a list of records"),
        ('[1, {"id": 1}]', r"line 1 \(record 1\): a record is int, expected an object with 'id'"),
    ],
)
def test_a_file_that_is_cut_short_or_another_one_is_told(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        read(reading.array(put(tmp_path, text)))


def test_a_line_that_is_no_json_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="line 2, column 8: not JSON"):
        read(reading.lines(put(tmp_path, '{"id": 1}\n{"id": }\n')))


def test_a_file_in_another_encoding_is_told(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_bytes('[{"id": 1, "q": "é"}]'.encode("latin-1"))
    with pytest.raises(UserError, match="not UTF-8 text at byte 17"):
        read(reading.array(path))


def test_an_id_that_occurs_twice_is_told(tmp_path: Path) -> None:
    path = put(tmp_path, '[{"id": 1},\n{"id": 2},\n{"id": 1}]')
    with pytest.raises(UserError, match=r"line 3 \(record 3\): 'id' 1 is there twice, first in record 1"):
        reading.values_by(reading.array(path), "id")


def test_a_missing_file_says_which_names_are_looked_for(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none of the files a.json, b.json; put the published file there"):
        reading.published(tmp_path, "a.json", "b.json")
    (tmp_path / "b.json").touch()
    assert reading.published(tmp_path, "a.json", "b.json").name == "b.json"


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_of_plain_values_is_read(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "refs.p"
    path.write_bytes(pickle.dumps(ROWS, protocol))
    assert [row.values for row in reading.pickled(path)] == ROWS


class Command:
    """What a harmful pickle looks like."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.target),)


def test_a_pickle_that_wants_to_run_something_is_refused_and_not_run(tmp_path: Path) -> None:
    path, target = tmp_path / "refs.p", tmp_path / "made"
    path.write_bytes(pickle.dumps([Command(target)]))
    with pytest.raises(UserError, match=r"asks for (posix|nt)\.mkdir"):
        list(reading.pickled(path))
    assert not target.exists()


@pytest.mark.parametrize("damage", [b"", b"\x80\x02]q\x00", b"not a pickle"])
def test_a_damaged_pickle_is_told(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "refs.p"
    path.write_bytes(damage)
    with pytest.raises(UserError, match="download it again"):
        list(reading.pickled(path))


def test_all_malformed_records_are_told_to_whoever_asks_and_the_rest_is_read(tmp_path: Path) -> None:
    path = put(tmp_path, '{"id": 1}\n{"id":\n{"q": 2}\n{"id": 4}\n')
    told: list[UserError] = []
    with reading.telling(told.append):
        assert list(reading.each(reading.lines(path), lambda row: row.whole("id"))) == [1, 4]
    assert ["line 2" in str(told[0]), "line 3" in str(told[1]), len(told)] == [True, True, 2]
    with pytest.raises(UserError, match="line 2"):
        read(reading.lines(path))


def test_the_files_that_are_read_are_noted(tmp_path: Path) -> None:
    path, pickled = put(tmp_path, "[]"), tmp_path / "refs.p"
    pickled.write_bytes(pickle.dumps([]))
    with reading.reads() as opened:
        for rows in (reading.array(path), reading.lines(path), reading.pickled(pickled)):
            list(rows)
    list(reading.array(path))
    assert opened == [path, path, pickled]
