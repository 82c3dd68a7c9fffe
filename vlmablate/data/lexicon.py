"""The words of the embedded data and the pictures that stand for them.

A `Lexicon` is plain data: which cut-out shows which noun, which cut-outs are only asked for by category, which words
are painted on signs and which photographs serve as backgrounds. The lists live in `embedded.yaml`; the pictures
themselves come out of an asset set (or are drawn, at `scale=smoke`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from vlmablate.errors import UserError

SPLITS = ("train", "evaluation")
CATEGORIES = ("animal", "food", "vehicle", "plant", "tool", "clothing")
DRAWN = "drawn_shapes"


@dataclass(frozen=True)
class Noun:
    """A word that the model is asked for by name, its category (None: none of the six) and its only cut-out."""

    word: str
    category: str | None
    cutout: str


@dataclass(frozen=True)
class Lexicon:
    """Words and picture ids of one picture source.

    pools: split -> category -> cut-out ids; the evaluation pool never appears in a training picture.
    backgrounds: split -> photograph ids, disjoint.
    """

    source: str
    nouns: tuple[Noun, ...]
    pools: dict[str, dict[str, tuple[str, ...]]]
    sign_words: tuple[str, ...]
    backgrounds: dict[str, tuple[str, ...]]

    @property
    def words(self) -> tuple[str, ...]:
        return tuple(noun.word for noun in self.nouns)

    def category_of(self, word: str) -> str | None:
        return next(noun.category for noun in self.nouns if noun.word == word)


@lru_cache(maxsize=1)
def _declared() -> dict[str, Any]:
    return yaml.safe_load(Path(__file__).with_name("embedded.yaml").read_text(encoding="utf-8"))


def load_lexicon(source: str) -> Lexicon:
    """The lexicon for pictures from `source`: an asset set named in embedded.yaml, or `drawn_shapes`.

    Raises UserError for an unknown source.
    """
    declared = _declared()
    if source == DRAWN:
        return _drawn_lexicon(tuple(declared["sign_words"][:4]))
    if source not in declared["pools"]:
        known = ", ".join([*declared["pools"], DRAWN])
        raise UserError(f"data.pictures={source}: no such picture source; known: {known}")
    nouns = tuple(Noun(word, facts["category"], facts[source]) for word, facts in declared["nouns"].items())
    pools = {
        split: {category: tuple(lists[split]) for category, lists in declared["pools"][source].items()}
        for split in SPLITS
    }
    backgrounds = {split: tuple(declared["backgrounds"][split]) for split in SPLITS}
    return Lexicon(source, nouns, pools, tuple(declared["sign_words"]), backgrounds)


def _drawn_lexicon(sign_words: tuple[str, ...]) -> Lexicon:
    """Coloured shapes named by colour and form, for tests that must run without assets."""
    forms = {"disc": "animal", "box": "food", "tri": "vehicle"}
    colours = ("red", "green", "blue", "gold")
    nouns = tuple(
        Noun(f"{colour}{form}", category, f"{colour}-{form}")
        for form, category in forms.items()
        for colour in colours
    )
    pools = {
        "train": {
            category: tuple(f"{c}-{form}" for c in ("pink", "cyan")) for form, category in forms.items()
        },
        "evaluation": {
            category: tuple(f"{c}-{form}" for c in ("gray", "lime")) for form, category in forms.items()
        },
    }
    backgrounds = {"train": ("plain-0", "plain-1", "plain-2"), "evaluation": ("plain-3", "plain-4")}
    return Lexicon(DRAWN, nouns, pools, sign_words, backgrounds)
