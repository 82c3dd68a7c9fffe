"""Questions with given options: the most probable one is the answer, or the one that was written."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from vlmablate.evaluation.protocol import Answer, Example, Verdict
from vlmablate.vlm.image import Frame

Options = Callable[[Example], tuple[str, ...]]


def most_probable(answer: Answer, options: Sequence[str]) -> str:
    """The first of the options that none is more probable than."""
    return max(options, key=lambda option: answer.probabilities.get(option, 0.0))


def score_by(
    options: Options, read: Callable[[str, Example], str | None], right: Callable[[Example], str]
) -> Callable[[Example, Answer, Frame | None], Verdict]:
    """1 where the chosen option is the right one.

    Args:
        options: those of an example.
        read: the option that a written answer means, None where it means none; for an answer without probabilities.
        right: the right option of an example.
    """

    def score(example: Example, answer: Answer, frame: Frame | None) -> Verdict:
        written = answer.text.strip()
        chosen = most_probable(answer, options(example)) if answer.probabilities else read(written, example)
        target = right(example)
        return Verdict(float(chosen == target), written if chosen is None else chosen, target)

    return score


def first_word(options: Sequence[str]) -> Callable[[str, Example], str | None]:
    """Reads the option that the first word of a text is, whatever its case and the marks around it."""

    def read(text: str, example: Example) -> str | None:
        words = text.split()
        word = words[0].strip(".,;:!?\"'`()*").casefold() if words else ""
        return next((option for option in options if option.casefold() == word), None)

    return read
