"""TallyQA (Acharya et al. 2019): numbers read out of answers, and accuracy on simple and complex questions."""

from __future__ import annotations

import re
from collections.abc import Sequence

from vlmablate.errors import DataError
from vlmablate.evaluation.scorers.choices import LETTERS

NUMBER_WORDS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
)  # fmt: skip
_NUMBER = re.compile(r"\b(?:1[0-9]|20|[0-9]|" + "|".join(NUMBER_WORDS) + r")\b")

TALLY_CHOICES = tuple(LETTERS[:16])
"""The letters of the paper's closed protocol: A for 0 to P for 15."""


def read_count(text: str) -> int | None:
    """The first whole number from 0 to 20 in an answer, as digits or as a word; None without one.

    As VLMEvalKit reads TallyQA (`utils/tallyqa.py`): a number is whatever has no letter or digit beside it, so that
    "1.5" is 1, and "21" and "2x" are none.

    >>> read_count("There are twelve of them."), read_count("3"), read_count("a few")
    (12, 3, None)
    """
    found = _NUMBER.search(text.lower())
    if found is None:
        return None
    word = found[0]
    return int(word) if word.isdigit() else NUMBER_WORDS.index(word)


def tally_summary(
    counts: Sequence[int | None], targets: Sequence[int], simple: Sequence[bool]
) -> dict[str, float]:
    """Accuracy as fractions: ``simple``, ``complex``, and ``all`` over all questions together. A part without questions
    is left out; a count that could not be read (None) is wrong.

    Raises DataError for sides of different lengths.
    """
    if not len(counts) == len(targets) == len(simple):
        raise DataError(
            f"{len(counts)} counts, {len(targets)} targets and {len(simple)} marks of simple questions"
        )
    right = [count == target for count, target in zip(counts, targets, strict=True)]
    parts = {
        "simple": [r for r, is_simple in zip(right, simple, strict=True) if is_simple],
        "complex": [r for r, is_simple in zip(right, simple, strict=True) if not is_simple],
        "all": right,
    }
    return {name: sum(part) / len(part) for name, part in parts.items() if part}
