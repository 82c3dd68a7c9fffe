"""POPE (Li et al. 2023): yes or no read out of an answer, and what is said of all answers."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from vlmablate.errors import DataError, unknown_name

YES, NO, NEITHER = "yes", "no", "neither"


def _official(text: str) -> str:
    """Of the text before the first period, without commas, split at single spaces: no if one of the words is No, not
    or no in just this spelling, else yes (AoiDragon/POPE 08d957b and LLaVA `eval_pope.py`).

    So "NO", "No\\n", "no,thanks" and an empty answer are yes.
    """
    words = text.split(".")[0].replace(",", "").split(" ")
    return NO if any(word in ("No", "not", "no") for word in words) else YES


def _first_word(text: str) -> str:
    """The first word, in any case, with whatever stands around it: yes, no, or neither."""
    found = re.search(r"[A-Za-z]+", text)
    word = found[0].lower() if found else ""
    return word if word in (YES, NO) else NEITHER


POPE_VARIANTS: Mapping[str, Callable[[str], str]] = {"official": _official, "first-word": _first_word}


def pope_parse(text: str, variant: str = "official") -> str:
    """``yes`` or ``no``; with ``first-word`` also ``neither``, which is wrong whatever the label.

    variant: ``official`` reads as the script of POPE does, for which every answer that does not deny is a yes, an empty
    one too. ``first-word`` takes the first word and nothing else for an answer.

    Raises UserError for an unknown variant.
    """
    read = POPE_VARIANTS.get(variant)
    if read is None:
        raise unknown_name("variant", variant, POPE_VARIANTS, "reading yes or no")
    return read(text)


def pope_summary(predictions: Sequence[str], labels: Sequence[str]) -> dict[str, float]:
    """Accuracy, precision, recall and f1 of yes, and the share of predictions that are yes, as fractions.

    predictions: of `pope_parse`; labels: ``yes`` or ``no``. recall = true yes / all labels that are yes, so that an
    answer that is neither misses like a no. Where a figure divides by zero (nobody said yes, no label is yes) it is 0;
    the official script fails there. It computes the same figures otherwise.

    Raises DataError for no examples, sides of different lengths, and a label that is neither yes nor no.
    """
    if len(predictions) != len(labels) or not labels:
        raise DataError(
            f"POPE needs a label for each answer, got {len(predictions)} answers and {len(labels)} labels"
        )
    odd = next((label for label in labels if label not in (YES, NO)), None)
    if odd is not None:
        raise DataError(f"the label of a POPE question must be yes or no, got '{odd}'")
    said, true = predictions.count(YES), labels.count(YES)
    both = sum(p == label == YES for p, label in zip(predictions, labels, strict=True))
    right = sum(p == label for p, label in zip(predictions, labels, strict=True))
    precision = both / said if said else 0.0
    recall = both / true if true else 0.0
    return {
        "accuracy": right / len(labels),
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / (precision + recall) if both else 0.0,
        "yes_ratio": said / len(labels),
    }
