"""Whether an answer denies what its question takes for granted: that something is there, or that it is so."""

from __future__ import annotations

import re
from typing import Literal

Reply = Literal["denied", "affirmed", "empty"]

OPENINGS = ("no", "none", "nothing", "zero", "0", "nowhere", "nobody", "neither", "not")
"""An answer whose first word is one of these denies."""

PHRASES = (
    r"there (is|are|was|were) (no|not|none|nothing|zero)\b",
    r"there (isn't|aren't|wasn't|weren't)\b",
    r"\b(can't|cannot|(can|could|do|does|did) not|couldn't|don't|doesn't|didn't) "
    r"(see|find|spot|show|contain|have|include|appear|exist|depict)\b",
    r"\b((is|are) not|isn't|aren't) (\w+ )?(there|here|visible|present|shown|seen|depicted|pictured)\b",
    r"\b((is|are) not|isn't|aren't) (to the )?(left|right|above|below)\b",
    r"\b(is|are) nowhere\b",
    r"\b((is|are) not|isn't|aren't) (anywhere )?(in|on|part of) (the|this) (picture|image|photo|photograph|scene)\b",
    r"\bno such\b",
    r"\b(shows?|contains?|has|have|see) (no|none|nothing)\b",
)
"""Anywhere in its first sentence these deny as well. Apostrophes are straight by then."""

_PHRASES = re.compile("|".join(PHRASES))


def read_denial(text: str) -> Reply:
    """What an answer does with the thing that it was asked about; only its first sentence is read.

    >>> read_denial("There is no zebra in the picture."), read_denial("Left of the lemon."), read_denial(" ")
    ('denied', 'affirmed', 'empty')
    """
    said = text.replace("\u2019", "'").lower().strip()
    if not re.search(r"\w", said):
        return "empty"
    opening = said.split()[0].strip(".,;:!\"'()")
    first = re.split(r"(?<=[.!?])\s|\n", said, maxsplit=1)[0]
    return "denied" if opening in OPENINGS or _PHRASES.search(first) else "affirmed"
