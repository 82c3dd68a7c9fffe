"""Instruction data in their published formats: what is read, what is refused, and where a record is found again."""

from __future__ import annotations

import json
import random
import shutil
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from tests.data.record_folders import LRV, LVIS, MIXED, PRETRAIN, chat, write, write_all  # noqa: E402
from vlmablate.data import notes, published  # noqa: E402
from vlmablate.data.records import folders, index, scan  # noqa: E402
from vlmablate.data.records.formats import FORMATS, parts_in  # noqa: E402
from vlmablate.data.records.source import Source  # noqa: E402
from vlmablate.errors import UserError  # noqa: E402
from vlmablate.vlm.prompts import Turn  # noqa: E402

MIX = "llava_v15_mix665k"
FILE = "llava_v1_5_mix665k.json"


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLMABLATE_CACHE", str(tmp_path / "cache"))


def test_every_published_set_has_a_format_and_no_other() -> None:
    assert set(FORMATS) == set(published.sources())


@pytest.mark.parametrize("form", ["array", "indented", "lines"])
def test_every_format_is_read_with_its_pictures(tmp_path: Path, form: str) -> None:
    places = write_all(tmp_path, form)
    assert set(places) == set(FORMATS)
    for name, folder in places.items():
        with Source(name, folder) as source:
            records = list(source)
            assert len(records) == len(source) > 0
            assert len({record.id for record in records}) == len(records)
            for number, record in enumerate(records):
                assert record.id.startswith(f"{name}/")
                assert record.picture is None or (folder / record.picture).is_file()
                assert [turn.role for turn in record.turns] == ["human", "gpt"] * (len(record.turns) // 2)
                assert source.pictured[number] == (record.picture is not None)
                assert source.turns[number] == len(record.turns)
                assert source.characters[number] == sum(len(turn.text) for turn in record.turns)


def test_what_the_records_say(tmp_path: Path) -> None:
    places = write_all(tmp_path)
    mixed = list(Source(MIX, places[MIX]))
    assert mixed[0].id == "llava_v15_mix665k/000000000042#1"
    assert mixed[0].turns[0] == Turn("human", "What is it?")
    assert mixed[2].turns == (Turn("human", "How many?"), Turn("gpt", "two"))
    assert mixed[3].turns[1].text == "Über\nalles"
    assert mixed[7].turns[0].text == "Write <image> in HTML", "a text alone keeps what looks like a mark"
    assert mixed[8].turns == (Turn("human", "a question"), Turn("gpt", "an answer"))
    pretrain = Source("llava_pretrain_558k", places["llava_pretrain_558k"]).at(3)
    assert pretrain.picture == "images/00001/000000003.jpg"
    assert pretrain.id == "llava_pretrain_558k/000000003#4"


def test_pictures_of_the_alignment_may_lie_beside_the_file(tmp_path: Path) -> None:
    write(tmp_path / "chat.jsonl", PRETRAIN, "lines")
    assert Source("llava_pretrain_558k", tmp_path).at(0).picture == PRETRAIN[0]["image"]


def test_negative_instructions_are_kept_and_known(tmp_path: Path) -> None:
    folder = write_all(tmp_path)["lrv_instruct"]
    source = Source("lrv_instruct", folder)
    assert len(source) == sum(map(len, LRV.values()))
    assert source.negative.tolist() == [True, False, True, False]
    assert [record.negative for record in source] == source.negative.tolist()
    assert source.at(0).turns == (Turn("human", "Is there a teapot?"), Turn("gpt", "No teapot."))
    assert [record.id for record in source][2:] == [
        "lrv_instruct/filter_cap_more1/2392589#1",
        "lrv_instruct/chart_release_update/x_1#1",
    ]
    (folder / "filter_cap1.json").unlink()
    shutil.move(folder / "lrv-vg", folder / "image")
    rest = Source("lrv_instruct", folder)
    assert len(rest) == 2
    assert rest.at(0).picture == "image/2392589.jpg"


def test_dialogues_without_an_answer_have_no_turns(tmp_path: Path) -> None:
    source = Source("sharegpt", write_all(tmp_path)["sharegpt"])
    assert source.turns.tolist() == [2, 0, 2]
    assert source.at(2).turns == (Turn("human", "1+1"), Turn("gpt", "2"))


GOOD = chat("a", "a.jpg", "<image>\nQ", "A")
BAD = {
    "no object": ([1], "a record is an object in braces"),
    "no conversations": ({"id": "b", "image": "b.jpg"}, '"conversations" is missing'),
    "no answer": (chat("b", "b.jpg", "only a question"), "no answer of gpt"),
    "no id": ({"image": "b.jpg", "conversations": GOOD["conversations"]}, '"id" is missing'),
    "null picture": ({**GOOD, "image": None}, "text alone has no"),
    "several pictures": ({**GOOD, "image": ["a.jpg", "b.jpg"]}, "the path of one picture"),
    "outside": ({**GOOD, "image": "../../etc/passwd"}, "not lie below the folder"),
    "absolute": ({**GOOD, "image": "/a.jpg"}, "not lie below the folder"),
    "role": ({**GOOD, "conversations": [{"from": "martian", "value": "x"}]}, "turn 1: \"from\" is 'martian'"),
    "no role": ({**GOOD, "conversations": [{"value": "x"}]}, 'turn 1: "from" is missing'),
    "late system": (
        {**GOOD, "conversations": [*GOOD["conversations"], {"from": "system", "value": "x"}]},
        "turn 3: \"from\" is 'system'",
    ),
    "no text": ({**GOOD, "conversations": [{"from": "human", "value": None}]}, 'turn 1: "value" is None'),
    "order": (
        {**GOOD, "conversations": [*GOOD["conversations"], {"from": "gpt", "value": "B"}]},
        "turn 3 is of gpt again",
    ),
    "no turn": ({**GOOD, "conversations": ["hello"]}, "turn 1 is 'hello'"),
    "half a letter": (chat("b", "b.jpg", "\ud83d", "A"), "half of a letter"),
}


@pytest.mark.parametrize("form", ["indented", "lines"])
@pytest.mark.parametrize("name", BAD)
def test_a_malformed_record_is_named_with_file_and_line(tmp_path: Path, name: str, form: str) -> None:
    row, words = BAD[name]
    path = tmp_path / FILE
    texts = [json.dumps(value, indent=1 if form == "indented" else None) for value in (GOOD, GOOD, row, GOOD)]
    joined = ",\n".join(texts) if form == "indented" else "\n".join(texts)
    path.write_text(f"[\n{joined}\n]" if form == "indented" else joined, encoding="utf-8")
    line = sum(text.count("\n") + 1 for text in texts[:2]) + 1 + (form == "indented")
    with pytest.raises(UserError) as told:
        Source(MIX, tmp_path)
    assert str(told.value).startswith(f"{path}, line {line}, record 3: ")
    assert words in str(told.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no records"),
        ("[]", "holds no records"),
        ("[%s", "the file ends where a comma"),
        ("[%s, ", "line 1, record 2: this is no JSON"),
        ("[%s] x", "record 2: something follows behind the end"),
        ("[%s %s]", "record 2: '{' stands where a comma"),
        ('[%s,\n{"id": "b", "image": "b.j', "line 2, record 2: this is no JSON: Unterminated string"),
        (
            '[%s,\n{"id": "b"\n "image": 1}]',
            "line 2, record 2: this is no JSON: Expecting ',' delimiter in line 3",
        ),
        ("%s %s\n", "line 1, record 1: something follows behind the record"),
        ('%s\n{"id": \n', "line 2, record 2: this is no JSON"),
        ("[" * 100000, "record 1: this is no record"),
    ],
)
def test_a_damaged_file_is_told(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / FILE).write_text(text.replace("%s", json.dumps(GOOD)))
    with pytest.raises(UserError, match=FILE) as told:
        Source(MIX, tmp_path)
    assert words in str(told.value)


