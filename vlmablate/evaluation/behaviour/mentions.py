"""Which objects a text names: phrases of up to three words, looked up as they are written, in singular and plural."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Phrases:
    """What is looked up in a text.

    meant: words that are read together -> the object that they name; None for words that name none and hide a shorter
    name. lengths: first word -> how many words the phrases have that begin with it, the longest first.
    """

    meant: Mapping[tuple[str, ...], str | None]
    lengths: Mapping[str, tuple[int, ...]]


_WORD = re.compile(r"[a-z0-9]+")
_IRREGULAR = {
    "man": "men", "woman": "women", "child": "children", "mouse": "mice", "goose": "geese", "ox": "oxen",
    "knife": "knives", "calf": "calves", "thief": "thieves", "person": "people",
}  # fmt: skip


def plural(noun: str) -> str:
    """The English plural of a singular noun, by the rules of spelling and a few exceptions.

    >>> plural("bus"), plural("puppy"), plural("policeman"), plural("zebra")
    ('buses', 'puppies', 'policemen', 'zebras')
    """
    for ending, replaced in _IRREGULAR.items():
        if noun == ending or (ending in ("man", "child", "knife") and noun.endswith(ending)):
            return noun.removesuffix(ending) + replaced
    if re.search(r"(s|x|z|ch|sh)$", noun):
        return noun + "es"
    if re.search(r"[^aeiou]y$", noun):
        return noun[:-1] + "ies"
    return noun + "s"


def phrases(names: Mapping[str, str | None]) -> Phrases:
    """The phrases of names in singular -> object: each name as it is, and with its last word in plural.

    Raises ValueError for words that would name two objects.
    """
    meant: dict[tuple[str, ...], str | None] = {}
    lengths: dict[str, set[int]] = {}
    for name, thing in names.items():
        *before, last = words(name)
        for form in (last, plural(last)):
            phrase = (*before, form)
            if meant.setdefault(phrase, thing) != thing:
                raise ValueError(f"'{' '.join(phrase)}' would name {meant[phrase]} and {thing}")
            lengths.setdefault(phrase[0], set()).add(len(phrase))
    return Phrases(meant, {word: tuple(sorted(found, reverse=True)) for word, found in lengths.items()})


def words(text: str) -> list[str]:
    """The words of a text in lower case, without what stands between them."""
    return _WORD.findall(text.lower())


def mentions(text: str, known: Phrases) -> list[str]:
    """The objects that a text names, once for each mention, in order; of phrases that overlap the longest counts.

    >>> mentions("A hot dog, and two dogs.", phrases({"dog": "dog", "hot dog": "hot dog"}))
    ['hot dog', 'dog']
    """
    said, found, place = words(text), [], 0
    while place < len(said):
        for length in known.lengths.get(said[place], ()):
            phrase = tuple(said[place : place + length])
            if phrase in known.meant:
                found.append(known.meant[phrase])
                place += length
                break
        else:
            place += 1
    return [name for name in found if name is not None]
