"""How each source is published: its annotation files, where its pictures lie beside them, and how a record is read.

A user gives one folder for a source. The folder holds the annotation files under their published names and the pictures
below it as the publishers lay them out; sources may share a folder, as LLaVA's ``playground/data`` does.

| source              | annotation files                                 | pictures below the folder               |
|---------------------|--------------------------------------------------|-----------------------------------------|
| llava_pretrain_558k | blip_laion_cc_sbu_558k.json (or chat.json)       | images/00453/…, or 00453/…              |
| llava_v15_mix665k   | llava_v1_5_mix665k.json                          | coco/train2017, gqa/images,             |
|                     |                                                  | ocr_vqa/images, textvqa/train_images,   |
|                     |                                                  | vg/VG_100K, vg/VG_100K_2                |
| lvis_instruct_4v    | lvis_instruct4v_220k.json                        | coco/train2017, coco/val2017            |
| lrv_instruct        | filter_cap1.json, filter_cap_more1.json and      | lrv-vg (or image),                      |
|                     | chart_release_update.json; at least one of them  | lrv-chart (or chart_image)              |
| sharegpt            | ShareGPT_V3_unfiltered_cleaned_split.json        | none                                    |
|                     | (or sharegpt.json)                               |                                         |

Every file may be a JSON array or JSON lines, and be called .jsonl as well.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from vlmablate.data.records.schema import Record
from vlmablate.errors import UserError, unknown_name
from vlmablate.vlm.prompts import Turn

MARK = "<image>"
_HUMAN, _GPT = "human", "gpt"
_ROLES = {
    _HUMAN: _HUMAN, "user": _HUMAN, _GPT: _GPT, "chatgpt": _GPT, "assistant": _GPT, "bing": _GPT, "bard": _GPT,
}  # fmt: skip
_SYSTEM = "system"
_OUTSIDE = re.compile(r"^/|^[A-Za-z]:|\\|(?:^|/)\.\.(?:/|$)")
_SURROGATE = re.compile("[\ud800-\udfff]")
_HALF = "holds half of a letter (a lone surrogate), which is no text"


class Malformed(ValueError):  # noqa: N818
    """What is wrong with a record; whoever knows its file and line says these."""


class Content(NamedTuple):
    """A record as its file has it: the official id, and the rest as in `Record`."""

    official: str
    picture: str | None
    turns: tuple[Turn, ...]
    task: str = ""


@dataclass(frozen=True)
class Part:
    """One annotation file of a source.

    Attributes:
        files: the names under which it is published; the first that is there counts.
        pictures: where its pictures may lie, relative to the folder of the source; the first that is there counts.
        read: a value of the file -> its content. Raises `Malformed`.
    """

    files: tuple[str, ...]
    pictures: tuple[str, ...]
    read: Callable[[Any], Content]


@dataclass(frozen=True)
class Found:
    """A part that is there. `pictures`: the prefix of its pictures, empty or with a slash at the end; `label`: what the
    ids of its records begin with."""

    part: Part
    path: Path
    pictures: str
    label: str


def parts_in(source: str, folder: Path) -> list[Found]:
    """The parts of a source in a folder, in the order of the format.

    Raises UserError for an unknown source, and a folder that is not there or has none of its files.
    """
    parts = format_named(source)
    if not folder.is_dir():
        raise UserError(f"{folder}, the folder of '{source}', is not there")
    found = []
    for part in parts:
        named = (folder / name for file in part.files for name in (file, f"{file}l"))
        path = next((path for path in named if path.is_file()), None)
        if path is None:
            continue
        below = next((name for name in part.pictures if (folder / name).is_dir()), part.pictures[0])
        label = source if len(parts) == 1 else f"{source}/{Path(part.files[0]).stem}"
        found.append(Found(part, path, f"{below}/" if below else "", label))
    if not found:
        names = ", ".join(" or ".join(part.files) for part in parts)
        raise UserError(
            f"{folder} holds no data of '{source}': expected there {names}, under the names of the publisher, with the "
            "pictures below (vlmablate/data/records/formats.py lists the layouts)"
        )
    return found


def read_record(found: Found, number: int, value: Any) -> Record:
    """Record `number` (from 1) of a part, from its value in the file. Raises `Malformed`.

    The id is ``source/official#number``: official ids often name the picture, which several records may share.
    """
    content = found.part.read(value)
    picture = None if content.picture is None else found.pictures + content.picture
    return Record(f"{found.label}/{content.official}#{number}", picture, content.turns, content.task)


def format_named(source: str) -> tuple[Part, ...]:
    """The annotation files of that source. Raises UserError that lists the sources there are."""
    if source not in FORMATS:
        raise unknown_name("data source", source, FORMATS, "data.mix")
    return FORMATS[source]


def _chat(value: Any) -> Content:
    """LLaVA's form: {"id", "image" (text alone has none), "conversations": [{"from", "value"}, …]}."""
    record = _object(value)
    picture = _picture(record["image"]) if "image" in record else None
    turns = _dialogue(record, pictured=picture is not None)
    if not turns:
        raise Malformed('"conversations" has no answer of gpt to a question of the human')
    return Content(_official(record, "id"), picture, turns)


