"""Reading published files: every record knows where it stands, so that a malformed one can be named.

The place of a record is looked up only when something is wrong with it: a file that is fine is parsed once, at the
speed of the JSON parser.
"""

from __future__ import annotations

import gc
import hashlib
import json
import pickle
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from vlmablate.errors import UserError

_MEND = "download the file again, or correct the record"
_SPACE = re.compile(r"[ \t\r\n]*")
Hook = Callable[[dict[str, Any]], Any]
Published = TypeVar("Published")
Made = TypeVar("Made")
_OPENED: ContextVar[list[Path] | None] = ContextVar("opened", default=None)
_TELL: ContextVar[Callable[[UserError], None] | None] = ContextVar("tell", default=None)


@contextmanager
def telling(tell: Callable[[UserError], None]) -> Iterator[None]:
    """Inside, a malformed record is told and left out, and reading goes on; elsewhere the first one is raised.

    For whoever lists all that is wrong with a folder. No benchmark is scored without the records that are left out.
    """
    token = _TELL.set(tell)
    try:
        yield
    finally:
        _TELL.reset(token)


@contextmanager
def reads() -> Iterator[list[Path]]:
    """Inside, every file that is read is noted in the list, for whoever wants to know when a folder has changed."""
    opened: list[Path] = []
    token = _OPENED.set(opened)
    try:
        yield opened
    finally:
        _OPENED.reset(token)


def each(records: Iterable[Published], make: Callable[[Published], Made]) -> Iterator[Made]:
    """What is made of every record; see `telling` for a malformed one."""
    for record in records:
        try:
            made = make(record)
        except UserError as error:
            _tell(error)
        else:
            yield made


def _note(path: Path) -> None:
    opened = _OPENED.get()
    if opened is not None:
        opened.append(path)


def _tell(error: UserError) -> None:
    tell = _TELL.get()
    if tell is None:
        raise error
    tell(error)


