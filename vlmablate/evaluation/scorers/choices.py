"""The option that an answer to a closed question names."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence

LETTERS = string.ascii_uppercase

_ALONE = re.compile(r"[\s(\[*\"']*([A-Za-z])[\s).,:;\]*\"']*")
_IN_FRONT = re.compile(r"\s*(?:\(([A-Za-z])\)|([A-Za-z])[).:])")
_NAMED = re.compile(r"\b(?i:answer|option|choice)(?i:\s+is)?\s*:?\s*[(\[*\"']*([A-Z])\b(?!')")


def read_letter(text: str, choices: Sequence[str]) -> str | None:
    """The capital letter of the option that an answer names, A for the first of `choices`; None where it names none.

    In this order: the text is a letter, whatever brackets and marks stand around it; it begins with a letter in
    brackets or before ``.``, ``)`` or ``:``; it names one after "answer", "option" or "choice"; it is the text of an
    option, but for case, marks at its ends and a, an and the. Letters beyond the options are no letters, and "A dog" is
    no A.

    >>> choices = ["cat", "dog", "cow"]
    >>> [read_letter(text, choices) for text in ("b", "(B) dog", "The answer is C.", "A dog.", "Z", "A horse")]
    ['B', 'B', 'C', 'B', None, None]
    """
    letters = LETTERS[: len(choices)]
    for found in (_ALONE.fullmatch(text), _IN_FRONT.match(text), _NAMED.search(text)):
        letter = next((group.upper() for group in found.groups() if group), "") if found else ""
        if letter and letter in letters:
            return letter
    wanted = _plain(text)
    said = [letter for letter, choice in zip(letters, choices, strict=True) if _plain(choice) == wanted]
    return said[0] if len(said) == 1 else None


def _plain(text: str) -> str:
    words = text.strip(string.whitespace + string.punctuation).casefold().split()
    return " ".join(words[1:] if words[:1] in (["a"], ["an"], ["the"]) else words)