def test_a_file_that_is_no_text_is_told(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b'[{"id": "\xff\xfe"}]')
    with pytest.raises(UserError, match="not UTF-8"):
        Source(MIX, tmp_path)


def test_all_that_is_wrong_with_json_lines_can_be_listed(tmp_path: Path) -> None:
    rows = [json.dumps(GOOD), '{"id": ', json.dumps({"id": "b"}), json.dumps(GOOD)]
    (tmp_path / FILE).write_text("\n".join(rows))
    (found,) = parts_in(MIX, tmp_path)
    problems = [(element.line, problem) for element, record, problem in index.walk(found) if record is None]
    assert [line for line, _ in problems] == [2, 3]


def test_a_folder_without_the_data_and_an_unknown_source_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"expected there {FILE}"):
        Source(MIX, tmp_path)
    with pytest.raises(UserError, match="did you mean 'llava_v15_mix665k'"):
        Source("llava_v15_mix655k", tmp_path)


@pytest.mark.parametrize("block", [1, 7, 64, 1 << 22])
def test_where_a_file_is_cut_for_reading_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(scan, "BLOCK", block)
    said = ["plain", 'ü€😀\n\t"quoted\\', "", "x" * 90, "\u2028 and \x85"]
    rows = [
        {"id": f"ü{number}", "nested": {"a": [1, {"b": text}]}, "said": text}
        for number, text in enumerate(said)
    ]
    for form in ("array", "indented", "lines"):
        path = write(tmp_path / f"{form}.json", rows, form)
        raw = path.read_bytes()
        found = list(scan.elements(path))
        assert [element.value for element in found] == rows
        assert [json.loads(raw[e.start : e.start + e.size]) for e in found] == rows
        assert [element.line for element in found] == [raw[: e.start].count(b"\n") + 1 for e in found]
        path.write_bytes(b"\xef\xbb\xbf" + raw)
        assert [e.start - 3 for e in scan.elements(path)] == [e.start for e in found], "a byte order mark"


