"""Walk over the records of a file of any size: a JSON array, or JSON lines, a few megabytes at a time."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

BLOCK = 1 << 22
LONGEST = 1 << 26
"""Bytes, about, that are read in search of the end of one record; none that is published is a thousandth of that."""

_SPACE = re.compile(r"[ \t\r\n\ufeff]*")
_decode = json.JSONDecoder().raw_decode


class Element(NamedTuple):
    """A record: its number in the file and the line where it begins, both from 1; its bytes; and its value, or what is
    wrong with the file here."""

    number: int
    line: int
    start: int
    size: int
    value: Any
    problem: str = ""


def elements(path: Path) -> Iterator[Element]:
    """The records of a file in order. A place that is no JSON is an element with a problem: of JSON lines that line
    is lost, of an array all that follows."""
    with open(path, "rb") as file:
        text = _Text(file)
        try:
            if text.peek() == "[":
                yield from _array(text)
            else:
                yield from _lines(text)
        except UnicodeDecodeError as error:
            yield text.problem(0, f"the file is not UTF-8 from here on ({error.reason})")


def _array(text: _Text) -> Iterator[Element]:
    text.advance(text.at + 1)
    number = 0
    if text.peek() != "]":
        while True:
            number += 1
            element = text.value(number)
            yield element
            if element.problem:
                return
            mark = text.peek()
            if mark != ",":
                break
            text.advance(text.at + 1)
            text.peek()
        if mark != "]":
            what = f"{mark!r} stands" if mark else "the file ends"
            yield text.problem(number + 1, f"{what} where a comma or the end of the array has to be")
            return
    text.advance(text.at + 1)
    if text.peek():
        yield text.problem(number + 1, "something follows behind the end of the array")


def _lines(text: _Text) -> Iterator[Element]:
    number = 0
    while text.peek():
        number += 1
        element = text.value(number)
        if not element.problem and text.rest_of_line().strip():
            element = element._replace(value=None, problem="something follows behind the record in its line")
        yield element
        text.next_line()


class _Text:
    """The text of a file around a place in it.

    Attributes:
        at: the place in `text`; byte, line: the same place in the file.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._decoder = file, codecs.getincrementaldecoder("utf-8")()
        self.text, self._ascii = "", True
        self.at, self.byte, self.line = 0, 0, 1

    def more(self) -> bool:
        """Read on, and forget what was passed; False at the end of the file."""
        block = self._file.read(BLOCK)
        read = self._decoder.decode(block, final=not block)
        self.text, self.at = self.text[self.at :] + read, 0
        self._ascii = self.text.isascii()
        return bool(block)

    def advance(self, to: int) -> None:
        """Move on to a place in `text`."""
        passed = to - self.at
        self.byte += passed if self._ascii else len(self.text[self.at : to].encode())
        self.line += self.text.count("\n", self.at, to)
        self.at = to

    def peek(self) -> str:
        """Move over space; the letter that follows, empty at the end."""
        while True:
            found = _SPACE.match(self.text, self.at)
            assert found is not None  # it matches nothing as well
            self.advance(found.end())
            if self.at < len(self.text):
                return self.text[self.at]
            if not self.more():
                return ""

    def value(self, number: int) -> Element:
        """Move over one value, which begins here."""
        while True:
            try:
                value, end = _decode(self.text, self.at)
            except (ValueError, RecursionError) as error:
                if len(self.text) - self.at < LONGEST and self.more():
                    continue  # it may only have been cut
                return self._broken(number, error)
            line, start = self.line, self.byte
            self.advance(end)
            return Element(number, line, start, self.byte - start, value)

    def problem(self, number: int, words: str) -> Element:
        """An element that says what is wrong here."""
        return Element(number, self.line, self.byte, 0, None, words)

    def rest_of_line(self) -> str:
        """From here up to the end of the line."""
        end = self._line_end()
        return self.text[self.at : end]

    def next_line(self) -> None:
        """Move behind the end of the line."""
        end = self._line_end()
        self.advance(min(end + 1, len(self.text)))

    def _line_end(self) -> int:
        end = self.text.find("\n", self.at)
        while end < 0 and self.more():
            end = self.text.find("\n", self.at)
        return len(self.text) if end < 0 else end

    def _broken(self, number: int, error: Exception) -> Element:
        if not isinstance(error, json.JSONDecodeError):
            return self.problem(number, f"this is no record: {error}")
        line = self.line + self.text.count("\n", self.at, error.pos)
        return self.problem(number, f"this is no JSON: {error.msg} in line {line}")
