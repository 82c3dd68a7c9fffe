"""What a finetuning stage learns from beside the questions of the scenes: its mixture, and the questions it adds.

A mixture names how many questions each further source adds to every visit of a picture, and the share of rows without
a picture. The questions are made from the scenes when training starts, so no mixture has a copy on disk, and all
mixtures of the same scenes ask the same questions. The sources stand in for the data that the paper adds (section 4.4):

| source   | stands in for    | what it adds                                                                |
|----------|------------------|-----------------------------------------------------------------------------|
| detailed | LVIS-Instruct-4V | descriptions in several words: of the scene, of its kinds, of one direction |
| negative | LRV-Instruct     | questions about what is not there, and as many about what is                |
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction
from types import MappingProxyType

import numpy as np

from vlmablate.data.layout import Scene, Thing
from vlmablate.data.lexicon import Lexicon
from vlmablate.data.questions import NUMBERS, RELATIONS, Question
from vlmablate.design.mixture import SOURCES as SOURCE_NAMES
from vlmablate.design.mixture import TEXT_ONLY as TEXT_ONLY
from vlmablate.design.mixture import Mixture as Mixture
from vlmablate.design.mixture import read_share as read_share

# A thing lies in a direction of another when their centres differ by this share of the canvas.
CLEAR_GAP = 0.16
NEGATIVE_NOUNS = 6
_NEGATIVE_STREAM = 21


def detailed(scene: Scene, lexicon: Lexicon, rng: np.random.Generator) -> list[Question]:
    """Descriptions: all things from left to right and from top to bottom, their kinds, what lies in a direction.

    Every scene with a thing has one. A direction is asked of each noun that occurs once and has something there.
    """
    if not scene.things:
        return []
    by_column = sorted(scene.things, key=lambda thing: thing.centre[0])
    by_row = sorted(scene.things, key=lambda thing: thing.centre[1])
    asked = [("describe", _listing(by_column)), ("describe topmost", _listing(by_row))]
    kinds = [thing.category for thing in by_column if thing.category]
    if kinds:
        asked.append(("describe kind", " ".join(kinds)))
    words = [thing.word for thing in scene.objects]
    for thing in scene.objects:
        if thing.word is None or words.count(thing.word) > 1:
            continue
        for relation, (axis, sign) in RELATIONS.items():
            extent = (scene.width, scene.height)[axis]
            there = [
                other
                for other in (by_column, by_row)[axis]
                if sign * (thing.centre[axis] - other.centre[axis]) >= CLEAR_GAP * extent
            ]
            if there:
                asked.append((f"what is {relation} {thing.word}?", _listing(there)))
    return [_question(scene, "detailed", text, answer) for text, answer in asked]


def negative(scene: Scene, lexicon: Lexicon, rng: np.random.Generator) -> list[Question]:
    """Whether and how often: of nouns that are absent, and equally many questions about nouns that are there.

    A picture without nouns has questions about absent ones only.
    """
    words = [thing.word for thing in scene.objects if thing.word]
    present = list(dict.fromkeys(words))
    absent = [word for word in lexicon.words if word not in present]
    absent = [absent[i] for i in rng.permutation(len(absent))[:NEGATIVE_NOUNS]]
    asked = []
    for number, word in enumerate(absent):
        asked += [(f"is there a {word}?", "no"), (f"how many {word}?", NUMBERS[0])]
        if present:
            there = present[number % len(present)]
            asked += [(f"is there a {there}?", "yes"), (f"how many {there}?", NUMBERS[words.count(there)])]
    return [_question(scene, "negative", text, answer) for text, answer in asked]


def _listing(things: Iterable[Thing]) -> str:
    return " ".join(thing.written for thing in things)


def _question(scene: Scene, source: str, text: str, answer: str) -> Question:
    return Question(f"{source}/{scene.id}/{text}", scene.id, source, source, text, answer)


SOURCES: Mapping[str, Callable[[Scene, Lexicon, np.random.Generator], list[Question]]] = MappingProxyType(
    dict(zip(SOURCE_NAMES, (detailed, negative), strict=True))
)


def source_questions(source: str, scene: Scene, number: int, lexicon: Lexicon) -> list[Question]:
    """All questions of a source about training scene `number`; the same for every mixture and every seed."""
    return SOURCES[source](scene, lexicon, np.random.default_rng([_NEGATIVE_STREAM, number]))


def text_rows(count: int, share: Fraction) -> np.ndarray:
    """[count] booleans, True for the rows without a picture: exactly floor(n x share) of the first n, for every n."""
    upto = [number * share.numerator // share.denominator for number in range(count + 1)]
    return np.diff(upto).astype(bool)