def test_any_record_is_read_alone_and_by_any_thread(tmp_path: Path) -> None:
    rows = [
        chat(f"id{number}", None if number % 3 else "p.jpg", f"q{number}", "ä" * number)
        for number in range(200)
    ]
    write(tmp_path / FILE, rows, "indented")
    source = Source(MIX, tmp_path)
    whole = list(source)
    numbers = list(range(len(rows)))
    random.Random(0).shuffle(numbers)
    wrong: list[int] = []

    def read() -> None:
        wrong.extend(number for number in numbers if source.at(number) != whole[number])

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_an_index_is_made_once_for_a_content_wherever_it_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_all(tmp_path)[MIX]
    whole = list(Source(MIX, folder))
    monkeypatch.setattr(index, "make_index", None)
    moved = tmp_path / "moved"
    shutil.move(folder, moved)
    assert list(Source(MIX, moved)) == whole
    monkeypatch.undo()
    monkeypatch.setenv("VLMABLATE_CACHE", str(tmp_path / "cache"))
    write(moved / FILE, MIXED[:4])
    assert len(Source(MIX, moved)) == 4


def test_a_killed_indexing_leaves_nothing_that_is_taken_for_an_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_all(tmp_path)[MIX]

    def killed(path: Path, array: np.ndarray) -> None:
        Path(path).write_bytes(b"\x93NUMPY half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr(index.np, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        Source(MIX, folder)
    monkeypatch.undo()
    monkeypatch.setenv("VLMABLATE_CACHE", str(tmp_path / "cache"))
    assert len(Source(MIX, folder)) == len(MIXED)


def test_a_file_that_is_changed_under_way_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / FILE, MIXED)
    source = Source(MIX, tmp_path)
    path.write_bytes(b" " * path.stat().st_size)
    with pytest.raises(UserError, match="the file was changed"):
        source.at(1)


def test_a_source_is_known_by_content_and_found_where_it_was_named_last(tmp_path: Path) -> None:
    folder = write_all(tmp_path)["lrv_instruct"]
    digest = folders.remember("lrv_instruct", folder)
    assert folders.find("lrv_instruct", digest) == folder
    (folder / "notes.txt").write_text("of nobody's interest")
    moved = tmp_path / "elsewhere"
    shutil.move(folder, moved)
    with pytest.raises(UserError, match="the folder of 'lrv_instruct', is not there"):
        folders.find("lrv_instruct", digest)
    assert folders.remember("lrv_instruct", str(moved)) == digest
    assert folders.find("lrv_instruct", digest) == moved
    write(moved / "filter_cap1.json", LRV["filter_cap1.json"][:1])
    with pytest.raises(UserError, match="no longer holds the data"):
        folders.find("lrv_instruct", digest)
    with pytest.raises(UserError, match=r"data\.folders\.lrv_instruct=FOLDER"):
        folders.find("lrv_instruct", "0" * 64)


def test_sources_in_one_folder_have_digests_of_their_own(tmp_path: Path) -> None:
    places = write_all(tmp_path)
    digests = {name: folders.remember(name, folder) for name, folder in places.items()}
    assert len(set(digests.values())) == len(FORMATS)
    assert all(folders.find(name, digest) == places[name] for name, digest in digests.items())
    write(places["lvis_instruct_4v"] / "lvis_instruct4v_220k.json", LVIS[:1])
    assert folders.remember(MIX, places[MIX]) == digests[MIX]


def test_an_unchanged_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_all(tmp_path)[MIX]
    digest = folders.remember(MIX, folder)
    monkeypatch.setattr(notes.files, "sha256_file", None)
    assert folders.remember(MIX, folder) == digest
