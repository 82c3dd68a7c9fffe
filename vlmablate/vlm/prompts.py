"""How a dialogue is written for a language model: the templates of prompts.yaml, rendered.

A rendered dialogue is a list of pieces, not a string, because a string forgets what matters: which part is to be
learnt, and that a token such as ``</s>`` was put there by the template and not typed by a user.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import yaml

from vlmablate.errors import UserError, unknown_name

_FILE = Path(__file__).with_name("prompts.yaml")
ROLES = ("human", "gpt")


class Turn(NamedTuple):
    """What one side says: role is ``human`` or ``gpt``."""

    role: str
    text: str


@dataclass(frozen=True)
class Piece:
    """Some text of a dialogue. special: one token of the tokenizer. learnt: part of an answer."""

    text: str
    special: bool
    learnt: bool


@dataclass(frozen=True)
class Template:
    """A row of prompts.yaml; the fields are described there."""

    name: str
    first: str
    human: str
    gpt: str
    system: str = ""
    special: tuple[str, ...] = ()


@cache
def templates() -> Mapping[str, Template]:
    """Name -> template, in the order of the file."""
    rows = yaml.safe_load(_FILE.read_text(encoding="utf-8"))
    return {
        name: Template(name, **{**row, "special": tuple(row.get("special", ()))})
        for name, row in rows.items()
    }


def template_named(name: str) -> Template:
    """The template of that exact name. Raises UserError that lists the names there are."""
    if name not in templates():
        raise unknown_name("prompt template", name, templates(), "llm.template")
    return templates()[name]


def render(template: Template, turns: Sequence[Turn], bos: str | None, eos: str | None) -> list[Piece]:
    """The pieces of a dialogue, in order.

    Args:
        turns: human and gpt in turn, the human first. When the human has the last word, what is rendered is a prompt:
            it ends where the answer begins, without trailing spaces.
        bos, eos: the tokens of the language model.

    Raises:
        UserError: for turns out of order.
    """
    _check(turns)
    pieces: list[Piece] = []
    for index, turn in enumerate(turns):
        learnt = turn.role == "gpt"
        pattern = template.gpt if learnt else template.human if index else template.first
        marks = {"bos": bos or "", "eos": eos or "", "system": template.system, "text": turn.text}
        pieces += [
            Piece(text, special, learnt)
            for text, special in _filled(pattern, marks, template.special)
            if text
        ]
    if turns[-1].role == "human" and pieces and not pieces[-1].special:
        pieces[-1] = Piece(pieces[-1].text.rstrip(" "), False, False)
    return [piece for piece in pieces if piece.text]


def text_of(pieces: Iterable[Piece]) -> str:
    """The whole as one string, for people and for tests."""
    return "".join(piece.text for piece in pieces)


def stop_token(template: Template, eos: str | None) -> str | None:
    """The special token that ends an answer, where generation stops."""
    tokens = [
        text for text, special in _filled(template.gpt, {"eos": eos or ""}, template.special) if special
    ]
    return tokens[-1] if tokens and tokens[-1] else None


def _check(turns: Sequence[Turn]) -> None:
    if not turns:
        raise UserError("a dialogue needs at least one turn")
    for index, turn in enumerate(turns):
        if turn.role != ROLES[index % 2]:
            raise UserError(
                f"turn {index + 1} of a dialogue is of {turn.role!r}, expected {ROLES[index % 2]!r}: "
                "human and gpt speak in turn, the human first"
            )


def _filled(pattern: str, marks: Mapping[str, str], special: Sequence[str]) -> list[tuple[str, bool]]:
    """The parts of a pattern with its placeholders filled, and whether each is a special token.

    Only the pattern's own letters are searched for special tokens and placeholders, never what is filled in.
    """
    tokens = [re.escape(token) for token in special]
    parts = re.split("(" + "|".join([r"\{(?:bos|eos|system|text)\}", *tokens]) + ")", pattern)
    filled = []
    for part in parts:
        name = part[1:-1] if part[:1] == "{" and part[-1:] == "}" else ""
        filled.append((marks.get(name, ""), name in ("bos", "eos")) if name else (part, part in special))
    return filled