@dataclass(frozen=True, slots=True)
class Row:
    """One published record.

    Attributes:
        values: what it says.
        number: its place in the file, counted from 1.
        place: of a record number, where it stands, in words; asked only for an error.
        name: what the file calls it, in a file of records by name.
    """

    values: Any
    number: int
    place: Callable[[int], str]
    name: str = ""

    def wrong(self, what: str) -> UserError:
        """The error that names file, line and record, and says what is wrong with it and what to do."""
        return UserError(f"{self.place(self.number)}: {what}; {_MEND}")

    def get(self, key: str, kind: type, in_words: str) -> Any:
        """The value of a key. Raises UserError where there is none, or one of another type."""
        values = self.values
        if not isinstance(values, dict):
            raise self.wrong(f"a record is {type(values).__name__}, expected an object with {key!r}")
        if key not in values:
            raise self.wrong(f"no {key!r} in a record that has {', '.join(map(repr, values)) or 'nothing'}")
        value = values[key]
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise self.wrong(f"{key!r} is {_shown(value)}, expected {in_words}")
        return value

    def text(self, key: str) -> str:
        return str(self.get(key, str, "text"))

    def whole(self, key: str) -> int:
        return int(self.get(key, int, "a whole number"))

    def flag(self, key: str) -> bool:
        return bool(self.get(key, bool, "true or false"))

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of texts that has at least one."""
        values = self.get(key, list, "a list of texts")
        if set(map(type, values)) != {str}:
            odd = next((value for value in values if not isinstance(value, str)), "empty")
            raise self.wrong(f"{key!r} is {_shown(odd)} where a list of texts is expected")
        return tuple(values)

    def one_of(self, key: str, known: tuple[Any, ...]) -> Any:
        """A value out of the known ones, of whatever type."""
        value = self.get(key, object, "")
        if not any(value == one and type(value) is type(one) for one in known):
            raise self.wrong(f"{key!r} is {_shown(value)}, expected one of {', '.join(map(repr, known))}")
        return value

    def inner(self, key: str) -> Row:
        """The record inside this one, at the same place."""
        return Row(self.get(key, dict, "an object"), self.number, self.place)

    def rows(self, key: str) -> list[Row]:
        """The records of a list inside this one, at the same place."""
        return [Row(value, self.number, self.place) for value in self.get(key, list, "a list of objects")]


def published(folder: Path, *names: str) -> Path:
    """The first of these files that is there. Raises UserError that says which are looked for."""
    for name in names:
        if (folder / name).is_file():
            return folder / name
    kinds = "none of the files" if len(names) > 1 else "no file"
    raise UserError(
        f"{folder} has {kinds} {', '.join(names)}; put the published file there "
        "(conf/benchmark/published.yaml says how each folder looks)"
    )


def subfolder(folder: Path, *names: str) -> str:
    """The first of these folders that is there, or else the first: whoever opens a picture says that it is missing."""
    return next((name for name in names if (folder / name).is_dir()), names[0])


def array(path: Path, key: str | None = None, hook: Hook | None = None) -> Iterator[Row]:
    """The records of a JSON array, that of `key` where the file is an object. hook: as `json.loads` takes it."""
    return arrays(path, key, hook=hook)[0]


def arrays(path: Path, *keys: str | None, hook: Hook | None = None) -> list[Iterator[Row]]:
    """The records of each of several arrays of a JSON file, which is parsed once; None for a file that is an array."""
    found = _parsed(path, text_of(path), hook)
    return [_records(path, found, key) for key in keys]


def _records(path: Path, found: Any, key: str | None) -> Iterator[Row]:
    if key is not None:
        found = found.get(key) if isinstance(found, dict) else None
    if not isinstance(found, list):
        where = f"an object with a list {key!r}" if key else "a list of records"
        raise UserError(f"{path} is not {where}; is it the published file?")
    for number, values in enumerate(found, 1):
        yield Row(values, number, lambda number: _place(path, key, number))


def mapping(path: Path) -> Iterator[Row]:
    """The members of a JSON object of records by name."""
    found = _parsed(path, text_of(path), None)
    if not isinstance(found, dict):
        raise UserError(f"{path} is not an object of records by name; is it the published file?")
    for number, (name, values) in enumerate(found.items(), 1):
        yield Row(values, number, lambda number: _place(path, None, number), name)


def lines(path: Path) -> Iterator[Row]:
    """The records of a file of JSON lines; blank lines are none. The number of a record is that of its line."""
    _note(path)
    with path.open(encoding="utf-8") as file:
        numbered = ((number, line) for number, line in enumerate(file, 1) if line.strip())
        yield from each(numbered, lambda one: _line(path, *one))


def _line(path: Path, number: int, line: str) -> Row:
    return Row(_parsed(path, line, None, number), number, lambda number: f"{path}, line {number}")


def without(key: str) -> Hook:
    """A hook that drops a key which is not needed, such as the outlines of objects, as soon as it is read."""

    def drop(values: dict[str, Any]) -> dict[str, Any]:
        values.pop(key, None)
        return values

    return drop


def whole_file(path: Path) -> Row:
    """A JSON file that is one record."""
    return Row(_parsed(path, text_of(path), None), 1, lambda number: f"{path}, line 1")


def pickled(path: Path) -> Iterator[Row]:
    """The records of a pickled list of plain values.

    A pickle is a program. Nothing of it is run here that builds anything but lists, dictionaries, texts and numbers:
    UserError for one that asks for more, and for a damaged one.
    """
    _note(path)
    with path.open("rb") as file:
        try:
            found = _PlainUnpickler(file, encoding="utf-8").load()
        except UserError:
            raise
        except Exception as error:  # a damaged pickle raises whatever its last instruction raises
            raise UserError(f"{path} cannot be read ({error}); download it again") from error
    if not isinstance(found, list):
        raise UserError(f"{path} is not a list of records; is it the published file?")
    for number, values in enumerate(found, 1):
        yield Row(values, number, lambda number: f"{path}, record {number}")


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        raise UserError(
            f"a pickled file asks for {module}.{name}, and the published ones hold plain lists and texts only; it is "
            "not opened, get it from where its authors publish it"
        )


def text_of(path: Path) -> str:
    """A whole file of UTF-8 text. Raises UserError for another encoding."""
    _note(path)
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text at byte {error.start}; download it again") from error


def _parsed(path: Path, text: str, hook: Hook | None, line: int = 0) -> Any:
    collects = gc.isenabled()
    gc.disable()  # it would look through all that is parsed again and again, and nothing of it is garbage
    try:
        return json.loads(text, object_hook=hook)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}, line {line or error.lineno}, column {error.colno}: not JSON ({error.msg}); the file may be cut "
            "short, download it again"
        ) from error
    finally:
        if collects:
            gc.enable()


def _place(path: Path, key: str | None, number: int) -> str:
    """File and line of a record of a JSON container: the file's own, or that of `key` in it."""
    text = text_of(path)
    start = 0 if key is None else next(at for name, at in _members(text, 0) if name == key)
    for count, (name, at) in enumerate(_members(text, start), 1):
        if count == number:
            called = f" {name!r}" if name else ""
            return f"{path}, line {text.count(chr(10), 0, at) + 1} (record {number}{called})"
    return f"{path}, record {number}"


def _members(text: str, at: int) -> Iterator[tuple[str, int]]:
    """Name (empty in an array) and place of the value of every member of the container that begins at `at`."""
    decoder = json.JSONDecoder()
    at = _skip(text, at)
    named = text[at] == "{"
    at = _skip(text, at + 1)
    while text[at] not in "]}":
        name = ""
        if named:
            name, at = decoder.raw_decode(text, at)
            at = _skip(text, _skip(text, at) + 1)
        yield name, at
        at = _skip(text, decoder.raw_decode(text, at)[1])
        if text[at] == ",":
            at = _skip(text, at + 1)


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    assert found is not None
    return found.end()


def digest(text: str) -> str:
    """Eight characters that stand for a text in an id."""
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def values_by(rows: Iterator[Row], key: str) -> Mapping[int, Row]:
    """Records by the whole number that names them. Raises UserError for one that occurs twice."""
    found: dict[int, Row] = {}

    def add(row: Row) -> None:
        name = row.whole(key)
        if found.setdefault(name, row) is not row:
            raise row.wrong(f"{key!r} {name} is there twice, first in record {found[name].number}")

    for _ in each(rows, add):
        pass
    return found