def _pictured_chat(value: Any) -> Content:
    content = _chat(value)
    if content.picture is None:
        raise Malformed('"image" is missing, and all records of this source are about a picture')
    return content


def _sharegpt(value: Any) -> Content:
    """ShareGPT's form, which is LLaVA's without pictures. Some of its dialogues hold no answer: they have no turns."""
    record = _object(value)
    if "image" in record:
        raise Malformed('"image" stands in a source of text alone')
    return Content(_official(record, "id"), None, _dialogue(record, pictured=False))


def _lrv(suffix: str) -> Callable[[Any], Content]:
    """LRV-Instruction's form: {"image_id", "question", "answer", "task"}; `suffix` completes the picture's name."""

    def read(value: Any) -> Content:
        record = _object(value)
        official = _official(record, "image_id")
        turns = (Turn(_HUMAN, _said(record, "question")), Turn(_GPT, _said(record, "answer")))
        task = record.get("task", "")
        if not isinstance(task, str):
            raise Malformed(f'"task" is text, not {_short(task)}')
        return Content(official.partition(".")[0], _picture(official + suffix), turns, task)

    return read


def _object(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise Malformed(f"a record is an object in braces, not {_short(value)}")
    return value


def _official(record: Mapping[str, Any], key: str) -> str:
    value = record.get(key)
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise Malformed(f'"{key}" is {_missing(record, key)}, and names the record')
    return str(value)


def _picture(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise Malformed(
            f'"image" is the path of one picture, not {_short(value)}; text alone has no "image" at all'
        )
    if _OUTSIDE.search(value):
        raise Malformed(f'"image" is {value!r}, which does not lie below the folder of the source')
    return value


def _dialogue(record: Mapping[str, Any], pictured: bool) -> tuple[Turn, ...]:
    """Human and gpt in turn. Left out are what comes before the first question, as in LLaVA's training (its
    ``preprocess``), and a question at the end that nobody answers, of which nothing would be learnt."""
    turns = record.get("conversations")
    if not isinstance(turns, list):
        raise Malformed(f'"conversations" is {_missing(record, "conversations")}, and lists the turns')
    read: list[Turn] = []
    last = _GPT
    for number, turn in enumerate(turns, 1):
        try:
            role, text = _ROLES[turn["from"]], turn["value"]
            ascii_only = text.isascii()
        except (KeyError, TypeError, AttributeError):
            if _is_system(turn) and not read:
                continue
            raise _wrong_turn(number, turn) from None
        if not ascii_only and _SURROGATE.search(text):
            raise Malformed(f"turn {number} {_HALF}")
        if role == last:
            if not read:
                continue
            raise Malformed(f"turn {number} is of {role} again: human and gpt speak in turn")
        read.append(Turn(role, (text.replace(MARK, "") if pictured else text).strip()))
        last = role
    if last == _HUMAN:
        read.pop()
    return tuple(read)


def _is_system(turn: Any) -> bool:
    return isinstance(turn, dict) and turn.get("from") == _SYSTEM and isinstance(turn.get("value"), str)


def _wrong_turn(number: int, turn: Any) -> Malformed:
    if not isinstance(turn, dict):
        return Malformed(f'turn {number} is {_short(turn)}, not {{"from": …, "value": …}}')
    speaker = turn.get("from")
    if not isinstance(speaker, str) or speaker not in _ROLES:
        return Malformed(f'turn {number}: "from" is {_missing(turn, "from")}; known are {", ".join(_ROLES)}')
    return Malformed(f'turn {number}: "value" is {_missing(turn, "value")}, and holds what is said')


def _said(record: Mapping[str, Any], key: str) -> str:
    """The text without space around it and without a mark of the picture."""
    text = record.get(key)
    if not isinstance(text, str):
        raise Malformed(f'"{key}" is {_missing(record, key)}, and holds what is said')
    if _SURROGATE.search(text):
        raise Malformed(f'"{key}" {_HALF}')
    return text.replace(MARK, "").strip()


def _missing(record: Mapping[str, Any], key: str) -> str:
    return _short(record[key]) if key in record else "missing"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


_LRV_PICTURES = ("lrv-vg", "image", "images")

FORMATS: Mapping[str, tuple[Part, ...]] = MappingProxyType(
    {
        "llava_pretrain_558k": (
            Part(("blip_laion_cc_sbu_558k.json", "chat.json"), ("images", ""), _pictured_chat),
        ),
        "llava_v15_mix665k": (Part(("llava_v1_5_mix665k.json",), ("",), _chat),),
        "lvis_instruct_4v": (Part(("lvis_instruct4v_220k.json",), ("",), _pictured_chat),),
        "lrv_instruct": (
            Part(("filter_cap1.json", "filter_cap.json"), _LRV_PICTURES, _lrv(".jpg")),
            Part(("filter_cap_more1.json", "filter_cap_more.json"), _LRV_PICTURES, _lrv(".jpg")),
            Part(
                ("chart_release_update.json", "chart_release.json"),
                ("lrv-chart", "chart_image"),
                _lrv(""),
            ),
        ),
        "sharegpt": (Part(("ShareGPT_V3_unfiltered_cleaned_split.json", "sharegpt.json"), ("",), _sharegpt),),
    }
)
"""Source, by its name in published.yaml -> its annotation files."""
