"""The closed vocabulary of the embedded data: every word of a question, an answer or a scene written as text.

Boxes are written as four bin words, `<x0> <y0> <x1> <y1>`, each the floor of a coordinate in [0, 1] of the model's
square picture times the number of bins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from vlmablate.data.lexicon import CATEGORIES, Lexicon
from vlmablate.data.questions import EXTREMES, NUMBERS
from vlmablate.data.text_only import ASSISTANT, DIALOGUE_WORDS, USER

PAD, EMPTY = "<pad>", "."
BINS = 20
TASK_WORDS = (
    "yes", "no", "what", "kind", "is", "there", "a", "how", "many", "objects", "where", "left", "right", "of",
    "above", "below", "does", "the", "sign", "say", "describe",
)  # fmt: skip


@dataclass(frozen=True)
class Vocabulary:
    """Words by id; id 0 is padding, id 1 the empty cell of a scene written as text.

    chat: whether prompts are written in the template of a chat model, ``<user> … <assistant>``.
    """

    words: tuple[str, ...]
    chat: bool = False

    def __post_init__(self) -> None:
        if len(set(self.words)) != len(self.words):
            raise ValueError("vocabulary: a word occurs twice")

    def __len__(self) -> int:
        return len(self.words)

    @property
    def dialogue(self) -> bool:
        """Whether the words of requests and of the chat template are among them."""
        return USER in self.ids

    @cached_property
    def ids(self) -> dict[str, int]:
        return {word: index for index, word in enumerate(self.words)}

    def encode(self, text: str) -> list[int]:
        """Token ids of space-separated words. Raises KeyError naming a word outside the vocabulary.

        A question mark is not a token: the last word of a question, often its noun, is then where the answer is read
        off, which spares a model of three layers one hop and a place per question.
        """
        ids = self.ids
        return [ids[word] for word in text.removesuffix("?").split()]

    def prompt(self, text: str) -> list[int]:
        """Token ids of what is asked, in the template of the model. Raises KeyError as `encode` does."""
        tokens = self.encode(text)
        return [self.ids[USER], *tokens, self.ids[ASSISTANT]] if self.chat else tokens

    def decode(self, tokens: Sequence[int]) -> str:
        return " ".join(self.words[token] for token in tokens)


def build_vocabulary(lexicon: Lexicon, dialogue: bool = False, chat: bool = False) -> Vocabulary:
    """The words of the pictures, those of requests without a picture (`dialogue`), and last the bins of coordinates.

    A word of a request that the pictures also use is the same word.
    """
    bins = tuple(f"<{index}>" for index in range(BINS))
    pictures = (
        PAD,
        EMPTY,
        *TASK_WORDS,
        *EXTREMES,
        *NUMBERS,
        *CATEGORIES,
        *lexicon.words,
        *lexicon.sign_words,
    )
    added = tuple(word for word in DIALOGUE_WORDS if word not in pictures) if dialogue else ()
    return Vocabulary((*pictures, *added, *bins), chat)


def box_words(box: Sequence[float]) -> str:
    """The four bin words of a box given as shares of the model's square picture; coordinates outside are clipped."""
    cells = np.clip(np.floor(np.asarray(box) * BINS), 0, BINS - 1).astype(int)
    return " ".join(f"<{cell}>" for cell in cells)


def parse_box(words: str) -> tuple[float, float, float, float] | None:
    """Bin words to a box in [0, 1] (the middle of each bin), or None when the words are not four bins in order."""
    parts = words.split()
    if len(parts) != 4 or not all(part.startswith("<") and part[1:-1].isdigit() for part in parts):
        return None
    x0, y0, x1, y1 = ((int(part[1:-1]) + 0.5) / BINS for part in parts)
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None
