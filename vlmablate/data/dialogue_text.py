"""Questions and answers of the embedded data as natural text, for language models with words of their own.

The closed vocabulary of the small language model writes boxes as bin words; here they are shares of the model's square
picture in brackets, ``[0.12, 0.30, 0.55, 0.80]``. All other answers are the same words.
"""

from __future__ import annotations

import re

from vlmablate.data.layout import Scene
from vlmablate.data.questions import VISIBLE_SHARE, Question
from vlmablate.vlm.image import Frame

_NUMBER = r"\s*(-?\d+(?:\.\d*)?|-?\.\d+)\s*"
_BOX = re.compile(r"\[" + ",".join([_NUMBER] * 4) + r"\]")


def sentence(text: str) -> str:
    """The text with a capital in front."""
    return text[:1].upper() + text[1:]


def asked(question: Question) -> str:
    """What a question says."""
    return sentence(question.text)


def told(question: Question, frame: Frame) -> str | None:
    """What is answered; a box in the square as the transform shows it, None for one that it (nearly) removed."""
    if question.box is None:
        return question.answer
    box = frame.visible(question.box, VISIBLE_SHARE)
    return None if box is None else box_text(box)


def box_text(box: tuple[float, float, float, float]) -> str:
    """``[x0, y0, x1, y1]`` with two decimals, from shares of the square."""
    return "[" + ", ".join(f"{value:.2f}" for value in box) + "]"


def read_answer(text: str) -> str:
    """What a language model wrote, as it is compared: the first line that says anything, in lower case, without the
    space around it and a full stop at its end."""
    first = next((line for line in text.splitlines() if line.strip()), "")
    return first.strip().removesuffix(".").rstrip().lower()


def read_box(text: str) -> tuple[float, float, float, float] | None:
    """The first box that a text says in the form of `box_text`, in shares of the square, None where it says none.

    A box that reaches out of the square is left as it is; one without an inside is none.
    """
    found = _BOX.search(text)
    if found is None:
        return None
    x0, y0, x1, y1 = (float(number) for number in found.groups())
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None


def caption(scene: Scene) -> str | None:
    """The alignment target: the words of all things from left to right. None for an empty scene."""
    things = sorted(scene.things, key=lambda thing: thing.centre[0])
    return ", ".join(thing.written for thing in things) or None
