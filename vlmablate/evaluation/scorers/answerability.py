"""VizWiz (Gurari et al. 2018): does a model know which questions a picture cannot answer?"""

from __future__ import annotations

from collections.abc import Sequence

from vlmablate.errors import DataError
from vlmablate.evaluation.scorers import vqa_text
from vlmablate.evaluation.scorers.ranking import average_precision

UNANSWERABLE = "unanswerable"


def says_unanswerable(prediction: str) -> bool:
    """True where the answer, rewritten as the VizWiz scorer does, is just this word."""
    return vqa_text.vizwiz(prediction) == UNANSWERABLE


def vizwiz_unanswerability(predictions: Sequence[str], answerable: Sequence[bool]) -> dict[str, float]:
    """``average_precision`` and ``f1`` of saying "unanswerable" where people found a question so, as fractions.

    answerable [n]: of the annotations. An answer says it or does not, so that the ranking has two steps, as in the
    official script. f1 is 0 where nobody said it rightly; average_precision is left out where no question is
    unanswerable.

    Raises DataError for sides of different lengths.
    """
    if len(predictions) != len(answerable):
        raise DataError(f"{len(predictions)} predictions and {len(answerable)} marks of answerable questions")
    said = [says_unanswerable(prediction) for prediction in predictions]
    true = [not is_answerable for is_answerable in answerable]
    both = sum(s and t for s, t in zip(said, true, strict=True))
    figures = {"f1": 2 * both / (sum(said) + sum(true)) if both else 0.0}
    precision = average_precision(true, said)
    return figures if precision is None else {"average_precision": precision, **figures}
